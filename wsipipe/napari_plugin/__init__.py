"""Slides and results in napari: as layers, as a plugin that reads them, and as a viewer that opens with them."""
