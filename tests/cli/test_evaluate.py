from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from click.testing import CliRunner

from tests.conftest import Call, WriteSlide
from tests.evaluation.test_evaluate import write_store, write_tiff
from wsipipe.cli.evaluate import evaluate, parse_maps
from wsipipe.errors import OutputError, UsageError
from wsipipe.evaluation import bootstrap
from wsipipe.evaluation.metrics import METRICS

TRUTH = np.zeros((40, 40), np.uint8)
TRUTH[5:15, 5:15] = TRUTH[20:30, 20:30] = 1
PREDICTED = TRUTH * (np.arange(40) < 16)
STORED = (("background", 0, "#000000"), ("nucleus", 1, "#ff8000"))
"""Classes of a store."""


@pytest.fixture(autouse=True)
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "RESAMPLES", 20)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two predictions, one of them empty, and their labels."""
    for name, prediction, truth in [("a", PREDICTED, TRUTH), ("b", TRUTH * 0, TRUTH * 0)]:
        for folder, values in [("out", prediction), ("data", truth)]:
            (tmp_path / folder).mkdir(exist_ok=True)
            write_tiff(tmp_path / folder / f"{name}.tif", values)
    return tmp_path / "out", tmp_path / "data"


def called(*words: object) -> str:
    """The output of ``wsipipe evaluate ...``."""
    result = CliRunner().invoke(evaluate, list(map(str, words)))
    if isinstance(result.exception, Exception):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_evaluate_prints_a_table_and_the_worst_images(folders: tuple[Path, Path]) -> None:
    lines = called(*folders, "--metrics", "dice, f1").splitlines()
    assert [line.split()[:2] for line in lines[1:5]] == [
        ["dice", "0.6667"],
        ["f1", "0.6667"],
        ["precision", "1.0000"],
        ["recall", "0.5000"],
    ]
    assert lines[6:] == [
        "2 images, the worst first:",
        "         f1  true  found  matched",
        "  a  0.6667     2      1        1",
        "  b       -     0      0        0",
        "",
        "1: 2 true, 1 found, 1 matched at IoU > 0.5",
        "objects of the predictions: connected components of any size, 4-connected",
        "intervals: 95 %, bootstrap over images, 20 resamples",
    ]


def test_a_single_image_has_neither_means_nor_intervals(folders: tuple[Path, Path]) -> None:
    words = folders[0] / "a.tif", folders[1] / "a.tif", "--metrics", "dice"
    assert called(*words).splitlines() == ["dice  0.6667", "", "1 image"]


def test_a_class_named_7_does_not_hide_the_threshold_of_7(tmp_path: Path) -> None:
    labels = write_tiff(tmp_path / "a.tif", TRUTH * 7)
    names = [line.split()[0] for line in called(labels, labels).splitlines() if " 1.0000" in line]
    assert {"dice", "f1", "f1@0.6", "f1@0.7", "f1@0.9"} <= set(names)
    assert "dice.7" not in names


def test_compare_says_which_of_two_predictions_is_better(folders: tuple[Path, Path], tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.mkdir()
    for name, truth in (("a", TRUTH), ("b", TRUTH * 0)):
        write_tiff(new / f"{name}.tif", truth)
    words = folders[1], "--compare", folders[0], new, "--metrics", "f1,dice"
    *_, last = called(*words).splitlines()
    assert last == "new is better than out: f1 1.0000 against 0.6667, difference +0.3333 (0.3333 to 0.3333)"
    document = json.loads(called(*words, "--json"))
    assert document["verdict"] == last
    assert document["differences"]["dice"]["better"] == "second"
    assert (document["first"]["name"], document["second"]["scores"]["f1"]) == ("out", 1)
    titles = called(*words).splitlines()[:4]
    assert titles == ["first: out", "second: new", "", "           first   second  difference"]
    *_, same = called(folders[1], "--compare", new, new, "--metrics", "f1").splitlines()
    assert same.startswith("these 2 images do not tell which of 1 new and 2 new is better: f1 1.0000 against 1.0000")


def test_tables_fit_into_80_columns(folders: tuple[Path, Path], tmp_path: Path) -> None:
    long = tmp_path / ("results-of-a-model-with-a-long-name" * 2)
    shutil.copytree(folders[0], long)
    for words in (folders, (folders[1], "--compare", folders[0], long)):
        text = called(*words)
        table = [line for line in text.splitlines() if not line.startswith(("second: ", "these "))]
        assert "variation_of_information" in text
        assert max(map(len, table)) <= 80


def test_a_comparison_says_where_the_two_sides_differ(folders: tuple[Path, Path], tmp_path: Path) -> None:
    store = write_store(tmp_path / "a.zarr", PREDICTED, classes=STORED, min_area_um2=2.0)
    other = write_store(tmp_path / "b.zarr", PREDICTED, classes=STORED, probabilities=np.stack([PREDICTED] * 2))
    lines = called(folders[1] / "a.tif", "--compare", store, other).splitlines()
    assert "first: objects of the predictions: connected components of 2 um2 or more, 4-connected" in lines
    assert "second: objects of the predictions: connected components of any size, 4-connected" in lines
    nothing = write_tiff(tmp_path / "nothing.tif", TRUTH * 0)
    *_, last = called(nothing, "--compare", nothing, nothing).splitlines()
    assert last == "2 nothing.tif against 1 nothing.tif: f1 has no value for one of them"


def test_models_are_run_and_scored_and_compared_in_one_go(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, call: Call
) -> None:
    for name in ("a", "b"):
        write_slide(tmp_path / "slides" / f"{name}_image.tif", (64, 64))
        write_tiff(tmp_path / "slides" / f"{name}_label.tif", np.arange(64**2, dtype=np.uint8).reshape(64, 64) % 2)
    words = "evaluate", tmp_path / "slides", tmp_path / "slides", "--map", "1=class 1", "--metrics", "dice,ece"
    kept = call(*words, "-m", tiny_model, "-o", tmp_path / "out", "--json")
    assert kept.code == 0, kept.err
    stores = {path.name for path in (tmp_path / "out").glob("*.zarr")}
    assert stores == {"a_image.zarr", "b_image.zarr"}
    again = call("evaluate", tmp_path / "out", tmp_path / "slides", *words[3:], "--json")
    assert json.loads(again.out)["scores"] == json.loads(kept.out)["scores"]
    other = tmp_path / "other.safetensors"
    shutil.copy(tiny_model, other)
    compared = call(*words, "--compare", tiny_model, other)
    assert compared.code == 0, compared.err
    assert "do not tell which of tiny.safetensors and other.safetensors is better" in compared.out
    with pytest.raises(UsageError, match="unknown metric dise"):  # before anything is segmented
        called(*words[1:5], "--metrics", "dise", "-m", tmp_path / "gone.safetensors")
    with pytest.raises(UsageError, match=r"slides holds an input \(a_image\.tif\); give another folder"):
        called(*words[1:5], "--pictures", tmp_path / "slides", "-m", tmp_path / "gone.safetensors")
    (tmp_path / "slides" / "b_image.tif").write_bytes(b"II*\0 no slide")
    assert call(*words, "-m", tiny_model).code == 1


def test_words_that_do_not_go_together_are_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for words, message in (
        (folders[:1], "1 paths are given; give PREDICTIONS and LABELS"),
        ((*folders, folders[0], "--compare", "a", "b"), "3 paths are given; give LABELS, or SLIDES and LABELS"),
        ((*folders, "-m", "m", "--compare", "a", "b"), "-m is one model, and --compare names two"),
        ((*folders, "-o", tmp_path), "-o and --mpp are for slides that are segmented first"),
        ((*folders, "--radius", "-1"), "--radius must be 0 or more, not -1"),
        ((*folders, "--pictures", folders[0] / "a.tif"), "is an input, or lies in one"),
        ((folders[1], "--compare", *folders, "--csv", "x.csv"), "leave --compare out"),
    ):
        with pytest.raises(UsageError, match=message):
            called(*words)


def first_counts(document: dict[str, Any]) -> Any:
    return document["images"][0]["counts"]


def test_json_is_one_document_with_null_where_there_is_no_value(folders: tuple[Path, Path]) -> None:
    document = json.loads(called(*folders, "--json"), parse_constant=lambda word: pytest.fail(word))
    assert document["scores"]["f1"] == pytest.approx(2 / 3)
    assert document["objects"] == {"source": "components", "connectivity": 4, "split": False, "min_area_um2": 0.0}
    assert document["counts"] == {"1": {"true": 2, "found": 1, "matched": 1}} == {"1": first_counts(document)}
    assert document["mean"]["f1"] == pytest.approx(2 / 3)
    assert document["intervals"]["f1"] == pytest.approx([2 / 3, 2 / 3])
    assert document["intervals"].keys() == document["scores"].keys()
    first, second = document["images"]
    assert (first["name"], second["name"]) == ("a", "b")
    assert second["scores"]["f1"] is None
    assert second["scores"]["pixel_error"] == 0
    assert first["scores"].keys() == second["scores"].keys() == document["scores"].keys()


def test_csv_has_a_row_per_image_and_is_written_anew(folders: tuple[Path, Path], tmp_path: Path) -> None:
    table = tmp_path / "scores.csv"
    table.write_text("of yesterday")
    called(*folders, "--csv", table)
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    document = json.loads(called(*folders, "--json"))
    for row, image in zip(rows, document["images"], strict=True):
        assert row["name"] == image["name"]
        for name, value in image["scores"].items():
            assert (float(row[name]) if row[name] else None) == value
    assert {path.name for path in tmp_path.iterdir()} == {"out", "data", "scores.csv"}


def test_csv_does_not_overwrite_an_input(folders: tuple[Path, Path]) -> None:
    target = folders[1] / "a.tif"
    before = target.read_bytes()
    with pytest.raises(UsageError, match="is an input, or lies in one"):
        called(*folders, "--csv", target)
    assert target.read_bytes() == before


def test_csv_that_cannot_be_written_leaves_nothing(folders: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match="taken cannot be written"):
        called(*folders, "--csv", tmp_path / "taken")
    with pytest.raises(OutputError, match=r"gone/x\.csv cannot be written"):
        called(*folders, "--csv", tmp_path / "gone/x.csv")
    assert {path.name for path in tmp_path.iterdir()} == {"out", "data", "taken"}


def test_options_reach_the_comparison(folders: tuple[Path, Path]) -> None:
    prediction, labels = folders[1] / "a.tif", folders[1] / "255.tif"
    write_tiff(labels, TRUTH * 255)
    scores = json.loads(called(prediction, labels, "--map", "255=1", "--json", "--metrics", "dice"))["scores"]
    assert scores == {"dice": 1, "dice.1": 1}
    words = ("--predictions-are", "instances", "--labels-are", "instances")
    scores = json.loads(called(prediction, labels, *words, "--json", "--metrics", "dice"))["scores"]
    assert scores == {"dice": 1, "dice.object": 1}


def test_an_unknown_metric_is_refused_with_the_list_of_metrics(folders: tuple[Path, Path]) -> None:
    with pytest.raises(
        UsageError, match=r"unknown metric dise; choose from pixel_error, .*split_per_100, .* \(--metrics\)"
    ):
        called(*folders, "--metrics", "dice,dise")


def test_help_lists_every_metric() -> None:
    text = called("--help")
    assert all(f"  {name}  " in text for name in METRICS)
    assert all(parameter.help for parameter in evaluate.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("text", ["255", "255=", "=1", "a=1", "1=-1", "1=2=3", "nucleus=1"])
def test_a_map_that_is_not_two_numbers_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="two numbers such as 255=1"):
        parse_maps((text,))


def test_maps_are_read_and_contradictions_refused() -> None:
    assert parse_maps(("255=1", "0128=2", "255=1", "3 = fat tissue")) == {255: 1, 128: 2, 3: "fat tissue"}
    for text in ("1=99999999999", "99999999999=1", "99999999999=fat"):
        with pytest.raises(UsageError, match="the largest value of a label is 2147483647"):
            parse_maps((text,))
    with pytest.raises(UsageError, match="given twice, for 1 and 2"):
        parse_maps(("255=1", "255=2"))
