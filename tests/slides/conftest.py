"""Fixtures that several tests of reading need."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import tifffile

from wsipipe.slides.readers.tiff.image import TiledImage


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Number of times that each tile was decoded."""
    counts: Counter[int] = Counter()
    decode = TiledImage.decode

    def counting(image: TiledImage, page: tifffile.TiffPage, number: int, data: bytes, *into: Any) -> Any:
        counts[number] += 1
        return decode(image, page, number, data, *into)

    monkeypatch.setattr(TiledImage, "decode", counting)
    return counts
