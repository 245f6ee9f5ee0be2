"""Pictures of what a run found: the whole slide, and a part of it pixel by pixel."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from tests.report.nights import CLASSES, disc, write_pyramid, write_store
from wsipipe.errors import DamagedStoreError, SlideError, StoreError, UsageError
from wsipipe.pictures.caption import CAPTION_PX
from wsipipe.pictures.drawing import inner_edge
from wsipipe.pictures.result import result_png
from wsipipe.store.finished import FinishedStore, open_finished

_, LABEL, COLOR = CLASSES[1]
OUTLINE = np.array(list(bytes.fromhex(COLOR[1:])))
LABELS = disc((300, 400), (0.4, 0.6), 0.3)


@pytest.fixture
def store(tmp_path: Path) -> FinishedStore:
    """A white slide with a black disc, in two levels, and a store whose labels are that disc."""
    white = np.where(LABELS[..., None] > 0, 0, 255).repeat(3, -1).astype(np.uint8)
    slide = write_pyramid(tmp_path / "case.tif", [white, white[::2, ::2]])
    return open_finished(write_store(tmp_path / "case.zarr", slide, (LABELS * LABEL).astype(np.uint8), mpp=0.5))


def drawn(store: FinishedStore, roi: str | None = None) -> np.ndarray:
    """The picture (y, x, 3) without its caption."""
    return imagecodecs.png_decode(result_png(store, roi))[:-CAPTION_PX]


@pytest.mark.parametrize(("roi", "part"), [(None, np.s_[:, :]), ("20,50,380,120", np.s_[50:170, 20:400])])
def test_outlines_lie_on_the_edge_of_what_was_found(store: FinishedStore, roi: str | None, part: object) -> None:
    image, labels = drawn(store, roi), LABELS[part] > 0
    assert image.shape == (*labels.shape, 3)
    line = inner_edge(labels)
    np.testing.assert_array_equal((image == OUTLINE).all(2), line)
    assert (image[labels & ~line] < 60).all()
    assert (image[~labels] > 195).all()


def test_a_whole_slide_without_small_levels_is_drawn_from_its_large_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsipipe.pictures.thumbnail.MAX_LEVEL_BYTES", 1000)
    slide = write_pyramid(tmp_path / "flat.tif", [np.full((40, 400, 3), 255, np.uint8)])
    store = open_finished(write_store(tmp_path / "flat.zarr", slide, np.zeros((40, 400), np.uint8)))
    assert (drawn(store) == 255).all()


def test_lengths_are_by_the_micrometres_per_pixel_of_the_run(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "case.tif", [np.full((300, 400, 3), 255, np.uint8)], mpp=None)
    store = open_finished(write_store(tmp_path / "case.zarr", slide, np.zeros((300, 400), np.uint8), mpp=0.5))
    assert drawn(store, "10um,10um,190um,30um").shape == (60, 380, 3)


def test_a_part_that_is_too_large_and_another_slide_are_refused(
    store: FinishedStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsipipe.pictures.result.PREVIEW_PX", 100)
    with pytest.raises(UsageError, match=r"--roi 0,0,101,10 is 101 wide x 10 high of the labels; .* 100 px of them a"):
        drawn(store, "0,0,101,10")
    write_pyramid(tmp_path / "case.tif", [np.zeros((300, 400, 3), np.uint8)])
    for roi in (None, "0,0,10,10"):
        with pytest.raises(StoreError, match="is not the slide that was segmented"):
            drawn(store, roi)
    (tmp_path / "case.tif").unlink()
    with pytest.raises(SlideError, match=r"case\.tif"):
        drawn(store)


def test_damaged_labels_say_what_to_do(store: FinishedStore) -> None:
    for file in Path(store.path, "0").rglob("*"):
        if file.is_file() and file.name != "zarr.json":
            file.write_bytes(b"broken")
    with pytest.raises(DamagedStoreError, match="see wsipipe check"):
        drawn(store, "0,0,10,10")
