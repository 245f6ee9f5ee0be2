"""Slides and results in a browser: a server on loopback, and the pages that it serves."""

from wsipipe.homeless import load_bokeh

load_bokeh()  # before a module of this package imports the rest of it
