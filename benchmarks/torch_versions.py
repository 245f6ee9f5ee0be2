"""Whether labels and objects are the same, byte for byte, whichever version of torch computes them.

    python benchmarks/torch_versions.py SLIDE PYTHON PYTHON ... [-- OPTIONS OF WSIPIPE RUN]

Each PYTHON is that of an environment with wsipipe and another version of torch; this one is the first. Each computes
the slide with ``--engine torch --device cpu --objects --tissue off``. Exits with 1 if a file of a store differs from
the first's.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.faults import store_files

OPTIONS = ("--engine", "torch", "--device", "cpu", "--objects", "--tissue", "off")


def store_of(python: str, slide: str, options: list[str]) -> dict[str, bytes]:
    """The files of the store that ``python`` makes of ``slide``."""
    with tempfile.TemporaryDirectory() as out:
        subprocess.run([python, "-m", "wsipipe", "run", slide, "-o", out, *OPTIONS, *options], check=True)
        (store,) = Path(out).glob("*.zarr")
        return store_files(store)


def main() -> int:
    """Compare all with the first; 1 if one differs."""
    words, _, options = "\0".join(sys.argv[1:]).partition("\0--\0")
    slide, *others = words.split("\0")
    first: dict[str, bytes] = {}
    differing = 0
    for python in (sys.executable, *others):
        ask = [python, "-c", "import torch; print(torch.__version__)"]
        version = subprocess.run(ask, check=True, capture_output=True, text=True).stdout.strip()
        store = store_of(python, slide, options.split("\0") if options else [])
        first = first or store
        names = sorted(name for name in first.keys() | store.keys() if first.get(name) != store.get(name))
        differing += len(names)
        print(
            f"torch {version}: {len(store)} files, {sum(map(len, store.values())):,} bytes; differ: {names or 'none'}"
        )
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
