from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr

import wsipipe
from tests.conftest import Call, WriteSlide
from tests.faults import files, finish, start, wait_until
from tests.faults import wsipipe as in_a_process
from tests.store.test_store import make, spec_of
from tests.test_docs import parse
from tests.tissue.drawn import disc, glass, on_glass
from wsipipe import cli, demo
from wsipipe.cli.command import LAST_SECTION, PLAIN_SECTION, Command, sections
from wsipipe.cli.run_text import end_of, summary_as_text
from wsipipe.errors import UsageError
from wsipipe.model import model_file
from wsipipe.model.model_file import load_model
from wsipipe.pictures.caption import CAPTION_PX
from wsipipe.pictures.drawing import OUTLINE, REGION_OUTLINE, inner_edge
from wsipipe.pipeline.machine import size_bytes
from wsipipe.pipeline.summary import RunSummary, SlideOutcome
from wsipipe.report.run_line import Verbosity
from wsipipe.tissue.detect import ALGORITHM

ROOT = Path(wsipipe.__file__).parents[1]
REFERENCE = ROOT / "docs" / "operate" / "command-line.md"
SCRIPT = Path(sys.executable).with_name("wsipipe")
HEAVY = {"torch", "dask", "distributed", "zarr", "tifffile", "numpy", "rich", "imagecodecs", "safetensors"}


@pytest.fixture
def run(call: Call, tmp_path: Path, tiny_model: Path) -> Call:
    """``wsipipe run ...`` with the tiny model, into ``tmp_path / "out"``."""
    options = ["-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu", "--block", "64"]
    return lambda *words: call("run", *options, *words)


def commands(group: click.Command = cli.cli, name: str = "wsipipe") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, with its full name."""
    if isinstance(group, click.Group):
        for child, command in group.commands.items():
            yield from commands(command, f"{name} {child}")
    else:
        yield name, group


# what a person reads


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the command line, as Sphinx makes it of the commands themselves."""
    pytest.importorskip("sphinx_click")
    pytest.importorskip("myst_parser")
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    (source / "index.md").write_bytes(REFERENCE.read_bytes())
    made_of = ["-C", "-q", "-D", "extensions=myst_parser,sphinx_click", "-b", "text"]
    subprocess.run([sys.executable, "-m", "sphinx", *made_of, source, built], check=True, cwd=ROOT)
    return (built / "index.txt").read_text()


OPTIONS = [(n, o) for n, command in commands() for p in command.params if isinstance(p, click.Option) for o in p.opts]


def test_every_command_and_option_is_in_the_reference(reference: str) -> None:
    parts = re.split(r"-\[ Usage \]-\s+", reference)[1:]
    missing = []
    for name, option in OPTIONS:
        part = next((part for part in parts if part.startswith(f"{name} [OPTIONS]")), "")
        if not re.search(rf"^(?:.*, )?{option}(?![\w-])", part, re.MULTILINE):
            missing.append((name, option))
    assert missing == []


@pytest.mark.parametrize("name", [name for name, _ in commands()])
def test_every_option_says_what_it_does(name: str) -> None:
    options = [param for param in dict(commands())[name].params if isinstance(param, click.Option)]
    assert [option.opts for option in options if not option.help] == []


def test_the_commands_above_were_found() -> None:
    assert {name for name, _ in commands()} >= {
        "wsipipe run",
        "wsipipe info",
        "wsipipe model show",
        "wsipipe model init",
        "wsipipe demo",
    }
    assert ("wsipipe run", "--max-memory") in OPTIONS


@pytest.mark.parametrize("words", [[], ["run"], ["info"], ["model"], ["model", "show"], ["model", "init"], ["demo"]])
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_every_command_goes_to_stdout(call: Call, words: list[str], flag: str) -> None:
    ended = call(*words, flag)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: wsipipe {' '.join(words)}".rstrip())


@pytest.mark.parametrize("name", [name for name, command in commands() if isinstance(command, Command)])
def test_help_has_each_option_in_a_section_and_examples_that_can_be_parsed(call: Call, name: str) -> None:
    command = dict(commands())[name]
    assert isinstance(command, Command)
    shown = call(*name.split()[1:], "--help").out
    context = click.Context(command, help_option_names=["-h", "--help"])
    titles = [*sections(context), *(["Examples"] if command.examples else [])]
    places = [shown.index(f"\n{title}:\n") for title in titles]
    assert places == sorted(places)
    assert sorted(id(option) for options in sections(context).values() for option in options) == sorted(
        id(param) for param in command.get_params(context) if isinstance(param, click.Option)
    )
    for line, _ in command.examples:
        if line.startswith("wsipipe"):
            parse(shlex.split(line.partition(" |")[0]))


def test_all_options_of_run_have_a_section() -> None:
    found = list(sections(click.Context(cli.run)))
    assert PLAIN_SECTION not in found
    assert (len(found) > 7, found[-1]) == (True, LAST_SECTION)


def test_bash_completes_options_files_and_commands(tmp_path: Path) -> None:
    (tmp_path / "case.svs").touch()
    script = f"""
        eval "$({SCRIPT} completion bash)"
        ask() {{ COMP_WORDS=("$@"); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _wsipipe_completion {SCRIPT}; }}
        compopt() {{ echo "$@"; }}
        ask wsipipe run --dev; echo "${{COMPREPLY[@]}}"; COMPREPLY=()
        ask wsipipe run x.svs --precision b; echo "${{COMPREPLY[@]}}"; COMPREPLY=()
        ask wsipipe mod; echo "${{COMPREPLY[@]}}"; COMPREPLY=()
        ask wsipipe run ca
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split("\n") == ["--device", "bfloat16", "model", "-o default", ""]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_a_script_of_the_shell(call: Call, shell: str) -> None:
    made = call("completion", shell)
    assert (made.code, made.err) == (0, "")
    assert f"_WSIPIPE_COMPLETE={shell}_complete" in made.out
    if (program := shutil.which(shell)) is not None:
        subprocess.run([program, "-n"], input=made.out, text=True, check=True)


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["model", "init", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys, wsipipe; from wsipipe.cli import main\n"
        f"sys.argv = ['wsipipe', *{words}]\n"
        "try: main()\n"
        "except SystemExit as end: print(*sys.modules, file=sys.stderr); raise end"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert done.stdout
    assert "wsipipe.cli.run" in loaded
    assert not loaded & HEAVY


def test_version_is_the_version(call: Call) -> None:
    ended = call("--version")
    assert (ended.code, ended.err) == (0, "")
    assert wsipipe.__version__ in ended.out


# run


def test_run_segments_and_then_skips(run: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "x.tif", (200, 140))
    first = run(slide)
    assert first.code == 0
    assert re.search(r"done +x\.tif -> .*x\.zarr", first.out)
    assert "1 done, 0 skipped, 0 failed" in first.out
    assert zarr.open_array(tmp_path / "out/x.zarr/0", mode="r").shape == (200, 140)
    again = run(slide)
    assert again.code == 0
    assert "0 done, 1 skipped, 0 failed" in again.out


def test_progress_is_plain_lines_on_stderr(run: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "x.tif", (640, 64))
    ended = run(slide)
    lines = ended.err.splitlines()
    assert re.fullmatch(r"tiny on cpu \(.+, \d+ cores\): 1 slide, 0\.0410 MP to do", lines[0])
    assert lines[1] == "x.tif: 10 of 10 blocks to do, 0.0 MP"
    assert lines[2] == "x.tif: tissue covers 100% (brightfield)"
    assert lines[3:-1] == [f"x.tif: {percent} %" for percent in range(10, 100, 10)]
    assert re.fullmatch(r"x\.tif: done in [\d.]+ s -> .*x\.zarr", lines[-1])
    assert not set(lines) & set(ended.out.splitlines())
    assert re.search(r"\nnetwork busy \d+% of the time; bottleneck: \w+\n", ended.out)
    assert "bare" not in ended.out + ended.err
    assert re.fullmatch(r"x\.tif: skipped, complete -> .*x\.zarr\n", run(slide).err)


def test_verbose_says_what_was_chosen_and_where_the_time_went_and_quiet_nothing(
    run: Call, tmp_path: Path, write_slide: WriteSlide
) -> None:
    slide, bad = write_slide(tmp_path / "x.tif", (640, 64)), tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    verbose = run(slide, "-v", "--overwrite")
    assert re.search(r"\n(torch|openvino), tile \d+, batch 1, block 64, 2 blocks in flight; (bare|too)", verbose.err)
    assert re.search(r"\n(\d\d?% of the bare network's speed; )?threads: (\w+ \d+%, ){5}idle \d+%\n", verbose.out)
    quiet = run(slide, "-q", "--overwrite")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    failed = run(bad, slide, "-q")
    assert (failed.code, failed.out, len(failed.err.splitlines())) == (1, "", 1)
    assert failed.err.startswith("bad.tif: FAILED: bad.tif is not a slide")
    both = run(slide, "-v", "-q")
    assert (both.code, both.err) == (2, "wsipipe: -v and -q exclude each other; give one of them\n")


def test_json_is_one_document_and_nothing_else(run: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    good, gone = write_slide(tmp_path / "x.tif"), tmp_path / "gone.tif"
    ended = run(good, gone, "--json")
    document = json.loads(ended.out)
    assert ended.code == document["exit_code"] == 1
    assert (document["done"], document["failed"], document["skipped"]) == (1, 1, 0)
    done, failed = document["slides"]
    assert (done["status"], done["blocks_computed"], done["pixels"]) == ("done", 4, 96 * 128)
    assert sum(done["labels"].values()) == 96 * 128
    assert failed["status"] == "failed"
    assert failed["account"] is None
    assert 0 < document["account"]["busy"] <= 1
    assert done["account"]["busy"] * done["seconds"] == pytest.approx(
        document["account"]["busy"] * document["computing_seconds"]
    )
    assert sum(done["account"]["shares"].values()) == pytest.approx(1)
    assert done["spent"]["write"] > 0
    assert "gone.tif" in failed["message"]
    assert "x.tif: done in" in ended.err
    assert "gone.tif: FAILED: " in ended.err
    planned = json.loads(run(good, "--json", "--dry-run").out)
    assert planned["slides"][0]["tissue"] == f"auto {ALGORITHM}", (
        "the version of the algorithm, as the fingerprint has it"
    )
    again = json.loads(run(good, "--json").out)
    assert (again["exit_code"], again["skipped"]) == (0, 1)


def test_a_failed_slide_is_exit_code_1_and_the_others_are_done(
    run: Call, tmp_path: Path, write_slide: WriteSlide
) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    ended = run(bad, write_slide(tmp_path / "x.tif"))
    assert ended.code == 1
    assert "1 done, 0 skipped, 1 failed" in ended.out
    assert "failed   bad.tif\n" in ended.out
    assert (ended.out + ended.err).count("bad.tif is not a slide") == 1, "on a terminal, stdout and stderr are one"
    assert (tmp_path / "out/x.zarr").is_dir()


def test_an_error_of_the_machine_that_failed_a_slide_is_not_said_again() -> None:
    summary = RunSummary("out", "m", (), 1.0, 2, 1, 0.0, 0.0, 0, 0, stopped="out cannot be written: disk full")
    assert end_of(summary) == "out cannot be written: disk full"
    failed = replace(summary, slides=(SlideOutcome("a.tif", "failed", message=summary.stopped),))
    assert end_of(failed).startswith("the run was stopped by the last error above; ")
    assert "disk full" not in summary_as_text(failed, Verbosity.NORMAL)
    assert "failed   a.tif: out cannot be written: disk full\n" in summary_as_text(failed, Verbosity.NORMAL, told=False)


def test_an_option_that_differs_from_that_of_a_done_slide_is_named_with_both_ways_out(
    run: Call, tmp_path: Path, write_slide: WriteSlide
) -> None:
    slide = write_slide(tmp_path / "x.tif")
    assert run(slide).code == 0
    refused = run(slide, "--tta", "flips", "--tissue", "off")
    store = tmp_path / "out/x.zarr"
    assert refused.code == 1
    assert refused.err == (
        f"x.tif: FAILED: {store} was made with --tissue auto {ALGORITHM} (now off), --tta off (now flips); "
        "--overwrite replaces it once the new one is complete; to have both, use another -o\n"
    )
    assert run(slide, "--tta", "flips", "--tissue", "off", "-o", tmp_path / "both").code == 0


def test_a_dry_run_says_what_would_be_done_and_does_nothing(run: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide, gone = write_slide(tmp_path / "x.tif", (200, 140)), tmp_path / "gone.tif"
    ended = run(slide, gone, "--dry-run")
    assert (ended.code, ended.err) == (0, "")
    for words in (
        "segment ",
        "refuse ",
        "12 of 12 blocks of 64 px",
        "0.5 um/px",
        "140 wide x 200 high",
        "memory at most",
    ):
        assert words in ended.out
    assert "averaged" not in ended.out
    assert "averaged over 8 passes (--tta all)" in run(slide, "--tta", "all", "--dry-run").out
    document = json.loads(run(slide, gone, "--dry-run", "--json").out)
    assert [s["action"] for s in document["slides"]] == ["segment", "refuse"]
    assert document["slides"][0]["blocks_to_do"] == 12
    assert not (tmp_path / "out").exists()


def test_a_dry_run_says_what_is_brought_to_the_resolution_of_the_model(
    call: Call, tmp_path: Path, write_slide: WriteSlide
) -> None:
    fine, coarse = (write_slide(tmp_path / f"{mpp}.tif", (300, 500), mpp=mpp) for mpp in (0.2482, 0.53))
    (tmp_path / "slides.csv").write_text("slide,mpp\n0.53.tif,0.625\n")
    given = ("run", fine, coarse, "-o", tmp_path / "out", "--device", "cpu", "--block", 1024, "--dry-run")
    out = call(*given).out
    assert "level 0 shrunk to 0.5 um/px (XResolution and YResolution tags)" in out
    assert "level 0 enlarged to 0.5 um/px (XResolution and YResolution tags)" in out
    assert "249 wide x 149 high" in out
    out = call(*given, "--slides-table", tmp_path / "slides.csv", "--max-upsample", 1.25).out
    assert "level 0 enlarged to 0.5 um/px (given in slides.csv)" in out
    assert "625 wide x 375 high" in out
    refused = call(*given, "--slides-table", tmp_path / "slides.csv").out
    assert "0.53.tif is coarser than 0.5 micrometres per pixel (level 0: 0.625)" in refused
    assert call(*given, "--max-upsample", 0.5).code == 2


def test_what_a_dry_run_says_of_memory_is_enough_to_run(run: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "x.tif")
    run(slide, "--dry-run")  # loads everything that a run loads
    (planned,) = json.loads(run(slide, "--dry-run", "--json").out)["slides"]
    roomy = planned["projected_memory_bytes"] + 50_000_000  # this process grows by a little with every test
    assert run(slide, "--max-memory", roomy).code == 0


def test_patterns_and_folders_are_expanded_here_too(run: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    for i, name in enumerate(["b.tif", "a.tif", "c.tiff"]):
        write_slide(tmp_path / "slides" / name, seed=i)
    (tmp_path / "slides" / "notes.txt").write_text("not a slide")
    by_pattern = json.loads(run(tmp_path / "slides" / "*.tif", "--dry-run", "--json").out)
    assert [Path(s["slide"]).name for s in by_pattern["slides"]] == ["a.tif", "b.tif"]
    by_folder = json.loads(run(tmp_path / "slides", "--dry-run", "--json").out)
    assert [Path(s["slide"]).name for s in by_folder["slides"]] == ["a.tif", "b.tif", "c.tiff"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--tile", "6"], "tile core 6 px is not a multiple of 4"),
        (["--tile", "0"], "--tile"),
        (["--block", "66"], "--block"),
        (["--batch", "0"], "--batch must be a positive number, not 0"),
        (["--threads", "0"], "--threads must be a positive number, not 0"),
        (["--mpp", "-1"], "--mpp must be a positive number, not -1.0"),
        (["--mpp", "nan"], "--mpp must be a positive number, not nan"),
        (["--max-memory", "lots"], "--max-memory lots is not a size"),
        (["--max-memory", "1MB"], "smallest that works here: --max-memory"),
        (["--device", "tpu"], "'tpu' is not a device"),
        (["-m", "gone.safetensors"], "gone.safetensors cannot be read"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_exit_code_2(
    run: Call, tmp_path: Path, write_slide: WriteSlide, words: list[str], said: str
) -> None:
    ended = run(write_slide(tmp_path / "x.tif"), *words)
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("wsipipe: ")
    assert said in ended.err
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["run"], ["run", "x.tif", "--blok", "3"], ["run", "x", "--z", "a"], ["fly"], []])
def test_a_command_line_that_makes_no_sense_is_exit_code_2(call: Call, words: list[str]) -> None:
    ended = call(*words)
    assert (ended.code, ended.out) == (2, "")
    assert "Usage: wsipipe" in ended.err


def test_a_pattern_that_matches_nothing_is_exit_code_2(run: Call, tmp_path: Path) -> None:
    ended = run(tmp_path / "*.svs")
    assert ended.code == 2
    assert f"nothing matches {tmp_path}/*.svs" in ended.err


def test_an_environment_that_cannot_do_it_is_exit_code_3(run: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "x.tif")
    ended = run(slide, "--device", "cuda:99")
    assert (ended.code, ended.out) == (3, "")
    assert "there is no cuda:99 here" in ended.err
    ended = run(slide, "-o", slide)
    assert (ended.code, ended.out) == (3, "")
    assert "x.tif is a file, not a folder; give another -o" in ended.err


@pytest.mark.parametrize(("words", "code"), [(["--tile", "6"], 2), (["--device", "cuda:99"], 3)])
def test_errors_are_json_too_where_json_was_asked_for(
    run: Call, tmp_path: Path, write_slide: WriteSlide, words: list[str], code: int
) -> None:
    ended = run(write_slide(tmp_path / "x.tif"), "--json", *words)
    document = json.loads(ended.out)
    assert ended.code == document["exit_code"] == code
    assert ended.err == f"wsipipe: {document['error']}\n"


@pytest.mark.parametrize(
    ("text", "count"),
    [("4GB", 4 * 10**9), ("1.5GiB", 3 * 2**29), ("500MB", 5 * 10**8), ("123", 123), ("2 kB", 2000)],
)
def test_sizes_are_read_as_people_write_them(text: str, count: int) -> None:
    assert size_bytes(text, "--max-memory") == count


@pytest.mark.parametrize("text", ["lots", "4QB", "GB GB", "1e400", "nan"])
def test_what_is_not_a_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size; give"):
        size_bytes(text, "--max-memory")


# interruption


@pytest.mark.soak  # tests/test_resume.py shows the exit code and the bytes
def test_a_terminated_run_is_exit_code_130_and_the_same_command_resumes(  # SIGINT, and the bytes: tests/test_resume.py
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide
) -> None:
    slide = write_slide(tmp_path / "x.tif", (640, 640))
    command = ["run", slide, "-m", tiny_model, "--device", "cpu", "--block", "64", "-o", tmp_path / "out"]
    log = tmp_path / "log"
    log.touch()
    process = start(*command, log=log)
    assert wait_until(lambda: "x.tif: 10 %\n" in log.read_text(), process)  # ten of a hundred blocks
    process.send_signal(signal.SIGTERM)
    assert finish(process) == ""
    assert process.returncode == 130
    rest = log.read_text()
    assert rest.splitlines()[-1] == "wsipipe: interrupted; the same command resumes where it stopped"
    assert "Traceback" not in rest
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["x.zarr.partial"]
    done = in_a_process(*command, "--json")
    assert done.returncode == 0, done.stderr
    (outcome,) = json.loads(done.stdout)["slides"]
    assert outcome["status"] == "done"
    assert 0 < outcome["blocks_computed"] <= 90


def test_what_does_not_resume_says_what_an_interruption_leaves(
    call: Call, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(model_file, "load_model", interrupted)
    ended = call("model", "show", tiny_model)
    assert (ended.code, ended.err.strip()) == (130, "wsipipe: interrupted; nothing was written")


@pytest.mark.slow
def test_a_reader_that_ends_early_causes_no_traceback(tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "x.tif")
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as nobody:
        done = subprocess.run([SCRIPT, "info", slide], stdout=nobody, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == ""


# info


def test_info_describes_a_slide(call: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide = write_slide(tmp_path / "x.tif", (200, 140))
    ended = call("info", slide)
    assert (ended.code, ended.err) == (0, "")
    for words in (str(slide), "140 wide x 200 high", "0.5 um/px", "3 x uint8", "64 wide x 64 high"):
        assert words in ended.out


def test_info_as_json_is_one_document_and_nothing_else(call: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    slide, gone = write_slide(tmp_path / "x.tif", (200, 140)), tmp_path / "gone.tif"
    ended = call("info", slide, gone, "--json")
    assert (ended.code, ended.err) == (1, "")
    good, bad = json.loads(ended.out)
    assert (good["mpp"], good["levels"][0]["shape"]) == (0.5, [200, 140])
    assert bad["path"] == str(gone)
    assert "gone.tif" in bad["error"]


def test_info_of_what_is_not_a_slide_is_exit_code_1_and_the_others_are_shown(
    call: Call, tmp_path: Path, write_slide: WriteSlide
) -> None:
    bad = tmp_path / "bad.tif"
    bad.write_bytes(b"no slide")
    ended = call("info", bad, write_slide(tmp_path / "x.tif"))
    assert ended.code == 1
    assert f"{bad}\n  error: bad.tif is not a slide" in ended.out
    assert "128 wide x 96 high" in ended.out


def test_info_of_a_pattern_that_matches_nothing_is_exit_code_2(call: Call, tmp_path: Path) -> None:
    ended = call("info", tmp_path / "*.svs")
    assert (ended.code, ended.out) == (2, "")


# model


def test_model_show_prints_what_the_model_holds(call: Call, tiny_model: Path) -> None:
    ended = call("model", "show", tiny_model)
    assert (ended.code, ended.err) == (0, "")
    shown, model = json.loads(ended.out), load_model(tiny_model)
    assert shown["sha256"] == model.info.sha256
    assert shown["architecture"] == model.network.architecture
    assert (shown["halo_px"], shown["margin_px"], shown["core_multiple_px"]) == (10, 22, 4)
    assert [c["name"] for c in shown["classes"]] == ["background", "class 1"]
    assert shown["name"] == "tiny"


@pytest.mark.parametrize("kind", ["gone", "folder", "text"])
def test_model_show_of_what_is_not_a_model_is_exit_code_2(call: Call, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "x.safetensors"
    if kind == "folder":
        path.mkdir()
    if kind == "text":
        path.write_text("weights")
    ended = call("model", "show", path)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("wsipipe: ")
    assert str(path) in ended.err


def init_options(**changes: Any) -> list[str]:
    sizes = {"base-channels": 2, "depth": 2} | changes
    return [word for name, value in sizes.items() for word in (f"--{name}", str(value))]


def test_model_init_writes_the_same_bytes_for_the_same_seed(call: Call, tmp_path: Path) -> None:
    files = []
    for folder, seed in (("a", 5), ("b", 5), ("c", 6)):
        path = tmp_path / folder / "new.safetensors"
        path.parent.mkdir()
        ended = call("model", "init", path, *init_options(seed=seed))
        assert (ended.code, ended.err) == (0, "")
        assert str(path) in ended.out
        files.append(path.read_bytes())
    assert files[0] == files[1] != files[2]


def test_model_init_writes_what_was_asked_for(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    sizes = init_options(**{"in-channels": 1, "classes": 3, "mpp": 0.25, "depth": 1})
    assert call("model", "init", path, *sizes).code == 0
    model = load_model(path)
    assert model.network.architecture == {
        "in_channels": 1,
        "classes": 3,
        "base_channels": 2,
        "depth": 1,
        "convs_per_level": 2,
    }
    assert (model.spec.mpp, model.spec.name) == (0.25, "new")
    assert model.spec.training["untrained"] is True
    weights = np.concatenate([p.numpy().ravel() for p in model.network.parameters()])
    assert np.unique(weights).size > weights.size / 2


def test_model_init_leaves_an_existing_file_alone(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "new.safetensors"
    path.write_text("mine")
    ended = call("model", "init", path, *init_options())
    assert (ended.code, ended.out) == (2, "")
    assert "already exists" in ended.err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("option", "value"), [("in-channels", 0), ("base-channels", 0), ("depth", -1), ("classes", 0), ("mpp", 0)]
)
def test_model_init_refuses_impossible_sizes_and_names_the_option(
    call: Call, tmp_path: Path, option: str, value: float
) -> None:
    ended = call("model", "init", tmp_path / "x", *init_options(**{option: value}))
    assert (ended.code, ended.out) == (2, "")
    assert len(ended.err.splitlines()) == 1
    assert not (tmp_path / "x").exists()


def test_model_init_into_a_folder_that_is_not_there_is_one_line(call: Call, tmp_path: Path) -> None:
    ended = call("model", "init", tmp_path / "no" / "x", *init_options())
    assert ended.code in (2, 3)
    assert len(ended.err.splitlines()) == 1


# demo


@pytest.mark.parametrize(("height", "width"), [(512, 640), demo.SHAPE])
@pytest.mark.soak  # the README's first command does it
def test_demo_makes_its_files_and_the_second_run_skips(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int, width: int
) -> None:
    monkeypatch.setattr(demo, "SHAPE", (height, width))
    folder = tmp_path / "see"
    first = call("demo", folder)
    assert first.code == 0
    assert "1 done, 0 skipped, 0 failed" in first.out
    assert {p.name for p in folder.iterdir()} == {"demo-slide.tif", "demo.png", "segmentations"}
    assert (folder / "demo.png").read_bytes().startswith(b"\x89PNG")
    labels = zarr.open_array(folder / "segmentations/demo-slide.zarr/0", mode="r")[:]
    assert 0.02 < (labels > 0).mean() < 0.6  # it found some of the nuclei, and left the glass alone
    slide = (folder / "demo-slide.tif").stat()
    (folder / "demo.png").unlink()
    second = call("demo", folder)
    assert second.code == 0
    assert "0 done, 1 skipped, 0 failed" in second.out
    assert (folder / "demo.png").exists()
    assert (folder / "demo-slide.tif").stat().st_mtime_ns == slide.st_mtime_ns


def test_demo_into_a_file_is_exit_code_3(call: Call, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = call("demo", tmp_path / "file")
    assert (ended.code, ended.out) == (3, "")
    assert "give another DIR" in ended.err


def test_check_reads_finished_stores_and_its_exit_code_says_what_it_found(
    call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    make(spec_of(tmp_path, (33, 50)))
    ended = call("check", tmp_path)
    assert ended.code == 0, ended.err
    assert ended.out.endswith("1 stores, 0 damaged\n")
    (tmp_path / "case-17.zarr/1/c/0/0").unlink()
    ended = call("check", tmp_path / "case-17.zarr", "--json")
    assert (ended.code, json.loads(ended.out)["damaged"]) == (1, 1)


def test_a_path_that_the_system_refuses_is_one_line(call: Call, tmp_path: Path) -> None:
    make(spec_of(tmp_path, (33, 50)))
    ended = call("export", tmp_path / "case-17.zarr", "--to", "csv", "-o", tmp_path / ("n" * 300))
    assert (ended.code, ended.err.count("\n")) == (3, 1)
    assert ended.err.endswith("nnn cannot be used: File name too long\n")


def test_preview_outlines_what_would_be_segmented(call: Call, tmp_path: Path, tiny_model: Path) -> None:
    where = disc((150, 150), 60, (400, 600))
    slide = tmp_path / "x.tif"
    tifffile.imwrite(slide, on_glass(where), photometric="rgb", tile=(64, 64), metadata=None)
    ended = call("preview", slide, "-m", tiny_model, "-o", tmp_path / "x.png")
    assert ended.code == 0
    share = re.fullmatch(r"x\.tif: tissue covers ([\d.]+)% of level 0 \(brightfield\): .*x\.png\n", ended.out)
    assert share
    assert where.mean() < float(share[1]) / 100 < 2.2 * where.mean()
    image = imagecodecs.png_decode((tmp_path / "x.png").read_bytes())
    assert image.shape == (400 + CAPTION_PX, 600, 3)
    assert (image[400:, :150] < 80).any()  # its name and share
    image = image[:400]
    outline = (image == OUTLINE).all(2)
    assert not outline[where].any()
    assert outline[150, 210:250].sum() == outline[150, 50:90].sum() == 1
    assert np.abs(image[where].astype(int) - on_glass(where)[where]).max() == 0
    assert (image[300:] < 220).all()


def test_preview_of_a_region_outlines_it_and_greys_what_is_outside(
    call: Call, tmp_path: Path, tiny_model: Path
) -> None:
    where = disc((150, 150), 60, (400, 600))
    slide = tmp_path / "x.tif"
    tifffile.imwrite(slide, on_glass(where), photometric="rgb", tile=(64, 64), metadata=None)
    options = "-m", tiny_model, "-o", tmp_path / "x.png", "--roi", "150,100,200,100"
    ended = call("preview", slide, *options, "--tissue", "off")
    assert ended.out == f"x.tif: the region covers 8.3% of level 0: {tmp_path / 'x.png'}\n"
    image = imagecodecs.png_decode((tmp_path / "x.png").read_bytes())[:400]
    inside = np.zeros((400, 600), bool)
    inside[100:200, 150:350] = True
    line = inner_edge(inside)
    assert np.array_equal((image == REGION_OUTLINE).all(2), line)
    assert np.array_equal(image[inside & ~line], on_glass(where)[inside & ~line])
    assert (image[~inside] < 220).all()
    ended = call("preview", slide, *options)
    assert re.fullmatch(
        r"x\.tif: the region covers 8.3% of level 0, tissue covers [34]\d\.\d% of the region \(brightfield\): .*\n",
        ended.out,
    )
    beyond = call("preview", slide, *options[:-1], "600,0,10,10")
    assert beyond.code == 1
    assert "--roi 600,0,10,10 is outside x.tif" in beyond.err


def test_preview_of_a_result_draws_it(
    run: Call, call: Call, tmp_path: Path, write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(write_slide(tmp_path / "x.tif")).code == 0
    (store,) = (tmp_path / "out").glob("*.zarr")
    ended = call("preview", store, "--roi", "10,10,40,30", "-o", tmp_path / "x.png")
    assert (ended.code, ended.out) == (0, f"x.tif, as segmented: {tmp_path / 'x.png'}\n")
    assert imagecodecs.png_decode((tmp_path / "x.png").read_bytes()).shape[0] == 30 + CAPTION_PX
    refused = call("preview", store, "--mpp", "0.5")
    assert (refused.code, "-m, --mpp and --tissue are those of its run; remove them" in refused.err) == (2, True)
    before = files(store)
    for target in (tmp_path / "x.tif", store / "zarr.json"):
        ended = call("preview", store, "-o", target)
        assert (ended.code, "would be overwritten; name another picture" in ended.err) == (2, True)
    assert files(store) == before
    assert call("preview", f"{store}/").code == 0
    assert (tmp_path / "x-result.png").exists()


def test_preview_of_what_is_everywhere_is_refused(call: Call, tmp_path: Path, write_slide: WriteSlide) -> None:
    ended = call("preview", write_slide(tmp_path / "x.tif"), "--tissue", "off")
    assert ended.code == 2
    assert "nothing to preview" in ended.err


def test_the_share_outside_the_mask_is_reported(run: Call, tmp_path: Path) -> None:
    slide = tmp_path / "x.tif"
    tifffile.imwrite(slide, on_glass(disc((150, 150), 60, (400, 600))), photometric="rgb", tile=(64, 64), metadata=None)
    ended = run(slide, "--json")
    (told,) = json.loads(ended.out)["slides"]
    assert 0.5 < told["skipped"] / told["pixels"] < 0.95
    assert told["tissue_by"] == "brightfield"
    assert "skipped, without tissue), " in run(slide, "--overwrite").out


def test_what_is_outside_the_region_is_reported_as_that_and_not_as_glass(run: Call, tmp_path: Path) -> None:
    slide = tmp_path / "x.tif"
    tifffile.imwrite(slide, on_glass(disc((150, 150), 60, (400, 600))), photometric="rgb", tile=(64, 64), metadata=None)
    options = "--roi", "100,100,150,150"
    planned = run(slide, *options, "--dry-run")
    assert "; region on 9.4% of the slide\n" in planned.out
    ended = run(slide, *options)
    assert re.search(r" MP \(91% outside the region(, \d% skipped, without tissue)?\), ", ended.out)
    assert "region on 9.4% of the slide" in ended.err
    bad = run(slide, "--roi", "0,0,0,0")
    assert (bad.code, bad.err) == (2, "wsipipe: --roi 0,0,0,0 is empty: width and height must be more than 0\n")


def test_without_tissue_the_exit_code_is_0_and_the_slide_is_not_done(run: Call, tmp_path: Path) -> None:
    slide = tmp_path / "x.tif"
    tifffile.imwrite(slide, glass((200, 300)), photometric="rgb", tile=(64, 64), metadata=None)
    ended = run(slide)
    assert ended.code == 0
    assert re.search(r"^no tissue x\.tif -> .*x\.zarr$", ended.out, re.MULTILINE)
    assert "0 done, 0 skipped, 0 failed, 1 no tissue; " in ended.out
    assert "x.tif: warning: no tissue found" in ended.err
    assert (ended.out + ended.err).count("no tissue found") == 1
