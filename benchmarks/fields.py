"""Scores of models on labelled fields, each brought to the model's resolution as a training brings it.

    python benchmarks/fields.py FOLDER... -m MODEL [-m MODEL...] [--mpp F | --object-um F] [--only PATTERN...]
                                [--pictures DIR]

FOLDER holds images and labels of objects, paired as for `wsipipe train`; MODEL is one of wsipipe's own U-Nets. Fields
that do not state their resolution have ``--mpp``, or a median object of ``--object-um`` micrometres across, each
field by itself, which `wsipipe evaluate` cannot know. Predictions smaller than the model's least area are no objects.
Prints, for each folder and model, F1 at IoU 0.5, AJI and Dice, pooled, with their 95 % bootstrap intervals; where
there are several models, the last is compared with the first by a paired bootstrap. With ``--pictures``, DIR/FOLDER.jpg
shows the middle of ten fields, two in each row: as they are, and with the outlines of the labels (green) and of what
each model found (yellow).
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from skimage import measure

from wsipipe.evaluation.blockwise import ArrayPlane, Labelled, Terms
from wsipipe.evaluation.bootstrap import score_differences, score_with_intervals
from wsipipe.evaluation.tally import Tally
from wsipipe.geometry.grid import Box
from wsipipe.model.built_in import model_path
from wsipipe.model.forward import predict_box
from wsipipe.model.min_areas import min_area_of_older
from wsipipe.model.model_file import read_model_info
from wsipipe.model.spec import ModelSpec
from wsipipe.model.unet import UNet
from wsipipe.model.unet_file import UNetInfo, load_unet
from wsipipe.pictures.drawing import as_rgb, outlined
from wsipipe.training.config import config_of
from wsipipe.training.fields import Field, read_fields

METRICS = ("f1", "aji", "dice")
SHOWN_PX = 320
"""Side of what is shown of a field, in pixels of the picture: twice those of the model."""
GREEN, YELLOW = (0, 200, 60), (255, 225, 25)


def main() -> None:
    """Score all models on all folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-m", "--model", required=True, action="append", type=Path)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--mpp", type=float, help="micrometres per pixel of fields that do not say it")
    scale.add_argument("--object-um", type=float, help="diameter of the median object of each field")
    parser.add_argument("--pictures", type=Path, metavar="DIR", help="folder for a picture of each FOLDER")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of fields, without suffix; * is any")
    args = parser.parse_args()
    given = {"mpp": args.mpp, "object_um": args.object_um}
    for folder in args.folders:
        if args.pictures is not None:
            args.pictures.mkdir(parents=True, exist_ok=True)
            sheet(folder, args.model, given, args.only).save(
                args.pictures / f"{folder.name}.jpg", quality=80, optimize=True
            )
        tallies = [tally_of(folder, model, given, args.only) for model in args.model]
        for model, tally in zip(args.model, tallies, strict=True):
            found = score_with_intervals(tally)
            text = "   ".join(
                f"{name} {found.pooled[name]:.3f} ({low:.3f} to {high:.3f})"
                for name in METRICS
                for low, high in [found.pooled_intervals[name]]
            )
            print(f"{folder.name}, {len(tally.per_image())} fields, {model.name}: {text}", flush=True)
        for one in score_differences(tallies[0], tallies[-1]) if len(tallies) > 1 else []:
            if one.name in METRICS:
                print(f"   {one.name} {one.value:+.3f} ({one.interval[0]:+.3f} to {one.interval[1]:+.3f})", flush=True)


def tally_of(folder: Path, model: Path, scale: dict[str, float | None], only: list[str]) -> Tally:
    """The scores of ``model`` on the fields of ``folder`` whose names match one of ``only``."""
    network, spec, least_um2 = opened(model)
    tally = Tally(["nucleus"], METRICS)
    for field in fields_of(folder, spec.mpp, scale, only):
        found = predict_box(network, spec, field.pixels_at, whole(field), shape=field.shape)
        truth = field.truth.read(whole(field))
        planes = Labelled(found), Labelled(truth.classes, truth.instances.astype(np.int64), truth.inside)
        terms = Terms(spec.mpp, predicted_px=least_um2 / spec.mpp**2 if spec.mpp else 0.0)
        tally.add_planes(ArrayPlane("prediction", planes[0]), ArrayPlane("truth", planes[1]), terms=terms)
    return tally


def opened(model: Path) -> tuple[UNet, ModelSpec, float]:
    """The network of ``model``, its description, and the least area of its objects, square micrometres."""
    info = read_model_info(model_path(model))
    assert isinstance(info.network, UNetInfo), f"{model} is not one of wsipipe's own U-Nets"
    least_um2 = info.spec.min_area_um2 or min_area_of_older(info.sha256)
    return load_unet(Path(info.path), info.network).eval(), info.spec, least_um2


def whole(field: Field) -> Box:
    """All pixels of ``field``."""
    return Box(0, field.shape[0], 0, field.shape[1])


def sheet(folder: Path, models: list[Path], scale: dict[str, float | None], only: list[str]) -> Image.Image:
    """The middle of ten fields of ``folder``, two a row: as they are, and with the outlines that each model found."""
    rows: list[list[np.ndarray]] = []
    for model in models:
        network, spec, least_um2 = opened(model)
        fields = fields_of(folder, spec.mpp, scale, only)
        shown = [fields[i] for i in sorted({round(k) for k in np.linspace(0, len(fields) - 1, 10)})]
        rows = rows or [[middle(photo(field))] for field in shown]
        for row, field in zip(rows, shown, strict=True):
            row.append(middle(drawn(field, network, spec, least_um2)))
    half = (len(rows) + 1) // 2
    rows += [[np.zeros_like(part) for part in rows[0]]] * (2 * half - len(rows))
    return Image.fromarray(np.vstack([np.hstack([*rows[i], *rows[half + i]]) for i in range(half)]))


def middle(picture: np.ndarray) -> np.ndarray:
    """The middle of ``picture``, `SHOWN_PX` high and wide, black where it ends."""
    height, width = picture.shape[:2]
    y, x = max(height - SHOWN_PX, 0) // 2, max(width - SHOWN_PX, 0) // 2
    part = picture[y : y + SHOWN_PX, x : x + SHOWN_PX]
    return np.pad(part, ((0, SHOWN_PX - part.shape[0]), (0, SHOWN_PX - part.shape[1]), (0, 0)))


def photo(field: Field) -> np.ndarray:
    """``field`` as it is, RGB, twice as large."""
    return twice(as_rgb(field.image.read(whole(field)).astype(np.float32), field.dtype))


def drawn(field: Field, network: UNet, spec: ModelSpec, least_um2: float) -> np.ndarray:
    """The `photo` of ``field``, with the outlines of its labels (green) and of what ``network`` finds (yellow)."""
    found = measure.label(predict_box(network, spec, field.pixels_at, whole(field), shape=field.shape), connectivity=1)
    areas = np.bincount(found.ravel()) * (spec.mpp or 1) ** 2
    truth = field.truth.read(whole(field)).instances
    kept = np.where(areas[found] >= least_um2, found, 0)
    return outlined(outlined(photo(field), twice(truth), GREEN), twice(kept), YELLOW)


def twice(plane: np.ndarray) -> np.ndarray:
    """``plane`` with each pixel twice as high and wide, so that an outline hides less."""
    return plane.repeat(2, axis=0).repeat(2, axis=1)


def fields_of(folder: Path, mpp: float | None, scale: dict[str, float | None], only: list[str]) -> list[Field]:
    """Fields of ``folder`` that match one of ``only``, in order of names, at ``mpp`` micrometres per pixel."""
    data: dict[str, Any] = {"folder": str(folder.resolve()), **{k: v for k, v in scale.items() if v is not None}}
    config = config_of({"mpp": mpp, "data": data, "patches": {"small_images": "mirror"}})
    fields = read_fields(config, [folder])
    names = [Path(field.name).stem.removesuffix("_image") for field in fields]
    return [f for f, name in zip(fields, names, strict=True) if any(fnmatch(name, pattern) for pattern in only)]


if __name__ == "__main__":
    main()
