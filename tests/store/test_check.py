"""Whatever is damaged in a finished store is found: by every byte that is flipped, cut off or missing."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.store.test_store import labels_of, make, probabilities_of, spec_of, write_blocks, write_coarse
from wsipipe.errors import StoreError
from wsipipe.store import content, lifecycle
from wsipipe.store.check import check_store, check_stores, stores_in
from wsipipe.store.spec import Fingerprint, StoreSpec


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> StoreSpec:
    """A finished store with probabilities and a tissue mask; blocks write levels 0 and 1, and 2 is made of them."""
    tissue = (600, 520)
    fingerprint = Fingerprint("a" * 64, "b" * 64, 0, 0.5, probabilities=True, tissue="auto", uncertainty=True)
    folder = tmp_path_factory.mktemp("made")
    spec = spec_of(folder, (2100, 2050), 8, 1024, fingerprint=fingerprint, tissue=tissue)
    lifecycle.begin_store(spec)
    content.write_tissue(spec, np.random.default_rng(0).random(tissue) < 0.5)
    write_blocks(spec, labels_of(spec), list(spec.grid.indices()), probabilities_of(spec))
    write_coarse(spec)
    lifecycle.publish(spec, {})
    return spec


@pytest.fixture
def spec(made: StoreSpec, tmp_path: Path) -> StoreSpec:
    """A copy of that store, to damage."""
    store = shutil.copytree(made.path, tmp_path / Path(made.path).name)
    return replace(made, path=str(store))


def shards_of(store: Path) -> list[Path]:
    return sorted(file for file in store.rglob("c/**/*") if file.is_file())


def flip(position: float) -> Callable[[Path], None]:
    def damage(shard: Path) -> None:
        data = bytearray(shard.read_bytes())
        data[int(position * (len(data) - 1))] ^= 64
        shard.write_bytes(bytes(data))

    damage.__name__ = f"flip_{position}"
    return damage


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-7])


def test_sound_store_is_sound_and_all_of_its_shards_are_read(spec: StoreSpec) -> None:
    found = check_store(Path(spec.path), 2)
    assert found.damages == ()
    assert found.shards == len(shards_of(Path(spec.path)))


@pytest.mark.parametrize("damage", [flip(0), flip(0.3), flip(1), cut, Path.unlink])
@pytest.mark.parametrize("array", ["0", "1", "2", "probabilities/0", "uncertainty/0", "tissue/0", "tissue/1"])
def test_every_damage_of_every_array_is_found(spec: StoreSpec, array: str, damage: Callable[[Path], None]) -> None:
    shard = shards_of(Path(spec.path) / array)[-1]
    damage(shard)
    (found,) = check_store(Path(spec.path), 2).damages
    assert found.startswith(f"{shard}: ")


@pytest.mark.parametrize("document", ["zarr.json", "0/zarr.json", "2/zarr.json", "probabilities/0/zarr.json"])
def test_damaged_metadata_are_found(spec: StoreSpec, document: str) -> None:
    path = Path(spec.path) / document
    path.write_bytes(path.read_bytes()[:50])
    assert check_store(Path(spec.path), 1).damages


def test_level_of_another_shape_is_found(spec: StoreSpec) -> None:
    path = Path(spec.path) / "0" / "zarr.json"
    path.write_text(path.read_text().replace("2050", "1026"))
    (found,) = check_store(Path(spec.path), 1).damages
    assert "which do not fit together" in found


def test_interrupted_check_goes_on_with_the_next_store_and_a_new_one_begins_again(tmp_path: Path) -> None:
    for name in "abc":
        make(spec_of(tmp_path, (33, 50), path=str(tmp_path / f"{name}.zarr")))
    stores, notes = stores_in(tmp_path), tmp_path / "notes" / "x.jsonl"
    flip(0)(tmp_path / "a.zarr" / "0" / "c" / "0" / "0")
    for _ in itertools.islice(check_stores(stores, 1, notes), 2):
        pass
    with notes.open("a") as file:
        file.write('{"key": "torn')
    flip(0)(tmp_path / "b.zarr" / "0" / "c" / "0" / "0")  # it was looked at, so this is not seen before the next check
    assert [bool(found.damages) for found in check_stores(stores, 1, notes)] == [True, False, False]
    assert not notes.exists()
    assert [bool(found.damages) for found in check_stores(stores, 1, notes)] == [True, True, False]


def test_what_is_neither_a_store_nor_has_some_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="neither a finished store nor a folder with some"):
        stores_in(tmp_path)


@pytest.mark.parametrize("array", ["0", "1", "probabilities/0"])
def test_damaged_chunk_of_an_unfinished_store_is_found_before_it_is_published(spec: StoreSpec, array: str) -> None:
    Path(spec.path).rename(spec.path + ".partial")
    partial = Path(spec.path + ".partial")
    shard = shards_of(partial / array)[0]
    flip(0.3)(shard)
    with pytest.raises(StoreError, match=r"was damaged .*; the same command rewrites that part"):
        content.count_labels(spec, (0, 0))
    assert not shard.exists()
    assert sum(content.count_labels(spec, (0, 1)).values()) == 1024**2
