"""Nights: one pass over everything that is new, started by a timer."""
