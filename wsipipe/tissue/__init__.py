"""The tissue of a slide: detected, or given as a mask."""
