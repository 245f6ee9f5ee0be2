"""The report of a night: a page for people, JSON for programs, metrics and a webhook for monitoring."""
