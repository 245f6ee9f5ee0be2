"""TIFF of scanners, of OME, and of other writers."""
