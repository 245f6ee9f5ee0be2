"""A shard that wsipipe writes can be read by zarr, and holds as many bytes as zarr would have written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import zarr
from zarr.codecs import ZstdCodec

from wsipipe.errors import OutputError
from wsipipe.geometry.grid import Box
from wsipipe.store.shards import ZSTD_LEVEL, read_box, write_shard

SHAPES = [
    ((64, 64), (16, 16), (32, 32)),
    ((65, 31), (16, 16), (32, 32)),
    ((1, 1), (16, 16), (16, 16)),
    ((40, 100), (8, 8), (64, 64)),
    ((3, 50, 45), (1, 8, 8), (3, 32, 32)),
]


def array_at(path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], shards: tuple[int, ...]) -> zarr.Array:
    array = zarr.create_array(
        path,
        shape=shape,
        chunks=chunks,
        shards=shards,
        dtype="uint8",
        fill_value=0,
        compressors=ZstdCodec(level=ZSTD_LEVEL, checksum=True),
    )
    return array.with_config({"write_empty_chunks": True})


@pytest.mark.parametrize(("shape", "chunks", "shards"), SHAPES, ids=str)
@pytest.mark.parametrize("empty", [False, True])
def test_zarr_reads_what_is_written_and_would_have_written_as_much(
    tmp_path: Path, shape: tuple[int, ...], chunks: tuple[int, ...], shards: tuple[int, ...], empty: bool
) -> None:
    pixels = np.random.default_rng(0).integers(0, 1 if empty else 4, shape, np.uint8)
    ours, theirs = (array_at(tmp_path / name, shape, chunks, shards) for name in ("ours", "theirs"))
    theirs[:] = pixels
    for index in np.ndindex(*(-(-size // shard) for size, shard in zip(shape, shards, strict=True))):
        here = tuple(slice(i * shard, (i + 1) * shard) for i, shard in zip(index, shards, strict=True))
        name = "/".join(["c", *map(str, index)])
        path = tmp_path / "ours" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_shard(path, pixels[here], chunks, shards, way_out="")
        assert path.stat().st_size == (tmp_path / "theirs" / name).stat().st_size
    np.testing.assert_array_equal(ours[:], pixels)
    assert not list(tmp_path.rglob("*.partial"))


@pytest.mark.parametrize("box", [Box(0, 70, 0, 90), Box(32, 64, 64, 90), Box(5, 6, 7, 8), Box(30, 69, 31, 65)], ids=str)
@pytest.mark.parametrize("empty", [False, True])
def test_a_box_is_read_as_zarr_reads_it(tmp_path: Path, box: Box, empty: bool) -> None:
    array = array_at(tmp_path, (70, 90), (16, 16), (32, 32)).with_config({"write_empty_chunks": empty})
    array[:] = np.random.default_rng(0).integers(0, 4, array.shape, np.uint8)
    array[16:32, 0:48] = 0  # chunks that are not written, unless empty ones are
    found = read_box(tmp_path, box, chunk_px=16, shard_px=32)
    np.testing.assert_array_equal(found, array[box.slices])


def test_a_shard_that_is_cut_damaged_or_missing_is_never_read_as_labels(tmp_path: Path) -> None:
    array_at(tmp_path, (32, 32), (16, 16), (32, 32))[:] = 1
    shard = tmp_path / "c" / "0" / "0"
    sound = shard.read_bytes()
    for damaged in (sound[:-1], b"", sound[:10] + bytes([sound[10] ^ 1]) + sound[11:], sound[:-9] + b"\1" + sound[-8:]):
        shard.write_bytes(damaged)
        with pytest.raises((ValueError, RuntimeError)):
            read_box(tmp_path, Box(0, 32, 0, 32), chunk_px=16, shard_px=32)
    shard.unlink()
    with pytest.raises(FileNotFoundError):
        read_box(tmp_path, Box(0, 32, 0, 32), chunk_px=16, shard_px=32)


def test_a_view_that_is_not_contiguous_is_written_as_it_looks(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 4, (60, 60), np.uint8).T[::2, 1::2]
    array = array_at(tmp_path / "a", (30, 30), (16, 16), (32, 32))
    (tmp_path / "a" / "c" / "0").mkdir(parents=True)
    write_shard(tmp_path / "a" / "c" / "0" / "0", pixels, (16, 16), (32, 32), way_out="")
    np.testing.assert_array_equal(array[:], pixels)


def test_a_disk_that_does_not_take_it_is_named_with_the_way_out(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()  # so that nothing can be renamed to it
    with pytest.raises(OutputError, match=r"0 cannot be written: .*; wait"):
        write_shard(tmp_path / "0", np.zeros((8, 8), np.uint8), (8, 8), (8, 8), way_out="wait")
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
