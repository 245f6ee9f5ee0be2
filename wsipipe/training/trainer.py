"""The loop: a batch of patches, a step of the optimizer, now and then a validation and a checkpoint.

One process per device, all with the same weights (DistributedDataParallel); the first also validates, writes and
tells. Step s uses the patches s * batch .. (s + 1) * batch - 1 and the dropout that seed and step give, so that a
training can go on from any step as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsipipe.errors import MemoryLimitError, TrainingError, WsipipeError
from wsipipe.evaluation.metrics import METRICS, check_metrics
from wsipipe.evaluation.tally import Tally
from wsipipe.events import StepDone, TrainingDone, TrainingListener, Validated, ignore
from wsipipe.files import write_whole
from wsipipe.inference.replica import is_out_of_memory
from wsipipe.model.bundle import BundleSpec, save_bundle
from wsipipe.model.forward import Normalise, compute_float32, core_of, predict_box
from wsipipe.model.unet import UNet, incoming
from wsipipe.training.checkpoint import Progress, read_checkpoint, write_checkpoint
from wsipipe.training.config import OptimizerConfig
from wsipipe.training.patches import Patch, batches
from wsipipe.training.pictures import Shown, write_sheet
from wsipipe.training.setup import Setup, View
from wsipipe.version import VERSION

Scores = dict[str, float]
LOOKED_AT = ("pixel_error", "dice", "iou", "f1", "adapted_rand_error", "merged_per_100", "split_per_100")
"""What is measured in every validation, beside what the best weights are chosen by."""
LOWER_IS_BETTER = (
    "pixel_error",
    "adapted_rand_error",
    "variation_of_information",
    "warping_error",
    "merged_per_100",
    "split_per_100",
)
OFFSETS = tuple(step / 4 for step in range(-12, 13))
"""What is added to the logit of background, one after the other, when it is calibrated."""
FULL_RATE = 9 * 16
"""Connections of a layer up to which its weights have the whole learning rate: those of 3x3 pixels of 16 channels."""
PATIENCE = timedelta(days=7)
"""How long processes wait for one another."""
SHOWN = 8
"""Rows of the sheet of validation images."""


class Trainer:
    """One process of a training, on one device.

    Parameters
    ----------
    setup
        What is trained.
    device
        Where.
    rank, world
        Which of how many processes this is.
    workers
        Processes that make patches for it.
    """

    def __init__(self, setup: Setup, device: str, *, rank: int = 0, world: int = 1, workers: int = 0) -> None:
        self.setup, self.config = setup, setup.config
        self.device, self.rank, self.world, self.workers = torch.device(device), rank, world, workers
        compute_float32(self.device)
        torch.manual_seed(self.config.loop.seed)
        network = UNet(**setup.architecture, dropout=self.config.network.dropout)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.train()
        self.parallel: nn.Module = self.network
        self.together: torch.distributed.ProcessGroup | None = None
        if world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.network)
            # Where all wait for one another, as for the first to validate: NCCL gives up after ten minutes.
            self.together = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        averaging = get_ema_multi_avg_fn(self.config.optimizer.average)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=averaging)
        self.optimizer = make_optimizer(self.network, self.config.optimizer)
        self.normalise = Normalise(setup.spec, self.device)
        self.precision = mixed_precision(self.device)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.metrics = check_metrics((*LOOKED_AT, self.config.loop.select))
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    @property
    def judged(self) -> UNet:
        """The network with the weights that are validated and kept: the average."""
        return cast("UNet", self.average.module)

    @property
    def weights(self) -> nn.Module:
        """All weights there are: those in training, and their average."""
        return nn.ModuleDict({"trained": self.network, "average": self.average})

    def run(self, listener: TrainingListener = ignore) -> None:
        """Train to the end, from wherever `progress` is."""
        loop, started = self.config.loop, time.monotonic() - self.progress.seconds
        made = batches(self.setup.maker, self._numbers(), self.workers)
        share = self._share(started)
        try:
            while share < 1:
                self._attempt(next(made), share, started, listener)
                share = self._share(started)
                last, step = share >= 1, self.progress.step
                validates, keeps = (last or step % every == 0 for every in (loop.validate_every, loop.checkpoint_every))
                if validates and self.rank == 0:
                    self._validate(listener)
                if keeps and self.rank == 0:
                    self.write_checkpoint()
                if validates or keeps:
                    self._wait_for_all()
        finally:
            made.close()  # type: ignore[attr-defined]

    def _numbers(self) -> Iterator[list[int]]:
        """The numbers of this process's patches, step by step."""
        mine = self.config.optimizer.batch // self.world
        for step in count(self.progress.step):
            first = (step * self.world + self.rank) * mine
            yield list(range(first, first + mine))

    def _share(self, started: float) -> float:
        """How much of the training is done, 0 to 1; where minutes are given, of the first process's time."""
        if self.config.loop.minutes is None:
            return self.progress.step / self.config.loop.steps
        share = torch.tensor((time.monotonic() - started) / (60 * self.config.loop.minutes), dtype=torch.float64)
        if self.world > 1:
            share = share.to(self.device, torch.float32)
            torch.distributed.broadcast(share, 0)
        return float(share)

    def _attempt(self, batch: Patch, share: float, started: float, listener: TrainingListener) -> None:
        """`_step`; a device without memory for it is an error that says what takes less."""
        try:
            self._step(batch, share, started, listener)
        except (RuntimeError, MemoryError) as err:
            if isinstance(err, WsipipeError) or not is_out_of_memory(err):
                raise
            count, _, side, _ = batch.image.shape
            reason = str(err).partition("\n")[0]
            raise MemoryLimitError(
                f"device {self.device} has no memory for {count} patches of {side} px ({reason}); a smaller "
                "[optimizer] batch, [patches] core or [network] base_channels takes less"
            ) from err

    def _step(self, batch: Patch, share: float, started: float, listener: TrainingListener) -> None:
        """One batch: forward, backward, update."""
        step, wish = self.progress.step, self.config.optimizer
        rate = learning_rate(wish, step, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        torch.manual_seed(np.random.SeedSequence([self.config.loop.seed, step, self.rank]).generate_state(1)[0])
        image, target, weight = (torch.from_numpy(plane).to(self.device) for plane in batch)
        tiles = self.normalise(image.clone()).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision) if self.precision else nullcontext():
            logits = self.parallel(tiles)
        loss = weighted_loss(core_of(logits, self.network.receptive).float(), target, weight)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        value = self._mean(loss.detach())
        if not math.isfinite(value):
            self._stop(batch, "loss", value)
        self.scaler.unscale_(self.optimizer)
        length = float(nn.utils.clip_grad_norm_(self.network.parameters(), wish.clip))
        if not math.isfinite(length) and not self.scaler.is_enabled():  # a scaler leaves the step out
            self._stop(batch, "gradient's length", length)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.network)
        self.progress.step += 1
        self.progress.seconds = time.monotonic() - started
        if self.rank == 0:
            listener(StepDone(self.progress.step, value, rate, self.progress.seconds, share))

    def _mean(self, loss: Tensor) -> float:
        """``loss`` of the whole batch, from that of this process's share of it."""
        if self.world > 1:
            loss = loss / self.world
            torch.distributed.all_reduce(loss)
        return float(loss)

    def _wait_for_all(self) -> None:
        """Go on once every process of the training has come so far."""
        if self.together:
            torch.distributed.barrier(self.together)

    def _stop(self, batch: Patch, what: str, value: float) -> None:
        """Save the batch whose loss or gradient is no number, each process its share; raise a TrainingError."""
        whose = f"-replica-{self.rank}" if self.world > 1 else ""
        path = self.setup.folder / f"batch-of-step-{self.progress.step + 1}{whose}.safetensors"
        planes = {name: torch.from_numpy(np.ascontiguousarray(p)) for name, p in zip(Patch._fields, batch, strict=True)}
        write_whole(path, save(planes))
        self._wait_for_all()
        raise TrainingError(
            f"the {what} of step {self.progress.step + 1} is {value}; its batch is in {path} (image, target, weight). "
            "Look for pixels that are not what they should be; or lower [optimizer] learning_rate or clip"
        )

    def _validate(self, listener: TrainingListener) -> None:
        """Score the weights on the validation views, and keep them if they are the best so far, or none has a score."""
        views, step = self.setup.validation, self.progress.step
        scores: Scores = {}
        if views:
            scores, sheet = score(self.judged, self.setup.spec, views, self.metrics)
        value = better(scores, self.config.loop.select) if views else float(step)
        if not self.best or value > self.progress.best_score or self.progress.best_score == -math.inf:
            self.progress.best_score, self.progress.best_step = value, step
            self.best = {name: t.detach().cpu().clone() for name, t in self.judged.state_dict().items()}
            if views:
                write_sheet(self.setup.folder / "validation.png", sheet)
        listener(Validated(step, scores, self.progress.best_step, self.progress.seconds))

    def write_checkpoint(self) -> None:
        """Write all of this training's state."""
        write_checkpoint(
            self.setup.checkpoint,
            self.setup.fingerprint,
            self.progress,
            self.weights,
            self.best,
            self.optimizer,
            float(self.scaler.get_scale()) if self.scaler.is_enabled() else None,
        )

    def read_checkpoint(self) -> None:
        """Go back to where the checkpoint is."""
        self.progress, self.best, scale = read_checkpoint(
            self.setup.checkpoint, self.setup.fingerprint, self.weights, self.optimizer
        )
        if scale is not None and self.scaler.is_enabled():
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale})

    def calibrate(self) -> float:
        """Move the logit of background by what scores best on the validation views, the least of equals; give that."""
        bias, sign = self.network.head.bias, -1.0 if self.network.classes == 1 else 1.0
        assert bias is not None
        before, best_score, best = bias.data[0].item(), -math.inf, 0.0
        for moved in sorted(OFFSETS, key=abs):
            bias.data[0] = before + sign * moved
            scores = score(self.network, self.setup.spec, self.setup.validation, self.metrics)[0]
            if (value := better(scores, self.config.loop.select)) > best_score:
                best_score, best = value, moved
        bias.data[0] = before + sign * best
        return best

    def finish(self, listener: TrainingListener) -> None:
        """Write the bundle of the best weights, with their scores on the test views, or else the validation views."""
        self.network.load_state_dict(self.best)
        moved = self.calibrate() if self.config.loop.calibrate and self.setup.validation else 0.0
        views, split = (self.setup.test, "test") if self.setup.test else (self.setup.validation, "validation")
        scores = score(self.network, self.setup.spec, views, tuple(METRICS))[0] if views else {}
        record: dict[str, Any] = {
            **without_places(self.setup.spec.training),
            "steps": self.progress.step,
            "best_step": self.progress.best_step,
            "background_moved_by": moved,
            "scores": {"on": split, **{k: round(v, 4) if math.isfinite(v) else None for k, v in scores.items()}},
            "versions": {"wsipipe": VERSION, "torch": torch.__version__},
        }
        save_bundle(self.setup.out, self.network, replace(self.setup.spec, training=record))
        listener(TrainingDone(str(self.setup.out), self.progress.step, self.progress.best_step, split, scores))


def make_optimizer(network: UNet, wish: OptimizerConfig) -> torch.optim.Optimizer:
    """SGD with momentum, as in the paper, or AdamW; a ``share`` of the learning rate goes with each group."""
    if wish.name == "sgd":
        groups: list[dict[str, Any]] = [{"params": list(network.parameters()), "share": 1.0}]
        return torch.optim.SGD(groups, lr=wish.learning_rate, momentum=wish.momentum)
    groups = [{"params": [p], "share": share} for p, share in shares_under_adam(network)]
    return torch.optim.AdamW(groups, lr=wish.learning_rate, weight_decay=wish.weight_decay)


def shares_under_adam(network: UNet) -> list[tuple[Tensor, float]]:
    """Each parameter with its share of the learning rate: a weight's is less, the more connections its layer has.

    Adam moves every weight as far, whatever its gradient; an output of n connections then moves n times as far as one
    of a single one. At a rate that suits the first level most outputs of the deepest are thrown below 0 within the
    first steps, and where its ReLU passes nothing on, a channel never comes back. So a weight of n times
    `FULL_RATE` connections moves 1 / n as far (Yang et al. 2022, arXiv:2203.03466, table 3), and one rate suits
    networks of any width and depth.
    """
    pairs = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            assert layer.bias is not None
            pairs += [(layer.weight, min(1.0, FULL_RATE / incoming(layer))), (layer.bias, 1.0)]
    return pairs


def learning_rate(wish: OptimizerConfig, step: int, share: float) -> float:
    """That of ``step``, with ``share`` of the training done: warm-up, then a cosine down to 0; constant for SGD."""
    warm = min(1.0, (step + 1) / wish.warm_up) if wish.warm_up else 1.0
    cosine = (1 + math.cos(math.pi * share)) / 2 if wish.name == "adamw" else 1.0
    return wish.learning_rate * warm * cosine


def mixed_precision(device: torch.device) -> torch.dtype | None:
    """What ``device`` multiplies faster than float32 and precisely enough to train with, or None."""
    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def weighted_loss(logits: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """Mean over pixels of weight times cross entropy; of one channel binary cross entropy from logits.

    Parameters
    ----------
    logits
        (n, classes, y, x), float32.
    target
        (n, y, x), int64: the class.
    weight
        (n, y, x), float32: the paper's w(x).
    """
    if logits.shape[1] == 1:
        loss = functional.binary_cross_entropy_with_logits(logits[:, 0], target.to(logits.dtype), reduction="none")
    else:
        loss = functional.cross_entropy(logits, target, reduction="none")
    return (loss * weight).mean()


def score(
    network: UNet, spec: BundleSpec, views: tuple[View, ...], metrics: Sequence[str]
) -> tuple[Scores, list[Shown]]:
    """Scores of what a run would write for ``views``, and the first few of them to be shown."""
    network.eval()
    tally = Tally([c.name for c in spec.classes if c.label], metrics)
    shown: list[Shown] = []
    for view in views:
        found = predict_box(network, spec, view.field.pixels_at, view.box, shape=view.field.shape)
        truth = view.field.truth.read(view.box)
        objects = truth.instances if truth.instances.any() else None
        tally.add(found, truth.classes, truth_instances=objects, inside=truth.inside)
        if len(shown) < SHOWN:
            true = truth.classes if objects is None else objects
            shown.append(Shown(view.field.image.read(view.box), found, true))
    return tally.scores(), shown


def without_places(record: Any) -> Any:
    """``record``, of JSON types, with the mere names of what absolute paths lead to: they say nothing elsewhere."""
    if isinstance(record, dict):
        return {key: without_places(value) for key, value in record.items()}
    if isinstance(record, list):
        return [without_places(value) for value in record]
    return Path(record).name if isinstance(record, str) and Path(record).is_absolute() else record


def better(scores: Scores, metric: str) -> float:
    """``metric`` of ``scores``, turned so that more is better; what is undefined is worst."""
    value = scores[metric]
    if math.isnan(value):
        return -math.inf
    return -value if metric in LOWER_IS_BETTER else value
