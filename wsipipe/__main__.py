"""``python -m wsipipe``, the same as ``wsipipe``."""

from wsipipe.cli import main

main()
