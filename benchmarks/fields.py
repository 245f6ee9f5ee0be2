"""Scores of models on labelled fields, each brought to the model's resolution as a training brings it.

    python benchmarks/fields.py FOLDER... -m MODEL [-m MODEL...] [--mpp F | --object-um F] [--only PATTERN...]

FOLDER holds images and labels of objects, paired as for `wsipipe train`; MODEL is one of wsipipe's own U-Nets. Fields
that do not state their resolution have ``--mpp``, or a median object of ``--object-um`` micrometres across, each
field by itself, which `wsipipe evaluate` cannot know. Predictions smaller than the model's least area are no objects.
Prints, for each folder and model, F1 at IoU 0.5, AJI and Dice, pooled, with their 95 % bootstrap intervals; where
there are several models, the last is compared with the first by a paired bootstrap.
"""

from __future__ import annotations

import argparse
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np

from wsipipe.evaluation.blockwise import ArrayPlane, Labelled, Terms
from wsipipe.evaluation.bootstrap import score_differences, score_with_intervals
from wsipipe.evaluation.tally import Tally
from wsipipe.geometry.grid import Box
from wsipipe.model.built_in import model_path
from wsipipe.model.forward import predict_box
from wsipipe.model.min_areas import min_area_of_older
from wsipipe.model.model_file import read_model_info
from wsipipe.model.unet_file import UNetInfo, load_unet
from wsipipe.training.config import config_of
from wsipipe.training.fields import Field, read_fields

METRICS = ("f1", "aji", "dice")


def main() -> None:
    """Score all models on all folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("-m", "--model", required=True, action="append", type=Path)
    scale = parser.add_mutually_exclusive_group()
    scale.add_argument("--mpp", type=float, help="micrometres per pixel of fields that do not say it")
    scale.add_argument("--object-um", type=float, help="diameter of the median object of each field")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of fields, without suffix; * is any")
    args = parser.parse_args()
    for folder in args.folders:
        tallies = [
            tally_of(folder, model, {"mpp": args.mpp, "object_um": args.object_um}, args.only) for model in args.model
        ]
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
    info = read_model_info(model_path(model))
    assert isinstance(info.network, UNetInfo), f"{model} is not one of wsipipe's own U-Nets"
    network, spec = load_unet(Path(info.path), info.network).eval(), info.spec
    least_um2 = spec.min_area_um2 or min_area_of_older(info.sha256)
    tally = Tally(["nucleus"], METRICS)
    for field in fields_of(folder, spec.mpp, scale):
        if not any(fnmatch(Path(field.name).stem.removesuffix("_image"), pattern) for pattern in only):
            continue
        whole = Box(0, field.shape[0], 0, field.shape[1])
        found = predict_box(network, spec, field.pixels_at, whole, shape=field.shape)
        truth = field.truth.read(whole)
        planes = Labelled(found), Labelled(truth.classes, truth.instances.astype(np.int64), truth.inside)
        terms = Terms(spec.mpp, predicted_px=least_um2 / spec.mpp**2 if spec.mpp else 0.0)
        tally.add_planes(ArrayPlane("prediction", planes[0]), ArrayPlane("truth", planes[1]), terms=terms)
    return tally


def fields_of(folder: Path, mpp: float | None, scale: dict[str, float | None]) -> list[Field]:
    """All fields of ``folder``, in order of their names, at ``mpp`` micrometres per pixel."""
    data: dict[str, Any] = {"folder": str(folder.resolve()), **{k: v for k, v in scale.items() if v is not None}}
    config = config_of({"mpp": mpp, "data": data, "patches": {"small_images": "mirror"}})
    return read_fields(config, [folder])


if __name__ == "__main__":
    main()
