from __future__ import annotations

import hashlib
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import ZipStore

from tests.real_data import case, needs_cases
from tests.servers import Web
from tests.slides.made import ome_zarr, picture, zipped
from wsipipe.errors import LabelError, PlaneError, SlideError, SlideFormatError, SlideReadError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.labels import open_label_raster
from wsipipe.slides.discover import expand
from wsipipe.slides.open import describe, open_slide
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.slides.planes import Planes
from wsipipe.slides.readers.omezarr import zipped as reader
from wsipipe.slides.readers.omezarr.attributes import MAX_METADATA_BYTES
from wsipipe.slides.slide import Level

IMAGE = picture((150, 130))


def whole(level: Level) -> np.ndarray:
    return read_box(level, Box(0, level.shape[0], 0, level.shape[1]))


def folder(path: Path, version: str = "0.5") -> Path:
    """An OME-Zarr of `IMAGE`."""
    return ome_zarr(path, [IMAGE, IMAGE[::2, ::2]], "yx", version)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("name", ["a.ozx", "a.ome.zarr.zip", "a.zip"])
def test_zipped_image_is_that_of_its_folder(tmp_path: Path, name: str, version: str, method: int) -> None:
    source = folder(tmp_path / "whatever.zarr", version)
    path = zipped(tmp_path / name, source, method, within="other.zarr/" if name == "a.zip" else "")
    slide, same = open_slide(path), open_slide(source)
    assert (slide.name, slide.path, slide.mpp, slide.warnings) == ("a", str(path), same.mpp, ())
    for level, other in zip(slide.levels, same.levels, strict=True):
        again = pickle.loads(pickle.dumps(level))
        np.testing.assert_array_equal(whole(again), whole(other))
    assert slide.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert describe(slide)["bytes"] == path.stat().st_size
    moved = path.rename(tmp_path / "b.ozx")
    assert open_slide(moved).identity == slide.identity


@needs_cases
def test_case_of_ozx_is_read() -> None:
    slide, same = open_slide(case("zipped.ozx")), open_slide(case("bf2raw-series-names.zarr/wsi"))
    assert (slide.levels[0].shape, slide.mpp) == ((128, 128), 0.499)
    np.testing.assert_array_equal(whole(slide.levels[0]), whole(same.levels[0]))


def by_zipstore(path: Path, attributes: dict[str, Any]) -> None:
    """Write a zip file of `IMAGE` in shards as zarr does, which writes its first document twice."""
    store = ZipStore(path, mode="w")
    group = zarr.create_group(store, attributes={"ome": {}})
    for name, image in (("0", IMAGE), ("1", IMAGE[::2, ::2])):
        group.create_array(name, shape=image.shape, chunks=(64, 64), dtype="uint8", shards=(128, 128))[:] = image
    group.attrs.update(attributes)
    store.close()


def test_what_zipstore_writes_twice_counts_as_written_last(tmp_path: Path) -> None:
    attributes = json.loads((folder(tmp_path / "b.zarr") / "zarr.json").read_text())["attributes"]
    with pytest.warns(UserWarning, match="Duplicate name"):
        by_zipstore(tmp_path / "a.zarr.zip", attributes)
    slide = open_slide(tmp_path / "a.zarr.zip")
    np.testing.assert_array_equal(whole(slide.levels[0])[..., 0], IMAGE)  # of shards, read in parts
    assert slide.levels[0].array.shards == (128, 128)


def test_images_in_one_zip_are_chosen_by_number(tmp_path: Path) -> None:
    source = tmp_path / "a.zarr"
    zarr.create_group(source, attributes={"ome": {}}).create_group("OME", attributes={"ome": {"series": ["x", "y"]}})
    for name, side in (("x", 64), ("y", 70)):
        ome_zarr(source / name, [picture((64, side))], "yx")
    path = zipped(tmp_path / "b.ozx", source)
    with pytest.raises(PlaneError, match=r"b.ozx holds 2 images \(0: x, 1: y\)"):
        open_slide(path)
    slide = open_slide(path, planes=Planes(series=1))
    assert (slide.name, slide.path, slide.levels[0].reading) == ("b-y", str(path), "--series 1")
    np.testing.assert_array_equal(whole(pickle.loads(pickle.dumps(slide.levels[0])))[..., 0], picture((64, 70)))
    assert open_slide(f"{path}#0").levels[0].shape == (64, 64)


def test_zip_on_a_web_server_is_read_by_ranges(tmp_path: Path) -> None:
    zipped(tmp_path / "a.ozx", folder(tmp_path / "a.zarr"))
    web = Web(tmp_path)
    with web.serve() as address:
        np.testing.assert_array_equal(whole(open_slide(f"{address}/a.ozx").levels[0])[..., 0], IMAGE)
    assert not web.whole


def test_zips_in_a_folder_are_slides_if_they_hold_an_image(tmp_path: Path) -> None:
    source = folder(tmp_path / "elsewhere" / "a.zarr")
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name in ("a.ozx", "b.zarr.zip", "c.zip"):
        zipped(inbox / name, source)
    zarr.open_group(source).attrs.update({"ome": {"image-label": {}}})
    for name in ("labels.ozx", "labels.zip"):
        zipped(inbox / name, source)
    (inbox / "broken.ozx").write_bytes(b"PK\3\4")
    (inbox / "broken.zip").write_bytes(b"PK\3\4")
    (inbox / "words.ozx").write_text("words")
    with zipfile.ZipFile(inbox / "report.zip", "w") as archive:
        archive.writestr("report.html", "")
    assert [path.name for path in expand([inbox])] == ["a.ozx", "b.zarr.zip", "broken.ozx", "c.zip", "words.ozx"]
    with pytest.raises(SlideReadError, match=r"^broken.ozx is not a whole zip file"):
        open_slide(inbox / "broken.ozx")
    with pytest.raises(SlideFormatError, match=r"^words.ozx is not a slide"):
        open_slide(inbox / "words.ozx")
    with pytest.raises(SlideFormatError, match=r"report.zip is a zip file without one OME-Zarr at its root; unzip it"):
        open_slide(inbox / "report.zip")
    with pytest.raises(LabelError, match=r"labels.zip is a zip file; labels are read from folders; unzip it"):
        open_label_raster(inbox / "labels.zip")


def rewritten(path: Path, source: Path, change: Callable[[str, bytes], tuple[str, bytes]], method: int) -> Path:
    """A zip of the folder ``source`` with what ``change`` makes of its files."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for file in sorted(each for each in source.rglob("*") if each.is_file()):
            archive.writestr(*change(file.relative_to(source).as_posix(), file.read_bytes()))
    return path


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, unpacked = folder(tmp_path / "a.zarr"), []
    read = reader.Archive.read
    monkeypatch.setattr(reader.Archive, "read", lambda *place: unpacked.append(read(*place)) or unpacked[-1])

    def bomb(at: str, size: int) -> Path:
        return rewritten(
            tmp_path / "a.ozx",
            source,
            lambda name, data: (name, bytes(size) if name == at else data),
            zipfile.ZIP_DEFLATED,
        )

    with pytest.raises(SlideReadError, match=r"a.ozx level 0 cannot be read .* c/0/1 has, or decodes to"):
        whole(open_slide(bomb("0/c/0/1", 2**22)).levels[0])
    for name in ("zarr.json", "0/zarr.json"):
        with pytest.raises(SlideFormatError, match=rf"zarr.json of .* has {2**24 + 1} bytes; .* {MAX_METADATA_BYTES}"):
            open_slide(bomb(name, 2**24 + 1))
    assert max(map(len, unpacked)) < 2**14


def test_names_that_lead_out_lead_nowhere(tmp_path: Path) -> None:
    source = folder(tmp_path / "a.zarr")
    outside = tmp_path / "outside"
    outside.write_bytes(b"1")

    def moved(name: str, data: bytes) -> tuple[str, bytes]:
        return (f"../{name}" if name.startswith("0/c") else f"/{name}" if name.startswith("1/c") else name), data

    with pytest.raises(SlideReadError, match=r"half-written: 0 has no chunks"):
        open_slide(rewritten(tmp_path / "b.ozx", source, moved, zipfile.ZIP_STORED))
    document = (source / "zarr.json").read_text().replace('"path": "0"', '"path": "../outside"')
    (source / "zarr.json").write_text(document)
    with pytest.raises(SlideFormatError, match=r"c.ozx: dataset '../outside' is outside its folder"):
        open_slide(zipped(tmp_path / "c.ozx", source))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.ozx", "c.ozx", "outside"]


def test_what_cannot_be_read_in_a_zip_says_to_unzip_it(tmp_path: Path) -> None:
    source = folder(tmp_path / "a.zarr")
    path = zipped(tmp_path / "a.ozx", source, zipfile.ZIP_LZMA)
    with pytest.raises(SlideReadError, match=r"encrypted, or compressed by another method than deflate; unzip it"):
        open_slide(path)
    with zipfile.ZipFile(zipped(path, source)) as archive:
        header = archive.getinfo("0/c/0/0").header_offset
        listed = path.read_bytes().rindex(b"0/c/0/0") - 46
    data = bytearray(path.read_bytes())
    data[header + 6] |= 1
    data[listed + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(SlideFormatError, match=r"^a.ozx: 0/c/0/0 is encrypted .*; unzip it, and give its folder"):
        open_slide(path)
    group = zarr.open_group(source)
    del group["0"]
    group.create_array("0", shape=IMAGE.shape, chunks=(64, 64), shards=(128, 128), dtype="uint8")[:] = IMAGE
    with pytest.raises(SlideFormatError, match=r"^a.ozx: its shards are compressed once more within the zip file"):
        open_slide(zipped(path, source, zipfile.ZIP_DEFLATED))


def test_list_of_entries_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zipped(tmp_path / "a.ozx", folder(tmp_path / "a.zarr"))
    monkeypatch.setattr(reader, "MAX_DIRECTORY_BYTES", 2**9)
    with pytest.raises(SlideFormatError, match=r"a.ozx has a list of entries of \d+ bytes; up to 512 are read; unzip"):
        open_slide(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_damaged_zip_is_never_pixels(tmp_path: Path, method: int) -> None:
    path = zipped(tmp_path / "a.ozx", folder(tmp_path / "a.zarr"), method)
    sound, random = path.read_bytes(), np.random.default_rng(0)
    refused = 0
    for number in range(30):
        at = int(random.integers(len(sound)))
        path.write_bytes(sound[:at] if number % 3 == 0 else sound[:at] + bytes([sound[at] ^ 85]) + sound[at + 1 :])
        try:
            slide = open_slide(path)
            if not slide.warnings:  # such as of chunks that have no file, as their name is another
                np.testing.assert_array_equal(whole(slide.levels[0])[..., 0], IMAGE)
        except SlideError as err:
            assert "a.ozx" in str(err)  # noqa: PT017
            refused += 1
    assert refused > 15
