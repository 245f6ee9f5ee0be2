"""How far a network looks, measured: which rows of its output change if rows of its input turn NaN.

The network is opaque: a function of an array. Nothing is assumed about its layers, and no gradients are needed::

    input    NaN |<-- top -->|                                        |<- bottom ->| NaN
    output   ------ changed ------>|<---------- unchanged ------->|<---- changed ------
                                   ^ the first row that no NaN changes

NaN passes through sums and products whatever the weights are, even 0: the reach is never too small. Where a kernel
swallows it (``max(NaN, 0)`` is 0 in some runtimes), the values still change, so a row counts as changed if any of its
bits differs. Moving the border of the NaNs row by row over one stride, by bisection, gives the first and last input
row that each output row depends on.

The stride is the smallest shift of the input that shifts the output and changes nothing else. NaN alone cannot tell it:
bilinear upsampling with ``align_corners=True`` looks a finite distance, yet no two tiles of different sides agree.
`shift_test` is the judge: a core has the same values whatever tile it is computed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import lcm

import numpy as np
import numpy.typing as npt

from wsipipe.errors import ModelError, NoFiniteReachError
from wsipipe.geometry.network import Receptive, round_up
from wsipipe.importing.legal_sides import Compute, Floats, Sides, SidesHint, find_sides, noise, saying_tile, transposed

SHIFTS = (256, 240, 252, 224, 216, 200, 192, 128, 96, 64, 48, 40, 32, 24, 20, 16, 12, 8, 6, 4, 2, 1)
"""Shifts tried, px, as far as they are no part of one that was tried; the stride has to divide one of them."""
HEIGHTS = (512, 768, 1024, 1536, 2048, 3072, 4096)
"""Heights of the tiles that are probed, px, until the response ends well inside; the last bounds the reach."""
OUTER, OUTER_OF_ONLY = 32, 8
"""Rows at an end of a tile, px, that turn NaN to see how tall it has to be; fewer in a tile that cannot be taller."""
ROOM = SHIFTS[0] + 64
"""Rows in the middle of a tile, px, that have to be independent of both ends."""
ROUNDING = 1e-5
"""What may differ between tiles of different sides, relative to the largest value: the order of floating-point sums."""


@dataclass(frozen=True)
class Dependence:
    """The input rows that each output row depends on, both counted from the top of a tile.

    They are the same in all tiles whose height has this ``remainder`` modulo ``stride``, and repeat with the stride:
    if output row ``j`` depends on input rows ``a`` to ``b``, row ``j + stride / scale`` depends on
    ``a + stride`` to ``b + stride``.
    """

    stride: int
    remainder: int
    scale: int
    """px of the input per px of the output."""
    lost: int
    """px of the input, top and bottom together, that have no output."""
    first: tuple[int, ...]
    """First input row of output rows 0, 1, ... stride / scale - 1; negative where it lies above the tile."""
    last: tuple[int, ...]
    """Last input row of the same."""

    def rows(self, row: int) -> tuple[int, int]:
        """First and last input row that output row ``row`` depends on."""
        period, phase = divmod(row, len(self.first))
        return self.first[phase] + period * self.stride, self.last[phase] + period * self.stride

    @property
    def reach(self) -> int:
        """The farthest px, before or after, that the output at a px of the input depends on."""
        starts = [row * self.scale + self.lost // 2 for row in range(len(self.first))]  # px that each output row covers
        before = max(start + self.scale - 1 - first for start, first in zip(starts, self.first, strict=True))
        after = max(last - start for start, last in zip(starts, self.last, strict=True))
        return max(before, after)

    def holds(self, core: int, margin: int) -> bool:
        """Whether a tile of ``core + margin`` px has all rows that the core in its middle depends on."""
        crop = margin // 2 - self.lost // 2
        if margin % 2 or self.lost % 2 or crop < 0 or crop % self.scale:
            return False
        if (core + margin - self.remainder) % self.stride:
            return False
        ends = [self.rows(row) for row in range(crop // self.scale, (crop + core) // self.scale)]
        return min(first for first, _ in ends) >= 0 and max(last for _, last in ends) < core + margin


def measure_receptive(
    compute: Compute, channels: int, *, sides: Sides | SidesHint | None = None, analysis: Compute | None = None
) -> Receptive:
    """Measure how far a network looks, its stride, the scale of its output, and the margin that its tiles need.

    Parameters
    ----------
    compute
        The network.
    channels
        Channels of its input.
    sides
        The sides that it takes, or what its file declares of them; by default, they are found by trying.
    analysis
        The same network, in which layers that swallow NaN are replaced by some that look as far and do not.

    Raises
    ------
    NoFiniteReachError
        If the output depends on the whole image, or commutes with no shift of 256 px or less.
    ModelError
        If no tile is accepted, the output is not a map of the input, or it differs from one time to the next.
    """
    compute, opaque = saying_tile(compute), saying_tile(analysis or compute)
    found = sides if isinstance(sides, Sides) else find_sides(compute, channels, sides or SidesHint())
    tile = noise(channels, found.legal, found.legal)[None]
    if difference(compute(tile), compute(tile)):
        raise ModelError(
            "the network gives other values each time for the same tile; switch its dropout off before it is exported: "
            "network.eval()"
        )
    down = Probe(compute, opaque, channels, found).dependence("rows")
    across = Probe(transposed(compute), transposed(opaque), channels, found).dependence("columns")
    receptive = receptive_of(found, down, across)
    if not found.step:
        shift_test(compute, channels, receptive, shift=lcm(down.stride, across.stride))
    return receptive


def receptive_of(sides: Sides, down: Dependence, across: Dependence) -> Receptive:
    """The geometry of square tiles for a network that looks ``down`` along y and ``across`` along x.

    Raises
    ------
    NoFiniteReachError
        If no tile that the network takes holds all that a core depends on.
    """
    stride, scale, reach = lcm(down.stride, across.stride), sides.scale, max(down.reach, across.reach)
    if sides.step:
        widest = 2 * reach + down.lost + across.lost + 4 * lcm(stride, 2 * scale)
        tiles = [(stride, margin) for margin in range(0, widest, 2)]
    else:
        tiles = [(core, sides.legal - core) for core in range(sides.legal // stride * stride, 0, -stride)]
    for core, margin in tiles:
        if down.holds(core, margin) and across.holds(core, margin) and down.lost == across.lost:
            return Receptive(
                stride=core,
                halo=max(reach - stride + 1, 0),
                margin=margin,
                crop=margin // 2 - down.lost // 2,
                scale=scale,
                largest_core=None if sides.step else core,
            )
    only = "" if sides.step else f", and takes tiles of {sides.legal} px only"
    raise NoFiniteReachError(
        f"no tile of the network has a core in its middle: it looks {reach} px far, its stride is {stride} px, and it "
        f"cuts {down.lost} rows and {across.lost} columns of px off a tile{only}"
    )


class Probe:
    """A network whose rows are probed in tall, narrow tiles.

    Parameters
    ----------
    compute
        The network, whose values are compared.
    opaque
        The network that NaN is given to.
    channels
        Channels of its input.
    sides
        The sides that it takes.
    """

    def __init__(self, compute: Compute, opaque: Compute, channels: int, sides: Sides) -> None:
        self.compute, self.opaque, self.channels, self.sides = compute, opaque, channels, sides
        self.outer = OUTER if sides.step else OUTER_OF_ONLY
        self.base = lcm(sides.step or 1, sides.scale)  # every stride is a multiple of it
        self._outputs: dict[tuple[Compute, int], Floats] = {}
        self._edges: dict[tuple[int, int], tuple[int, int]] = {}

    def dependence(self, what: str) -> Dependence:
        """Which input rows each output row depends on; messages call rows ``what`` they are in the image."""
        height = self.tall_enough(what)
        stride = self.stride(height, what)
        height = self.preferred(height, stride)
        first, last = self.ends(height, stride)
        return Dependence(stride, height % stride, self.sides.scale, self.lost(height), first, last)

    def tall_enough(self, what: str) -> int:
        """The height of a tile, px, in whose middle rows depend on nothing near its ends.

        Raises
        ------
        NoFiniteReachError
            If there is none.
        """
        least = max(ROOM, 3 * self.base) if self.sides.step else 3 * self.base
        needed = 0
        for height in sorted({self.sides.at_least(height) for height in HEIGHTS}):
            if height < needed and height < HEIGHTS[-1]:
                continue
            if (room := self.room(height)) >= least:
                return height
            start, stop = self.edges(height, self.outer)
            if start < self.output(height).shape[1] and stop > 0:  # it ends in this tile, though not far from its end
                needed = height + least - room
        room = max(room, 0) // self.sides.scale
        only = "" if self.sides.step else f", or takes tiles that are too small for it, of {height} px only"
        raise NoFiniteReachError(
            f"the network has no finite reach{only}: if the outer {self.outer} {what} of an image of {height} px turn "
            f"NaN, {room or 'no'} {what} of its output stay as they are"
        )

    def room(self, height: int) -> int:
        """Rows in the middle of the output, in px of the input, that depend on nothing near the ends of a tile."""
        start, stop = self.edges(height, self.outer)
        return (stop - start) * self.sides.scale

    def stride(self, height: int, what: str) -> int:
        """The smallest shift of the input, px, that shifts the output and changes nothing else.

        Raises
        ------
        NoFiniteReachError
            If there is none.
        """
        tried: list[int] = []
        for longest in (*(shift for shift in SHIFTS if shift % self.base == 0), self.base):
            if longest + 2 * self.base > self.room(height) or any(shift % longest == 0 for shift in tried):
                continue
            tried.append(longest)
            if self.shifts(height, longest):
                divisors = (shift for shift in range(self.base, longest + 1, self.base) if longest % shift == 0)
                alike = (shift for shift in divisors if self.shifts(height, shift) and self.looks_alike(height, shift))
                if stride := next(alike, None):
                    return stride
        raise NoFiniteReachError(
            f"its output changes with where a tile begins along the {what}, whatever the step (tried {min(tried)} to "
            f"{max(tried)} px); usually an enlargement with align_corners=True: set it to False, and train again"
        )

    def shifts(self, height: int, shift: int) -> bool:
        """Whether the values of the output move by ``shift`` px, and stay the same, if the input moves by it."""
        start, stop = self.edges(height, self.outer)
        rows = shift // self.sides.scale
        moved = self.compute(self.image(height, origin=shift)[None])[0]
        return difference(self.output(height)[:, start + rows : stop], moved[:, start : stop - rows]) <= ROUNDING

    def looks_alike(self, height: int, shift: int) -> bool:
        """Whether the rows that NaN changes move by ``shift`` px if the NaN moves by it."""
        near, far, rows = self.edges(height, shift), self.edges(height, 2 * shift), shift // self.sides.scale
        return (far[0] - near[0], near[1] - far[1]) == (rows, rows)

    def preferred(self, height: int, stride: int) -> int:
        """The legal height, of those up to a stride taller, whose remainder modulo ``stride`` suits the network best.

        This is the one that loses least, as a network of valid convolutions that rounds down does for one remainder;
        among equals the one without remainder.
        """
        heights = [height + more for more in range(0, stride, self.sides.step or stride)]
        whole = next((one for one in heights if one % stride == 0), None)
        if whole and self.lost(whole) == 0:
            return whole
        return min(heights, key=lambda one: (self.lost(one) % 2, self.lost(one), one % stride))

    def lost(self, height: int) -> int:
        """Px of a tile of ``height`` px, top and bottom together, that have no output."""
        return height - self.sides.scale * int(self.output(height).shape[1])

    def ends(self, height: int, stride: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """First and last input rows that the output rows of one stride depend on, as `Dependence` has them."""
        edges = {more: self.edges(height, stride + more) for more in (0, stride)}

        def bisect(low: int, high: int) -> None:
            if high - low > 1:
                middle = (low + high) // 2
                same = edges[low] == edges[high]  # what lies between is then the same as well
                edges[middle] = edges[low] if same else self.edges(height, stride + middle)
                bisect(low, middle)
                bisect(middle, high)

        bisect(0, stride)
        rows = stride // self.sides.scale
        first, last = [0] * rows, [0] * rows
        for more in range(stride):
            for row in range(edges[more][0], edges[more + 1][0]):  # NaN in one more row at the top changes them
                first[row % rows] = stride + more - row // rows * stride
            for row in range(edges[more + 1][1], edges[more][1]):
                last[row % rows] = height - stride - more - 1 - row // rows * stride
        return tuple(first), tuple(last)

    def edges(self, height: int, outer: int) -> tuple[int, int]:
        """The output row from which on NaN in the ``outer`` top rows changes nothing, and where the bottom begins to.

        The first is larger than the second if no row is independent of both.
        """
        key = height, outer
        if key not in self._edges and outer == self.outer:
            self._edges[key] = self.edges_apart(height, outer)
        elif key not in self._edges:
            middle = sum(self.edges(height, self.outer)) // 2
            changed = self.changed(height, outer, outer)
            if changed[middle]:  # from which end cannot be told
                self._edges[key] = self.edges_apart(height, outer)
            else:
                above, below = changed[:middle], changed[middle:]
                self._edges[key] = middle - first_true(above[::-1]), middle + first_true(below)
        return self._edges[key]

    def edges_apart(self, height: int, outer: int) -> tuple[int, int]:
        """As `edges`, whatever either end changes: it is told from one end at a time."""
        above, below = self.changed(height, outer, 0), self.changed(height, 0, outer)
        return len(above) - first_true(above[::-1]), first_true(below)

    def changed(self, height: int, top: int, bottom: int) -> npt.NDArray[np.bool_]:
        """Whether NaN in the ``top`` and ``bottom`` rows of a tile changes each output row, (y,), bool."""
        tile = self.image(height)
        clean = self.output(height, opaque=True)
        tile[:, :top] = np.nan
        tile[:, height - bottom :] = np.nan
        rows: npt.NDArray[np.bool_] = (self.opaque(tile[None])[0] != clean).any(axis=(0, 2))  # NaN equals nothing
        return rows

    def output(self, height: int, *, opaque: bool = False) -> Floats:
        """The output, (class, y, x), float32, for `image`, which is computed once."""
        compute = self.opaque if opaque else self.compute
        if (compute, height) not in self._outputs:
            self._outputs[compute, height] = compute(self.image(height)[None])[0]
        return self._outputs[compute, height]

    def image(self, height: int, *, origin: int = 0) -> Floats:
        """``height`` rows from ``origin`` on of one image, (channel, y, x), float32, as narrow as may be."""
        image = noise(self.channels, height + max(SHIFTS[0], self.base), self.sides.width(height))
        return image[:, origin : origin + height].copy()


def shift_test(compute: Compute, channels: int, receptive: Receptive, *, shift: int | None = None) -> float:
    """Compute the same px from tiles of different origins, sides and surroundings, and compare the values.

    Parameters
    ----------
    compute, channels
        The network, and the channels of its input.
    receptive
        How far it looks.
    shift
        How far apart the origins are, px; by default the stride.

    Returns
    -------
    The largest difference, relative to the largest value: 0.0 if the tiles agree to the last bit. A network that takes
    tiles of one side is compared where the cores of tiles overlap: with the default shift they do not.

    Raises
    ------
    NoFiniteReachError
        If it is more than rounding.
    """
    shift, half, scale = shift or receptive.stride, receptive.margin // 2, receptive.scale
    core = receptive.largest_core or round_up(32, shift)
    side, more = core + 2 * half, 0 if receptive.largest_core else shift
    image = noise(channels, side + 2 * shift, side + 2 * shift)
    extreme = image * np.float32(1000)  # but for the first tile
    extreme[:, shift : shift + side, shift : shift + side] = image[:, shift : shift + side, shift : shift + side]
    shared = core if more else core - shift  # px of all cores, from the origin of the first one on
    if shared <= 0:
        return 0.0

    def values(source: Floats, y: int, x: int, side: int) -> Floats:
        """The shared px, computed from the tile of ``source`` at (``y``, ``x``)."""
        rows, columns = (
            slice((shift - start + receptive.crop) // scale, (shift - start + receptive.crop + shared) // scale)
            for start in (y, x)
        )
        return compute(source[None, :, y : y + side, x : x + side])[0, :, rows, columns]

    first = values(image, shift, shift, side)
    others = [values(extreme, 0, 0, side + 2 * more), values(image, shift, 0, side + more)]
    worst = max(difference(first, other) for other in others)
    if worst > ROUNDING:
        raise NoFiniteReachError(
            f"tiles of the network disagree: the same {shared} px square, computed from tiles of other sides or "
            f"origins, differ by {worst:.1g} of the largest value; the network does not commute with shifts of {shift} "
            "px (as with align_corners=True, or statistics over the image)"
        )
    return worst


def first_true(values: npt.NDArray[np.bool_]) -> int:
    """The index of the first true value of ``values``, (y,), bool; their number if none is."""
    return int(values.argmax()) if values.any() else len(values)


def difference(a: Floats, b: Floats) -> float:
    """The largest difference of two outputs, (..., y, x), float32, relative to the largest value; infinite with NaN."""
    most, largest = float(np.abs(a - b).max()), float(max(np.abs(a).max(), np.abs(b).max()))
    return 0.0 if most == 0 else most / largest if most < np.inf else np.inf
