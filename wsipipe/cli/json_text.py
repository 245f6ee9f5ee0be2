"""The documents of ``--json``, all written here."""

from __future__ import annotations

import json
from typing import Any

import click


def echo_json(document: Any) -> None:
    """Print ``document``; its keys have no spaces: those of statuses and of classes become underscores."""
    click.echo(json.dumps(_spaceless(document), indent=2))


def _spaceless(document: Any) -> Any:
    if isinstance(document, dict):
        return {str(key).replace(" ", "_"): _spaceless(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [_spaceless(value) for value in document]
    return document
