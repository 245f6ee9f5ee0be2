"""The readers of file formats, one file or folder each, behind one protocol."""
