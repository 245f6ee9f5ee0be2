"""How good a segmentation is: metrics of pixels, of objects and of topology, on arrays and on gigapixel rasters."""
