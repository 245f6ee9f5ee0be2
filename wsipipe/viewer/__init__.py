"""Slides and results in a browser: a server on loopback, and the pages that it serves."""
