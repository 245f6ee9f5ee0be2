"""Quality of a segmentation: metrics of pixels, of objects and of topology, on arrays and on gigapixel rasters."""
