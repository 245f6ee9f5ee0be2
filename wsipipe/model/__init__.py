"""The network, and the file it comes in (torch is used here, in inference and in training)."""
