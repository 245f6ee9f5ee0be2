from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ome_zarr_models.v05.image import Image
from ome_zarr_models.v05.image_label import ImageLabel

from tests.store.test_pyramid import brute
from wsipipe.errors import DamagedStoreError, OutputError, StoreError
from wsipipe.geometry.grid import Grid
from wsipipe.geometry.network import UNetSizes
from wsipipe.store import content, lifecycle
from wsipipe.store.journal import read_journal
from wsipipe.store.record import read_record
from wsipipe.store.spec import REPLACED, Fingerprint, StoreSpec, coarse_chunks

CLASSES = (("background", 0, "#000000"), ("gland", 7, "#ff8000"), ("fat", 200, "#0080ff"))
LABELS = [0, 7, 200]
Index = tuple[int, int]

# (height, width), core, block: one block and many, sides that do and do not divide, 1, 2 and 3 levels a block.
# 513 is an odd block; 1040 is halved once, to 520, and once more, to 260.
SHAPES = [
    ((1, 1), 4, 16),
    ((1, 40), 4, 16),
    ((33, 50), 4, 16),
    ((700, 3), 4, 16),
    ((600, 1300), 513, 513),
    ((1100, 2500), 8, 1040),
    ((1030, 2047), 8, 1024),
    ((2048, 2049), 32, 2048),
]


def spec_of(tmp_path: Path, shape: Index, core: int = 4, block: int = 16, **changes: Any) -> StoreSpec:
    probabilities = changes.pop("probabilities", False)
    uncertainty = changes.pop("uncertainty", False)
    fingerprint = Fingerprint("a" * 64, "b" * 64, 0, changes.pop("mpp", 0.5), probabilities, uncertainty=uncertainty)
    receptive = UNetSizes(0, 1).receptive if core % 4 else UNetSizes(2, 1).receptive
    grid = Grid(shape, receptive, core, block)
    values = {
        "path": str(tmp_path / "case-17.zarr"),
        "slide": "/slides/case-17.svs",
        "fingerprint": fingerprint,
        "downsample": 1.0,
        "grid": grid,
        "classes": CLASSES,
        "model": "glands",
        "version": "0.1.0",
    }
    return StoreSpec(**(values | changes))


def labels_of(spec: StoreSpec, seed: int = 0) -> np.ndarray:
    """Random labels in patches of some pixels."""
    rng = np.random.default_rng(seed)
    height, width = spec.grid.shape
    coarse = rng.choice(np.array(LABELS, np.uint8), (height // 3 + 1, width // 3 + 1))
    return coarse.repeat(3, 0).repeat(3, 1)[:height, :width]


def probabilities_of(spec: StoreSpec) -> np.ndarray:
    return np.random.default_rng(5).integers(0, 256, (len(spec.classes), *spec.grid.shape), np.uint8)


def uncertainty_in(spec: StoreSpec, index: Index) -> np.ndarray | None:
    """Something for block ``index`` of a store that has the uncertainty."""
    seed, shape = 1000 * index[0] + index[1], spec.grid.block_box(index).shape
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8) if spec.fingerprint.uncertainty else None


def write_blocks(
    spec: StoreSpec, labels: np.ndarray, indices: list[Index], probabilities: np.ndarray | None = None
) -> None:
    for index in indices:
        here = spec.grid.block_box(index).slices
        shares = None if probabilities is None else probabilities[:, *here]
        content.write_block(spec, index, labels[here], shares, uncertainty_in(spec, index))


def write_coarse(spec: StoreSpec) -> None:
    for levels in spec.grid.coarse_passes():
        for index in coarse_chunks(spec, levels[-1]):
            content.write_coarse_chunks(spec, levels, index)


def make(spec: StoreSpec, *, seed: int = 0, probabilities: np.ndarray | None = None) -> np.ndarray:
    """Publish a store, its blocks written in random order. Returns its labels."""
    labels, indices = labels_of(spec, seed), list(spec.grid.indices())
    random.Random(seed).shuffle(indices)
    lifecycle.begin_store(spec)
    write_blocks(spec, labels, indices, probabilities)
    write_coarse(spec)
    lifecycle.publish(spec, {})
    return labels


def contents(folder: Path) -> dict[str, bytes]:
    """Every file under ``folder``, byte for byte."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("shape", "core", "block"), SHAPES)
def test_store_gives_back_what_was_written_and_its_pyramid(tmp_path: Path, shape: Index, core: int, block: int) -> None:
    spec = spec_of(tmp_path, shape, core, block)
    wanted = make(spec)
    group = zarr.open_group(spec.path, mode="r")
    for level, level_shape in enumerate(spec.grid.level_shapes):
        array = group[str(level)]
        assert array.shape == level_shape == wanted.shape
        assert array.dtype == np.uint8
        assert np.array_equal(array[:], wanted), level
        wanted = brute(wanted) if wanted.size < 20_000 else by_sorting(wanted)
    assert len(spec.grid.level_shapes) == sum(1 for _ in group.array_keys())
    assert max(spec.grid.level_shapes[-1]) <= spec.grid.chunk


def by_sorting(labels: np.ndarray) -> np.ndarray:
    """As `brute`, for planes too large for it: counts by comparing; argmax takes the first of equals."""
    padded = np.pad(labels, [(0, side % 2) for side in labels.shape], mode="edge")
    four = np.stack([padded[i::2, j::2] for i, j in product((0, 1), (0, 1))])
    counts = (four[:, None] == four[None]).sum(1)
    return np.take_along_axis(four, counts.argmax(0)[None], 0)[0]


def test_the_two_oracles_of_the_pyramid_agree() -> None:
    labels = np.random.default_rng(0).choice(np.array(LABELS, np.uint8), (41, 60))
    assert np.array_equal(by_sorting(labels), brute(labels))


def test_a_block_is_one_file_per_level_and_all_of_it_is_written(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (1030, 2047), 8, 1024)
    lifecycle.begin_store(spec)
    content.write_block(spec, (1, 0), np.zeros((6, 1024), np.uint8), None)
    written = sorted(str(p.relative_to(spec.partial)) for p in spec.partial.rglob("c/*/*"))
    assert written == ["0/c/1/0", "1/c/1/0"]
    assert all((spec.partial / name).stat().st_size < 1000 for name in written)


def test_level_0_is_the_last_that_a_block_writes(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (2000, 2000), 8, 1024, probabilities=True, uncertainty=True)
    lifecycle.begin_store(spec)
    for name in ("1", "probabilities/0", "uncertainty/0"):
        shutil.rmtree(spec.partial / name)
        (spec.partial / name).write_text("in the way")
        with pytest.raises(OutputError, match=r"cannot be (created|made|written)"):
            write_blocks(spec, labels_of(spec), [(0, 0)], probabilities_of(spec))
        assert not list((spec.partial / "0").rglob("c/*/*"))
        (spec.partial / name).unlink()
        lifecycle.begin_store(spec)


@pytest.mark.parametrize("probabilities", [False, True])
def test_the_same_spec_gives_the_same_bytes_in_any_order_of_writing(tmp_path: Path, probabilities: bool) -> None:
    found = []
    for name, seed in (("one", 0), ("other", 1)):
        spec = spec_of(tmp_path / name, (100, 90), probabilities=probabilities)
        spec = replace(spec, path=str(tmp_path / name / "x.zarr"))
        labels, indices = labels_of(spec), list(spec.grid.indices())
        random.Random(seed).shuffle(indices)
        lifecycle.begin_store(spec)
        write_blocks(spec, labels, indices, probabilities_of(spec) if probabilities else None)
        write_coarse(spec)
        lifecycle.publish(spec, {})
        found.append(contents(Path(spec.path)))
    assert found[0] == found[1]


def test_a_block_written_twice_is_the_block_written_once(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 40))
    labels = labels_of(spec)
    lifecycle.begin_store(spec)
    write_blocks(spec, labels, list(spec.grid.indices()))
    before = contents(spec.partial)
    write_blocks(spec, labels, [(1, 1), (0, 2)])
    lifecycle.begin_store(spec)
    assert contents(spec.partial) == before


@pytest.mark.parametrize("mpp", [0.25, None])
@pytest.mark.parametrize("shape", [(1, 1), (100, 90)])
def test_store_is_a_valid_ome_zarr_image_label(tmp_path: Path, shape: Index, mpp: float | None) -> None:
    spec = spec_of(tmp_path, shape, mpp=mpp, probabilities=True, uncertainty=True)
    make(spec, probabilities=probabilities_of(spec))
    group = zarr.open_group(spec.path, mode="r")
    label = ImageLabel.from_zarr(group).attributes.ome
    assert label.version == "0.5"
    assert label.image_label is not None
    (multiscale,) = label.multiscales
    assert [axis.name for axis in multiscale.axes] == ["y", "x"]
    assert [axis.unit for axis in multiscale.axes] == (["micrometer"] * 2 if mpp else [None] * 2)
    assert [dataset.path for dataset in multiscale.datasets] == [str(i) for i in range(len(spec.grid.level_shapes))]
    assert multiscale.name == "case-17"
    image = Image.from_zarr(group["probabilities"]).attributes.ome
    assert [axis.name for axis in image.multiscales[0].axes] == ["c", "y", "x"]
    assert image.multiscales[0].name == "case-17 probabilities"
    assert image.omero is not None
    assert image.omero["name"] == "case-17 probabilities"
    channels = [(one["label"], one["color"], one["active"]) for one in image.omero["channels"]]
    assert channels == [("background", "FFFFFF", False), ("gland", "FF8000", True), ("fat", "0080FF", True)]
    image = Image.from_zarr(group["uncertainty"]).attributes.ome
    assert [axis.name for axis in image.multiscales[0].axes] == ["y", "x"]
    assert image.multiscales[0].name == "case-17 uncertainty"
    assert image.multiscales[0].datasets[0] == multiscale.datasets[0]
    for name in (*group.array_keys(), "probabilities/0", "uncertainty/0"):
        array = group[name]
        assert array.metadata.dimension_names == ("c", "y", "x")[-array.ndim :]


def test_colours_and_names_are_those_of_the_classes_and_background_has_none(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    make(spec)
    label = ImageLabel.from_zarr(zarr.open_group(spec.path, mode="r")).attributes.ome.image_label
    assert label is not None
    assert label.colors is not None
    assert label.properties is not None
    assert {c.label_value: tuple(c.rgba) for c in label.colors} == {7: (255, 128, 0, 255), 200: (0, 128, 255, 255)}
    properties = json.loads((Path(spec.path) / "zarr.json").read_text())["attributes"]["ome"]["image-label"][
        "properties"
    ]
    assert properties == [{"label-value": 7, "class": "gland"}, {"label-value": 200, "class": "fat"}]


@pytest.mark.parametrize(("mpp", "downsample"), [(0.25, 1.0), (0.5, 2.0), (4.0, 16.0), (None, 1.0), (None, 4.0)])
def test_every_pixel_lies_where_the_pixels_it_stands_for_lie(
    tmp_path: Path, mpp: float | None, downsample: float
) -> None:
    spec = spec_of(tmp_path, (100, 90), mpp=mpp, downsample=downsample, probabilities=True)
    lifecycle.begin_store(spec)
    finest = (mpp or 1.0) / downsample  # what a pixel of the slide's finest level measures
    for group, name, ndim in (("", "", 2), ("probabilities", "probabilities/", 3)):
        ome = json.loads((spec.partial / group / "zarr.json").read_text())["attributes"]["ome"]
        datasets = ome["multiscales"][0]["datasets"]
        assert len(datasets) == (len(spec.grid.level_shapes) if ndim == 2 else 1), name
        for level, dataset in enumerate(datasets):
            scale, translation = dataset["coordinateTransformations"]
            assert [scale["type"], translation["type"]] == ["scale", "translation"]
            covers = int(downsample) << level  # pixels of the finest level, their centres at 0, 1, 2 ... times `finest`
            for pixel in (0, 3):
                centre = np.mean([(pixel * covers + i) * finest for i in range(covers)])
                assert scale["scale"][-1] * pixel + translation["translation"][-1] == pytest.approx(centre)
            assert scale["scale"][-2:] == [(mpp or 1.0) * 2**level] * 2
            if ndim == 3:
                assert (scale["scale"][0], translation["translation"][0]) == (1.0, 0.0)


def test_probabilities_and_uncertainty_are_given_back(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (50, 37), probabilities=True, uncertainty=True)
    wanted = probabilities_of(spec)
    make(spec, probabilities=wanted)
    group = zarr.open_group(spec.path, mode="r")["probabilities"]
    assert np.array_equal(group["0"][:], wanted)
    assert group.attrs["wsipipe"]["classes"] == ["background", "gland", "fat"]
    uncertainty = zarr.open_group(spec.path, mode="r")["uncertainty/0"]
    for index in spec.grid.indices():
        assert np.array_equal(uncertainty[spec.grid.block_box(index).slices], uncertainty_in(spec, index))


def test_a_new_store_has_everything_to_do_and_a_published_one_nothing(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 60), probabilities=True)
    everything = tuple(spec.grid.indices())
    assert tuple(read_journal(spec, spec.partial).blocks) == everything  # not even a folder
    lifecycle.begin_store(spec)
    journal = read_journal(spec, spec.partial)
    assert tuple(journal.blocks) == everything
    assert not journal.finished
    assert journal.coarse_missing > 0
    make(spec, probabilities=probabilities_of(spec))
    journal = read_journal(spec, Path(spec.path))
    assert journal.finished
    assert journal.damaged == ()


@pytest.mark.parametrize("shape", [(40, 60), (1, 1), (17, 16)])
def test_journal_misses_just_the_blocks_that_were_not_written(tmp_path: Path, shape: Index) -> None:
    spec = spec_of(tmp_path, shape)
    labels, indices = labels_of(spec), list(spec.grid.indices())
    random.Random(1).shuffle(indices)
    lifecycle.begin_store(spec)
    for count, index in enumerate(indices, 1):
        write_blocks(spec, labels, [index])
        journal = read_journal(spec, spec.partial)
        assert tuple(journal.blocks) == tuple(sorted(indices[count:]))
        assert journal.damaged == ()


def test_journal_finds_every_single_shard_that_is_gone_or_torn(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (1100, 1030), 8, 1024, probabilities=True, uncertainty=True)
    make(spec, probabilities=probabilities_of(spec))
    shards = [p for p in Path(spec.path).rglob("*") if p.is_file() and p.name != "zarr.json"]
    assert len(shards) == 4 * (spec.grid.block_levels + 2) + sum(
        len(list(coarse_chunks(spec, level))) for level in range(spec.grid.block_levels, len(spec.grid.level_shapes))
    )
    for shard in shards:
        whole = shard.read_bytes()
        torn = [b"", whole[:-1], whole[: len(whole) // 2], b"\0" * len(whole), whole + b"\0", whole[1:]]
        for bad in (*torn, None):
            if bad is None:
                shard.unlink()
            else:
                shard.write_bytes(bad)
            journal = read_journal(spec, Path(spec.path))
            assert not journal.finished, (shard, bad and len(bad))
            assert journal.damaged == (() if bad is None else (shard.relative_to(spec.path).as_posix(),))
            coarse = shard.parts[-4].isdigit() and int(shard.parts[-4]) >= spec.grid.block_levels
            assert tuple(journal.blocks) == (() if coarse else ((int(shard.parts[-2]), int(shard.parts[-1])),))
        shard.write_bytes(whole)
    assert read_journal(spec, Path(spec.path)).finished


def test_begin_store_removes_torn_files_and_damaged_shards_and_mends_the_metadata(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 40))
    lifecycle.begin_store(spec)
    fresh = contents(spec.partial)
    write_blocks(spec, labels_of(spec), [(0, 0)])
    (spec.partial / "0/zarr.json").write_bytes(b"{")
    (spec.partial / "1/zarr.json").unlink()
    (spec.partial / "zarr.json.77.partial").write_bytes(b"torn")
    (spec.partial / "0/c/0/1.0123abcd.partial").write_bytes(b"torn")
    lifecycle.begin_store(spec, [spec.partial / "0/c/0/0"])
    assert contents(spec.partial) == fresh


def test_record_says_what_the_store_is_made_from_and_whether_it_is_complete(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 40))
    assert read_record(spec.partial) is None
    lifecycle.begin_store(spec)
    record = read_record(spec.partial)
    assert record is not None
    assert (record.slide, record.fingerprint, record.block, record.complete) == (
        spec.slide,
        spec.fingerprint,
        16,
        False,
    )
    make(spec)
    final = read_record(spec.path)
    assert final == replace(record, complete=True)
    assert not spec.partial.exists()


def test_an_empty_folder_is_not_a_store_and_not_in_the_way(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    Path(spec.path).mkdir()
    assert read_record(spec.path) is None
    make(spec)
    assert read_record(spec.path) is not None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("file", "it is a file"),
        ("folder", "it is not a store that wsipipe made"),
        ("zarr", "it is a Zarr store, but wsipipe did not make it"),
        ("newer", "newer wsipipe"),
    ],
)
def test_what_wsipipe_did_not_make_is_in_the_way(tmp_path: Path, kind: str, words: str) -> None:
    path = tmp_path / "case-17.zarr"
    if kind == "file":
        path.write_bytes(b"mine")
    elif kind == "folder":
        (path / "holiday").mkdir(parents=True)
    elif kind == "zarr":
        zarr.create_group(path, attributes={"mine": 1})
    else:
        make(spec_of(tmp_path, (5, 5)))
        edit(path, lambda attributes: attributes.update(store_version=99))
    with pytest.raises(StoreError, match=words) as refused:
        read_record(path)
    assert str(path) in str(refused.value)
    assert not isinstance(refused.value, DamagedStoreError)


def edit(path: Path, change: Any) -> None:
    document = json.loads((path / "zarr.json").read_text())
    change(document["attributes"]["wsipipe"])
    (path / "zarr.json").write_text(json.dumps(document))


@pytest.mark.parametrize("document", [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"7", b'{"attributes": []}'])
def test_metadata_that_cannot_be_read_are_damage_and_not_a_guess(tmp_path: Path, document: bytes) -> None:
    spec = spec_of(tmp_path, (5, 5))
    make(spec)
    (Path(spec.path) / "zarr.json").write_bytes(document)
    with pytest.raises(DamagedStoreError, match=r"zarr\.json cannot be read .* --overwrite"):
        read_record(spec.path)


def test_metadata_cut_anywhere_are_damage(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (5, 5))
    make(spec)
    root = Path(spec.path) / "zarr.json"
    whole = root.read_bytes()
    for length in range(0, len(whole) - 1, 37):
        root.write_bytes(whole[:length])
        with pytest.raises(DamagedStoreError):
            read_record(spec.path)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a.update(fingerprint=[]),
        lambda a: a["fingerprint"].pop("slide"),
        lambda a: a["fingerprint"].update(colour=1),
        lambda a: a.update(store_version="one"),
    ],
)
def test_attributes_that_make_no_sense_are_damage(tmp_path: Path, change: Any) -> None:
    spec = spec_of(tmp_path, (5, 5))
    make(spec)
    edit(Path(spec.path), change)
    with pytest.raises(DamagedStoreError):
        read_record(spec.path)


def test_fingerprints_say_in_what_they_differ() -> None:
    one = Fingerprint("a", "b", 0, 0.5, False)
    assert one.differences(one) == []
    assert one.differences(Fingerprint("a", "c", 0, 0.25, False)) == ["model_sha256", "mpp"]
    assert one.differences(Fingerprint("x", "y", 1, None, True)) == [
        "slide",
        "model_sha256",
        "level",
        "mpp",
        "probabilities",
    ]


def test_publish_replaces_an_older_store_wholly(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 60))
    make(spec, seed=1)
    (Path(spec.path) / "debris").write_bytes(b"of the older store")
    labels = make(spec, seed=2)
    assert np.array_equal(zarr.open_array(f"{spec.path}/0", mode="r")[:], labels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["case-17.zarr"]
    assert not (Path(spec.path) / "debris").exists()


def test_the_older_store_is_there_and_whole_until_the_new_one_is_complete(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 60))
    make(spec, seed=1)
    older = contents(Path(spec.path))
    lifecycle.begin_store(spec)
    write_blocks(spec, labels_of(spec, 2), list(spec.grid.indices()))
    write_coarse(spec)
    assert contents(Path(spec.path)) == older


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_publish_killed_between_its_steps_ends_well_when_it_is_done_again(tmp_path: Path, steps: int) -> None:
    spec = spec_of(tmp_path, (40, 60))
    make(spec, seed=1)
    lifecycle.begin_store(spec)
    labels = labels_of(spec, 2)
    write_blocks(spec, labels, list(spec.grid.indices()))
    write_coarse(spec)
    final, replaced = Path(spec.path), Path(spec.path + REPLACED)
    lifecycle.write_documents(spec, {})  # the steps of publish, by hand
    if steps > 1:
        final.rename(replaced)
    if steps > 2:
        spec.partial.rename(final)
        assert read_journal(spec, final).finished
        assert read_record(final) == replace(read_record(replaced), complete=True)
        lifecycle.reopen(spec)
    assert read_journal(spec, spec.partial).finished
    lifecycle.begin_store(spec)
    lifecycle.publish(spec, {})
    assert np.array_equal(zarr.open_array(f"{spec.path}/0", mode="r")[:], labels)
    assert read_record(spec.path) is not None
    assert sorted(p.name for p in tmp_path.iterdir()) == ["case-17.zarr"]


def test_an_older_store_set_aside_by_a_killed_run_goes_with_the_next(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    make(spec, seed=1)
    Path(spec.path).rename(spec.path + REPLACED)
    make(spec, seed=2)
    make(spec, seed=3)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["case-17.zarr"]


def test_a_finished_store_that_lost_a_shard_is_mended_to_the_same_bytes(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 60))
    labels = make(spec)
    whole = contents(Path(spec.path))
    (Path(spec.path) / "0/c/1/2").unlink()
    journal = read_journal(spec, Path(spec.path))
    assert tuple(journal.blocks) == ((1, 2),)
    lifecycle.reopen(spec)
    lifecycle.begin_store(spec, journal.damaged)
    record = read_record(spec.partial)
    assert record is not None
    assert not record.complete
    write_blocks(spec, labels, list(journal.blocks))
    write_coarse(spec)
    lifecycle.publish(spec, {})
    assert contents(Path(spec.path)) == whole


def test_discard_removes_the_unfinished_store_and_only_that(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    make(spec)
    lifecycle.begin_store(spec)
    lifecycle.discard_partial(spec)
    lifecycle.discard_partial(spec)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["case-17.zarr"]


def test_a_disk_that_does_not_take_it_is_an_output_error_that_names_the_store(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    spec.partial.write_bytes(b"a file where the folder should be")
    with pytest.raises(
        OutputError, match=r"case-17\.zarr\.partial\S* cannot be (created|made|read|written): .*resumes"
    ):
        lifecycle.begin_store(spec)


def test_a_block_that_cannot_be_written_is_an_output_error_that_names_the_store(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (20, 20))
    lifecycle.begin_store(spec)
    (spec.partial / "0/c").write_bytes(b"a file where the folder should be")
    with pytest.raises(
        OutputError, match=r"case-17\.zarr\.partial\S* cannot be (created|made|read|written): .*resumes"
    ):
        write_blocks(spec, labels_of(spec), [(0, 0)])


def test_a_coarse_chunk_that_cannot_be_written_is_an_output_error_that_names_the_store(tmp_path: Path) -> None:
    spec = spec_of(tmp_path, (40, 40))
    lifecycle.begin_store(spec)
    write_blocks(spec, labels_of(spec), list(spec.grid.indices()))
    (spec.partial / "1/c").write_bytes(b"a file where the folder should be")
    with pytest.raises(
        OutputError, match=r"case-17\.zarr\.partial\S* cannot be (created|made|read|written): .*resumes"
    ):
        write_coarse(spec)


def test_a_block_is_not_written_to_a_store_that_is_gone_or_another_runs_by_now(tmp_path: Path) -> None:
    """As a runner finds it that was suspended and taken over."""
    spec = spec_of(tmp_path, (40, 60))
    other = replace(spec, fingerprint=replace(spec.fingerprint, model_sha256="another"))
    lifecycle.begin_store(other)
    before = contents(Path(str(other.partial)))
    with pytest.raises(StoreError, match="another run's by now"):
        write_blocks(spec, labels_of(spec), [(0, 0)])
    assert contents(Path(str(other.partial))) == before
    shutil.rmtree(str(other.partial))
    with pytest.raises(StoreError, match="is gone"):
        write_blocks(spec, labels_of(spec), [(0, 0)])
    with pytest.raises(OutputError, match="cannot be created"):
        lifecycle.publish(spec, {})
    assert list(tmp_path.iterdir()) == []
