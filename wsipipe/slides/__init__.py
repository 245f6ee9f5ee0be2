"""Slide files: levels as lazily opened Zarr arrays, micrometres per pixel, and blocks of pixels out of them."""
