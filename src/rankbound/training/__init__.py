"""Training: the LightningModule, schedules, and the callbacks that record, evaluate and checkpoint."""
