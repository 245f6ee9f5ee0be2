"""Training: patches, weights, augmentation, the loop (torch)."""
