"""Training: states, steps, games, optimizers, augmentation."""
