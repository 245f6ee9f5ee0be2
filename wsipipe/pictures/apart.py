"""Pictures of slides that failed, made by another process, since such a file may kill whoever decodes it.

The process is ``python -m wsipipe.pictures.apart``, and reads a JSON list of slides. For each it writes a line with
height, width and number of bytes, all 0 if there is no picture, and then the JPEG.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BytesIO

from wsipipe.pictures.thumbnail import Picture, picture_of_slide
from wsipipe.slides.open import open_slide

COMMAND = (sys.executable, "-m", "wsipipe.pictures.apart")
PATIENCE_SECONDS = 30.0
"""Pictures that take longer, all together, are left out."""


def pictures_apart(slides: Sequence[str]) -> list[Picture]:
    """Small pictures of the files at ``slides``; an empty one for each that has none, or kills its process."""
    pictures: list[Picture] = []
    while len(pictures) < len(slides):
        try:
            wanted = json.dumps(list(slides[len(pictures) :])).encode()
            made = subprocess.run(
                COMMAND, input=wanted, capture_output=True, timeout=PATIENCE_SECONDS, check=False
            ).stdout
        except subprocess.TimeoutExpired as err:
            pictures += _parsed(err.stdout or b"")
            break
        except OSError:
            break
        pictures += _parsed(made)
        if len(pictures) < len(slides):
            pictures.append(Picture())  # the process died of this one
    return pictures + [Picture()] * (len(slides) - len(pictures))


def _parsed(made: bytes) -> Iterator[Picture]:
    """The pictures in what the process wrote, but for one that is cut short."""
    stream = BytesIO(made)
    with suppress(ValueError):  # a library wrote something of its own
        while (line := stream.readline()).endswith(b"\n"):
            height, width, size = map(int, line.split())
            if len(jpeg := stream.read(size)) == size:
                yield Picture(jpeg, (height, width))


def _write(slide: str) -> None:
    try:
        picture = picture_of_slide(open_slide(slide))
    except Exception:  # whatever is wrong with it, the report says already
        picture = Picture()
    sys.stdout.buffer.write(b"%d %d %d\n" % (*picture.shape, len(picture.jpeg)) + picture.jpeg)
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    for path in json.load(sys.stdin):
        _write(path)
