"""Texts without the secrets that URLs may hold: passwords and tokens before the host, and query strings."""

from __future__ import annotations

import re

CREDENTIALS = re.compile(r"(?<=://)(?<!abfs://)(?<!abfss://)[^\s/?#\"'<>]+@|(?<=://)[^\s/?#@:\"'<>]*:[^\s/?#\"'<>]*@")
"""What is before the host of a URL; where Azure has the name of a container there, only with a password."""
QUERY = re.compile(r"(https?://[^\s?\"'<>]*)\?[^\s\"'<>]*", re.IGNORECASE)
"""A URL with a query string; where it is not of a web server, a question mark is part of a pattern."""


def without_secrets(text: str) -> str:
    """``text``, whose URLs have lost user names, passwords, tokens and query strings.

    ``https://me:pw@example.org/a.svs?sig=1`` becomes ``https://example.org/a.svs``.
    """
    return QUERY.sub(r"\1", CREDENTIALS.sub("", text)) if "://" in text else text
