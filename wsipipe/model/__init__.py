"""The network and the file it comes in (torch lives here, in inference and in training)."""
