"""From labels to objects: connected components, block by block."""
