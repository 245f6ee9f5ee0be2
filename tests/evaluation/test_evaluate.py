from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from scipy import ndimage

from tests.objects.made import write_objects
from wsipipe.errors import DamagedStoreError, LabelError, SlideError, StoreError, UsageError
from wsipipe.evaluation import bootstrap, classes, resampled
from wsipipe.evaluation.calibration import average_precision, calibration_error, count_probabilities
from wsipipe.evaluation.classes import Classes, stored_classes
from wsipipe.evaluation.evaluate import Evaluation, Options, compare_evaluations
from wsipipe.evaluation.evaluate import evaluate as evaluate_files
from wsipipe.evaluation.object_rule import ObjectRule
from wsipipe.evaluation.pairing import pair
from wsipipe.evaluation.sources import stored_downsample
from wsipipe.evaluation.tally import Tally
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.network import UNetSizes
from wsipipe.objects.components import objects as number_each
from wsipipe.objects.split import split_objects
from wsipipe.store import content, lifecycle
from wsipipe.store.spec import Fingerprint, StoreSpec

CLASSES = (("background", 0, "#000000"), ("gland", 7, "#ff8000"), ("fat", 200, "#0080ff"))
SHAPE = (70, 90)


def write_store(
    path: Path,
    labels: np.ndarray,
    *,
    classes: Any = CLASSES,
    downsample: float = 1.0,
    finished: bool = True,
    min_area_um2: float = 0.0,
    probabilities: np.ndarray | None = None,
) -> Path:
    """A store such as ``wsipipe run`` writes, in blocks of 32 px."""
    fingerprint = Fingerprint("a" * 64, "b" * 64, 0, 0.5, probabilities is not None)
    height, width = labels.shape
    grid = Grid((height, width), UNetSizes(2, 1).receptive, 4, 32)
    spec = StoreSpec(
        str(path), "/s.svs", fingerprint, downsample, grid, classes, "glands", "0.1.0", min_area_um2=min_area_um2
    )
    lifecycle.begin_store(spec)
    for index in grid.indices():
        part = grid.block_box(index).slices
        content.write_block(spec, index, labels[part], None if probabilities is None else probabilities[:, *part])
    if finished:
        lifecycle.publish(spec, {})
    return path


def evaluate(predictions: Path, labels: Path, **options: Any) -> Evaluation:
    return evaluate_files(predictions, labels, Options(**options))


def write_tiff(path: Path, values: np.ndarray) -> Path:
    tiles = {"tile": (32, 32)} if max(values.shape) > 32 else {}
    tifffile.imwrite(path, values, photometric="minisblack", metadata=None, **tiles)
    return path


def labels_of(seed: int, values: tuple[int, ...] = (0, 7, 200)) -> np.ndarray:
    """Labels in patches of some pixels."""
    coarse = np.random.default_rng(seed).choice(np.array(values, np.uint8), (SHAPE[0] // 5 + 1, SHAPE[1] // 5 + 1))
    return coarse.repeat(5, 0).repeat(5, 1)[: SHAPE[0], : SHAPE[1]]


def ids_of(labels: np.ndarray) -> np.ndarray:
    """Class ids of values 7 and 200."""
    return np.select([labels == 7, labels == 200], [1, 2])


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classes, "READ_BLOCK_PX", 33)
    monkeypatch.setattr(resampled, "READ_BLOCK_PX", 33)
    monkeypatch.setattr(bootstrap, "RESAMPLES", 10)
    monkeypatch.setitem(Tally.add_planes.__kwdefaults__, "block_px", 33)


def test_scores_of_a_store_and_a_tiff_are_those_of_their_arrays(tmp_path: Path) -> None:
    predicted, truth = labels_of(0), labels_of(1)
    found = evaluate(write_store(tmp_path / "a.zarr", predicted), write_tiff(tmp_path / "b.tif", truth))
    tally = Tally(("gland", "fat"))
    tally.add(ids_of(predicted), ids_of(truth), mpp=0.5)
    assert found.scores == tally.scores()
    assert [image.name for image in found.images] == ["a"]
    assert {"dice.gland", "dice.fat"} <= found.scores.keys()


def test_folders_are_paired_by_name_and_scored_together(tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    out.mkdir()
    data.mkdir()
    tally = Tally(("gland", "fat"))
    for seed, name in enumerate(("x.1", "y")):
        predicted, truth = labels_of(seed), labels_of(seed + 7)
        write_store(out / f"{name}_image.zarr", predicted)
        write_tiff(data / f"{name}_label.tif", truth)
        write_tiff(data / f"{name}_image.tif", truth)
        tally.add(ids_of(predicted), ids_of(truth), mpp=0.5)
    (out / "report.json").write_text("{}")
    found = evaluate(out, data)
    assert [image.name for image in found.images] == ["x.1", "y"]
    assert found.scores == tally.scores()
    assert [image.scores for image in found.images] == tally.per_image()
    assert found.images[0].labels.endswith("x.1_label.tif")


def test_labels_that_are_instances_tell_touching_objects_apart(tmp_path: Path) -> None:
    ids = np.arange(1, 1201).reshape(30, 40).repeat(2, 0).repeat(2, 1).astype(np.int32)
    prediction = write_tiff(tmp_path / "p.tif", np.full(ids.shape, 1, np.uint8))
    labels = write_tiff(tmp_path / "t.tif", ids)
    found = evaluate(prediction, labels, labels_are="instances", metrics=("merged_per_100", "pixel_error"))
    assert found.scores == {"merged_per_100": 100, "pixel_error": 0}
    both = evaluate(labels, labels, predictions_are="instances", labels_are="instances", metrics=("f1", "dice"))
    assert both.scores == {"dice": 1, "dice.object": 1, "f1": 1, "precision": 1, "recall": 1}
    with pytest.raises(UsageError, match=r"t\.tif has more than 255 values.*--labels-are instances"):
        evaluate(prediction, labels)
    with pytest.raises(UsageError, match=r"t\.tif has more than 255 values.*--predictions-are instances"):
        evaluate(labels, prediction)


def test_values_of_labels_are_mapped_to_those_of_predictions(tmp_path: Path) -> None:
    truth = labels_of(1)
    prediction = write_store(tmp_path / "a.zarr", labels_of(0))
    as_is = evaluate(prediction, write_tiff(tmp_path / "b.tif", truth))
    renamed = write_tiff(tmp_path / "c.tif", np.select([truth == 7, truth == 200], [200, 1]).astype(np.uint8))
    assert evaluate(prediction, renamed, mapped={200: 7, 1: 200}).scores == as_is.scores
    message = r"c\.tif has the value 1 in .*; allowed: 0 and 7 \(gland\), 200 \(fat\); .*--labels-are instances; .*"
    with pytest.raises(LabelError, match=message + "give --map 1=CLASS"):
        evaluate(prediction, renamed)


TABLED = (("background", 0, ""), ("class 1", 1, ""), ("class 2", 2, ""))
"""Classes by the names that `write_objects` gives them."""


def write_tabled(path: Path, labels: np.ndarray, **rule: Any) -> Path:
    """A store with a table of objects."""
    store = write_store(path, labels, classes=TABLED)
    (store / "objects").mkdir()
    write_objects(store / "objects" / "objects.parquet", labels, block_px=40, **rule)
    return store


@pytest.mark.parametrize("split", [False, True])
def test_objects_are_those_of_the_table_without_small_ones(tmp_path: Path, split: bool) -> None:
    labels, truth = labels_of(0, (0, 0, 1, 2)), labels_of(1, (0, 1, 2))
    labels[::9, ::11] = labels[30:50, 10:20] = labels[35:45, 20:32] = 1
    store = write_tabled(tmp_path / "a.zarr", labels, mpp=0.5, min_area_um2=4.0, split=split)
    other = write_tiff(tmp_path / "b.tif", truth)
    found = evaluate(store, other)
    assert found.objects == ObjectRule("table", 8, split, 4.0)

    ids = np.zeros(labels.shape, np.int32)
    for label in (1, 2):
        numbers = ndimage.label(labels == label, np.ones((3, 3)))[0]
        if split:
            framed = np.pad(numbers, 1)
            parts = split_objects(framed - 1, np.ones(numbers.max(), bool), connectivity=8)[1:-1, 1:-1]
            numbers = np.where(parts > 0, parts + numbers.max(), numbers)
        ids += np.where(numbers > 0, numbers + ids.max(), 0)
    large = np.bincount(ids.ravel()) * 0.25 >= 4
    tally = Tally(("class 1", "class 2"))
    true_ids = number_each(truth, connectivity=8)  # joined as the predictions' objects
    tally.add(labels, truth, predicted_instances=np.where(large[ids], ids, 0), truth_instances=true_ids, mpp=0.5)
    assert found.scores == tally.scores()
    of_classes = evaluate(store, other, predictions_are="classes")
    assert of_classes.objects == ObjectRule("components", 4)
    assert {name: score for name, score in of_classes.scores.items() if "dice" in name or name == "pixel_error"} == {
        name: score for name, score in found.scores.items() if "dice" in name or name == "pixel_error"
    }
    assert of_classes.scores["f1"] != found.scores["f1"]
    assert evaluate(store, other, metrics=("dice",)).objects is None


def test_tables_must_be_there_for_all_and_made_alike_and_fit_the_labels(tmp_path: Path) -> None:
    out, data = tmp_path / "out", tmp_path / "data"
    data.mkdir()
    for name, most in (("a", 2.0), ("b", 8.0)):
        write_tiff(data / f"{name}.tif", labels_of(1, (0, 1, 2)))
        write_tabled(out / f"{name}.zarr", labels_of(0, (0, 1, 2)), min_area_um2=most)
    with pytest.raises(UsageError, match=r"of 2 um2 or more, .* in .*a\.zarr, but .* 8 um2 .*b\.zarr; make them alike"):
        evaluate(out, data)
    table = out / "b.zarr" / "objects" / "objects.parquet"
    whole = table.read_bytes()
    table.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DamagedStoreError, match=r"objects\.parquet cannot be read: .*; make the objects again"):
        evaluate(out / "b.zarr", data / "b.tif")
    assert evaluate(out / "b.zarr", data / "b.tif", metrics=("dice",)).scores["dice"] > 0
    table.unlink()
    with pytest.raises(UsageError, match=r"a\.zarr has a table of objects, and .*b\.zarr has none; make it"):
        evaluate(out, data)
    with pytest.raises(StoreError, match=r"b\.zarr has no objects; make them with wsipipe objects"):
        evaluate(out / "b.zarr", data / "b.tif", predictions_are="objects")
    foreign = write_tabled(tmp_path / "c.zarr", labels_of(3, (0, 1, 2)))
    (foreign / "objects" / "objects.parquet").rename(table)
    with pytest.raises(DamagedStoreError, match=r"has objects in .* where b\.zarr has background; .*wsipipe objects"):
        evaluate(out / "b.zarr", data / "b.tif")


def test_classes_without_names_go_by_their_values(tmp_path: Path) -> None:
    mask = labels_of(2, (0, 255))
    masks = write_tiff(tmp_path / "a.tif", mask), write_tiff(tmp_path / "b.tif", mask)
    assert evaluate(*masks, metrics=("dice",)).scores == {"dice": 1, "dice.255": 1}
    ones = write_tiff(tmp_path / "c.tif", mask // 255)
    with pytest.raises(UsageError, match=r"the values 255, and labels 1, with none in common.*--map 1=255"):
        evaluate(masks[0], ones)
    assert evaluate(masks[0], ones, mapped={1: 255}, metrics=("dice",)).scores["dice"] == 1
    nothing = write_tiff(tmp_path / "d.tif", mask * 0)
    assert evaluate(nothing, ones, metrics=("dice",)).scores["dice"] == 0


def square(name: str, x: int, y: int, side: int) -> dict[str, Any]:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    properties = {"objectType": "annotation", "classification": {"name": name}}
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, "properties": properties}


def test_annotations_are_drawn_in_the_pixels_of_the_prediction(tmp_path: Path) -> None:
    predicted = np.zeros(SHAPE, np.uint8)
    predicted[10:20, 10:20] = predicted[10:20, 20:30] = 7
    predicted[40:60, 40:60] = 200
    squares = [square("gland", 40, 40, 40), square("gland", 80, 40, 40), square("fat", 160, 160, 80)]
    outlines = tmp_path / "case.geojson"
    outlines.write_text(json.dumps({"type": "FeatureCollection", "features": squares}))
    store = write_store(tmp_path / "case.zarr", predicted, downsample=4.0)
    found = evaluate(store, outlines, metrics=("pixel_error", "merged_per_100", "dice"))
    assert found.scores["pixel_error"] == 0
    assert found.scores["dice.fat"] == 1
    assert found.scores["merged_per_100"] == pytest.approx(200 / 3)
    with pytest.raises(UsageError, match=r"case\.geojson has named classes, but p\.tif names none"):
        evaluate(write_tiff(tmp_path / "p.tif", predicted), outlines)


def test_what_is_outside_the_annotated_regions_counts_for_nothing(tmp_path: Path) -> None:
    outlines = tmp_path / "case.geojson"
    shapes = [square("ROI", 0, 0, 50), square("gland", 40, 10, 20)]
    outlines.write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    predicted = np.full(SHAPE, 200, np.uint8)
    predicted[:50, :50] = 0
    predicted[10:30, 40:50] = 7
    found = evaluate(write_store(tmp_path / "case.zarr", predicted), outlines, metrics=("pixel_error", "f1", "dice"))
    assert (found.scores["pixel_error"], found.scores["f1"], found.scores["dice"]) == (0, 1, 1)
    predicted[0, 0] = 7
    found = evaluate(write_store(tmp_path / "b.zarr", predicted), outlines, metrics=("pixel_error",))
    assert found.scores["pixel_error"] == 1 / 2500


@pytest.mark.parametrize("downsample", [1.0, 2.0, 4.00017, 31.5])
def test_the_downsample_of_a_store_can_be_read_back(tmp_path: Path, downsample: float) -> None:
    store = write_store(tmp_path / "a.zarr", labels_of(0), downsample=downsample)
    assert stored_downsample(store) == pytest.approx(downsample, abs=1e-6)
    assert stored_classes(store) == Classes(("gland", "fat"), (7, 200))
    assert stored_downsample(tmp_path) == 1


def test_predictions_that_name_different_classes_are_refused(tmp_path: Path) -> None:
    write_store(tmp_path / "a.zarr", labels_of(0))
    write_store(tmp_path / "b.zarr", labels_of(0), classes=(("background", 0, "#000000"), ("cell", 7, "#ffffff")))
    with pytest.raises(UsageError, match=r"a\.zarr names gland, fat, but b\.zarr names cell"):
        evaluate(tmp_path, tmp_path)


# ---- bad input ----


def test_missing_and_unfinished_files_are_refused(tmp_path: Path) -> None:
    good = write_tiff(tmp_path / "t.tif", labels_of(0))
    with pytest.raises(UsageError, match=r"gone\.zarr does not exist"):
        evaluate(tmp_path / "gone.zarr", good)
    with pytest.raises(UsageError, match=r"gone\.tif does not exist"):
        evaluate(good, tmp_path / "gone.tif")
    out = tmp_path / "out"
    unfinished = write_store(out / "t.zarr", labels_of(0), finished=False)
    for path in (unfinished, unfinished.with_name("t.zarr.partial"), out):
        with pytest.raises(
            StoreError, match=r"t\.zarr.*is unfinished; to finish it, start the wsipipe run that began it again"
        ):
            evaluate(path, good)
    renamed = unfinished.with_name("t.zarr.partial").rename(tmp_path / "taken.zarr")
    with pytest.raises(SlideError, match=r"taken\.zarr is not finished"):
        evaluate(renamed, good)


def test_sizes_that_differ_are_refused_before_anything_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("p", "t"):
        (tmp_path / folder).mkdir()
        write_store(tmp_path / folder / "a.zarr", labels_of(0))
    write_store(tmp_path / "p/b.zarr", labels_of(0))
    write_tiff(tmp_path / "t/b.tif", labels_of(0)[:, 5:])
    monkeypatch.setattr(Tally, "add_planes", lambda *_, **__: pytest.fail("compared"))
    with pytest.raises(
        UsageError,
        match=r"b\.zarr is 90 wide x 70 high at 0\.5 um/px, and b\.tif is 85 wide x 70 high at no .*give labels of",
    ):
        evaluate(tmp_path / "p", tmp_path / "t")


def test_files_that_are_not_labels_are_refused(tmp_path: Path) -> None:
    good = write_store(tmp_path / "a.zarr", labels_of(0))
    with pytest.raises(LabelError, match=r"f\.tif holds 32-bit float32"):
        evaluate(good, write_tiff(tmp_path / "f.tif", labels_of(0).astype(np.float32)))
    (tmp_path / "n.tif").write_text("nothing")
    with pytest.raises(SlideError, match=r"n\.tif"):
        evaluate(good, tmp_path / "n.tif")
    (good / "zarr.json").write_text("{")
    with pytest.raises(SlideError, match=r"a\.zarr"):
        evaluate(good, write_tiff(tmp_path / "t.tif", labels_of(0)))
    with pytest.raises(DamagedStoreError, match=r"zarr\.json cannot be read"):
        stored_classes(good)


def test_names_without_a_partner_or_with_two_are_refused(tmp_path: Path) -> None:
    out, data, empty = (tmp_path / name for name in ("out", "data", "empty"))
    for folder in (out, data, empty):
        folder.mkdir()
    for path in (out / "a.zarr", out / "b.zarr", data / "a.tif"):
        path.touch()
    with pytest.raises(UsageError, match=re.escape(f"{out / 'b.zarr'} has no partner")):
        pair(out, data)
    (data / "b_label.png").touch()
    assert pair(out, data)["b"] == (out / "b.zarr", data / "b_label.png")
    (data / "b.geojson").touch()
    with pytest.raises(UsageError, match=r"b\.geojson and b_label\.png share the name 'b'"):
        pair(out, data)
    with pytest.raises(UsageError, match="empty holds no label rasters"):
        pair(empty, data)


def test_options_that_contradict_are_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.zarr", labels_of(0))
    with pytest.raises(UsageError, match="unknown metric dise; choose from"):
        evaluate(store, store, metrics=("dise",))
    with pytest.raises(UsageError, match="--map is for labels that are classes"):
        evaluate(store, store, labels_are="instances", mapped={1: 7})
    for meant in ({1: 7}, {1: "cell", 2: 7}):
        with pytest.raises(UsageError, match="--map is for labels that are classes"):
            evaluate(store, store, predictions_are="instances", labels_are="instances", mapped=meant)
    with pytest.raises(UsageError, match="objects or classes or instances, not pixels"):
        evaluate(store, store, labels_are="pixels")


# ---- grids ----


def write_coordinates(path: Path, labels: np.ndarray, mpp: float, corner_um: tuple[float, float]) -> Path:
    """Labels as OME-Zarr, of a part of a slide whose first pixel has its centre at the origin."""
    root = zarr.open_group(path, mode="w")
    root.create_array("0", data=labels, chunks=(32, 32))
    places = [
        {"type": "scale", "scale": [mpp, mpp]},
        {"type": "translation", "translation": [um + mpp / 2 for um in corner_um]},
    ]
    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    multiscale = {"axes": axes, "datasets": [{"path": "0", "coordinateTransformations": places}]}
    root.attrs["ome"] = {"version": "0.5", "multiscales": [multiscale], "image-label": {}}
    return path


@pytest.mark.parametrize("on", ["labels", "store", None])
def test_labels_at_twice_the_resolution_are_compared_on_either_grid(tmp_path: Path, on: Any) -> None:
    predicted, fine = labels_of(0), labels_of(1).repeat(2, 0).repeat(2, 1)
    fine[::7, ::3] = 7
    found = evaluate(
        write_store(tmp_path / "a.zarr", predicted, downsample=2.0), write_tiff(tmp_path / "b.tif", fine), on=on
    )
    tally = Tally(("gland", "fat"))
    if on == "store":
        tally.add(ids_of(predicted), ids_of(fine[1::2, 1::2]), mpp=0.5)
    else:
        tally.add(ids_of(predicted.repeat(2, 0).repeat(2, 1)), ids_of(fine), mpp=0.25)
    assert found.scores == tally.scores()
    assert len(found.remarks) == 1


def test_labels_of_a_part_are_compared_where_their_coordinates_say(tmp_path: Path) -> None:
    predicted = labels_of(0)
    store = write_store(tmp_path / "a.zarr", predicted, downsample=2.0)  # its corner is at -0.125 um
    part = predicted[20:50, 10:60].repeat(2, 0).repeat(2, 1)
    labels = write_coordinates(tmp_path / "b.zarr", part, 0.25, (20 * 0.5 - 0.125, 10 * 0.5 - 0.125))
    found = evaluate(store, labels)
    assert {found.scores[name] for name in ("dice", "f1", "pq", "detection_f1")} == {1}
    assert found.remarks[0].endswith("in the part of 100 wide x 60 high that both show")


def test_objects_of_a_table_are_compared_on_the_grid_of_finer_labels(tmp_path: Path) -> None:
    labels = labels_of(0, (0, 0, 1, 2))
    store = write_tabled(tmp_path / "a.zarr", labels, mpp=0.5)
    ids = number_each(labels, connectivity=8)
    fine = write_tiff(tmp_path / "b.tif", ids.repeat(2, 0).repeat(2, 1))
    found = evaluate(store, fine, labels_are="instances", mapped={}, metrics=("f1",))
    one_class = (labels > 0).any() and found.tally.classes == ("class 1", "class 2")
    assert one_class
    assert found.matches["class 1"].predicted == 0


def test_outlines_are_drawn_on_their_own_grid_if_asked(tmp_path: Path) -> None:
    outlines = tmp_path / "case.geojson"
    outlines.write_text(json.dumps({"type": "FeatureCollection", "features": [square("gland", 41, 41, 38)]}))
    predicted = np.zeros(SHAPE, np.uint8)
    predicted[10:20, 10:20] = 7  # 40 to 80
    store = write_store(tmp_path / "case.zarr", predicted, downsample=4.0)
    assert evaluate(store, outlines, metrics=("dice",)).scores["dice.gland"] == 1
    fine = evaluate(store, outlines, metrics=("dice",), on="labels")
    assert fine.scores["dice.gland"] == pytest.approx(2 * 38**2 / (38**2 + 40**2))
    assert fine.remarks == ("compared at 0.125 um/px, the labels' grid; the store has 0.5",)


# ---- a thing against itself, and small objects ----


@pytest.mark.parametrize("with_table", [False, True])
def test_a_store_against_itself_scores_1(tmp_path: Path, with_table: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    write = write_tabled if with_table else write_store
    store = write(tmp_path / "a.zarr", noise, **({} if with_table else {"classes": TABLED, "min_area_um2": 1.0}))
    found = evaluate(store, store)
    assert {found.scores[name] for name in ("pq", "f1", "f1_50_90", "detection_f1", "aji", "dice")} == {1}
    rule = ObjectRule("table", 8) if with_table else ObjectRule("components", 4, min_area_um2=1.0)
    assert found.objects == found.true_objects == rule
    copy = write_tiff(tmp_path / "a.tif", noise)  # its objects are those of the same rule
    assert evaluate(store, copy, min_area_um2=None if with_table else 0.0).scores["pq"] == 1


def test_components_smaller_than_the_objects_of_the_model_are_left_out(tmp_path: Path) -> None:
    truth = np.zeros(SHAPE, np.uint8)
    truth[10:20, 10:20] = 1
    specks = truth.copy()
    specks[40:42, 40:44] = 1  # 2 um2
    store = write_store(tmp_path / "a.zarr", specks, classes=TABLED, min_area_um2=2.1)
    labels = write_tiff(tmp_path / "a.tif", truth)
    found = evaluate(store, labels, metrics=("f1", "detection_f1", "pixel_error"))
    assert str(found.objects) == "connected components of 2.1 um2 or more, 4-connected"
    assert (found.scores["precision"], found.scores["detection_precision"]) == (1, 1)
    assert found.scores["pixel_error"] > 0
    assert evaluate(store, labels, min_area_um2=2.0, metrics=("f1",)).scores["precision"] == 0.5
    for name, least in (("a.zarr", 2.1), ("b.zarr", 0.0)):
        write_store(tmp_path / "p" / name, specks, classes=TABLED, min_area_um2=least)
    with pytest.raises(UsageError, match=r"the smallest objects have 2\.1 um2 in .*a\.zarr, but 0 um2 .*--min-area"):
        evaluate(tmp_path / "p", tmp_path / "p")


# ---- names, counts, probabilities, rank ----


def test_classes_without_names_are_named_by_the_user(tmp_path: Path) -> None:
    predicted, truth = labels_of(0, (0, 1, 2)), labels_of(1, (0, 1, 2))
    files = write_tiff(tmp_path / "a.tif", predicted), write_tiff(tmp_path / "b.tif", truth * 100)
    found = evaluate(*files, mapped={1: "nucleus", 2: "fat", 100: "nucleus", 200: "fat"})
    plain = evaluate(*files, mapped={100: 1, 200: 2})
    assert found.tally.classes == ("nucleus", "fat")
    assert [found.scores[f"f1.{name}"] for name in ("nucleus", "fat")] == [plain.scores[f"f1.{n}"] for n in (1, 2)]
    store = write_store(tmp_path / "s.zarr", labels_of(0))
    assert evaluate(store, files[1], mapped={100: "gland", 200: "fat"}, metrics=("dice",)).scores["dice.fat"] > 0
    outlines = tmp_path / "a.geojson"
    outlines.write_text(json.dumps(square("nucleus", 10, 10, 10)))
    assert (
        evaluate(files[0], outlines, mapped={1: "nucleus", 2: "fat"}, metrics=("dice",)).tally.classes[0] == "nucleus"
    )
    with pytest.raises(UsageError, match=r"--map: no class is called 'bone'; the predictions have gland, fat"):
        evaluate(store, files[1], mapped={100: "bone"})
    with pytest.raises(UsageError, match=r"--map: no class has the value 9; allowed: 0 and 7 \(gland\), 200 \(fat\)"):
        evaluate(store, files[1], mapped={100: 9})


def test_naming_the_class_of_instances_leaves_their_ids(tmp_path: Path) -> None:
    ids = np.zeros((20, 20), np.uint8)
    ids[2:6, 2:6], ids[10:16, 10:16] = 1, 5
    file = write_tiff(tmp_path / "a.tif", ids)
    found = evaluate(file, file, predictions_are="instances", labels_are="instances", mapped={5: "nucleus"})
    assert found.matches["nucleus"].both == 2


def test_what_needs_a_resolution_is_said_where_there_is_none(tmp_path: Path) -> None:
    file = write_tiff(tmp_path / "a.tif", labels_of(0))
    assert evaluate(file, file, min_area_um2=30.0).remarks == (
        "1 of 1 images have no resolution, so detection and recall by size leave them out",
        "1 of 1 images have no resolution; their smallest objects have 30 px",
    )
    assert evaluate(file, file, metrics=("f1",)).remarks == ()


def test_the_part_to_look_at_is_where_objects_are_wrong_whatever_is_scored(tmp_path: Path) -> None:
    truth = np.zeros((1030, 1100), np.uint8)
    truth[1026:1029, 1090:1095] = 1
    files = write_tiff(tmp_path / "a.tif", truth * 0), write_tiff(tmp_path / "b.tif", truth)
    window = evaluate(*files, metrics=("f1",)).windows[0]
    assert window.shape == (1024, 1024)
    assert truth[window.slices].any()


def test_images_are_ranked_and_their_objects_counted(tmp_path: Path) -> None:
    truth = np.zeros((40, 40), np.uint8)
    truth[5:15, 5:15] = truth[20:30, 20:30] = 1
    for folder in ("p", "t"):
        (tmp_path / folder).mkdir()
    for name, found in (("empty", truth * 0), ("half", truth * (np.arange(40) < 16)), ("whole", truth)):
        write_tiff(tmp_path / "p" / f"{name}.tif", found)
        write_tiff(tmp_path / "t" / f"{name}.tif", truth * (name != "empty"))
    result = evaluate(tmp_path / "p", tmp_path / "t")
    assert [result.images[index].name for index in result.worst_first] == ["half", "whole", "empty"]
    both, predicted, missed = result.matches["1"][:3]
    assert (both + missed, both + predicted, both) == (4, 3, 3)


def test_probabilities_of_stores_are_scored_on_the_grid_of_the_labels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (3, *SHAPE)).astype(np.uint8)
    fine = labels_of(1).repeat(2, 0).repeat(2, 1)
    store = write_store(tmp_path / "a.zarr", labels_of(0), probabilities=values)
    found = evaluate(store, write_tiff(tmp_path / "b.tif", fine))
    counts = count_probabilities(values[1:].repeat(2, 1).repeat(2, 2), ids_of(fine))
    assert found.scores["ece.fat"] == pytest.approx(calibration_error(counts[1]))
    assert found.scores["average_precision.gland"] == pytest.approx(average_precision(counts[0]))
    without = write_store(tmp_path / "b.zarr", labels_of(0))
    assert "ece" not in evaluate(without, tmp_path / "b.tif").scores
    with pytest.raises(StoreError, match=r"ece: not all predictions are stores with probabilities; .*--probabilities"):
        evaluate(without, tmp_path / "b.tif", metrics=("ece",))


def test_two_predictions_are_compared_image_by_image(tmp_path: Path) -> None:
    for folder in ("old", "new", "t"):
        (tmp_path / folder).mkdir()
    for seed in range(5):
        truth = labels_of(seed, (0, 0, 1))
        write_tiff(tmp_path / "t" / f"{seed}.tif", truth)
        write_tiff(tmp_path / "old" / f"{seed}.tif", np.roll(truth, 2, axis=0))
        write_tiff(tmp_path / "new" / f"{seed}.tif", np.roll(truth, 1, axis=0))
    old, new = (evaluate(tmp_path / name, tmp_path / "t") for name in ("old", "new"))
    verdicts = {one.name: one.verdict for one in compare_evaluations(old, new)}
    assert (verdicts["dice"], verdicts["pixel_error"]) == (1, 1)
    assert {one.verdict for one in compare_evaluations(old, old)} == {0}
    (tmp_path / "new" / "4.tif").unlink()
    (tmp_path / "t" / "4.tif").unlink()
    with pytest.raises(UsageError, match=r"4 is in only one of the two"):
        compare_evaluations(old, evaluate(tmp_path / "new", tmp_path / "t"))
