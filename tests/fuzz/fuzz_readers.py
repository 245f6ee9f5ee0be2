"""Fuzzing of the readers, guided by the coverage of their lines and tifffile's.

``pip install 'wsipipe[fuzz]'``, then from the root of the repository

    python tests/fuzz/fuzz_readers.py FOUND -max_total_time=60

FOUND is a folder, which may be empty: what reaches new lines is kept there. It begins with the sound slides of
`tests.slides.mutants` and, where the test data are, with the files of their ``broken/``. An input is a file of any
format, or, if it begins with a brace, the ``zarr.json`` of an array whose chunks are sound. It ends at the first that
raises anything but a SlideError, or takes longer than 10 s or 1 GB, and writes it to ``crash-*``, ``timeout-*`` or
``oom-*``; run it with that file instead of FOUND to see it again. The other options are libFuzzer's
(https://llvm.org/docs/LibFuzzer.html#options).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[2]))  # of the tests, which are not installed
with atheris.instrument_imports(include=["tifffile", "wsipipe"]):
    from tests.real_data import DATA
    from tests.slides.mutants import look, sound
    from wsipipe.errors import SlideError

LIMITS = ("-timeout=10", "-rss_limit_mb=1024", "-max_len=200000")
ARRAY = "0/zarr.json"


class Target:
    """What libFuzzer calls, with a folder to write inputs to."""

    def __init__(self, folder: Path) -> None:
        self.file, self.zarr = folder / "fuzzed.tif", folder / "fuzzed.zarr"

    def __call__(self, data: bytes) -> None:
        """Look at a slide made of ``data``."""
        is_array = data.startswith(b"{")
        (self.zarr / ARRAY if is_array else self.file).write_bytes(data)
        with suppress(SlideError):
            look(self.zarr if is_array else self.file)


def begin(found: Path, slides: list[Path]) -> None:
    """Copy the seed corpus into ``found``."""
    broken = [] if DATA is None else sorted((DATA / "broken").rglob("*"))
    for path in [*slides, *broken, *(slide / ARRAY for slide in slides)]:
        if path.is_file():
            shutil.copyfile(path, found / path.relative_to(path.parents[1]).as_posix().replace("/", "-"))


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        slides = sound(Path(folder, "sound"))
        shutil.copytree(Path(folder, "sound", "v5.zarr"), Path(folder, "fuzzed.zarr"))
        for argument in sys.argv[1:]:
            if Path(argument).is_dir():
                begin(Path(argument), slides)
        atheris.Setup([sys.argv[0], *LIMITS, *sys.argv[1:]], Target(Path(folder)))
        atheris.Fuzz()
