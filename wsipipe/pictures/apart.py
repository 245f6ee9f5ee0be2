"""The picture of a slide that failed, made by a process of its own, since its file may kill whoever decodes it.

The process is ``python -m wsipipe.pictures.apart SLIDE``. It writes height and width as one line, and then the JPEG.
"""

from __future__ import annotations

import subprocess
import sys

from wsipipe.pictures.thumbnail import Picture, picture_of_slide
from wsipipe.slides.open import open_slide

PATIENCE_SECONDS = 30.0


def picture_apart(slide: str) -> Picture:
    """A small picture of the file at ``slide``; an empty one if there is none within `PATIENCE_SECONDS`."""
    command = [sys.executable, "-m", "wsipipe.pictures.apart", slide]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=PATIENCE_SECONDS, check=True)
    except (OSError, ValueError, subprocess.SubprocessError):  # ValueError: a path that no system takes
        return Picture()
    size, _, jpeg = ended.stdout.partition(b"\n")
    height, width = map(int, size.split())
    return Picture(jpeg, (height, width))


if __name__ == "__main__":
    found = picture_of_slide(open_slide(sys.argv[1]))
    sys.stdout.buffer.write(b"%d %d\n" % found.shape + found.jpeg)
