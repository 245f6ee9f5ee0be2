"""The scores of a network on views: those of a run with its weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

from wsipipe.evaluation.metrics import LOWER_IS_BETTER, Scores
from wsipipe.evaluation.tally import Tally
from wsipipe.model.forward import predict_box
from wsipipe.model.spec import ModelSpec
from wsipipe.model.unet import UNet
from wsipipe.training.pictures import Shown
from wsipipe.training.setup import View

SHOWN = 8
"""Rows of the sheet of validation images."""
OFFSETS = tuple(step / 4 for step in range(-12, 13))
"""Offsets of the logit of background that its calibration tries."""


def score(
    network: UNet, spec: ModelSpec, views: tuple[View, ...], metrics: Sequence[str]
) -> tuple[Scores, list[Shown]]:
    """Scores of what a run would write for ``views``, and the first `SHOWN` of them, to be drawn."""
    network.eval()
    tally = Tally([c.name for c in spec.classes if c.label], metrics)
    shown: list[Shown] = []
    for view in views:
        found = predict_box(network, spec, view.field.pixels_at, view.box, shape=view.field.shape)
        truth = view.field.truth.read(view.box)
        objects = truth.instances if truth.instances.any() else None
        tally.add(found, truth.classes, truth_instances=objects, inside=truth.inside, mpp=spec.mpp or None)
        if len(shown) < SHOWN:
            true = truth.classes if objects is None else objects
            shown.append(Shown(view.field.image.read(view.box), found, true, view.title))
    return tally.scores(), shown


def better(scores: Scores, metric: str) -> float:
    """``metric`` of ``scores``, negated if lower is better; an undefined one is worst."""
    value = scores[metric]
    if math.isnan(value):
        return -math.inf
    return -value if metric in LOWER_IS_BETTER else value
