"""Killed at any instant, damaged anywhere: the same command ends in the same bytes, or says why it does not."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from tests.faults import (
    Process,
    assert_same_bytes,
    files,
    finish,
    picture,
    processor_seconds,
    shards,
    start,
    wait_until,
    write_model,
    write_slide,
    wsipipe,
)
from tests.soak import each_value_once, rounds
from wsipipe import RunConfig, load_model, run
from wsipipe.pipeline.run_plan import plan_run
from wsipipe.pipeline.setup import resolve
from wsipipe.pipeline.summary import SlideOutcome


@dataclass(frozen=True)
class Case:
    """A slide, what to segment it with, and the store of an undisturbed run."""

    slide: Path
    config: RunConfig
    blocks: int

    @property
    def store(self) -> Path:
        """The undisturbed store."""
        return Path(self.config.out) / "slide.zarr"

    def command(self, out: Path) -> list[object]:
        """The arguments of `wsipipe` that make it again in ``out``."""
        given = [*("-m", self.config.model), *("--block", self.config.block), *("--device", "cpu"), *("-o", out)]
        flags = [f"--{name}" for name in ("probabilities", "uncertainty", "objects") if getattr(self.config, name)]
        return ["run", self.slide, *given, "--engine", "torch", *flags]

    def again(self, out: Path, **changes: object) -> SlideOutcome:
        """The outcome of the slide in ``out``, with ``changes`` of the configuration."""
        (outcome,) = run([str(self.slide)], replace(self.config, out=str(out), **changes)).slides  # type: ignore[arg-type]
        return outcome


def made(folder: Path, shape: tuple[int, int], blocks: int, **options: object) -> Case:
    """A case in ``folder``, segmented undisturbed."""
    model = write_model(folder / "small.safetensors")
    config = RunConfig(out=str(folder / "undisturbed"), model=str(model), device="cpu", engine="torch", **options)  # type: ignore[arg-type]
    case = Case(write_slide(folder / "slide.tif", picture(shape)), config, blocks)
    outcome = case.again(Path(config.out))
    assert (outcome.status, outcome.blocks_computed) == ("done", blocks), outcome.message
    assert len(outcome.labels) == 3, "every class is somewhere"
    return case


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """4 x 6 blocks of 128 px; blocks write level 0, and levels 1 and up are made at the end."""
    return made(tmp_path_factory.mktemp("many"), (500, 760), 24, block=128)


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """3 x 3 blocks of 516 px; blocks write levels 0 and 1, and levels 2 and 3 are made at the end."""
    return made(tmp_path_factory.mktemp("few"), (1060, 1100), 9, block=516)


@pytest.fixture(scope="module")
def with_probabilities(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """3 x 3 blocks of 256 px, with the probabilities of three classes and their uncertainty."""
    folder = tmp_path_factory.mktemp("probabilities")
    return made(folder, (520, 540), 9, block=256, probabilities=True, uncertainty=True)


@pytest.fixture(scope="module")
def with_objects(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """4 x 5 blocks of 64 px, and the table of their objects."""
    return made(tmp_path_factory.mktemp("objects"), (250, 310), 20, block=64, objects=True)


def unfinish(store: Path) -> Path:
    """Take a finished store back to what it was just before it was complete."""
    root = store / "zarr.json"
    text = root.read_text()
    assert text.count('"complete": true') == 1
    root.write_text(text.replace('"complete": true', '"complete": false'))
    return store.rename(store.with_name(store.name + ".partial"))


KINDS = ["finished", "unfinished"]


@pytest.fixture(params=KINDS)
def damaged_store(request: pytest.FixtureRequest, few: Case, tmp_path: Path) -> Path:
    """A copy of the store of ``few`` to damage, under its own name or as a run that was killed left it."""
    store = tmp_path / "out" / "slide.zarr"
    shutil.copytree(few.store, store)
    return store if request.param == "finished" else unfinish(store)


# --- killed ---------------------------------------------------------------------------------------------------


def blocks_to_do(log: Path) -> int | None:
    """Number of blocks that a run said it would compute, or None if it never got that far."""
    match = re.search(r"(\d+) of \d+ blocks to do", log.read_text())
    return int(match[1]) if match else None


def moment_of(kind: str, value: float, process: Process, store: Path) -> Callable[[], bool]:
    """Whether it has come: enough processor time, shards, or coarse shards made by ``process``, or the end."""
    begun = store.with_name(store.name + ".partial")
    had, coarse = len(shards(begun)), shards(begun, 1)
    if kind == "start":
        return lambda: processor_seconds(process) >= value
    if kind == "shards":
        return lambda: len(shards(begun)) >= max(value, had + 1)
    if kind == "coarse":  # the last levels take an instant, so a busy machine may meet the finished store instead
        return lambda: store.exists() or len(shards(begun, 1).items() - coarse.items()) >= value
    return lambda: store.exists() or is_marked_complete(begun)


def is_marked_complete(begun: Path) -> bool:
    """Whether the unfinished store is about to get its name."""
    try:
        return '"complete": true' in (begun / "zarr.json").read_text()
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize(("at_start", "at_blocks", "at_the_end"), rounds((1, 1, 1), (4, 12, 3)))
def test_killed_again_and_again_ends_in_the_same_bytes_and_computes_no_block_twice(
    many: Case, tmp_path: Path, at_start: int, at_blocks: int, at_the_end: int
) -> None:
    """Killed as it starts, once some blocks are done, while it makes the last levels, and as it names the store."""
    rng = np.random.default_rng(20)
    out, log = tmp_path / "out", tmp_path / "log"
    store, begun = out / "slide.zarr", out / "slide.zarr.partial"
    moments = [("shards", count) for count in sorted(rng.choice(np.arange(1, 17), at_blocks, replace=False))]
    for seconds in rng.uniform(0.02, 0.6, at_start):  # of processor time, once all is imported
        moments.insert(rng.integers(len(moments)), ("start", seconds))
    moments += [("coarse", count) for count in (1, int(rng.integers(2, 5)), 5)[:at_the_end]] + [("complete", 0)]
    assert len(moments) == at_start + at_blocks + at_the_end + 1

    kept: dict[str, tuple[int, int]] = {}
    for kind, value in moments:
        process = start(*many.command(out), log=log)
        came = wait_until(moment_of(kind, value, process, store), process, lambda: rng.uniform(0, 0.02))
        process.kill()
        finish(process)
        assert came, log.read_text()
        assert process.returncode == -signal.SIGKILL or store.exists()
        assert kind in ("coarse", "complete") or not store.exists(), "it has its name only once it is complete"

        said = blocks_to_do(log)
        assert said == many.blocks - len(kept) or (said is None and (kind == "start" or store.exists()))
        present = shards(store if store.exists() else begun)
        assert kept.items() <= present.items(), "what was there at an earlier kill was not written again"
        kept = present

    assert len(kept) == many.blocks
    last = many.again(out)
    assert (last.status in ("done", "skipped"), last.blocks_computed) == (True, 0), last.message
    assert shards(store) == kept
    assert sorted(path.name for path in out.iterdir()) == ["slide.zarr"]
    assert_same_bytes(store, many.store)


@pytest.mark.slow
def test_signals_end_a_run_with_130_and_the_same_command_resumes(many: Case, tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    begun = out / "slide.zarr.partial"
    # A shell that starts pytest in the background has SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            had = len(shards(begun))
            process = start(*many.command(out), log=log)
            assert wait_until(lambda had=had: len(shards(begun)) >= had + 5, process), log.read_text()
            process.send_signal(number)
            finish(process)
            assert process.returncode == 130
            said = log.read_text()
            assert said.endswith("wsipipe: interrupted; the same command resumes where it stopped\n")
            assert "Traceback" not in said
            assert blocks_to_do(log) == many.blocks - had
    finally:
        signal.signal(signal.SIGINT, before)
    had = len(shards(begun))
    assert 10 <= had < many.blocks
    outcome = many.again(out)
    assert (outcome.status, outcome.blocks_computed) == ("done", many.blocks - had)
    assert_same_bytes(out / "slide.zarr", many.store)


@pytest.mark.slow
@pytest.mark.soak  # others show it of labels
def test_run_with_probabilities_that_was_killed_ends_in_the_same_bytes(
    with_probabilities: Case, tmp_path: Path
) -> None:
    case, out, log = with_probabilities, tmp_path / "out", tmp_path / "log"
    begun = out / "slide.zarr.partial"
    process = start(*case.command(out), log=log)
    assert wait_until(lambda: len(shards(begun)) >= 2, process), log.read_text()
    process.kill()
    finish(process)
    assert process.returncode == -signal.SIGKILL
    had = shards(begun)
    outcome = case.again(out)
    assert (outcome.status, outcome.blocks_computed) == ("done", case.blocks - len(had))
    assert had.items() <= shards(out / "slide.zarr").items()
    assert_same_bytes(out / "slide.zarr", case.store)


@pytest.mark.slow
@pytest.mark.parametrize("kills", rounds(2, 12))
def test_run_with_objects_that_was_killed_again_and_again_ends_in_the_same_bytes(
    with_objects: Case, tmp_path: Path, kills: int
) -> None:
    """Killed once some blocks are done, and in the end while it writes the table."""
    case, out, log = with_objects, tmp_path / "out", tmp_path / "log"
    begun = out / "slide.zarr.partial"

    def writes_table() -> bool:
        return bool([*begun.glob("objects/objects.parquet*")]) or (out / "slide.zarr").exists()

    for number in range(1, kills + 1):
        had = shards(begun)
        most = min(len(had) + case.blocks // kills, case.blocks)
        moment = writes_table if number == kills else lambda most=most: len(shards(begun)) >= most
        process = start(*case.command(out), log=log)
        assert wait_until(moment, process), log.read_text()
        process.kill()
        finish(process)
        assert had.items() <= shards(begun if begun.exists() else out / "slide.zarr").items()
    assert case.again(out).status in ("done", "skipped")
    assert_same_bytes(out / "slide.zarr", case.store)


@pytest.mark.slow
def test_probabilities_are_those_of_one_pass_over_the_whole_slide(with_probabilities: Case) -> None:
    case = with_probabilities
    model = load_model(str(case.config.model))
    image = picture((520, 540))  # a multiple of the pooling grid, so that only the margin is mirrored
    receptive = model.info.receptive
    half = receptive.margin // 2
    mirrored = np.pad(image, ((half, half), (half, half), (0, 0)), "symmetric")
    pixels = torch.from_numpy(mirrored).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        logits = model.network((pixels - model.spec.mean[0]) / model.spec.std[0])[0]
    logits = logits[:, receptive.crop : receptive.crop + 520, receptive.crop : receptive.crop + 540]
    wanted = (logits.softmax(0) * 255).round().to(torch.uint8).numpy()
    made = np.asarray(zarr.open_array(case.store / "probabilities/0", mode="r")[:])
    off = np.abs(made.astype(int) - wanted)  # where 255 p is halfway, the last bit of a float decides
    assert off.max() <= 1
    assert (off > 0).mean() < 5e-5
    labels = np.asarray(zarr.open_array(case.store / "0", mode="r")[:])
    np.testing.assert_array_equal(labels, logits.argmax(0).numpy())


def torn_root(begun: Path) -> None:
    shutil.rmtree(begun)
    begun.mkdir()
    (begun / "zarr.json.4711.partial").write_bytes(b'{"attri')


def made_and_empty(begun: Path) -> None:
    shutil.rmtree(begun)
    begun.mkdir()


def between_the_renames(begun: Path) -> None:
    final = begun.with_suffix("")
    final.rename(final.with_name(final.name + ".replaced"))


def old_one_not_yet_removed(begun: Path) -> None:
    final = begun.with_suffix("")
    final.rename(final.with_name(final.name + ".replaced"))
    begun.rename(final)


@pytest.mark.parametrize("instant", [torn_root, made_and_empty, between_the_renames, old_one_not_yet_removed])
def test_what_a_kill_at_a_rare_instant_leaves_is_mended_by_the_same_command(
    few: Case, tmp_path: Path, instant: Callable[[Path], None]
) -> None:
    """The instants are too short to be met by chance: the root's first rename, and the last two renames."""
    final, begun = tmp_path / "slide.zarr", tmp_path / "slide.zarr.partial"
    shutil.copytree(few.store, final)
    shutil.copytree(few.store, begun)
    instant(begun)
    outcome = few.again(tmp_path, overwrite=True)
    assert outcome.status == "done", outcome.message
    assert [path.name for path in tmp_path.iterdir()] == ["slide.zarr"]
    assert_same_bytes(final, few.store)


def test_first_run_killed_before_its_first_rename_is_resumed(few: Case, tmp_path: Path) -> None:
    (tmp_path / "slide.zarr.partial").mkdir()
    (tmp_path / "slide.zarr.partial" / "zarr.json.4711.partial").write_bytes(b'{"attri')
    outcome = few.again(tmp_path)
    assert outcome.status == "done", outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", few.store)


# --- damaged --------------------------------------------------------------------------------------------------


def truncate(path: Path, length: int) -> None:
    """Cut a file to ``length`` bytes, or for a negative one by that many."""
    os.truncate(path, length if length >= 0 else path.stat().st_size + length)


def flip(path: Path, offset: int, bit: int) -> None:
    """Flip one bit of a file."""
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)


def torn_files(store: Path) -> None:
    for name in ("0/c/1/.0123456789abcdef.partial", "1/c/2/.fedcba.partial", "3/.a.partial", "zarr.json.99.partial"):
        (store / name).write_bytes(b"torn")
    (store / "0/c/1/1").unlink()


MISSING = [
    pytest.param(torn_files, 1, id="torn temporary files"),
    pytest.param(lambda store: (store / "0/c/1/1").unlink(), 1, id="no shard of level 0"),
    pytest.param(lambda store: (store / "1/c/2/0").unlink(), 1, id="no shard of a level that blocks write"),
    pytest.param(lambda store: (store / "2/c/0/1").unlink(), 0, id="no shard of a level made at the end"),
    pytest.param(lambda store: (store / "3/c/0/0").unlink(), 0, id="no shard of the last level"),
    pytest.param(lambda store: shutil.rmtree(store / "1"), 9, id="no level 1"),
    pytest.param(lambda store: shutil.rmtree(store / "2"), 0, id="no level 2"),
]


@pytest.mark.parametrize(
    ("damage", "computed", "damaged_store"), each_value_once(MISSING, KINDS), indirect=["damaged_store"]
)
def test_what_is_missing_is_made_again(
    few: Case, damaged_store: Path, damage: Callable[[Path], None], computed: int
) -> None:
    damage(damaged_store)
    outcome = few.again(damaged_store.parent)
    assert (outcome.status, outcome.blocks_computed) == ("done", computed), outcome.message
    assert_same_bytes(damaged_store.with_name("slide.zarr"), few.store)


def grow(path: Path) -> None:
    """Put a byte before all others: the index is sound, and the chunks are not where it says."""
    path.write_bytes(b"\0" + path.read_bytes())


SHARD_DAMAGES: list[Callable[[Path], None]] = [
    *(partial(truncate, length=length) for length in (0, 1, 19, -1, -100)),
    *(partial(flip, offset=-from_the_end, bit=bit) for from_the_end, bit in ((20, 0), (12, 3), (5, 7), (1, 6))),
]
"""One for each of the 9 blocks. The index of one chunk is 16 bytes, and its checksum 4."""


@pytest.mark.parametrize(("level", "damaged_store"), each_value_once([0, 1], KINDS), indirect=["damaged_store"])
def test_damaged_shards_of_levels_that_blocks_write_are_made_again(few: Case, damaged_store: Path, level: int) -> None:
    damaged = sorted(damaged_store.glob(f"{level}/c/*/*"))
    for damage, shard in zip(SHARD_DAMAGES, damaged, strict=True):
        damage(shard)
    grow(damaged_store / f"{1 - level}/c/1/1")
    outcome = few.again(damaged_store.parent)
    assert (outcome.status, outcome.blocks_computed) == ("done", 9), outcome.message
    assert_same_bytes(damaged_store.with_name("slide.zarr"), few.store)


@pytest.mark.parametrize(
    ("damage", "damaged_store"), each_value_once([*SHARD_DAMAGES[::2], grow], KINDS), indirect=["damaged_store"]
)
def test_damaged_shards_of_levels_made_at_the_end_are_made_again(
    few: Case, damaged_store: Path, damage: Callable[[Path], None]
) -> None:
    for name in ("2/c/1/0", "3/c/0/0"):
        damage(damaged_store / name)
    outcome = few.again(damaged_store.parent)
    assert (outcome.status, outcome.blocks_computed) == ("done", 0), outcome.message
    assert_same_bytes(damaged_store.with_name("slide.zarr"), few.store)


DOCUMENTS: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: truncate(path, -40),
    "empty": lambda path: truncate(path, 0),
    "garbage": lambda path: path.write_bytes(np.random.default_rng(0).bytes(400)),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize(("level", "damage"), each_value_once(range(4), ["truncated", "empty", "garbage", "missing"]))
def test_damaged_metadata_of_a_level_of_a_finished_store_are_found(
    few: Case, tmp_path: Path, level: int, damage: str
) -> None:
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    DOCUMENTS.get(damage, Path.unlink)(tmp_path / f"slide.zarr/{level}/zarr.json")
    (plan,) = plan_run([str(few.slide)], resolve(replace(few.config, out=str(tmp_path)))).planned
    assert (plan.action, tuple(plan.blocks)) == ("resume", ())


def test_damaged_metadata_of_levels_are_mended(few: Case, damaged_store: Path) -> None:
    for level, damage in enumerate(DOCUMENTS.values()):
        damage(damaged_store / f"{level}/zarr.json")
    outcome = few.again(damaged_store.parent)
    assert (outcome.status, outcome.blocks_computed) == ("done", 0), outcome.message
    assert_same_bytes(damaged_store.with_name("slide.zarr"), few.store)


def test_damaged_metadata_of_the_store_are_refused_and_overwrite_mends_them(few: Case, damaged_store: Path) -> None:
    root = damaged_store / "zarr.json"
    sound = root.read_bytes()
    senseless = json.loads(sound)
    senseless["attributes"]["wsipipe"]["fingerprint"] = None
    contents = [b"null", b"[]", json.dumps(senseless).encode()]
    for damage in (*(partial(Path.write_bytes, data=content) for content in contents), *DOCUMENTS.values()):
        root.write_bytes(sound)
        damage(root)
        damaged = files(damaged_store)
        refused = few.again(damaged_store.parent)
        assert refused.status == "failed", damage
        assert str(root) in refused.message
        assert "--overwrite" in refused.message
        assert files(damaged_store) == damaged, "what is refused is not touched"
    assert few.again(damaged_store.parent, overwrite=True).status == "done"
    assert [path.name for path in damaged_store.parent.iterdir()] == ["slide.zarr"]
    assert_same_bytes(damaged_store.with_name("slide.zarr"), few.store)


@pytest.mark.slow
def test_refused_store_ends_in_exit_code_1(few: Case, tmp_path: Path) -> None:
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    truncate(tmp_path / "slide.zarr/zarr.json", 100)
    refused = wsipipe(*few.command(tmp_path))
    assert refused.returncode == 1
    assert f"FAILED: {tmp_path / 'slide.zarr/zarr.json'} cannot be read" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_labels_that_rotted_in_an_unfinished_store_are_not_taken_for_done(few: Case, tmp_path: Path) -> None:
    """A bit within a chunk is not in the index's checksum: it shows when the next level is made from it."""
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    begun = unfinish(tmp_path / "slide.zarr")
    flip(begun / "1/c/0/0", 100, 3)
    outcome = few.again(tmp_path)
    if outcome.status == "failed":
        assert not (tmp_path / "slide.zarr").exists()
        assert str(begun) in outcome.message
        assert "unexpected" not in outcome.message
        outcome = few.again(tmp_path, overwrite=True)
    assert outcome.status == "done", outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", few.store)


def test_something_else_in_the_way_is_refused_and_left_alone(few: Case, tmp_path: Path) -> None:
    def a_file(path: Path) -> None:
        path.write_text("mine")

    def a_folder(path: Path) -> None:
        path.mkdir()
        (path / "notes.txt").write_text("mine")

    def a_zarr(path: Path) -> None:
        zarr.create_group(path, attributes={"mine": True})

    for number, (name, make) in enumerate(
        (name, make) for name in ("slide.zarr", "slide.zarr.partial") for make in (a_file, a_folder, a_zarr)
    ):
        out = tmp_path / str(number)
        out.mkdir()
        make(out / name)
        before = files(out)
        for overwrite in (False, True):
            outcome = few.again(out, overwrite=overwrite)
            assert outcome.status == "failed", (name, make)
            assert f"{out / name} is in the way" in outcome.message
            assert files(out) == before


# --- other inputs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "damaged_store"),
    each_value_once(["weights", "mpp", "slide", "probabilities"], KINDS),
    indirect=["damaged_store"],
)
def test_store_of_something_else_is_refused_and_left_alone(damaged_store: Path, few: Case, change: str) -> None:
    out = damaged_store.parent
    before = files(damaged_store), shards(damaged_store)
    if change == "weights":
        other = write_model(out.parent / "other.safetensors", seed=1)
        message, outcome = r"other weights \(-m\)", few.again(out, model=str(other))
    elif change == "mpp":
        message, outcome = r"the level shrunk by 1 \(now 0\.98039\)", few.again(out, mpp=0.51)
    elif change == "probabilities":
        message, outcome = "no --probabilities", few.again(out, probabilities=True)
    else:
        content = few.slide.read_bytes()
        try:
            write_slide(few.slide, picture((1060, 1100), seed=1))
            message, outcome = "another slide file", few.again(out)
        finally:
            few.slide.write_bytes(content)
    assert outcome.status == "failed"
    assert re.search(rf"{re.escape(str(damaged_store))} was made with {message}; --overwrite", outcome.message)
    assert (files(damaged_store), shards(damaged_store)) == before
    assert [path.name for path in out.iterdir()] == [damaged_store.name]


@pytest.mark.parametrize("block", [128, 1032, None])
def test_unfinished_store_keeps_its_own_blocks(few: Case, tmp_path: Path, block: int | None) -> None:
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    begun = unfinish(tmp_path / "slide.zarr")
    for name in ("0/c/0/1", "0/c/2/2", "1/c/0/1"):
        (begun / name).unlink()
    shutil.rmtree(begun / "2/c")
    outcome = few.again(tmp_path, block=block)
    assert (outcome.status, outcome.blocks, outcome.blocks_computed) == ("done", 9, 2), outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", few.store)


def test_finished_store_is_skipped_whatever_the_block(few: Case, tmp_path: Path) -> None:
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    before = shards(tmp_path / "slide.zarr")
    for block in (128, 516, None):
        assert few.again(tmp_path, block=block).status == "skipped"
    assert shards(tmp_path / "slide.zarr") == before


def test_damaged_probabilities_are_made_again(with_probabilities: Case, tmp_path: Path) -> None:
    shutil.copytree(with_probabilities.store, tmp_path / "slide.zarr")
    (tmp_path / "slide.zarr/probabilities/0/c/0/0/0").unlink()
    truncate(tmp_path / "slide.zarr/probabilities/0/c/0/1/1", -1)
    flip(tmp_path / "slide.zarr/probabilities/0/c/0/2/2", -8, 0)
    (tmp_path / "slide.zarr/0/c/2/2").unlink()
    outcome = with_probabilities.again(tmp_path)
    assert (outcome.status, outcome.blocks_computed) == ("done", 3), outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", with_probabilities.store)


# --- overwrite ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_overwrite_replaces_the_old_store_only_once_the_new_one_is_complete(few: Case, tmp_path: Path) -> None:
    other = replace(few, config=replace(few.config, model=str(write_model(tmp_path / "other.safetensors", seed=1))))
    assert other.again(tmp_path / "undisturbed").status == "done"
    wanted = tmp_path / "undisturbed" / "slide.zarr"
    assert files(wanted)["0/c/0/0"] != files(few.store)["0/c/0/0"]

    out, log = tmp_path / "out", tmp_path / "log"
    store, begun = out / "slide.zarr", out / "slide.zarr.partial"
    shutil.copytree(few.store, store)
    process = start(*other.command(out), "--overwrite", log=log)
    assert wait_until(lambda: len(shards(begun)) >= 2, process), log.read_text()
    assert_same_bytes(store, few.store)  # while the new one is being made
    process.kill()
    finish(process)
    assert process.returncode == -signal.SIGKILL
    assert_same_bytes(store, few.store)
    had = shards(begun)

    assert few.again(out).status == "skipped"  # the old one is as good as ever
    outcome = other.again(out, overwrite=True)
    assert (outcome.status, outcome.blocks_computed) == ("done", few.blocks - len(had)), outcome.message
    assert had.items() <= shards(store).items()
    assert [path.name for path in out.iterdir()] == ["slide.zarr"]
    assert_same_bytes(store, wanted)


def test_overwrite_makes_a_finished_store_anew(few: Case, tmp_path: Path) -> None:
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    before = shards(tmp_path / "slide.zarr")
    outcome = few.again(tmp_path, overwrite=True)
    assert (outcome.status, outcome.blocks_computed) == ("done", few.blocks)
    assert not shards(tmp_path / "slide.zarr").items() & before.items()
    assert_same_bytes(tmp_path / "slide.zarr", few.store)


def test_overwrite_throws_away_what_was_begun_with_something_else(few: Case, tmp_path: Path) -> None:
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    unfinish(tmp_path / "slide.zarr")
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    other = str(write_model(tmp_path / "other.safetensors", seed=1))
    outcome = few.again(tmp_path, model=other, overwrite=True)
    assert (outcome.status, outcome.blocks_computed) == ("done", few.blocks), outcome.message
    outcome = few.again(tmp_path, overwrite=True)
    assert (outcome.status, outcome.blocks_computed) == ("done", few.blocks), outcome.message
    assert_same_bytes(tmp_path / "slide.zarr", few.store)


@pytest.mark.slow
@pytest.mark.soak  # others show what is left at rare instants
def test_overwrite_killed_while_it_throws_away_what_was_begun_is_resumed(few: Case, tmp_path: Path) -> None:
    shutil.copytree(few.store, tmp_path / "slide.zarr")
    begun = unfinish(tmp_path / "slide.zarr")
    for level in range(4):  # so many that the kill falls into their removal, wherever the root's turn is in it
        for i in range(5000):
            (begun / f"{level}/c/0/{i}.partial").touch()
    other = replace(few, config=replace(few.config, model=str(write_model(tmp_path / "other.safetensors", seed=1))))
    log = tmp_path / "log"
    process = start(*other.command(tmp_path), "--overwrite", log=log)
    count = count_files(begun)
    assert wait_until(lambda: count_files(begun) < 0.4 * count, process), log.read_text()
    process.kill()
    finish(process)
    assert process.returncode == -signal.SIGKILL
    outcome = other.again(tmp_path, overwrite=True)
    assert (outcome.status, outcome.blocks_computed) == ("done", few.blocks), outcome.message
    assert other.again(tmp_path / "undisturbed").status == "done"
    assert_same_bytes(tmp_path / "slide.zarr", tmp_path / "undisturbed" / "slide.zarr")


def count_files(folder: Path) -> int:
    """Number of files under ``folder`` while somebody removes them."""
    return sum(len(names) for _, _, names in os.walk(folder))
