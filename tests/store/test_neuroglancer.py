"""neuroglancer shows a store as other-viewers.md in docs/ says, in a real browser. Skipped where it is not there."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.napari_plugin.made import COLORS, MPP, made_result
from tests.report.chromium import PROGRAM, Chromium
from tests.servers import Web

neuroglancer: Any = pytest.importorskip("neuroglancer", reason="no neuroglancer; pip install neuroglancer")

pytestmark = [
    pytest.mark.filterwarnings("ignore"),  # those of other libraries are not ours
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium is installed: apt-get install chromium"),
]
PAGE = Path(__file__).parents[2] / "docs" / "start" / "other-viewers.md"
ADDRESS = "http://127.0.0.1:8000"
"""Where the page's example has its store."""
WIDE, HIGH, ENLARGED = 500, 400, 10
"""Size of the picture in pixels, and how many of them a label's pixel takes, along a side."""


@pytest.mark.parametrize(("mpp", "unit"), [(MPP, '[1e-6, "m"]'), (None, '[1, ""]')])
def test_labels_have_their_colours_and_are_not_transposed(tmp_path: Path, mpp: float | None, unit: str) -> None:
    made = made_result(tmp_path, downsample=2.0, mpp=mpp)
    side = 2 * mpp if mpp else 1.0  # of a label's pixel
    height, width = made.labels.shape
    text = PAGE.read_text()
    assert unit in text
    (example,) = re.findall(r"```json\n(.*?)```", text, re.DOTALL)
    neuroglancer.set_server_bind_address("127.0.0.1")
    viewer = neuroglancer.Viewer()
    with Web(tmp_path).serve() as address, Chromium(tmp_path / "browser", "--enable-unsafe-swiftshader") as browser:
        state = json.loads(example.replace(ADDRESS, address.rstrip("/")).replace('[1e-6, "m"]', unit))
        (labels,) = (layer for layer in state["layers"] if layer["name"] == "labels")
        colors = {label: "#" + bytes(color).hex() for label, color in COLORS.items()}
        viewer.set_state(
            state
            | {"layers": [labels | {"segmentColors": colors, "selectedAlpha": 1}]}
            | {"crossSectionScale": side / ENLARGED, "position": [width * side / 2, height * side / 2]}
            | {"showAxisLines": False, "showScaleBar": False, "showDefaultAnnotations": False}
        )
        browser.open(viewer.get_viewer_url())
        picture = viewer.screenshot(size=[WIDE, HIGH]).screenshot.image_pixels
    rows, cols = np.indices(made.labels.shape)
    ys = HIGH / 2 + (rows + 0.25 - height / 2) * ENLARGED  # 0.25: the origin is the middle of the slide's first pixel
    xs = WIDE / 2 + (cols + 0.25 - width / 2) * ENLARGED
    found = picture[ys.astype(int), xs.astype(int), :3]
    for label, color in COLORS.items():
        assert np.array_equal((found == color).all(axis=-1), made.labels == label)
