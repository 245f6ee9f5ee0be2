"""OME-Zarr images, versions 0.4 and 0.5."""
