"""Models from elsewhere and from runs: in and out, evaluation, generation, diagnosis."""
