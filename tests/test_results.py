"""`open_store`: what a run wrote, as Python reads it; never more than data."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numcodecs
import numpy as np
import pytest

import wsipipe
from tests.faults import picture, write_model, write_slide
from wsipipe.errors import DamagedStoreError, StoreError
from wsipipe.store.spec import PARTIAL

SHAPE = (150, 130)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a slide and its store, with all that a run writes."""
    folder = tmp_path_factory.mktemp("results")
    slide = write_slide(folder / "case-17.tif", picture(SHAPE))
    config = wsipipe.RunConfig(
        out=str(folder),
        model=str(write_model(folder / "b.safetensors")),
        device="cpu",
        engine="torch",
        block=64,
        tile=64,
        probabilities=True,
        uncertainty=True,
        objects=True,
        instances=True,
    )
    (outcome,) = wsipipe.run([slide], config).slides
    assert outcome.status == "done"
    return folder


@pytest.fixture(scope="module")
def store(made: Path) -> wsipipe.Store:
    return wsipipe.open_store(made / "case-17.zarr")


def test_labels_classes_and_scale_are_those_of_the_run(made: Path, store: wsipipe.Store) -> None:
    lazy = wsipipe.segment(made / "case-17.tif", made / "b.safetensors", tissue="auto", device="cpu", engine="torch")
    expected = lazy.compute(scheduler="synchronous")
    np.testing.assert_array_equal(store.labels[:], expected)
    np.testing.assert_array_equal(store.to_dask().compute(scheduler="synchronous"), expected)
    np.testing.assert_array_equal(store.to_dask(1), store.levels[1][:])
    model = wsipipe.load_model(made / "b.safetensors")
    assert store.classes == tuple(one for one in model.spec.classes if one.label)
    assert (store.mpp, store.downsample, store.slide) == (0.5, 1.0, str(made / "case-17.tif"))


def test_what_was_written_beside_the_labels(store: wsipipe.Store) -> None:
    others = (store.probabilities, store.uncertainty, store.tissue, store.instances)
    assert [None if one is None else one.ndim for one in others] == [3, 2, 2, 2]
    assert store.instances is not None
    assert int(np.max(store.instances[:])) == store.objects.count  # type: ignore[arg-type]


def test_statistics_are_those_of_the_labels_and_of_the_objects(store: wsipipe.Store) -> None:
    counts = np.bincount(np.asarray(store.labels[:]).ravel(), minlength=256)
    of_objects = store.objects.dataset.to_table(columns=["class"]).column("class").to_pylist()
    for one in store.statistics:
        assert one.pixels == counts[one.label]
        assert one.area_mm2 == pytest.approx(counts[one.label] * 0.25e-6)
        assert one.objects == of_objects.count(one.name)
    assert f"{counts[1]:,} px" in repr(store)


def test_xarray_has_the_coordinates_of_the_slide(store: wsipipe.Store) -> None:
    labels = store.to_xarray(1)
    assert labels.dims == ("y", "x")
    assert labels.coords["x"].attrs["units"] == "micrometer"
    np.testing.assert_allclose(labels.coords["y"][:3], [0.25, 1.25, 2.25])
    np.testing.assert_array_equal(labels.values, store.levels[1][:])


def test_without_xarray_the_error_says_what_to_install(store: wsipipe.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "xarray", None)
    with pytest.raises(wsipipe.MachineError, match=r"pip install 'wsipipe\[xarray\]'"):
        store.to_xarray()


class Bomb:
    """A pickle that writes a file as it is read."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def copied(made: Path, target: Path) -> Path:
    """A copy of the store, for damage."""
    for path in (made / "case-17.zarr").rglob("*"):
        if path.is_file():
            copy = target / path.relative_to(made / "case-17.zarr")
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    return target


def test_nothing_that_is_read_is_executed(made: Path, tmp_path: Path) -> None:
    """Arrays of Zarr 2 may hold pickles."""
    path = copied(made, tmp_path / "case-17.zarr")
    (path / "0" / "zarr.json").unlink()
    chunk = numcodecs.Pickle().encode(np.array([[Bomb(tmp_path / "executed")]], object))
    described = {"zarr_format": 2, "shape": [1, 1], "chunks": [1, 1], "dtype": "|O", "order": "C", "fill_value": None}
    described |= {"compressor": None, "filters": [{"id": "pickle", "protocol": pickle.HIGHEST_PROTOCOL}]}
    (path / "0" / ".zarray").write_text(json.dumps(described))
    (path / "0" / "0.0").write_bytes(chunk)
    with pytest.raises(DamagedStoreError, match=r"case-17\.zarr: array 0 cannot be read .*; segment the slide again"):
        wsipipe.open_store(path)
    assert not (tmp_path / "executed").exists()


def test_arrays_that_are_no_labels_are_damage(made: Path, tmp_path: Path) -> None:
    path = copied(made, tmp_path / "case-17.zarr")
    document = json.loads((path / "0" / "zarr.json").read_text())
    (path / "0" / "zarr.json").write_text(json.dumps({**document, "data_type": "float64", "fill_value": 0.0}))
    with pytest.raises(DamagedStoreError, match=r"array 0 is float64 of 2 axes, and should be uint8 of 2"):
        wsipipe.open_store(path)


def test_what_is_not_a_finished_store_is_said(made: Path, tmp_path: Path) -> None:
    for name in ("gone.zarr", "folder"):
        (tmp_path / "folder").mkdir(exist_ok=True)
        with pytest.raises(StoreError, match=rf"{name} is not a store that wsipipe made; give a folder"):
            wsipipe.open_store(tmp_path / name)
    copied(made, tmp_path / f"case-17.zarr{PARTIAL}")
    root = tmp_path / f"case-17.zarr{PARTIAL}" / "zarr.json"
    document = json.loads(root.read_text())
    document["attributes"]["wsipipe"]["complete"] = False
    root.write_text(json.dumps(document))
    with pytest.raises(StoreError, match="is not finished; the same wsipipe run completes it"):
        wsipipe.open_store(root.parent)


def test_names_of_classes_are_text_in_a_notebook(made: Path, tmp_path: Path) -> None:
    path = copied(made, tmp_path / "case-17.zarr")
    document = json.loads((path / "zarr.json").read_text())
    document["attributes"]["ome"]["image-label"]["properties"][0]["class"] = "<script>alert(1)</script>\x1b[2J"
    (path / "zarr.json").write_text(json.dumps(document))
    shown = wsipipe.open_store(path)
    assert "<script>" not in shown._repr_html_()
    assert "\x1b" not in shown._repr_html_() + repr(shown)
