"""Nights: one pass over everything that is to be done, made for a timer."""
