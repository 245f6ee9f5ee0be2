"""Pixels out of a level, whatever its format."""
