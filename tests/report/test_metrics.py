from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given

from tests.report.nights import night, slides_of_all_kinds, texts
from wsipipe.errors import OutputError
from wsipipe.report.metrics import metrics, write_metrics
from wsipipe.report.record import DONE, STATUSES, SlideReport
from wsipipe.report.words import shown

SAMPLE = re.compile(r'([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\[\\n"])*",?)*)\})? (\S+)')


def samples(text: str) -> dict[str, float]:
    """The value of every sample, by its name and labels; any other line fails."""
    found = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# "):
            assert re.fullmatch(r"# (HELP wsipipe_[a-z_]+ .+|TYPE wsipipe_[a-z_]+ gauge)", line)
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        found[f"{match[1]}{{{match[2]}}}" if match[2] else match[1]] = float(match[3])
    return found


def test_metrics_say_how_the_night_went(tmp_path: Path) -> None:
    path = tmp_path / "textfile/wsipipe.prom"
    write_metrics(night(*slides_of_all_kinds(), exit_code=1, stopped="full"), path)
    assert list(path.parent.iterdir()) == [path]
    found = samples(path.read_text())
    assert found == {f'wsipipe_slides{{status="{status}"}}': 1 for status in STATUSES} | {
        "wsipipe_slides_with_warnings": 2,
        "wsipipe_night_seconds": 29520,
        "wsipipe_night_pixels": 1_003_145_728,
        "wsipipe_night_objects": 7,
        "wsipipe_pixels_per_second": pytest.approx(1_003_145_728 / 108.1),
        "wsipipe_night_started_timestamp_seconds": 1795557603,
        "wsipipe_night_finished_timestamp_seconds": 1795587123,
        "wsipipe_night_exit_code": 1,
        "wsipipe_night_stopped": 1,
        'wsipipe_night_info{host="gpu-03",version="0.1.0"}': 1,
    }


def test_every_metric_has_its_help_and_type_before_its_samples() -> None:
    lines = metrics(night()).splitlines()
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(set(names)) == len(names) == 11
    for name in names:
        at = lines.index(f"# TYPE {name} gauge")
        assert lines[at - 1].startswith(f"# HELP {name} ")
        assert re.split(r"[{ ]", lines[at + 1])[0] == name


@given(texts)
def test_no_text_breaks_the_metrics(text: str) -> None:
    report = night(*slides_of_all_kinds(text), host=text, stopped=text)
    report = replace(report, version=text)
    found = samples(metrics(report))
    assert len(found) == 18
    metrics(report).encode()


@given(texts)
def test_prometheus_own_parser_reads_them_and_gives_the_text_back(text: str) -> None:
    parser = pytest.importorskip(
        "prometheus_client.parser", reason="prometheus_client, the second opinion, is not installed"
    )
    families = list(parser.text_string_to_metric_families(metrics(night(host=text))))
    assert {family.type for family in families} == {"gauge"}
    assert all(family.documentation for family in families)
    by_name = {family.name: family.samples for family in families}
    assert {sample.labels["status"]: sample.value for sample in by_name["wsipipe_slides"]} == dict.fromkeys(STATUSES, 0)
    assert by_name["wsipipe_night_info"][0].labels == {"host": shown(text), "version": "0.1.0"}
    assert by_name["wsipipe_night_seconds"][0].value == 29520


def test_infinity_is_written_as_prometheus_does() -> None:
    report = night(SlideReport("a", DONE, seconds=5e-324, pixels=10**9))
    assert "wsipipe_pixels_per_second Inf\n" in metrics(report)
    assert samples(metrics(report))["wsipipe_pixels_per_second"] == float("inf")


def test_a_folder_that_cannot_be_written_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be created"):
        write_metrics(night(), tmp_path / "file/wsipipe.prom")
