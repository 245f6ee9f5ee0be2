"""The exit codes of every command; 0 is success."""

EXIT_FAILED = 1
"""Some slides, or files, failed; the others are done."""
EXIT_USAGE = 2
"""The command line, a configuration or a model is wrong."""
EXIT_ENVIRONMENT = 3
"""The machine failed: no device, no memory, no space."""
EXIT_INTERRUPTED = 130
"""Interrupted; what was finished is kept."""
