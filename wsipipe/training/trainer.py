"""The loop: a batch of patches, a step of the optimizer, now and then a validation and a checkpoint.

There is one process per device, all with the same weights (DistributedDataParallel); the first also validates, writes
and reports. Step s uses the patches s * batch .. (s + 1) * batch - 1 and the dropout that follows from seed and step,
so that a training can continue from any step as if it had never stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
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
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from wsipipe.errors import MemoryLimitError, TrainingError, WsipipeError
from wsipipe.evaluation.metrics import OF_LABELS, Scores, check_metrics
from wsipipe.events import StepDone, TrainingDone, TrainingListener, Validated, ignore
from wsipipe.files import write_whole
from wsipipe.inference.replica import is_out_of_memory
from wsipipe.model.forward import Normalise, compute_float32, core_of
from wsipipe.model.model_file import save_unet
from wsipipe.model.unet import UNet
from wsipipe.training.checkpoint import Progress, read_checkpoint, write_checkpoint
from wsipipe.training.optimizer import learning_rate, make_optimizer, mixed_precision, weighted_loss
from wsipipe.training.patches import Patch, batches
from wsipipe.training.pictures import write_sheet
from wsipipe.training.scoring import OFFSETS, better, score
from wsipipe.training.setup import TrainingSetup
from wsipipe.training.steadiness import both_crops, disagreement, draw_shift, steadiness
from wsipipe.version import VERSION

VALIDATED_METRICS = ("pixel_error", "dice", "iou", "f1", "adapted_rand_error", "merged_per_100", "split_per_100")
"""Measured in every validation, beside the metric that the best weights are chosen by."""
MOVED_VIEWS = 16
"""The most views on which steadiness is measured: it predicts each five times."""
MOST_LEFT_OUT = 30
"""Steps in a row that a scaler of float16 may leave out; at each it halves its scale, which begins at 2^16."""
PATIENCE = timedelta(days=7)
"""Time for which processes wait for one another."""


class Trainer:
    """One process of a training, on one device.

    Parameters
    ----------
    setup
        The training.
    device
        The device of this process.
    rank, world
        Number of this process, from 0, and the number of processes.
    workers
        Number of processes that make patches for this one.
    """

    def __init__(self, setup: TrainingSetup, device: str, *, rank: int = 0, world: int = 1, workers: int = 0) -> None:
        self.setup, self.config = setup, setup.config
        self.device, self.rank, self.world, self.workers = torch.device(device), rank, world, workers
        compute_float32(self.device)
        torch.manual_seed(self.config.loop.seed)
        network = UNet(**setup.architecture, dropout=self.config.network.dropout)
        if setup.pretrained and not setup.checkpoint.exists():  # a checkpoint has later weights
            network.load_state_dict({**network.state_dict(), **setup.pretrained.weights(setup.spec)})
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.network.train()
        self.parallel: nn.Module = self.network
        self.together: torch.distributed.ProcessGroup | None = None
        if world > 1:
            self.parallel = nn.parallel.DistributedDataParallel(self.network)
            # For waiting until the first process has validated: NCCL gives up after ten minutes.
            self.together = torch.distributed.new_group(backend="gloo", timeout=PATIENCE)
        averaging = get_ema_multi_avg_fn(self.config.optimizer.average)  # type: ignore[no-untyped-call]
        self.average = AveragedModel(self.network, multi_avg_fn=averaging)
        self.optimizer = make_optimizer(self.network, self.config.optimizer)
        self.normalise = Normalise(setup.spec, self.device)
        self.precision = mixed_precision(self.device, self.config.loop.precision)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == torch.float16)
        self.left_out = 0  # steps in a row
        self.metrics = check_metrics((*VALIDATED_METRICS, self.config.loop.select))
        self.progress = Progress()
        self.best: dict[str, Tensor] = {}

    @property
    def judged(self) -> UNet:
        """The network with the averaged weights, which are validated and kept."""
        return cast("UNet", self.average.module)

    @property
    def weights(self) -> nn.Module:
        """All weights: those in training, and their average."""
        return nn.ModuleDict({"trained": self.network, "average": self.average})

    def run(self, listener: TrainingListener = ignore) -> None:
        """Train from the step of `progress` to the end."""
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
        """Share of the training that is done, 0 to 1; if minutes are given, by the clock of the first process."""
        if self.config.loop.minutes is None:
            return self.progress.step / self.config.loop.steps
        share = torch.tensor((time.monotonic() - started) / (60 * self.config.loop.minutes), dtype=torch.float64)
        if self.world > 1:
            share = share.to(self.device, torch.float32)
            torch.distributed.broadcast(share, 0)
        return float(share)

    def _attempt(self, batch: Patch, share: float, started: float, listener: TrainingListener) -> None:
        """`_step`, but a device without enough memory is an error that names settings which need less."""
        try:
            self._step(batch, share, started, listener)
        except (RuntimeError, MemoryError) as err:
            if isinstance(err, WsipipeError) or not is_out_of_memory(err):
                raise
            count, _, side, _ = batch.image.shape
            reason = str(err).partition("\n")[0]
            raise MemoryLimitError(
                f"device {self.device} has no memory for {count} patches of {side} px ({reason}); a smaller "
                "[optimizer] batch, [patches] core or [network] base_channels needs less"
            ) from err

    def _step(self, batch: Patch, share: float, started: float, listener: TrainingListener) -> None:
        """One batch: forward, backward, update."""
        step, wish = self.progress.step, self.config.optimizer
        rate = learning_rate(wish, step, share)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["share"]
        torch.manual_seed(np.random.SeedSequence([self.config.loop.seed, step, self.rank]).generate_state(1)[0])
        loss = self._loss(batch)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        value = self._mean(loss.detach())
        self._check(batch, "loss", value)
        self.scaler.unscale_(self.optimizer)
        length = float(nn.utils.clip_grad_norm_(self.network.parameters(), wish.clip))
        self._check(batch, "gradient's length", length)
        self.left_out = 0 if math.isfinite(value) and math.isfinite(length) else self.left_out + 1
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.average.update_parameters(self.network)
        self.progress.step += 1
        self.progress.seconds = time.monotonic() - started
        if self.rank == 0:
            steps = self.config.loop.steps if self.config.loop.minutes is None else None
            listener(StepDone(self.progress.step, value, rate, self.progress.seconds, share, steps))

    def _loss(self, batch: Patch) -> Tensor:
        """The loss of ``batch``; for steadiness that of two crops of each patch, and what they disagree in."""
        steady, core, receptive = self.config.loss.steadiness, self.config.patches.core, self.network.receptive
        image, target, weight = (torch.from_numpy(plane).to(self.device) for plane in batch)
        shift = draw_shift(receptive.stride) if steady else None
        if shift:
            image = both_crops(image, core + receptive.margin, shift)
            target, weight = (both_crops(plane, core, shift) for plane in (target, weight))
        tiles = self.normalise(image.clone()).contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, self.precision) if self.precision else nullcontext():
            output = self.parallel(tiles)
        logits = core_of(output, receptive).float()
        loss = weighted_loss(logits, target, weight)
        return loss + steady * disagreement(logits, shift) if shift else loss

    def _mean(self, loss: Tensor) -> float:
        """Mean loss of the whole batch, from the ``loss`` of this process's part of it."""
        if self.world > 1:
            loss = loss / self.world
            torch.distributed.all_reduce(loss)
        return float(loss)

    def _wait_for_all(self) -> None:
        """Wait until every process of the training is here."""
        if self.together:
            torch.distributed.barrier(self.together)

    def _check(self, batch: Patch, what: str, value: float) -> None:
        """End the training if ``value`` is not finite, unless a scaler leaves the step out, and not one too many."""
        if not math.isfinite(value) and (not self.scaler.is_enabled() or self.left_out >= MOST_LEFT_OUT):
            self._stop(batch, what, value)

    def _stop(self, batch: Patch, what: str, value: float) -> None:
        """Save the batch whose loss or gradient is not finite, each process its part; raise a TrainingError."""
        whose = f"-replica-{self.rank}" if self.world > 1 else ""
        path = self.setup.folder / f"batch-of-step-{self.progress.step + 1}{whose}.safetensors"
        planes = {name: torch.from_numpy(np.ascontiguousarray(p)) for name, p in zip(Patch._fields, batch, strict=True)}
        write_whole(path, save(planes))
        self._wait_for_all()
        raise TrainingError(
            f"the {what} of step {self.progress.step + 1} is {value}; its batch is in {path} (image, target, weight). "
            "Check its pixels, or lower [optimizer] learning_rate or clip"
        )

    def _validate(self, listener: TrainingListener) -> None:
        """Score the weights on the validation views; keep them if they are the best so far, or none has a score."""
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
        """Write the state of the training."""
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
        """Restore the state of the training from its checkpoint."""
        self.progress, self.best, scale = read_checkpoint(
            self.setup.checkpoint, self.setup.fingerprint, self.weights, self.optimizer
        )
        if scale is not None and self.scaler.is_enabled():
            self.scaler.load_state_dict({**self.scaler.state_dict(), "scale": scale})

    def calibrate(self) -> float:
        """Move the logit of background by the offset that scores best on the validation views, and return it.

        Of equally good offsets it takes the smallest.
        """
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
        """Write the model of the best weights, with their scores on the test views, or else on the validation views."""
        self.network.load_state_dict(self.best)
        moved = self.calibrate() if self.config.loop.calibrate and self.setup.validation else 0.0
        views, split = (self.setup.test, "test") if self.setup.test else (self.setup.validation, "validation")
        scores = score(self.network, self.setup.spec, views, OF_LABELS)[0] if views else {}
        record: dict[str, Any] = {
            **without_places(self.setup.spec.training),
            "steps": self.progress.step,
            "best_step": self.progress.best_step,
            "background_moved_by": moved,
            "scores": {"on": split, **{k: round(v, 4) if math.isfinite(v) else None for k, v in scores.items()}},
            "steadiness": steadiness(self.network, self.setup.spec, [view.place for view in views[:MOVED_VIEWS]]),
            "versions": {"wsipipe": VERSION, "torch": torch.__version__},
        }
        save_unet(self.setup.out, self.network, replace(self.setup.spec, training=record))
        listener(TrainingDone(str(self.setup.out), self.progress.step, self.progress.best_step, split, scores))


def without_places(record: Any) -> Any:
    """``record``, of JSON types, with absolute paths reduced to their names: paths mean nothing on other machines."""
    if isinstance(record, dict):
        return {key: without_places(value) for key, value in record.items()}
    if isinstance(record, list):
        return [without_places(value) for value in record]
    return Path(record).name if isinstance(record, str) and Path(record).is_absolute() else record
