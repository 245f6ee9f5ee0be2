"""stdout and stderr on a full disk, or closed: the work goes on, and the end says so."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Call, WriteSlide
from tests.faults import SCRIPT, finish, start, summary
from wsipipe.cli.streams import Dispensable, Required
from wsipipe.errors import OutputError

NO_SPACE = "No space left on device"


@pytest.mark.parametrize("buffering", [1, 100])
def test_a_stream_that_is_not_needed_goes_quiet_and_says_why(buffering: int) -> None:
    with Path("/dev/full").open("w", buffering=buffering) as full:
        stream = Dispensable(full, "stderr")
        for _ in range(100):
            assert stream.write("a line\n") == 7
        stream.flush()
        assert stream.problem == f"stderr cannot be written: {NO_SPACE}; the work went on"
        assert stream.fileno() == full.fileno()


def test_a_stream_that_is_needed_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/full").open("w") as full:
        stream = Required(full, "stdout")
        stream.write("")
        stream.write("a line\n")
        with pytest.raises(OutputError, match=f"^stdout cannot be written: {NO_SPACE}; the work is done$"):
            stream.flush()
        stream.write("another\n")
        stream.flush()
    monkeypatch.setattr(stream, "stream", io.TextIOWrapper(io.BytesIO()))
    stream.stream.close()
    with pytest.raises(OutputError, match="closed file"):
        stream.write("a line\n")


@pytest.mark.parametrize(("words", "code", "said"), [
    ("--help > /dev/full", 3, f"wsipipe: stdout cannot be written: {NO_SPACE}; the work is done\n"),
    ("--help >&-", 3, "wsipipe: stdout cannot be written: Bad file descriptor; the work is done\n"),
    ("--help > /dev/full 2>&1", 3, ""),
    ("--help <&- >&- 2>&-", 3, ""),
    ("x 2> /dev/full", 2, ""),
    ("x 2>&-", 2, ""),
    ("--help | (exec <&-; sleep 0.3)", 1, ""),
])  # fmt: skip
def test_every_command_ends_without_a_traceback(words: str, code: int, said: str) -> None:
    for unbuffered in ("", "1"):
        line = f"set -o pipefail; PYTHONUNBUFFERED={unbuffered} {SCRIPT} model {words}"
        ended = subprocess.run(["bash", "-c", line], stderr=subprocess.PIPE, text=True, check=False)
        assert (ended.returncode, ended.stderr) == (code, said)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_run_whose_stderr_is_on_a_full_disk_goes_on_and_says_so(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, as_json: bool
) -> None:
    slide = write_slide(tmp_path / "a.tif")
    given = ["run", slide, "-m", tiny_model, "-o", tmp_path, "--device", "cpu", *(["--json"] if as_json else [])]
    process = start(*given, log=Path("/dev/full"))
    stdout = finish(process)
    assert process.returncode == 0
    said = summary(stdout)["untold"] if as_json else stdout.splitlines()[-1]
    assert said == f"stderr cannot be written: {NO_SPACE}; the work went on"
    assert (tmp_path / "a.zarr").is_dir()


def test_a_run_that_can_tell_all_says_no_more(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, call: Call
) -> None:
    ended = call("run", write_slide(tmp_path / "a.tif"), "-m", tiny_model, "-o", tmp_path, "--device", "cpu", "--json")
    assert summary(ended.out)["untold"] == ""
    assert sys.stderr is not None
