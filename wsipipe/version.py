"""The version of wsipipe, in one place: packaging, ``--version`` and every store read it here."""

VERSION = "0.1.0"
