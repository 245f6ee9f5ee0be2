"""Small pictures of slides and results."""
