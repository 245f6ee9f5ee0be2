"""Labels as OME-TIFF are those of the store, level by level, where others look for them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import openslide
import pytest
import tifffile

from tests.objects.stores import made_store
from wsipipe.errors import OutputError, SlideReadError, StoreError, UsageError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.labels import open_label_raster
from wsipipe.rasters.ome_tiff import export_ome_tiff
from wsipipe.store.finished import open_finished
from wsipipe.store.spec import shard_name

OME = {"": "http://www.openmicroscopy.org/Schemas/OME/2016-06"}


@pytest.mark.parametrize(("shape", "block"), [((150, 130), 48), ((150, 130), 44), ((1501, 1100), 1024)])
def test_every_level_is_read_back(tmp_path: Path, shape: tuple[int, int], block: int) -> None:
    spec, labels, _ = made_store(tmp_path, shape=shape, block=block)
    path, store = tmp_path / "one.ome.tif", open_finished(spec.path)
    assert export_ome_tiff(spec.path, path) == store.levels
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff
        assert tiff.is_ome
        assert len(tiff.pages) == len(tiff.series) == 1
        levels = tiff.series[0].levels
        assert np.array_equal(levels[0].asarray(), labels)
        assert [level.shape for level in levels] == store.shapes
        for number, level in enumerate(levels):
            assert np.array_equal(level.asarray(), store.labels(number)[:])
            page = level.pages[0].aspage()
            assert (page.is_tiled, page.dtype, page.compression.name) == (True, np.uint8, "ADOBE_DEFLATE")
            assert page.subfiletype == (1 if number else 0)
            assert not page.tilewidth % 16
            assert page.get_resolution("MICROMETER")[0] == pytest.approx(2 / 2**number)
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    pixels = root.find("./Image/Pixels", OME)
    assert pixels is not None
    assert {name: pixels.get(name) for name in ("PhysicalSizeX", "PhysicalSizeYUnit", "Type")} == {
        "PhysicalSizeX": "0.5",
        "PhysicalSizeYUnit": "µm",
        "Type": "uint8",
    }
    said = [
        {str(entry.get("K")): entry.text for entry in one.findall("./Value/M", OME)}
        for one in root.findall("./StructuredAnnotations/MapAnnotation", OME)
    ]
    assert said == [{"label": str(label), "class": name, "color": color} for name, label, color in store.classes]
    with openslide.OpenSlide(path) as slide:  # which knows no SubIFDs
        assert slide.dimensions == shape[::-1]
        assert np.array_equal(np.asarray(slide.read_region((0, 0), 0, slide.dimensions))[..., 0], labels)
    again = open_label_raster(path)
    assert again.mpp == 0.5
    assert np.array_equal(again.read(Box(0, shape[0], 0, shape[1])), labels)
    assert not list(tmp_path.glob("*.partial"))


def test_a_store_without_a_resolution_claims_none_and_no_name_breaks_the_xml(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, _, _ = made_store(tmp_path)
    unknown = replace(open_finished(spec.path), mpp=None, classes=(("a\x01<b & c", 7, ""),))
    monkeypatch.setattr("wsipipe.rasters.ome_tiff.open_complete", lambda _: unknown)
    export_ome_tiff(spec.path, tmp_path / "one.ome.tif")
    with tifffile.TiffFile(tmp_path / "one.ome.tif") as tiff:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
    (said,) = root.findall("./StructuredAnnotations/MapAnnotation/Value", OME)
    assert [(entry.get("K"), entry.text) for entry in said] == [("label", "7"), ("class", "a<b & c")]
    assert "PhysicalSizeX" not in root.find("./Image/Pixels", OME).attrib  # type: ignore[union-attr]


def test_what_is_not_whole_is_refused_and_overwrites_nothing(tmp_path: Path) -> None:
    spec, _, _ = made_store(tmp_path)
    path = tmp_path / "one.ome.tif"
    path.write_bytes(b"mine")
    shard = Path(spec.path) / shard_name("0", (1, 1))
    blob = shard.read_bytes()
    shard.write_bytes(blob[:4] + bytes([blob[4] ^ 255]) + blob[5:])
    with pytest.raises(SlideReadError, match=r"case-17\.zarr cannot be read at"):
        export_ome_tiff(spec.path, path)
    shard.unlink()
    with pytest.raises(SlideReadError, match="11 of 12 shards of level 0 are there; the same wsipipe run"):
        export_ome_tiff(spec.path, path)
    with pytest.raises(StoreError, match="is not a store"):
        export_ome_tiff(tmp_path, path)
    with pytest.raises(UsageError, match="copy the store first"):
        export_ome_tiff("s3://bucket/case-17.zarr", path)
    assert path.read_bytes() == b"mine"
    shard.write_bytes(blob)
    coarse = Path(spec.path) / shard_name("1", (0, 0))
    coarse.rename(tmp_path / "away")
    with pytest.raises(SlideReadError, match="shards of level 1 are there"):
        export_ome_tiff(spec.path, path)
    (tmp_path / "away").rename(coarse)
    with pytest.raises(OutputError, match="cannot be written"):
        export_ome_tiff(spec.path, tmp_path / "gone" / "one.ome.tif")
    assert not list(tmp_path.glob("*.partial"))
