"""What napari itself shows. Skipped where there is no napari, or no display that it could draw on (CONTRIBUTING.md)."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.napari_plugin.made import COLORS, MPP, Made, made_result
from wsipipe.napari_plugin import reader
from wsipipe.napari_plugin.layers import LayerData, napari_layers

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    napari: Any = pytest.importorskip("napari", reason="no napari; pip install '.[napari]'")
if sys.platform == "linux" and not os.environ.get("DISPLAY"):
    pytest.skip("no display, and napari draws with OpenGL; use xvfb-run", allow_module_level=True)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of napari and Qt are not ours


@pytest.fixture
def viewer() -> Iterator[Any]:
    """A window of napari; a hidden one draws nothing."""
    opened = napari.Viewer(show=True)
    yield opened
    opened.close()


def add(viewer: Any, layers: Sequence[LayerData], *names: str) -> None:
    """Show those of ``layers`` whose names end in one of ``names``."""
    for data, options, kind in layers:
        if options["name"].endswith(names):
            viewer.add_layer(napari.layers.Layer.create(data, {**options, "visible": True}, kind))


def colors_at(viewer: Any, points: np.ndarray, *, zoom: float) -> np.ndarray:
    """The colours on the screen, (points, 3), at ``points`` (points, 2), y and x in units of the layers."""
    center = points.mean(0)
    viewer.scene.camera.zoom, viewer.scene.camera.center = zoom, (0.0, *center)
    screen = viewer.screenshot(canvas_only=True, flash=False)[..., :3]
    rows, cols = np.floor((points - center) * zoom + np.array(screen.shape[:2]) / 2).astype(int).T
    assert min(rows.min(), cols.min()) >= 0, "the points are not all on the screen"
    return screen[rows, cols].astype(int)


def tinted(made: Made, pixels: np.ndarray, downsample: float) -> np.ndarray:
    """The colours, (pixels, 3), of ``pixels`` (pixels, 2) of the slide under the labels over them."""
    slide = made.pixels[tuple(pixels.T)].astype(float)
    label = made.labels[tuple(np.floor((pixels + 0.5) / downsample).astype(int).T)]
    tint = np.array([COLORS.get(int(one), (0, 0, 0)) for one in label])
    return np.where((label > 0)[:, None], (slide + tint) / 2, slide)


@pytest.mark.parametrize("downsample", [1.0, 2.0, 1.7])
def test_labels_lie_on_their_pixels_of_the_slide(tmp_path: Path, viewer: Any, downsample: float) -> None:
    made = made_result(tmp_path, downsample=downsample)
    add(viewer, napari_layers(made.store), "slide", "labels")
    pixels = np.argwhere(np.ones(made.pixels.shape[:2], bool))
    edges = np.abs((pixels + 0.5) / downsample % 1 - 0.5).max(1) > 0.4  # the middle is too near to the side of a label
    pixels = pixels[~edges]
    assert np.abs(colors_at(viewer, pixels * MPP, zoom=24.0) - tinted(made, pixels, downsample)).max() <= 2


def test_labels_lie_on_the_slide_in_coarser_levels_too(tmp_path: Path, viewer: Any) -> None:
    made = made_result(tmp_path, (1201, 1603), patch=32)
    add(viewer, napari_layers(made.store), "slide", "labels")
    pixels = np.argwhere(np.ones((1198, 1600), bool))
    pixels = pixels[(np.abs(pixels % 32 - 15.5).max(1) < 11) & (pixels % 3 == 0).all(1)]  # 5 px from the sides
    colors = colors_at(viewer, pixels * MPP, zoom=0.4 / MPP)
    assert [layer.data_level for layer in viewer.layers] == [1, 1]
    assert np.abs(colors - tinted(made, pixels, 1.0)).max() <= 2


def test_tissue_probabilities_and_objects_lie_where_they_belong(tmp_path: Path, viewer: Any) -> None:
    made = made_result(tmp_path, downsample=2.0)
    layers = napari_layers(made.store)
    add(viewer, layers, "probability of gland")
    pixels = np.argwhere(np.ones(made.pixels.shape[:2], bool))
    green = made.probabilities[1][tuple((pixels // 2).T)] * (128 / 255)
    assert np.abs(colors_at(viewer, pixels * MPP, zoom=24.0)[:, 1] - green).max() <= 2
    viewer.layers.clear()
    add(viewer, layers, "tissue")
    cell = np.array(made.labels.shape) * 2 / made.tissue.shape
    row, col = np.floor((pixels + 0.5) / cell).astype(int).T
    inside = ((np.array([row, col]) > [[1], [2]]) & (np.array([row, col]) < [[3], [5]])).all(0)
    middle = (np.abs((pixels + 0.5) / cell % 1 - 0.5) < 0.4).all(1)
    seen = colors_at(viewer, pixels * MPP, zoom=24.0)[:, 1] > 200
    assert np.array_equal(seen[middle], (made.tissue[row, col] & ~inside)[middle])


def test_objects_are_outlined(tmp_path: Path, viewer: Any) -> None:
    made = made_result(tmp_path, downsample=2.0)
    add(viewer, napari_layers(made.store), "objects")
    (shapes,) = viewer.layers
    shapes.edge_width, shapes.face_color = 0, shapes.edge_color
    pixels = np.argwhere(np.ones(made.pixels.shape[:2], bool))
    label = made.labels[tuple((pixels // 2).T)]
    colors = colors_at(viewer, pixels * MPP, zoom=24.0)
    of_object = np.array([COLORS.get(int(one), (0, 0, 0)) for one in label])
    assert np.abs(colors - of_object)[label > 0].max() <= 2
    assert set(shapes.features["class"]) == {"gland", "fat"}
    assert len(shapes.data) == len(shapes.features)


def test_the_plugin_opens_a_store_in_napari(tmp_path: Path, viewer: Any) -> None:
    from npe2 import PluginManager, PluginManifest

    plugins = PluginManager.instance()
    if "wsipipe" not in plugins:  # a checkout that was not installed
        plugins.register(PluginManifest.from_file(Path(reader.__file__).with_name("napari.yaml")))
    made = made_result(tmp_path)
    viewer.open(str(made.store), plugin="wsipipe")
    assert [layer.name for layer in viewer.layers if layer.visible] == [
        f"case-17 {name}" for name in ("slide", "tissue", "labels", "objects")
    ]
    assert {str(unit) for layer in viewer.layers for unit in layer.units} == {"micrometer"}


def test_a_window_opens_with_results_and_the_first_is_shown(tmp_path: Path) -> None:
    from qtpy.QtCore import QTimer

    made = made_result(tmp_path)
    shown = []

    def look() -> None:
        viewer = napari.current_viewer()
        shown.extend(layer.name for layer in viewer.layers if layer.visible)
        shown.append(f"{len(viewer.layers)} layers")
        viewer.close()

    napari.qt.get_qapp()
    QTimer.singleShot(0, look)
    reader.open_in_napari([made.store, made.slide.path])
    assert shown == [*(f"case-17 {name}" for name in ("slide", "tissue", "labels", "objects")), "7 layers"]
