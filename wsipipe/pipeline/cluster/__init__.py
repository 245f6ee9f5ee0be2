"""Places where tasks run: in this process, in others here, or on a cluster."""
