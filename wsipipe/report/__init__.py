"""What became of a night: a page for people, JSON for programs, metrics and a message for whoever watches."""
