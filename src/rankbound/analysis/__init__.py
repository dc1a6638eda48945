"""What recorded runs and corpora say: statistics over them, nothing that trains a model."""
