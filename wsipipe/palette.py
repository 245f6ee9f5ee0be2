"""Colours of classes that have none of their own."""

from __future__ import annotations

CLASS_COLORS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")
"""The palette of Okabe and Ito, https://jfly.uni-koeln.de/color/, but its black: people who are colour-blind tell its
colours apart."""


def class_color(label: int) -> str:
    """The colour, #rrggbb, of the class of ``label``, 1 or more; labels 1 to 7 have different ones."""
    return CLASS_COLORS[(label - 1) % len(CLASS_COLORS)]
