"""``python -m wsipipe`` is ``wsipipe``."""

from wsipipe.cli import main

main()
