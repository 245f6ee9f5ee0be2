"""Images and labels that people bring: to train on, to measure by, to mask with."""
