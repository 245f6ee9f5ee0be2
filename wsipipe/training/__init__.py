"""Training: fields, patches, pixel weights, augmentation, the loop (torch)."""
