"""Training: the one loop on accelerate, its data, loss, checkpoints, validation and processes."""
