"""One room a file format, behind one protocol."""
