from __future__ import annotations

import gc
import pickle
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.slides.made import picture, pyramid
from wsipipe.errors import SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.slides.open import open_slide
from wsipipe.slides.opened import LEVELS
from wsipipe.slides.pixels.mirrored import read_box


def open_files(folder: Path) -> int:
    """Number of files in ``folder`` that this process has open."""
    if not Path("/proc/self/fd").exists():
        pytest.skip("no /proc to count open files in")
    gc.collect()
    links = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(entry.readlink()))
        except OSError:  # the descriptor of this very listing
            continue
    return sum(link.startswith(str(folder)) for link in links)


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Threads that take turns at every chance, so that races between two calls show."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("eager_threads")
def test_threads_read_right_pixels_through_one_array(tmp_path: Path) -> None:
    image = picture((512, 512))
    pyramid(tmp_path / "a.tif", image, levels=1, tile=(16, 16))
    level = open_slide(tmp_path / "a.tif").levels[0]
    random = np.random.default_rng(0)
    boxes = [Box(y, y + 90, x, x + 70) for y, x in random.integers(0, 400, (400, 2))]
    start = threading.Barrier(8)

    def read(number: int) -> bool:
        start.wait()
        return all((read_box(level, box)[..., 0] == image[box.slices]).all() for box in boxes[number::8])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(8)))


def test_array_is_opened_once_per_process_by_many_threads(tmp_path: Path) -> None:
    pyramid(tmp_path / "a.tif", picture((64, 64)), levels=1)
    level = open_slide(tmp_path / "a.tif").levels[0]
    with ThreadPoolExecutor(8) as threads:
        arrays = list(threads.map(lambda _: level.array, range(32)))
    assert len({id(array) for array in arrays}) == 1
    assert open_files(tmp_path) == 1


def test_open_files_are_bounded_and_evicted_arrays_go_on_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LEVELS, "most", 3)
    image = picture((64, 64))
    for i in range(8):
        pyramid(tmp_path / f"{i}.tif", image, levels=1)
    first = open_slide(tmp_path / "0.tif").levels[0].array
    for i in range(1, 8):
        assert open_slide(tmp_path / f"{i}.tif").levels[0].array.shape == (64, 64)
    assert open_files(tmp_path) == 3 + 1
    np.testing.assert_array_equal(first[:], image)
    del first
    LEVELS.clear()
    assert open_files(tmp_path) == 0


def test_replaced_file_is_not_read_through_the_old_handle(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    before, after = picture((64, 64), seed=1), picture((64, 64), seed=2)
    pyramid(path, before, levels=1)
    old = open_slide(path).levels[0]
    box = Box(0, 64, 0, 64)
    np.testing.assert_array_equal(read_box(old, box)[..., 0], before)
    pyramid(tmp_path / "new.tif", after, levels=1)
    (tmp_path / "new.tif").replace(path)
    new = open_slide(path).levels[0]
    assert new.identity != old.identity
    np.testing.assert_array_equal(read_box(new, box)[..., 0], after)
    LEVELS.clear()
    with pytest.raises(SlideReadError, match=r"a.tif has changed since it was opened"):
        read_box(old, box)


def test_file_that_is_gone_is_an_error_that_says_so(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    pyramid(path, picture((64, 64)), levels=1)
    level = open_slide(path).levels[0]
    path.unlink()
    with pytest.raises(SlideReadError, match=r"a.tif level 0 is gone"):
        read_box(level, Box(0, 1, 0, 1))


def test_open_array_refuses_to_be_pickled(tmp_path: Path) -> None:
    pyramid(tmp_path / "a.tif", picture((64, 64)), levels=1)
    with pytest.raises(TypeError, match="pickle the Level"):
        pickle.dumps(open_slide(tmp_path / "a.tif").levels[0].array)
