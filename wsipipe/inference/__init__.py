"""The network at work: replicas on devices, tiles in, labels out; torch is used here."""
