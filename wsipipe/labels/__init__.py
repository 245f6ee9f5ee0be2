"""Labels out: a chunked, sharded OME-Zarr store that is its own journal (zarr lives here and in slides)."""
