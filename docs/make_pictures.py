"""Draw ``slide-and-result.jpg`` and ``models/nuclei-on-keratin.jpg``: ``python docs/make_pictures.py SLIDE``.

SLIDE is Aperio's CMU-1-Small-Region.svs (CC0), https://openslide.cs.cmu.edu/download/openslide-testdata/Aperio/.
`wsipipe demo` draws a third picture, ``demo.png``.
"""

from __future__ import annotations

import sys
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
import zarr
from PIL import Image, ImageDraw

from wsipipe.pictures.caption import with_scale_bar
from wsipipe.pictures.drawing import inner_edge
from wsipipe.pictures.result import result_png
from wsipipe.pipeline.config import RunConfig
from wsipipe.pipeline.run import run
from wsipipe.slides.open import open_slide
from wsipipe.store.finished import open_finished

PICTURE = Path(__file__).with_name("slide-and-result.jpg")
KERATIN, KERATIN_ROI = Path(__file__).parent / "models" / "nuclei-on-keratin.jpg", "1140,880,900,700"
CROP = np.s_[780:1140, 1060:1420]
"""(y, x) of the part that is shown enlarged, in pixels of level 0."""
SIDE_PX, GAP_PX = 620, 8
YELLOW, BLUE = (255, 225, 25), (0, 90, 255)


def main(path: str) -> None:
    """Segment the slide at ``path``, and draw it whole, a part of it, and that part with the nuclei that were found."""
    slide = open_slide(path)
    with tempfile.TemporaryDirectory() as out:
        (outcome,) = run([path], RunConfig(out=out)).slides
        assert outcome.store is not None
        labels = np.asarray(zarr.open_array(Path(outcome.store) / "0", mode="r")[CROP])
        keratin = Image.open(BytesIO(result_png(open_finished(outcome.store), KERATIN_ROI))).convert("RGB")
    keratin.save(KERATIN, quality=85, optimize=True)
    whole = Image.fromarray(np.asarray(slide.levels[0].array[:]))
    scale = SIDE_PX / whole.height
    small = whole.resize((round(whole.width * scale), SIDE_PX), Image.Resampling.LANCZOS)
    rows, columns = CROP
    box = [columns.start * scale, rows.start * scale, columns.stop * scale, rows.stop * scale]
    ImageDraw.Draw(small).rectangle(box, outline=BLUE, width=3)
    part = np.asarray(whole.crop((columns.start, rows.start, columns.stop, rows.stop)).resize((SIDE_PX, SIDE_PX)))
    factor = SIDE_PX / labels.shape[0]
    place = (np.arange(SIDE_PX) / factor).astype(int)
    edge = inner_edge(labels[np.ix_(place, place)] > 0)
    found = part.copy()
    found[edge | np.roll(edge, 1, 0) | np.roll(edge, 1, 1)] = YELLOW  # two pixels wide, so that it is seen
    gap = np.full((SIDE_PX, GAP_PX, 3), 255, np.uint8)
    part = with_scale_bar(part, None if slide.mpp is None else slide.mpp / factor)
    Image.fromarray(np.hstack([np.asarray(small), gap, part, gap, found])).save(PICTURE, quality=88, optimize=True)


if __name__ == "__main__":
    main(sys.argv[1])
