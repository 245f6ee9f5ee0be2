"""The memory that the network takes while tiles go through it, in bytes, known before it runs."""

from __future__ import annotations

from wsipipe.geometry.network import UNetSizes

FLOAT32_BYTES = 4


def activation_bytes(
    architecture: dict[str, int],
    side: int,
    batch: int,
    *,
    probabilities: bool = False,
    value_bytes: int = FLOAT32_BYTES,
) -> int:
    """The most bytes that the tensors of one forward pass hold at once, for tiles of ``side`` px.

    A value of a tensor takes ``value_bytes``; in the image and the logits, which are float32, always 4. With
    ``probabilities``, these are made from the logits at the end: on a CPU in float64, of which three copies are alive
    (`wsipipe.model.forward.probabilities_of`), then as float32 and as uint8.

    Walks the network of `wsipipe.model.unet.UNet` step by step. A step's input and output are alive together,
    and so are the skips that later steps use; ReLUs work in place.
    """
    sizes = UNetSizes(architecture["depth"], architecture["convs_per_level"])
    base, convs = architecture["base_channels"], sizes.convs

    def tensor(channels: int, px: int, each: int = value_bytes) -> int:
        return each * batch * channels * px * px

    image = tensor(architecture["in_channels"], side, FLOAT32_BYTES)
    peak, x, skips, held = 0, 0, image, []  # the image is held by the caller throughout

    def step(out: int) -> int:
        nonlocal peak
        peak = max(peak, skips + x + out)
        return out

    for level in range(sizes.depth + 1):
        for _ in range(convs):
            side -= 2
            x = step(tensor(base << level, side))
        if level < sizes.depth:
            held.append(x)
            skips, x = skips + x, 0
            side //= 2
            x = step(tensor(base << level, side))
    for level in reversed(range(sizes.depth)):
        side *= 2
        x = step(tensor(base << level, side))
        x = step(tensor(base << (level + 1), side))
        skips -= held.pop()
        for _ in range(convs):
            side -= 2
            x = step(tensor(base << level, side))
    logits = x = step(tensor(architecture["classes"], side, FLOAT32_BYTES))
    step(tensor(1, side, 3 * FLOAT32_BYTES))  # int64: the winning class; float32: its logit
    if probabilities:
        step(6 * logits)
    return peak
