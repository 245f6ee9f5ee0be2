"""Every error is one line with the way out, and the right exit code; the other slides are done."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch

from tests.conftest import Call
from tests.faults import (
    PATIENCE_SECONDS,
    SCRIPT,
    assert_same_bytes,
    files,
    picture,
    summary,
    write_model,
    write_slide,
    wsipipe,
)
from tests.real_data import DATA, data, needs_data
from tests.slides.made import patch, tile_at
from tests.slides.test_broken import OPENS
from tests.soak import each_value_once
from wsipipe import RunConfig, errors, run
from wsipipe.pipeline.cluster.in_process import local_client


def obey_permissions() -> None:
    """Drop the capabilities by which permission bits mean nothing to root."""
    version_3, this_process = 0x20080522, 0
    if ctypes.CDLL(None).capset(struct.pack("Ii", version_3, this_process), bytes(24)):
        raise OSError("the capabilities stay")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RGB network for any resolution."""
    return write_model(tmp_path_factory.mktemp("model") / "any.safetensors", mpp=None)


@pytest.fixture(scope="module")
def half_micrometre(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RGB network for 0.5 micrometres per pixel."""
    return write_model(tmp_path_factory.mktemp("model") / "half.safetensors", mpp=0.5)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two sound slides."""
    folder = tmp_path_factory.mktemp("good")
    return [write_slide(folder / f"good{seed}.tif", picture((300, 400), seed)) for seed in (1, 2)]


def outcomes(out: Path, model: Path, slides: list[Path], **options: Any) -> dict[str, Any]:
    """The outcome of each of ``slides``, by file name."""
    done = run(
        [str(s) for s in slides], RunConfig(out=str(out), model=str(model), device="cpu", engine="torch", **options)
    )
    return {Path(slide.slide).name: slide for slide in done.slides}


# --- one process, every broken file ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A `wsipipe` process that has ended."""

    returncode: int
    stdout: str
    stderr: str
    processor_seconds: float
    peak_bytes: int


def measured(folder: Path, *arguments: object) -> Measured:
    """Run `wsipipe` with ``--json`` and measure it; its peak is its own word: rusage has that of this process."""
    with (folder / "stdout").open("w") as stdout, (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen([SCRIPT, *map(str, arguments)], stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return Measured(
        process.returncode,
        (folder / "stdout").read_text(),
        (folder / "stderr").read_text(),
        usage.ru_utime + usage.ru_stime,
        json.loads((folder / "stdout").read_text())["peak_bytes"],
    )


@pytest.fixture(scope="module")
def broken() -> list[Path]:
    """Every broken file, and every invalid OME-Zarr folder."""
    folder = data("broken")
    inside = [path for path in folder.rglob("*") if path.is_file() and "ome-zarr-invalid" not in path.parts]
    return sorted([*inside, *(folder / "ome-zarr-invalid").iterdir()])


@pytest.fixture(scope="module")
def night(
    tmp_path_factory: pytest.TempPathFactory, broken: list[Path], model: Path, good: list[Path]
) -> tuple[Measured, Path]:
    """One run over a good slide, all broken ones, and another good one; and where it wrote."""
    folder = tmp_path_factory.mktemp("night")
    given = ("-m", model, "-o", folder / "out", "--device", "cpu", "--engine", "torch", "--json")
    return measured(folder, "run", good[0], *broken, good[1], *given), folder / "out"


@needs_data
@pytest.mark.slow
def test_broken_slides_fail_with_their_name_and_the_others_are_done(
    night: tuple[Measured, Path], broken: list[Path], good: list[Path]
) -> None:
    process, out = night
    assert process.returncode == 1, process.stderr
    document = summary(process.stdout)
    by_path = {slide["slide"]: slide for slide in document["slides"]}
    assert len(by_path) == len(broken) + 2 > 100
    for slide in good:
        assert by_path[str(slide)]["status"] == "done"
        assert (out / f"{slide.stem}.zarr/zarr.json").exists()
    assert document["failed"] >= len(broken) - len(OPENS)
    for path in broken:
        slide = by_path[str(path)]
        if path.name in OPENS:
            assert slide["status"] in ("done", "no tissue") or "channel" in slide["message"]
            continue
        assert slide["status"] == "failed", path
        assert path.name in slide["message"]
        assert "unexpected" not in slide["message"]
        assert f"{path.name}: FAILED: {slide['message']}\n" in process.stderr
    finished = {path.name for path in out.iterdir()}
    assert len(finished) == document["done"] + document["no_tissue"]
    assert not any(name.endswith(".partial") for name in finished)


@needs_data
@pytest.mark.slow
def test_night_of_broken_slides_shows_no_traceback_and_takes_little(night: tuple[Measured, Path]) -> None:
    process, _ = night
    assert process.stderr.count("FAILED") > 100
    assert "Traceback" not in process.stderr
    assert "Warning" not in process.stderr
    assert process.peak_bytes < 2 * 2**30
    assert process.processor_seconds < 60, "10 s is what one of them may take; this is all of them"


@needs_data
@pytest.mark.slow
def test_slide_whose_writer_died_and_that_reads_as_zeros_is_not_segmented(night: tuple[Measured, Path]) -> None:
    process, out = night
    (slide,) = [s for s in summary(process.stdout)["slides"] if s["slide"].endswith("vips-zstd-aborted.tif")]
    assert slide["status"] == "failed" or slide["warnings"]
    assert (out / "vips-zstd-aborted.zarr").exists() == (slide["status"] == "done")


@needs_data
def test_info_of_broken_slides_ends_in_exit_code_1(broken: list[Path], good: list[Path], call: Call) -> None:
    code, stdout, _ = call("info", "--json", good[0], *broken)
    assert code == 1
    rows = json.loads(stdout)
    assert [Path(row["path"]) for row in rows] == [good[0], *broken]
    assert {Path(row["path"]).name for row in rows if "error" not in row} == OPENS | {good[0].name}


# --- what is not a slide --------------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_is_no_slide_for_this_model_fails_by_itself(
    tmp_path: Path, half_micrometre: Path, good: list[Path], call: Call
) -> None:
    (tmp_path / "text.tif").write_text("This is not a slide.\n")
    (tmp_path / "empty.svs").touch()
    (tmp_path / "folder.zarr").mkdir()
    (tmp_path / "folder.zarr" / "zarr.json").write_text("{}")
    write_slide(tmp_path / "grey.tif", picture((300, 400))[..., 0])
    write_slide(tmp_path / "coarse.tif", picture((300, 400)), mpp=2.0)
    write_slide(tmp_path / "unsaid.tif", picture((300, 400)), mpp=None)
    os.mkfifo(tmp_path / "pipe.tif")
    messages = {
        "missing.tif": f"missing.tif cannot be opened: No such file or directory ({tmp_path / 'missing.tif'})",
        "text.tif": "text.tif is not a slide (its first bytes are b'This is not a sl')",
        "empty.svs": "empty.svs is empty (0 bytes)",
        "folder.zarr": "folder.zarr ",
        "grey.tif": "grey.tif has 1 channel (grey), model 'half' takes 3 channels (RGB); use a model",
        "coarse.tif": "coarse.tif is coarser than 0.5 micrometres per pixel (level 0: 2, level 1: 4): level 0 would",
        "unsaid.tif": "unsaid.tif has no micrometres per pixel (ResolutionUnit tag is 1, no unit of length); give",
        "pipe.tif": "pipe.tif is neither a file nor a folder",
    }
    slides = [good[0], *(tmp_path / name for name in messages), good[1]]
    given = ("-m", half_micrometre, "-o", tmp_path / "out", "--device", "cpu", "--json")
    code, stdout, stderr = call("run", *slides, *given)
    assert code == 1, stderr
    document = summary(stdout)
    assert (document["done"], document["failed"], document["skipped"]) == (2, len(messages), 0)
    assert document["exit_code"] == 1
    for path, slide in zip(slides, document["slides"], strict=True):
        assert slide["slide"] == str(path)
        if path in good:
            assert slide["status"] == "done"
        else:
            assert slide["status"] == "failed"
            assert slide["message"].startswith(messages[path.name])
            assert f"{path.name}: FAILED: {slide['message']}" in stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good1.zarr", "good2.zarr"]


def test_slide_that_does_not_say_its_resolution_is_segmented_where_that_is_given_or_does_not_matter(
    tmp_path: Path, model: Path, half_micrometre: Path
) -> None:
    slide = write_slide(tmp_path / "unsaid.tif", picture((300, 400)), mpp=None)
    (refused,) = outcomes(tmp_path / "out", half_micrometre, [slide]).values()
    assert refused.status == "failed"
    (given,) = outcomes(tmp_path / "out", half_micrometre, [slide], mpp=0.5).values()
    assert given.status == "done"
    (free,) = outcomes(tmp_path / "free", model, [slide]).values()
    assert free.status == "done"


def test_default_model_refuses_a_slide_that_does_not_say_its_resolution(tmp_path: Path, call: Call) -> None:
    slide = write_slide(tmp_path / "unsaid.tif", picture((300, 400)), mpp=None)
    code, stdout, stderr = call("run", slide, "-o", tmp_path / "out", "--device", "cpu")
    assert code == 1
    assert "unsaid.tif has no micrometres per pixel (ResolutionUnit tag is 1, no unit of length); give --mpp" in stderr
    assert "1 failed" in stdout
    _, stdout, _ = call("run", slide, "-o", tmp_path / "out", "--device", "cpu", "--mpp", "0.5", "--dry-run", "--json")
    assert json.loads(stdout)["slides"][0]["action"] == "segment"
    assert not (tmp_path / "out").exists()


def test_nothing_to_do_is_a_usage_error(tmp_path: Path, model: Path, good: list[Path], call: Call) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "notes.txt").write_text("no slide\n")
    for wrong, message in {
        tmp_path / "*.svs": f"nothing matches {tmp_path / '*.svs'}",
        tmp_path / "empty": f"folder {tmp_path / 'empty'} holds no slide",
        tmp_path / "texts": f"folder {tmp_path / 'texts'} holds no slide",
    }.items():
        code, stdout, stderr = call("run", good[0], wrong, "-m", model, "-o", tmp_path / "out", "--json")
        assert code == 2
        assert f"wsipipe: {message}" in stderr
        assert json.loads(stdout)["exit_code"] == 2
    assert call("run")[0] == 2
    assert call("run", good[0], "--block", "x")[0] == 2
    assert not (tmp_path / "out").exists()


def test_folder_of_slides_is_run_with_the_broken_one_reported(tmp_path: Path, model: Path) -> None:
    write_slide(tmp_path / "slides.tif", picture((300, 400)))
    folder = tmp_path / "slides"
    folder.mkdir()
    (tmp_path / "slides.tif").rename(folder / "b.tif")
    (folder / "a.tif").write_bytes(b"II*\0")
    (folder / "notes.txt").write_text("not looked at\n")
    assert {name: slide.status for name, slide in outcomes(tmp_path / "out", model, [folder]).items()} == {
        "a.tif": "failed",
        "b.tif": "done",
    }


# --- pixels that cannot be read ------------------------------------------------------------------------------


@pytest.mark.slow
def test_slide_with_a_broken_tile_fails_and_goes_on_once_it_is_mended(
    tmp_path: Path, model: Path, good: list[Path], call: Call
) -> None:
    slide = write_slide(tmp_path / "case.tif", picture((600, 900)))
    sound = slide.read_bytes()
    offset, count = tile_at(slide, 5)  # [256:512, 256:512]
    patch(slide, offset + count // 2, bytes(count - count // 2))
    out = tmp_path / "out"
    given = ("-m", model, "-o", out, "--block", "256", "--device", "cpu", "--engine", "torch", "--json")
    code, stdout, stderr = call("run", slide, good[0], *given)
    assert code == 1, stderr
    failed, done = summary(stdout)["slides"]
    assert (failed["status"], done["status"]) == ("failed", "done")
    assert failed["message"].startswith("case.tif level 0 cannot be read at [")
    assert "of 12 blocks could not be read, the others are in " + str(out / "case.zarr.partial") in failed["message"]
    assert failed["blocks_computed"] == 12 - 9, "all but the block of the tile and its eight neighbours"
    assert not (out / "case.zarr").exists()

    slide.write_bytes(sound)  # and do as the message says
    mended = outcomes(out, model, [slide], block=256, overwrite="--overwrite" in failed["message"])["case.tif"]
    assert mended.status == "done", mended.message
    assert outcomes(tmp_path / "undisturbed", model, [slide], block=256)["case.tif"].status == "done"
    assert_same_bytes(out / "case.zarr", tmp_path / "undisturbed" / "case.zarr")


@pytest.mark.parametrize(("tissue", "compression"), each_value_once(["auto", "off"], [None, "zlib"]))
def test_slide_that_is_all_zero_fails(tmp_path: Path, model: Path, compression: str | None, tissue: str) -> None:
    slide = tmp_path / "black.tif"
    tifffile.imwrite(
        slide, np.zeros((600, 500, 3), np.uint8), photometric="rgb", tile=(256, 256), compression=compression
    )
    black = outcomes(tmp_path / "out", model, [slide], block=256, tissue=tissue)["black.tif"]
    assert black.status == "failed"
    assert "every pixel that was read is zero" in black.message


def test_slide_that_is_not_all_zero_is_no_failure(tmp_path: Path, model: Path) -> None:
    pixels = np.zeros((600, 500, 3), np.uint8)
    pixels[599, 499, 2] = 1
    slide = tmp_path / "dark.tif"
    tifffile.imwrite(slide, pixels, photometric="rgb", tile=(256, 256), compression="zlib")
    dark = outcomes(tmp_path / "off", model, [slide], block=256, tissue="off")["dark.tif"]
    assert (dark.status, dark.warnings) == ("done", [])
    (warning,) = outcomes(tmp_path / "auto", model, [slide], block=256)["dark.tif"].warnings
    assert "no tissue found" in warning


# --- the model and the machine --------------------------------------------------------------------------------


def test_model_file_that_cannot_be_used_is_a_usage_error(
    tmp_path: Path, model: Path, good: list[Path], call: Call
) -> None:
    whole = model.read_bytes()
    written: dict[str, bytes] = {
        "cut.safetensors": whole[:-1],
        "half.safetensors": whole[: len(whole) // 2],
        "header.safetensors": whole[:100],
        "empty.safetensors": b"",
        "noise.safetensors": np.random.default_rng(0).bytes(len(whole)),
        "huge-header.safetensors": b"\xff" * 8 + whole[8:],
        "text.safetensors": b"weights\n",
    }
    for name, content in written.items():
        (tmp_path / name).write_bytes(content)
    torch.save({"weight": torch.zeros(1)}, tmp_path / "pickle.pt")
    (tmp_path / "folder").mkdir()
    for name in [*written, "pickle.pt", "folder", "missing.safetensors"]:
        code, stdout, stderr = call("run", good[0], "-m", tmp_path / name, "-o", tmp_path / "out", "--json")
        assert code == 2, name
        assert f"wsipipe: model {tmp_path / name} " in stderr
        assert json.loads(stdout)["exit_code"] == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_device_that_is_not_there_ends_in_exit_code_3(
    tmp_path: Path, model: Path, good: list[Path], call: Call
) -> None:
    for device in ("cuda", "cuda:0", "cpu,cuda:7"):
        code, _, stderr = call("run", good[0], "-m", model, "-o", tmp_path / "out", "--device", device)
        assert code == 3
        assert f"wsipipe: --device {device}: there is no cuda" in stderr
        assert "available: cpu" in stderr
    code, _, stderr = call("run", good[0], "-m", model, "-o", tmp_path / "out", "--device", "gpu")
    assert code == 2
    assert "'gpu' is not a device" in stderr
    assert not (tmp_path / "out").exists()


def test_memory_that_is_too_small_is_said_with_the_least_that_works(
    tmp_path: Path, model: Path, good: list[Path], call: Call
) -> None:
    given = ("run", good[0], "-m", model, "-o", tmp_path / "out", "--device", "cpu", "--max-memory")
    code, _, stderr = call(*given, "50MB")
    assert code == 2
    assert "--max-memory 50MB is less than one block needs; the smallest that works here: --max-memory " in stderr
    assert not (tmp_path / "out").exists()
    least = stderr.split("works here: --max-memory ")[1].split()[0]
    assert call(*given, least, "--dry-run")[0] == 0


# --- where the results go -------------------------------------------------------------------------------------


def test_output_folder_that_is_a_file_ends_in_exit_code_3(
    tmp_path: Path, model: Path, good: list[Path], call: Call
) -> None:
    (tmp_path / "out").write_text("mine")
    for out in (tmp_path / "out", tmp_path / "out" / "below"):
        code, _, stderr = call("run", good[0], "-m", model, "-o", out)
        assert code == 3
        assert f"wsipipe: -o {out}: {tmp_path / 'out'} is a file, not a folder" in stderr
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has capabilities, without which root obeys permissions")
def test_files_without_permission_fail_by_themselves(tmp_path: Path, model: Path, good: list[Path]) -> None:
    """A slide, the shards of a store, and the metadata of another, each of which belongs to someone else."""
    names = ("slide", "shard", "root")
    slides = [write_slide(tmp_path / f"{name}.tif", picture((300, 400))) for name in names]
    out = tmp_path / "out"
    assert {slide.status for slide in outcomes(out, model, slides[1:], block=128).values()} == {"done"}
    locked = [slides[0], out / "shard.zarr/0/c/0/0", out / "root.zarr/zarr.json"]
    for path in locked:
        path.chmod(0)
    try:
        given = ("-m", model, "-o", out, "--device", "cpu", "--engine", "torch", "--json")
        process = wsipipe("run", *slides, good[0], *given, first=obey_permissions)
    finally:
        for path in locked:
            path.chmod(0o644)
    assert "Traceback" not in process.stderr
    assert process.returncode == 1, process.stderr
    rows = summary(process.stdout)["slides"]
    assert [row["status"] for row in rows] == ["failed", "failed", "failed", "done"]
    for row, path in zip(rows, locked, strict=False):
        assert str(path) in row["message"]
        assert "Permission denied" in row["message"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has capabilities, without which root obeys permissions")
def test_output_folder_without_permission_ends_in_exit_code_3(tmp_path: Path, model: Path, good: list[Path]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o500)
    process = wsipipe("run", good[0], "-m", model, "-o", out, "--engine", "torch", first=obey_permissions)
    out.chmod(0o700)
    assert process.returncode == 3
    assert f"wsipipe: -o {out}: no permission to write in {out}" in process.stderr
    assert "Traceback" not in process.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True, timeout=PATIENCE_SECONDS)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("mount") is None, reason="there is no mount")
def test_full_disk_ends_in_exit_code_3_and_the_same_command_resumes_once_there_is_room(
    tmp_path: Path, model: Path, small_disk: Path, call: Call
) -> None:
    slide = write_slide(tmp_path / "case.tif", picture((1060, 1100)))
    command = (
        "run",
        slide,
        "-m",
        model,
        "--block",
        "516",
        "--device",
        "cpu",
        "--engine",
        "torch",
        "--probabilities",
        "--json",
    )
    (undisturbed,) = outcomes(tmp_path / "undisturbed", model, [slide], block=516, probabilities=True).values()
    assert undisturbed.status == "done"
    wanted = files(tmp_path / "undisturbed" / "case.zarr")
    assert sum(map(len, wanted.values())) > 1.2 * 2**20, "it does not fit"

    full = call(*command, "-o", small_disk)
    assert full.code == 3, full.err
    partial = small_disk / "case.zarr.partial"
    said = rf"case\.tif: FAILED: {re.escape(str(partial))}\S+ cannot be written: No space left on device; once it can, "
    assert re.search(said, full.err)
    assert json.loads(full.out)["exit_code"] == 3
    assert [path.name for path in small_disk.iterdir()] == [partial.name]
    there = [path for path in partial.glob("0/c/*/*") if path.suffix != ".partial"]
    assert there, "what fitted is kept"

    subprocess.run(["mount", "-o", "remount,size=16m", small_disk], check=True)
    resumed = call(*command, "-o", small_disk)
    assert resumed.code == 0, resumed.err
    assert summary(resumed.out)["slides"][0]["blocks_computed"] <= 9 - len(there)
    assert_same_bytes(small_disk / "case.zarr", tmp_path / "undisturbed" / "case.zarr")


def test_every_error_survives_the_way_through_the_scheduler() -> None:
    """An error is raised in a task and pickled by dask; what arrives decides the exit code."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) > 10
    with local_client(1) as client:
        for kind in kinds:
            error = client.submit(_fail, kind, pure=False).exception()
            assert (type(error), str(error)) == (kind, "a message")


def _fail(kind: type[Exception]) -> None:
    try:
        Path("/nowhere").read_bytes()
    except OSError as err:
        raise kind("a message") from err


def test_data_is_there_where_it_was_said_to_be() -> None:
    """A wrong WSIPIPE_TEST_DATA must not pass for a machine without data."""
    if "WSIPIPE_TEST_DATA" in os.environ:
        assert DATA is not None
