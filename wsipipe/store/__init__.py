"""The OME-Zarr store that a run writes, and its journal."""
