"""How far networks look, and the tiles that they take, in integers.

::

    |<--------------------- tile --------------------->|      tile   = core + margin, a side that the network takes
    | margin/2 |<------------ core ----------->| margin/2 |   core   = a multiple of the stride
    | lost |crop|                              |crop| lost |  lost   = what valid convolutions take off the output
                                               |<-- the next core starts here

A network with poolings commutes with shifts of its stride only. Cores whose side and origin are multiples of
the stride therefore all see the pooling grid in the same phase, and agree with one pass over the whole
image to the last bit; cores at any other stride (the natural output width of a U-Net, 388 in the paper) do not.

For a U-Net of valid convolutions all this follows from its depth; for others it is measured (`wsipipe.model.reach`).

Sources
-------
- Ronneberger, Fischer, Brox 2015, arXiv:1505.04597 (the network)
- Majurski and Bajcsy 2021, J. Res. Natl. Inst. Stand. Technol. 126:126009, doi:10.6028/jres.126.009 (the rule)
- Rumberger et al., ICCV 2021, arXiv:2101.05846 (proof that valid convolutions, and crops to multiples of the stride,
  are necessary for seamless tile-and-stitch)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from wsipipe.errors import GeometryError


@dataclass(frozen=True)
class Receptive:
    """How far a network looks, and the tiles that it takes."""

    stride: int
    """Pixels; the network commutes with shifts by a multiple of it, and cores lie on this grid."""
    halo: int
    """Pixels around a core that its output depends on, on the side where these are more."""
    margin: int
    """Pixels that a tile has more than its core, half of them on each side: even, and never less than 2 * halo."""
    crop: int
    """Pixels of the input, on each side, that are cut off the network's output so that the core is left."""
    scale: int = 1
    """Pixels of the input for one of the output, along each axis."""
    largest_core: int | None = None
    """The largest core in pixels; None: any. It is the stride where a network takes tiles of one side only."""

    @property
    def reach(self) -> int:
        """The largest distance in pixels between a pixel of the input and one of the output that depends on it.

        At least so much for a network that takes tiles of one side, whose stride is finer than the grid of its cores.
        """
        return self.halo + (self.stride - 1 if self.largest_core is None else 0)

    def narrowed(self, context: int) -> Receptive:
        """The same network with ``context`` pixels or a few more around a core, fewer than it looks at.

        Raises
        ------
        GeometryError
            If that is not fewer, or its convolutions take more than that off the output.
        """
        half = self.margin // 2
        lost = half - self.crop
        steps = (half - context) // self.stride
        least = half - self.crop // self.stride * self.stride
        if steps < 1 or context < lost or self.largest_core is not None:
            raise GeometryError(
                f"a margin of {context} px is not possible: exact tiles have {half} px around their cores, and the "
                f"network takes no fewer than {least} (--margin)"
            )
        cut = steps * self.stride
        return replace(self, halo=min(self.halo, half - cut), margin=self.margin - 2 * cut, crop=self.crop - cut)

    def check_core(self, core: int, option: str = "--tile") -> int:
        """Return ``core`` if a tile may have it as its core side, in px.

        Raises
        ------
        GeometryError
            If it is not a positive multiple of the stride, or the network takes no tiles as large.
        """
        check_multiple("tile core", core, self.stride, "is the stride of the network", option)
        if self.largest_core is not None and core > self.largest_core:
            raise GeometryError(
                f"tile core {core} px is larger than {self.largest_core}, the largest that the network takes ({option})"
            )
        return core


@dataclass(frozen=True)
class UNetSizes:
    """Size arithmetic of a U-Net of ``depth`` 2x2 poolings and ``convs`` 3x3 valid convolutions per level.

    >>> paper = UNetSizes(depth=4, convs=2)
    >>> paper.halo, paper.receptive.margin, paper.output_side(572)
    (92, 188, 388)
    """

    depth: int
    """Number of 2x2 max poolings, 0 or more."""
    convs: int
    """3x3 valid convolutions per level and side, 1 or more."""

    def __post_init__(self) -> None:
        if self.depth < 0 or self.convs < 1:
            raise GeometryError(
                f"a U-Net of depth {self.depth} with {self.convs} convolutions per level does not exist; "
                "depth is 0 or more, convolutions 1 or more"
            )

    @property
    def receptive(self) -> Receptive:
        """How far it looks: its margin is the smallest even one for which every core on the grid has a legal tile."""
        margin = 2 * self.halo + 2 * self.convs % self.stride
        return Receptive(self.stride, self.halo, margin, margin // 2 - self.halo)

    @property
    def stride(self) -> int:
        """The pooling grid in pixels: shifts by a multiple of it commute with the network."""
        return 1 << self.depth

    @property
    def halo(self) -> int:
        """Pixels that the network loses on each side: ``c * (3 * 2**d - 2)``."""
        return self.convs * (3 * self.stride - 2)

    def is_legal(self, side: int) -> bool:
        """Whether every pooling of an input of ``side`` px meets an even size, and a pixel comes out."""
        return side > 2 * self.halo and (side + 2 * self.convs) % self.stride == 0

    def output_side(self, side: int) -> int:
        """The side in px of the output for an input of ``side`` px.

        Raises
        ------
        GeometryError
            If ``side`` is not legal; the message names the nearest legal sides.
        """
        if not self.is_legal(side):
            raise GeometryError(
                f"input side {side} px is not legal for {self.depth} poolings with {self.convs} valid "
                f"convolutions per level; nearest: {' and '.join(map(str, self.nearest_legal(side)))}"
            )
        return side - 2 * self.halo

    def nearest_legal(self, side: int) -> list[int]:
        """The legal sides next to ``side``: the one at or below it, if there is one, and the one above."""
        receptive = self.receptive
        smallest = receptive.margin if receptive.crop else receptive.margin + self.stride
        below = side - (side - smallest) % self.stride
        return [s for s in (below, below + self.stride) if s >= smallest] or [smallest]


def check_multiple(what: str, size: int, step: int, needed_by: str, option: str) -> int:
    """Return ``size`` if it is a positive multiple of ``step``, else raise a GeometryError that names both."""
    if size > 0 and size % step == 0:
        return size
    below, above = size // step * step, (size // step + 1) * step
    nearest = f"{below} and {above}" if below > 0 else f"{max(above, step)}"
    raise GeometryError(
        f"{what} {size} px is not a multiple of {step}, which {needed_by}; nearest: {nearest} ({option})"
    )


def round_up(size: int, step: int) -> int:
    """The smallest multiple of ``step`` that is at least ``size``."""
    return -(-size // step) * step
