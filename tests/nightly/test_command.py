"""The command `wsipipe nightly`: its output, files, posts and exit code."""

from __future__ import annotations

import http.server
import json
import os
import re
import shutil
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result
from prometheus_client.parser import text_string_to_metric_families

from tests.conftest import Call, WriteSlide
from tests.faults import write_model
from tests.nightly.nights import SMALL, events, listing, log_rows, statuses, write_night
from wsipipe.cli import cli
from wsipipe.errors import OutputError
from wsipipe.nightly import night as nights
from wsipipe.nightly.config import NightConfig, read_night
from wsipipe.report.record import read_report
from wsipipe.report.words import duration, size
from wsipipe.tables import parse_table


@contextmanager
def web_service(answer: int) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A service on loopback that gives this answer: its address, and the messages posted to it."""
    posted: list[dict[str, Any]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            posted.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/secret", posted
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def folder(tmp_path: Path, write_slide: WriteSlide, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two slides of 4 blocks in ``in``, and a third file that is not a slide."""
    monkeypatch.setattr(nights, "INBOX_SECONDS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for i, name in enumerate("ab"):
        write_slide(tmp_path / "in" / f"{name}.tif", (128, 128), seed=i)
    (tmp_path / "in" / "c.tif").write_text("no slide")
    shutil.copy(tiny_model, tmp_path / "tiny.safetensors")
    return tmp_path


def nightly(folder: Path, *options: object, **keys: Any) -> Result:
    """`wsipipe nightly` of the slides in ``folder``."""
    given = {"inbox": ["in"], "out": "out", "model": "tiny.safetensors", "settle": "0s"} | keys
    path = write_night(folder / "night.toml", tables=given.pop("tables", SMALL), **given)
    return CliRunner().invoke(cli, ["nightly", str(path), *map(str, options)])


def ended(result: Result) -> int:
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code


def test_it_prints_the_slides_not_done_and_the_report_and_failures_set_its_exit_code(folder: Path) -> None:
    result = nightly(folder)
    assert ended(result) == 1
    lines = result.stdout.splitlines()
    assert lines[0].startswith("failed    c.tif: c.tif ")
    assert lines[1:] == ["2 done, 1 failed", f"report: {folder / 'out' / 'reports' / 'report.html'}"]
    assert "a.tif: done in " in result.stderr
    assert {path.name for path in (folder / "out" / "reports").iterdir()} == {
        "history.jsonl",
        "report.html",
        "report.json",
    }
    (folder / "in" / "c.tif").unlink()
    result = nightly(folder)
    assert (ended(result), result.stdout.splitlines()[0]) == (0, "nothing to do: 2 slides found, all done")
    assert set(statuses(folder / "out" / "reports").values()) == {"skipped"}


def test_patterns_that_match_nothing_are_warned_of(folder: Path) -> None:
    (folder / "empty").mkdir()
    tables = SMALL + "\n[[slides]]\nmatch = '*_20x'\nmpp = 1\n[[slides]]\nmatch = '*/in/?.tif'\nmpp = 0.5\n"
    result = nightly(folder, inbox=["in/*.tif", "in/*.svss", "empty"], tables=tables)
    warnings = [
        "night.toml:1: inbox in/*.svss matches no file",
        'night.toml:14: [[slides]] match "*_20x" matches no slide; '
        "it is compared with the whole name of each file, and with its whole path",
    ]
    said = [line.replace(": warning", "") for line in result.stderr.splitlines() if ": warning: " in line]
    assert said == warnings
    reports = folder / "out" / "reports"
    assert list(read_report(reports / "report.json").warnings) == warnings
    assert "inbox in/*.svss matches no file" in (reports / "report.html").read_text()


def test_an_interrupted_night_prints_the_summary_and_the_report(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(nights, "run", interrupted)
        result = nightly(folder)
    assert result.exit_code != 0
    assert result.stdout.splitlines() == [
        *(f"open      {name}.tif: interrupted; the next night resumes" for name in "abc"),
        "ended early: interrupted; the next night resumes",
        "0 done, 3 open",
        f"report: {folder / 'out' / 'reports' / 'report.html'}",
    ]
    page = (folder / "out" / "reports" / "report.html").read_text()
    assert "time was up" not in page
    assert "· interrupted; the next night resumes" in page


def test_the_outcome_is_posted_to_the_webhook(folder: Path) -> None:
    with web_service(204) as (url, posted):
        assert ended(nightly(folder, webhook=url)) == 1
    (message,) = posted
    assert message["text"].endswith(": 2 done, 1 failed")
    assert (message["exit_code"], message["counts"]["done"], message["stopped"]) == (1, 2, "")
    assert message["command"] == str(folder / "night.toml")
    assert [slide["slide"] for slide in message["failed"]] == [str(folder / "in" / "c.tif")]
    assert message["report"] == str(folder / "out" / "reports" / "report.html")


def test_a_webhook_that_fails_changes_neither_the_exit_code_nor_the_report(folder: Path) -> None:
    (folder / "in" / "c.tif").unlink()
    with web_service(403) as (url, posted):
        result = nightly(folder, webhook=url, log="log.jsonl")
    assert ended(result) == 0
    assert len(posted) == 1
    said = "webhook http://127.0.0.1: it answered 403 Forbidden"
    assert said in result.stderr
    report = read_report(folder / "out" / "reports" / "report.json")
    assert (report.exit_code, report.stopped, statuses(report)) == (0, "", {"a.tif": "done", "b.tif": "done"})
    assert result.stdout.splitlines()[0] == "2 done"
    assert events(log_rows(folder / "log.jsonl"), "Warned")[-1]["message"] == said
    assert "secret" not in result.output


def metric(path: Path, name: str, **labels: str) -> float:
    (value,) = [
        sample.value
        for family in text_string_to_metric_families(path.read_text())
        for sample in family.samples
        if sample.name == f"wsipipe_{name}" and labels.items() <= sample.labels.items()
    ]
    return value


def test_metrics_go_to_the_file_of_the_configuration_or_of_the_command_line(folder: Path) -> None:
    nightly(folder, metrics="metrics/night.prom")
    path = folder / "metrics" / "night.prom"
    assert metric(path, "slides", status="done") == 2
    assert metric(path, "slides", status="failed") == metric(path, "night_exit_code") == 1
    assert metric(path, "night_pixels") == 2 * 128 * 128
    path.unlink()
    other = folder / "other.prom"
    nightly(folder, "--metrics", other, metrics="metrics/night.prom")
    assert metric(other, "slides", status="skipped") == 2
    assert not path.exists()


def test_the_log_is_one_json_object_a_line_night_after_night(folder: Path) -> None:
    nightly(folder, log="logs/night.jsonl")
    first = log_rows(folder / "logs" / "night.jsonl")
    kinds = [row["event"] for row in first]
    assert kinds.count("BlockDone") == 8
    assert kinds.count("SlideDone") == 2
    assert {"RunStarted", "SizesChosen", "SlideStarted", "SlideFailed"} <= set(kinds)
    assert all(row["time"] > "2025" for row in first)
    nightly(folder, log="logs/night.jsonl")
    both = log_rows(folder / "logs" / "night.jsonl")
    assert both[: len(first)] == first
    assert [row["event"] for row in both[len(first) :]].count("SlideSkipped") == 2


def test_a_night_whose_log_or_metrics_are_on_a_full_disk_goes_on_and_says_so(folder: Path) -> None:
    result = nightly(folder, log="/dev/full")
    assert ended(result) == 1, "as without a log: one slide is broken"
    assert "log /dev/full cannot be written: No space left on device; the work went on" in result.stdout
    result = nightly(folder, log="night.toml/below/a/file", metrics="/dev/full/metrics.prom")
    assert ended(result) == 1
    assert f"log {folder / 'night.toml/below/a/file'} cannot be written: Not a directory" in result.stdout
    assert "warning: metrics: /dev/full cannot be created" in result.stderr
    assert statuses(folder / "out" / "reports")["a.tif"] == "skipped"
    (folder / "out" / "reports" / "report.html").unlink()
    (folder / "out" / "reports" / "report.html").mkdir()
    result = nightly(folder, metrics="night.prom")
    assert isinstance(result.exception, OutputError)
    assert "report.html cannot be written" in str(result.exception)
    assert metric(folder / "night.prom", "slides", status="skipped") == 2, "the metrics are written all the same"


def test_names_that_are_not_unicode_are_reported_and_logged(folder: Path, write_slide: WriteSlide) -> None:
    hostile = os.fsdecode(b"caf\xe9 \x1b[31m\xff.tif")
    write_slide(folder / "in" / hostile)
    (folder / "in" / f"broken {hostile}").write_text("no slide")
    result = nightly(folder, log="log.jsonl", metrics="m.prom")
    assert ended(result) == 1
    assert r"failed    broken caf\udce9 \x1b[31m\udcff.tif: " in result.stdout
    assert statuses(folder / "out" / "reports")[hostile] == "done"
    done = {Path(row["slide"]).name for row in events(log_rows(folder / "log.jsonl"), "SlideDone")}
    assert done == {"a.tif", "b.tif", hostile}
    assert ended(nightly(folder, "--dry-run")) == 0


def test_a_dry_run_writes_nothing_and_prints_what_would_be_done(folder: Path, write_slide: WriteSlide) -> None:
    big = write_slide(folder / "in" / "big.tif", (4096, 4096))
    os.utime(big, (1, 1))
    options = {"metrics": "m.prom", "log": "log.jsonl", "webhook": "http://127.0.0.1:9/never", "reserve": "1TB"}
    before = listing(folder)
    result = nightly(folder, "--dry-run", "--metrics", folder / "n.prom", **options)
    after = listing(folder)
    for changed in (str(folder), str(folder / "night.toml")):  # which the test wrote
        before.pop(changed, None), after.pop(changed)
    assert after == before
    assert ended(result) == 0
    said = result.stdout
    for name, blocks in (("a", 4), ("b", 4), ("big", 4096)):
        assert f"{folder}/in/{name}.tif" in said
        assert f"-> {folder}/out/{name}.zarr" in said
        assert f"{blocks} of {blocks} blocks of 64 px" in said
    assert "c.tif" in said
    assert "memory at most" in said
    assert said.splitlines()[-1] == (
        "total: 4 slides: 0 done before, 3 to do, 1 refused; time not measured yet; "
        "results at most 22.4 MB before compression"
    )

    big.unlink()
    nightly(folder)
    result = nightly(folder, "--dry-run")
    assert "0 of 4 blocks" in result.stdout
    assert "complete" in result.stdout
    assert f"tried again {folder}/in/c.tif: failed in one night: c.tif " in result.stdout
    assert result.stdout.splitlines()[-1] == (
        "total: 3 slides: 2 done before, 0 to do, 1 refused; about 0.0 s; results at most 0 bytes before compression"
    )
    (folder / "in" / "c.tif").unlink()
    assert nightly(folder, "--dry-run").stdout.splitlines()[-1] == "nothing to do: 2 slides found, all done"


def test_a_dry_run_projects_hours_and_space_from_measured_speeds(folder: Path, write_slide: WriteSlide) -> None:
    nightly(folder)
    big = write_slide(folder / "in" / "big.tif", (8192, 8192))
    (memory,) = (folder / "cache").rglob("speeds.json")
    table = json.loads(memory.read_text())
    (key,) = table
    speed = 8192 * 8192 / 3600  # an hour on one device for the pixels alone
    table[key] = [[core, batch, speed] for core, batch, _ in table[key]]
    memory.write_text(json.dumps(table))
    result = nightly(folder, "--dry-run")
    line = result.stdout.splitlines()[-1]
    with_margins = ((64 + 22) / 64) ** 2  # the margin of the tiny model
    assert f"; about {duration(3600 * with_margins / 2)}; " in line, "on two devices"
    assert line.endswith(f"results at most {size(8192 * 8192 * 4 // 3)} before compression"), "with coarser levels"
    averaged = nightly(folder, "--dry-run", tables=SMALL.replace("[run]\n", "[run]\ntta = 'flips'\n")).stdout
    assert 'averaged over 4 passes ([run] tta = "flips")' in averaged
    assert f"; about {duration(3600 * 4 * with_margins / 2)}; " in averaged.splitlines()[-1]
    big.unlink()


def test_a_slide_without_resolution_comes_with_the_table_that_gives_it_one(
    folder: Path, write_slide: WriteSlide
) -> None:
    write_model(folder / "tiny.safetensors", mpp=0.25)
    write_slide(folder / "in" / "d [2].tif", mpp=None)
    table = '\n[[slides]]\nmatch = "d [[]2].tif"\nmpp = 0.25\n'
    for options in (["--dry-run"], [], ["--dry-run"]):
        result = nightly(folder, *options, retries=1)
        assert table in result.stdout
    assert statuses(folder / "out" / "reports")["d [2].tif"] == "failed"
    nightly(folder, tables=SMALL + table)
    assert statuses(folder / "out" / "reports")["d [2].tif"] == "done"


def test_a_dry_run_lists_slides_that_wait_or_are_set_aside(folder: Path) -> None:
    nightly(folder, retries=1)
    result = nightly(folder, "--dry-run", retries=1)
    assert f"set aside {folder}/in/c.tif: failed in one night; it is tried again once " in result.stdout
    (folder / "in" / "d.tif").write_text("more")
    result = nightly(folder, "--dry-run", settle="1h")
    assert f"waiting   {folder}/in/d.tif: changed " in result.stdout
    (folder / "in" / "d.tif").unlink()


def test_a_dry_run_of_an_empty_inbox(folder: Path) -> None:
    for path in (folder / "in").iterdir():
        path.unlink()
    result = nightly(folder, "--dry-run")
    assert (ended(result), result.stdout) == (0, "nothing to do: 0 slides found\n")
    assert not (folder / "out").exists()


def test_below_the_reserve_it_exits_with_3_and_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10**6))
        result = nightly(folder, reserve="1GB")
    assert ended(result) == 3
    assert "ended early: " in result.stdout
    assert "less than the reserve of 1000MB; free some space" in result.stdout
    assert statuses(folder / "out" / "reports") == {"a.tif": "open", "b.tif": "open", "c.tif": "failed"}
    assert statuses_after_another_night(folder) == {"a.tif": "done", "b.tif": "done", "c.tif": "failed"}


def statuses_after_another_night(folder: Path) -> dict[str, str]:
    nightly(folder)
    return statuses(folder / "out" / "reports")


def test_a_wrong_configuration_is_refused_with_exit_code_2_before_anything_is_done(folder: Path, call: Call) -> None:
    before = listing(folder / "in")
    tables = "[run]\ndevise = 'cpu'\n\n[[slides]]\nmpp = 0.5\n"
    path = write_night(folder / "night.toml", inbox=["in"], out="out", tables=tables)
    ended = call("nightly", path)
    assert ended.code == 2
    said = ended.err.splitlines()
    assert said[0].startswith("wsipipe: night.toml:4: [run] has no key devise; ")
    assert said[1:] == ["night.toml:6: [[slides]] lacks match"]
    assert listing(folder / "in") == before
    assert not (folder / "out").exists()


def test_the_example_is_a_night_with_every_key(tmp_path: Path, call: Call) -> None:
    ended = call("nightly", "--example")
    assert ended.code == 0
    assert "wsipipe nightly --example prints one" in call("nightly").err
    path = tmp_path / "night.toml"
    path.write_text(ended.out)
    (tmp_path / "inbox").mkdir()
    assert read_night(path).config == NightConfig(("inbox",), "segmentations")
    # With every key in use: each is there, of the right type, below its meaning, and has its default if it has one.
    document = tomllib.loads(re.sub(r"(?m)^#(?=\[|\w+ = )", "", ended.out))
    config: NightConfig = parse_table(NightConfig, document)
    for table in (config, config.run, config.cluster, *config.slides):
        defaults = {one.name: one.default for one in fields(table)}
        given = document if table is config else document["slides"][0]
        given = document["run"] if table is config.run else document["cluster"] if table is config.cluster else given
        assert set(given) == set(defaults)
        for name, default in defaults.items():
            assert default in (None, MISSING, ()) or getattr(table, name) == default
    lines = ended.out.splitlines()
    keys = [number for number, line in enumerate(lines) if re.match(r"#?\w+ = ", line)]
    assert [number for number in keys if not lines[number - 1].startswith(("# ", "#[cluster.options]", "#queue"))] == []
