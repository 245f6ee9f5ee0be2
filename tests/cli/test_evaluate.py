from __future__ import annotations

import csv
import json
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from tests.evaluation.test_evaluate import write_tiff
from wsipipe.cli.evaluate import evaluate, parse_maps
from wsipipe.errors import OutputError, UsageError
from wsipipe.evaluation.metrics import METRICS

TRUTH = np.zeros((40, 40), np.uint8)
TRUTH[5:15, 5:15] = TRUTH[20:30, 20:30] = 1
PREDICTED = TRUTH * (np.arange(40) < 16)


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


def test_evaluate_prints_a_table(folders: tuple[Path, Path]) -> None:
    *lines, objects = called(*folders, "--metrics", "dice, f1").splitlines()
    assert objects == "objects of the predictions: connected components of any size, 4-connected"
    assert [line.split() for line in lines] == [
        ["dice", "0.6667"],
        ["dice.1", "0.6667"],
        ["f1", "0.6667"],
        ["precision", "1.0000"],
        ["recall", "0.5000"],
        ["2", "images"],
    ]


def test_json_is_one_document_with_null_where_there_is_no_value(folders: tuple[Path, Path]) -> None:
    document = json.loads(called(*folders, "--json"), parse_constant=lambda word: pytest.fail(word))
    assert document["scores"]["f1"] == pytest.approx(2 / 3)
    assert document["objects"] == {"source": "components", "connectivity": 4, "split": False, "min_area_um2": 0.0}
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
        UsageError, match=r"unknown metric dise; choose from pixel_error, .*split_per_100 \(--metrics\)"
    ):
        called(*folders, "--metrics", "dice,dise")


def test_help_lists_every_metric() -> None:
    text = called("--help")
    assert all(f"  {name}  " in text for name in METRICS)
    assert all(parameter.help for parameter in evaluate.params if isinstance(parameter, click.Option))


@pytest.mark.parametrize("text", ["255", "255=", "=1", "a=1", "1=-1", "1=2=3"])
def test_a_map_that_is_not_two_numbers_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="two numbers such as 255=1"):
        parse_maps((text,))


def test_maps_are_read_and_contradictions_refused() -> None:
    assert parse_maps(("255=1", "0128=2", "255=1")) == {255: 1, 128: 2}
    with pytest.raises(UsageError, match="given twice, for 1 and 2"):
        parse_maps(("255=1", "255=2"))
