"""Beside a training, table 1 of the U-Net paper needs images aligned with their labels, and the challenge's scoring.

    python workflows/paper/isbi2012.py register FOLDER REGISTERED
    wsipipe train workflows/paper/isbi2012.toml -o em.safetensors --data REGISTERED
    python workflows/paper/isbi2012.py score em.safetensors --data REGISTERED

`register` copies FOLDER/isbi2012-em with its images moved to where they correlate best with their labels; originally
they lie 0.6 px off in y, every slice by about the same amount. In rotated and mirrored patches that offset would point
in all directions, and no network could learn it.

`score` averages the probabilities of the eight ways to rotate and mirror an image, as the paper (arXiv:1505.04597)
averages seven rotations. The challenge (Arganda-Carreras et al. 2015, https://doi.org/10.3389/fnana.2015.00142) scores
the probabilities at many thresholds and takes the best of each metric on the test slices themselves. `score` prints
that, and, stricter, each metric at the threshold that was best on the validation slices. The challenge's program
(fiji/Trainable_Segmentation) counts pixels and pairs of pixels of all slices together; its pixel error is 1 - F of the
cells' pixels, here 1 - dice.

The Rand error counts each pixel of a cell that is taken for membrane as a cell of its own: 5 % of them cost 0.05 even
if no two cells are merged. `score` also gives it for cells that a watershed grows from the pixels above the threshold
until they meet; then a high threshold separates the cells, and costs none of their pixels. That needs
`pip install scikit-image`.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click
import imagecodecs
import numpy as np
import numpy.typing as npt
import torch
from scipy import ndimage
from torch import Tensor

from wsipipe.evaluation.tally import Tally
from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import round_up
from wsipipe.model.forward import Normalise, core_of, probabilities_of
from wsipipe.model.model_file import Model, load_model
from wsipipe.training.config import load_config
from wsipipe.training.setup import View, prepare_training

CONFIG = Path(__file__).with_suffix(".toml")
METRICS = ("pixel_error", "dice", "adapted_rand_error", "warping_error")
ERRORS = ("pixel_error", "1 - dice", "adapted_rand_error", "rand error, watershed", "warping_error")
THRESHOLDS = np.arange(1, 20) / 20


@click.group()
def main() -> None:
    """Register the images of ISBI 2012 with their labels; score a network that was trained on them."""


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True))
@click.argument("registered", type=click.Path(path_type=Path))
def register(folder: Path, registered: Path) -> None:
    """Copy FOLDER/isbi2012-em to REGISTERED, with its images moved onto their labels."""
    data = load_config(CONFIG).data
    source, target = folder / data.folder, registered / data.folder
    if target.exists():
        raise click.UsageError(f"{target} already exists; give another folder, or remove it")
    shutil.copytree(source, target)
    images = {path.stem: read(path).astype(np.float64) for path in sorted((source / "image").iterdir())}
    offsets = [
        offset(image, read(source / "label" / f"{name}.png") > 0)
        for name, image in images.items()
        if name not in data.test
    ]
    moved = np.round(np.mean(offsets, axis=0), 1)
    click.echo(f"moved by {moved} px (y, x): mean {np.mean(offsets, axis=0)}, deviation {np.std(offsets, axis=0)}")
    for name, image in images.items():
        there = ndimage.shift(image, moved, order=3, mode="mirror").clip(0, 255)
        (target / "image" / f"{name}.png").write_bytes(imagecodecs.png_encode(np.rint(there).astype(np.uint8)))


def read(path: Path) -> npt.NDArray[np.uint8]:
    """The pixels (y, x), uint8, of a PNG."""
    return imagecodecs.png_decode(path.read_bytes())


def offset(image: npt.NDArray[np.float64], label: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """The move (y, x), px, with which ``image`` (y, x) correlates best with ``label`` (y, x): the top of a parabola."""
    detail = image - ndimage.gaussian_filter(image, 12)
    inner = np.s_[8:-8, 8:-8]
    best = []
    for axis in (0, 1):
        at = [np.corrcoef(np.roll(detail, by, axis)[inner].ravel(), label[inner].ravel())[0, 1] for by in range(-2, 3)]
        top = int(np.argmax(at[1:-1])) + 1
        before, there, after = at[top - 1 : top + 2]
        best.append(top - 2 + (before - after) / 2 / (before - 2 * there + after))
    return best[0], best[1]


@main.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--data", type=click.Path(path_type=Path, exists=True), required=True)
def score(model: Path, data: Path) -> None:
    """Score MODEL on the validation and test slices of the registered images in --data."""
    setup = prepare_training(load_config(CONFIG), Path("not-written.safetensors"), [data])
    loaded = load_model(model)
    on_validation, on_test = (scores_at(loaded, views) for views in (setup.validation, setup.test))
    click.echo(f"{'':21}  {'as the challenge':>16}  {'by validation':>16}")
    for name, values in on_test.items():
        chosen = values[int(np.nanargmin(on_validation[name]))]
        click.echo(f"{name:21}  {np.nanmin(values):16.4g}  {chosen:16.4g}")


def scores_at(model: Model, views: tuple[View, ...]) -> dict[str, list[float]]:
    """Each error on ``views`` at all `THRESHOLDS`; pixels, and pairs of pixels, are pooled over the slices."""
    cells = [averaged(model, view) for view in views]
    known = [view.field.truth.read(view.box) for view in views]
    first = np.cumsum([0, *(truth.instances.max() for truth in known)])
    objects = [np.where(truth.instances > 0, truth.instances + n, 0) for truth, n in zip(known, first, strict=False)]
    classes, instances = side_by_side([truth.classes for truth in known]), side_by_side(objects)
    inside = side_by_side([np.ones(view.field.shape, bool) for view in views])

    def scores(found: list[npt.NDArray[np.bool_]]) -> dict[str, float]:
        tally = Tally(["cell"], METRICS)
        tally.add(side_by_side(found).astype(np.uint8), classes, truth_instances=instances, inside=inside)
        return tally.scores()

    errors: dict[str, list[float]] = {name: [] for name in ERRORS}
    for threshold in THRESHOLDS:
        cut = scores([cell > threshold for cell in cells])
        cut["1 - dice"] = 1 - cut["dice"]
        cut["rand error, watershed"] = scores([grown(cell, threshold) for cell in cells])["adapted_rand_error"]
        for name, values in errors.items():
            values.append(cut[name])
    return errors


def grown(cell: npt.NDArray[np.float32], threshold: float) -> npt.NDArray[np.bool_]:
    """The cells (y, x), bool: ``cell`` above ``threshold``, grown by a watershed up to lines one pixel wide."""
    from skimage.segmentation import watershed  # wsipipe itself does without scikit-image

    seeds, _ = ndimage.label(cell > threshold)
    return np.asarray(watershed(-cell, seeds, watershed_line=True) > 0)


def side_by_side(slices: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """``slices`` (y, x) as one image, with a column of 0 after each, so that objects of two slices do not touch."""
    return np.hstack([np.pad(one, ((0, 0), (0, 1))) for one in slices])


@torch.inference_mode()
def averaged(model: Model, view: View) -> npt.NDArray[np.float32]:
    """The probability (y, x), float32, of cell in ``view``: the mean over all ways to rotate and mirror the input."""
    receptive = model.network.receptive
    half, (height, width) = receptive.margin // 2, view.field.shape
    rows, cols = (mirror(np.arange(-half, round_up(n, receptive.stride) + half), n) for n in (height, width))
    tile = Normalise(model.spec, torch.device("cpu")).pixels(view.field.pixels_at(rows, cols)[None])

    def turned(quarters: int, mirrored: bool) -> Tensor:
        seen = tile.rot90(quarters, (2, 3))
        logits = core_of(model.network(seen.flip(3) if mirrored else seen), receptive)
        cell = probabilities_of(logits, model.info.network.head)[0, -1]
        return (cell.flip(1) if mirrored else cell).rot90(-quarters)

    mean = torch.stack([turned(quarters, mirrored) for quarters in range(4) for mirrored in (False, True)]).mean(0)
    return mean[:height, :width].numpy()


if __name__ == "__main__":
    main()
