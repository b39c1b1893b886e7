"""Training: the loop, the optimizer, checkpoints, and several processes."""
