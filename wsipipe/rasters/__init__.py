"""Images and labels that users bring: to train on, to evaluate with, to mask with."""
