"""Train the model that wsipipe ships: nuclei in haematoxylin and eosin, at 0.5 micrometres per pixel.

    python workflows/default_model.py seg/nuclei-he wsipipe/model/nuclei.safetensors --steps 1400

DATA holds ``<field>_image.png`` (RGB) and ``<field>_label.png`` (instances, 0 = background): the stained
histology fields of the Data Science Bowl 2018 (BBBC038, CC0). Most have one of two looks, and four of 95 show
eosin. So that the model carries over to others, half of the patches are stained anew: the field's
haematoxylin in another colour, over drawn eosin, glass and debris; a tenth of all patches holds no nucleus. Every
sixth field is held out (none of those with eosin), and its scores are written into the bundle. The same --steps,
--seed, machine and number of threads give the same bytes. It needs Pillow and SciPy (`pip install pillow scipy`).
"""

import argparse
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from wsipipe.geometry.mirror import mirror
from wsipipe.geometry.network import round_up
from wsipipe.model.bundle import BundleSpec, LabelClass, save_bundle
from wsipipe.model.unet import UNet, center

MPP = 0.5
NUCLEUS_PX = 7.5 / MPP
"""The fields do not say their magnification. The median nucleus of a tissue section is 7 to 8 um across
(an erythrocyte, the pathologist's ruler, 7.5 um), so each field is scaled until its median nucleus is 7.5 um."""
CORE, BATCH, LEARNING_RATE = 192, 2, 1e-3
BORDER_WEIGHT, BORDER_SIGMA_PX = 6.0, 2.5  # the paper has 10 and 5 px, for larger cells
CLASSES = (LabelClass("background", 0, "#000000"), LabelClass("nucleus", 1, "#ffe119"))


class Field(NamedTuple):
    """One field of view at `MPP`."""

    density: np.ndarray  # optical density, float32 (3, y, x)
    instances: np.ndarray  # int32 (y, x), 0 is background
    target: np.ndarray  # float32 (y, x), 1 in a nucleus, 0 outside and on the ridge between two that touch
    weight: np.ndarray  # of each pixel in the loss, float32 (y, x)


def read_field(image_path: Path) -> Field:
    """The field of ``image_path``, its label beside it, scaled so that its median nucleus is `NUCLEUS_PX` across."""
    label_path = image_path.with_name(image_path.name.replace("_image", "_label"))
    instances = Image.fromarray(np.asarray(Image.open(label_path), np.int32))
    areas = np.bincount(np.asarray(instances).ravel())[1:]
    scale = NUCLEUS_PX / np.median(2 * np.sqrt(areas[areas > 0] / np.pi))
    size = round(instances.width * scale), round(instances.height * scale)
    pixels = np.asarray(Image.open(image_path).convert("RGB").resize(size, Image.Resampling.BICUBIC), np.float32)
    label = np.asarray(instances.resize(size, Image.Resampling.NEAREST))
    ridge = ndimage.maximum_filter(label, 3) > label  # one pixel wide, on the side of the lower id
    target = (label > 0) & ~ridge
    density = -np.log((pixels.transpose(2, 0, 1) + 1) / 256)
    return Field(density, label, target.astype(np.float32), border_weight(label, target))


def border_weight(label: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Equation 2 of Ronneberger et al. 2015: background counts more where the two nearest nuclei are close."""
    away = [ndimage.distance_transform_edt(label != i) for i in np.unique(label[label > 0])]
    nearest, second = np.partition(away, 1, axis=0)[:2]
    return (1 + BORDER_WEIGHT * np.exp(-((nearest + second) ** 2) / (2 * BORDER_SIGMA_PX**2)) * ~target).astype("f4")


def random_patch(field: Field, side: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image (3, side, side) as a share of full scale, target and weight (side, side): turned, scaled, stained anew."""
    turn, zoom, flip = rng.uniform(0, 2 * np.pi), np.exp(rng.uniform(np.log(0.8), np.log(1.25))), rng.choice([-1, 1])
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * [flip, 1] * side / zoom
    matrix /= np.array(field.target.shape[::-1])[:, None]  # from the patch's -1 .. 1 to the field's, (x, y)
    theta = torch.tensor(np.column_stack([matrix, rng.uniform(-1, 1, 2)]), dtype=torch.float32)
    grid = nn.functional.affine_grid(theta[None], [1, 1, side, side], align_corners=False)

    def look(planes: np.ndarray, mode: str) -> np.ndarray:
        # torch's "reflection", with corners not aligned, repeats the edge pixel: wsipipe's mirror
        planes = torch.from_numpy(planes)[None]
        return nn.functional.grid_sample(planes, grid, mode, "reflection", align_corners=False)[0].numpy()

    density = look(field.density, "bicubic")
    target, weight = look(np.stack([field.target, field.weight]), "nearest")
    if rng.random() < 0.5:
        blue = np.maximum(density[0] - np.median(field.density[0][field.instances == 0]), 0)  # eosin passes red light
        if rng.random() < 0.2:
            blue, target, weight = 0 * blue, 0 * target, 0 * weight + 1
        density = restain(blue, target, rng)
    else:
        density = density * rng.uniform(0.7, 1.4, (3, 1, 1)) + rng.uniform(-0.1, 0.1, (3, 1, 1))
    image = np.exp(-density) * rng.uniform(0.9, 1.05)
    image += rng.uniform(-0.7, 1.2) * (image - ndimage.gaussian_filter(image, (0, 1, 1)))  # other optics
    image += rng.normal(0, rng.uniform(0, 0.02), image.shape)
    return image.clip(0, 1).astype(np.float32), target, weight


def restain(blue: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Optical density (3, y, x) of haematoxylin ``blue`` (y, x) in random colours, over drawn eosin and glass."""
    haematoxylin = np.array([1, rng.uniform(0.9, 1.5), rng.uniform(0.3, 0.9)])[:, None, None]
    eosin = np.array([rng.uniform(0.03, 0.25), 1, rng.uniform(0.2, 0.75)])[:, None, None]
    cytoplasm = rng.uniform(0, 0.8) * texture(len(blue), rng, finest_px=8)
    pink = rng.uniform(0, 1.4) * texture(len(blue), rng) + rng.uniform(0, 0.4) * texture(len(blue), rng)
    pink *= 1 - rng.uniform(0.2, 0.9) * ndimage.gaussian_filter(target, 1)
    density = (blue * rng.uniform(0.7, 1.8) + cytoplasm) * haematoxylin + pink * eosin + rng.uniform(0, 0.08, (3, 1, 1))
    if rng.random() < 0.3:  # keratin, ink, folds: dark, of any colour, long, away from nuclei
        where = texture(len(blue), rng, finest_px=20) * (1 - ndimage.gaussian_filter(target, 6)) ** 4
        density += rng.uniform(0.3, 2, (3, 1, 1)) * where * texture(len(blue), rng, stretch=rng.uniform(2, 4))
    return density


def texture(side: int, rng: np.random.Generator, finest_px: float = 1.5, stretch: float | None = None) -> np.ndarray:
    """Fibres, cells or clouds: smoothed noise (side, side), stretched one way, its contrast raised, in 0 .. 1."""
    turn, stretch = rng.uniform(0, np.pi), stretch or rng.uniform(1, 3)
    sigma = np.exp(rng.uniform(np.log(finest_px), np.log(25)))
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)
    along, across = y * np.sin(turn) + x * np.cos(turn), y * np.cos(turn) - x * np.sin(turn)
    blur = np.exp(-2 * (np.pi * sigma) ** 2 * ((along * stretch) ** 2 + (across / stretch) ** 2))
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((side, side))) * blur, (side, side))
    return 1 / (1 + np.exp(-rng.uniform(1, 8) * (noise / noise.std() + rng.uniform(-1, 2))))


def train(fields: list[Field], args: argparse.Namespace) -> tuple[UNet, BundleSpec, int]:
    """A network trained for ``args.steps`` or ``args.minutes``, its spec, and the number of steps."""
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    seen = np.stack([random_patch(f, CORE, rng)[0] for f in fields])
    mean, std = (tuple(round(float(v), 3) for v in f(seen, axis=(0, 2, 3), dtype="f8")) for f in (np.mean, np.std))
    # Where red outshines blue there is eosin: few fields, so they are drawn more often, a quarter of the time.
    pink = np.array([f.density[0].mean() < f.density[2].mean() for f in fields])
    odds = np.where(pink, 0.25 / max(pink.sum(), 1), 0.75 / (~pink).sum())
    network = UNet(3, len(CLASSES), base_channels=16).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=1e-3)
    side, half = CORE + network.receptive.margin, network.receptive.margin // 2
    started, step, progress, losses = time.monotonic(), 0, 0.0, []
    while progress < 1:
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * min(1, (step + 1) / 50) * (1 + math.cos(math.pi * progress)) / 2
        drawn = rng.choice(len(fields), BATCH, p=odds / odds.sum())
        image, target, weight = (
            torch.from_numpy(np.stack(a))
            for a in zip(*(random_patch(fields[i], side, rng) for i in drawn), strict=True)
        )
        target, weight = target[:, half:-half, half:-half], weight[:, half:-half, half:-half]
        logits = network(normalise(image, mean, std).contiguous(memory_format=torch.channels_last))
        loss = (nn.functional.cross_entropy(center(logits, target), target.long(), reduction="none") * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        step, seconds = step + 1, time.monotonic() - started
        progress = step / args.steps if args.steps else seconds / (60 * args.minutes)
        losses.append(loss.item())
        if step % 25 == 0:
            print(f"step {step}  {seconds:.0f} s  loss {np.mean(losses[-25:]):.4f}", flush=True)
    spec = BundleSpec(CLASSES, mpp=MPP, mean=mean, std=std, name="nuclei-he", licence="CC0-1.0")
    return network.eval(), spec, step


def normalise(image: torch.Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
    """What the network takes, from images (n, 3, y, x) as a share of full scale."""
    return (image - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


@torch.inference_mode()
def predict(network: UNet, spec: BundleSpec, image: np.ndarray) -> np.ndarray:
    """Class ids, int64 (y, x), of the whole ``image`` (3, y, x), mirrored at its border."""
    half, stride = network.receptive.margin // 2, network.receptive.stride
    rows, cols = (mirror(np.arange(-half, round_up(n, stride) + half), n) for n in image.shape[1:])
    tile = torch.from_numpy(image[:, rows[:, None], cols])
    like = torch.empty(len(rows) - 2 * half, len(cols) - 2 * half)
    labels = center(network(normalise(tile[None], spec.mean, spec.std)), like)[0].argmax(0)
    return labels.numpy()[: image.shape[1], : image.shape[2]]


def score(network: UNet, spec: BundleSpec, fields: list[Field]) -> dict[str, float]:
    """Over all pixels, and all nuclei, of ``fields``; a nucleus is found if a connected component has IoU > 0.5."""
    confusion, hits, objects = np.zeros((2, 2)), 0, 0
    for f in fields:
        found = predict(network, spec, np.exp(-f.density))
        np.add.at(confusion, (found, f.target.astype(int)), 1)
        parts, n_parts = ndimage.label(found)
        overlap = np.zeros((n_parts + 1, f.instances.max() + 1))
        np.add.at(overlap, (parts, f.instances), 1)
        union = overlap.sum(1)[:, None] + overlap.sum(0) - overlap
        hits += (overlap / np.maximum(union, 1) > 0.5)[1:, 1:].sum()
        objects += n_parts + len(np.unique(f.instances[f.instances > 0]))
    dice = 2 * confusion[1, 1] / (confusion[1].sum() + confusion[:, 1].sum())
    scores = {"dice": dice, "pixel_accuracy": confusion.trace() / confusion.sum(), "object_f1": 2 * hits / objects}
    return {name: round(float(value), 4) for name, value in scores.items()}


def main() -> None:
    """Read, train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, metavar="DATA", help="folder of <field>_image.png and <field>_label.png")
    parser.add_argument("out", type=Path, metavar="OUT", help="the bundle to write, .safetensors")
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--steps", type=int, help="batches to train for")
    length.add_argument("--minutes", type=float, default=20, help="train for so long instead (default 20)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    fields = [read_field(path) for path in sorted(args.data.glob("*_image.png"))]
    held_out, kept = fields[::6], [f for i, f in enumerate(fields) if i % 6]
    network, spec, steps = train(kept, args)
    spec.training.update(
        data="Data Science Bowl 2018, stained histology fields (BBBC038), CC0",
        fields=len(kept),
        seed=args.seed,
        steps=steps,
        torch=torch.__version__,
        held_out={"fields": len(held_out), **score(network, spec, held_out)},
    )
    save_bundle(args.out, network, spec)
    print(f"{args.out}: {args.out.stat().st_size} bytes, {spec.training}")


if __name__ == "__main__":
    main()
