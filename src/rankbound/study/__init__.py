"""Many runs at a time: one process a run."""
