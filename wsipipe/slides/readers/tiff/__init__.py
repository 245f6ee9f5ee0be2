"""TIFF of scanners, of OME, and of no one in particular."""
