"""Places of patches, against counting by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.given import MARGIN, field, pixels, plain
from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.annotations import Annotated
from wsipipe.training.augment import NO_AUGMENTATION
from wsipipe.training.fields import Field
from wsipipe.training.patches import PatchMaker
from wsipipe.training.sampling import Places, Survey, check_learnable, survey


@dataclass(frozen=True)
class PartlyKnown:
    """Labels that are known in a part of the image only."""

    classes: np.ndarray
    inside: np.ndarray

    def read(self, box: Box) -> Annotated:
        classes = self.classes[box.slices]
        return Annotated(classes, np.zeros(classes.shape, np.int32), self.inside[box.slices])


def known_field(classes: np.ndarray, inside: np.ndarray | None = None) -> Field:
    """A field of ``classes``, all known unless ``inside`` is given."""
    known = np.ones(classes.shape, bool) if inside is None else inside
    truth = PartlyKnown(classes.astype(np.uint8), known)
    return field(pixels((*classes.shape, 1)), np.zeros(classes.shape, int), truth=truth)


def random_fields(shapes: list[tuple[int, int]], seed: int) -> list[Field]:
    rng = np.random.default_rng(seed)
    return [known_field(rng.integers(0, 3, shape), rng.random(shape) < 0.3) for shape in shapes]


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), min_size=1, max_size=3),
    st.integers(1, 17),
    st.integers(0, 99),
)
def test_counts_are_those_of_counting_by_hand(shapes: list[tuple[int, int]], cell: int, seed: int) -> None:
    fields = random_fields(shapes, seed)
    found = survey(fields, 2, cell)
    expected = {}
    for number, one in enumerate(fields):
        truth = one.truth.read(Box(0, one.shape[0], 0, one.shape[1]))
        for y, x in np.argwhere(truth.inside):
            key = (number, y // cell * cell, x // cell * cell)
            expected.setdefault(key, Counter())[int(truth.classes[y, x])] += 1
    rows = zip(found.fields.tolist(), found.origins.tolist(), found.counts.tolist(), strict=True)
    assert {(n, *origin): {i: c for i, c in enumerate(counts) if c} for n, origin, counts in rows} == expected
    assert found.totals.sum() == sum(sum(counts.values()) for counts in expected.values())
    for number, origin, sides in zip(found.fields, found.origins, found.sides, strict=True):
        assert (sides == np.minimum(cell, fields[number].shape - origin)).all()


def drawn(places: Places, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Fields and centres (y, x) of many draws."""
    rng = np.random.default_rng(0)
    some = [places.draw(rng) for _ in range(count)]
    return np.array([p.field for p in some]), np.array([p.center for p in some])


def test_draws_go_to_cells_in_proportion_to_what_is_labelled() -> None:
    inside = np.zeros((64, 64), bool)
    inside[:16, :16], inside[16:24, 16:32], inside[40, 40] = True, True, True
    fields = [known_field(np.arange(64 * 64).reshape(64, 64) % 2, inside), known_field(np.indices((48, 32))[1] % 2)]
    places = Places(survey(fields, 1, 16), 0.0)
    numbers, centers = drawn(places)
    cells = Counter(zip(numbers.tolist(), *(centers // 16 * 16).astype(int).T.tolist(), strict=True))
    labelled = {(0, 0, 0): 256, (0, 16, 16): 128, (0, 32, 32): 1}
    labelled |= {(1, y, x): 256 for y in (0, 16, 32) for x in (0, 16)}
    assert set(cells) <= set(labelled)
    for cell, count in labelled.items():
        share = count / sum(labelled.values())
        assert cells[cell] == pytest.approx(4000 * share, abs=4 * (4000 * share) ** 0.5 + 1)


def test_draws_are_anywhere_within_a_cell() -> None:
    _, centers = drawn(Places(survey([known_field(np.indices((16, 9))[0] % 2)], 1, 16), 0.5))
    for axis, side in ((0, 16), (1, 9)):
        counts, _ = np.histogram(centers[:, axis], side, (0, side))
        assert counts.sum() == 4000
        assert (counts > 4000 / side * 0.7).all()


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_balance_draws_each_class_as_often(balance: float) -> None:
    classes = np.zeros((160, 160), int)
    classes[:, 80:] = 1
    classes[3:6, 3:6] = 3
    places = Places(survey([known_field(classes)], 3, 8), balance)
    _, centers = drawn(places)
    rare = ((centers // 8) == 0).all(1).mean()
    there = 3  # of background and three classes, one does not occur
    assert rare == pytest.approx(balance / there + (1 - balance) / 400, abs=0.03)


@pytest.mark.parametrize("core", [4, 16, 32])
def test_rare_class_occurs_in_its_share_of_the_patches(core: int) -> None:
    classes = np.zeros((300, 310), int)
    classes[150:, :] = 1
    classes[37, 201] = classes[299, 309] = 2
    one = known_field(classes)
    config = plain(patches={"core": core, "balance": 0.9})
    places = Places(survey([one], 2, core // 2), config.patches.balance)
    maker = PatchMaker(
        (one,), places, 0, core + MARGIN, MARGIN, NO_AUGMENTATION, config.weights, class_weights=np.ones(3)
    )
    share = np.mean([(maker.patch(k).target == 2).any() for k in range(200)])
    assert 0.3 - 0.1 < share < 0.3 + 0.1 + core * core / 90000 * 4


def test_draws_are_those_of_the_generator() -> None:
    places = Places(survey(random_fields([(40, 50), (30, 20)], 0), 2, 8), 0.5)
    first = [places.draw(np.random.default_rng([5, k])) for k in range(20)]
    assert first == [places.draw(np.random.default_rng([5, k])) for k in range(20)]
    assert len(set(first)) == 20


def checked(*planes: np.ndarray, names: tuple[str, ...] = ("gland", "fat")) -> Survey:
    fields = [known_field(plane) for plane in planes]
    found = survey(fields, len(names), 8)
    check_learnable(found, fields, names)
    return found


def test_all_classes_or_all_but_background_can_be_learnt() -> None:
    assert checked(np.full((9, 9), 1), np.full((9, 9), 2)).totals.tolist() == [0, 81, 81]
    assert checked(np.arange(81).reshape(9, 9) % 3).totals.all()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0], "every labelled pixel is background; a network needs two classes to tell apart"),
        ([2], "every labelled pixel is fat; a network needs two"),
        ([0, 1], r"no pixel is fat; remove it from \[\[classes\]\]"),
    ],
)
def test_labels_that_teach_nothing_are_refused(values: list[int], message: str) -> None:
    plane = np.resize(values, (9, 9))
    with pytest.raises(LabelError, match=rf"^in the 2 images to train on \(made, made\) {message}"):
        checked(plane, plane)


def test_nothing_labelled_is_refused() -> None:
    fields = [known_field(np.ones((9, 9)), np.zeros((9, 9), bool))] * 4
    with pytest.raises(
        LabelError, match=r"in the 4 images to train on \(made, made, made \.\.\.\) no pixel is labelled"
    ):
        check_learnable(survey(fields, 1, 4), fields, ["gland"])
