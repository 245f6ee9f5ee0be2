"""Pictures and zipped OME-Zarr through a whole run."""

from __future__ import annotations

import json
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
import zarr

from tests.conftest import Call
from tests.slides.made import ome_zarr, picture, zipped
from wsipipe.pipeline.memory_need import decoded_bytes
from wsipipe.slides.open import open_slide


def test_labels_of_pictures_and_zips_are_those_of_a_tiff_of_the_same_pixels(
    call: Call, tmp_path: Path, tiny_model: Path
) -> None:
    image = picture((600, 150, 3))
    (tmp_path / "png.png").write_bytes(imagecodecs.png_encode(image))
    lossy = imagecodecs.jpeg8_encode(image)
    (tmp_path / "jpeg.jpg").write_bytes(lossy)
    for name, pixels in (("tiff.tif", image), ("lossy.tif", imagecodecs.jpeg8_decode(lossy))):
        tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", tile=(64, 64))
    ome_zarr(tmp_path / "whole.zarr", [image], "yxc", unit=None)
    zipped(tmp_path / "zip.ozx", tmp_path / "whole.zarr")
    files = [tmp_path / name for name in ("png.png", "jpeg.jpg", "zip.ozx", "tiff.tif", "lossy.tif")]
    options = ["-m", tiny_model, "-o", tmp_path / "out", "--mpp", "0.5", "--tissue", "off", "--block", "256"]
    assert call("run", *files, *options).code == 0
    labels = {file.stem: zarr.open_array(tmp_path / "out" / f"{file.stem}.zarr" / "0", mode="r")[:] for file in files}
    for name, same in (("png", "tiff"), ("zip", "tiff"), ("jpeg", "lossy")):
        np.testing.assert_array_equal(labels[name], labels[same])
    again = call("run", *files, *options, "--json")
    assert [slide["status"] for slide in json.loads(again.out)["slides"]] == ["skipped"] * 5
    assert decoded_bytes(open_slide(files[0]).levels[0]) == 3 * image.nbytes
    assert decoded_bytes(open_slide(files[3]).levels[0]) == 0


def test_preview_does_not_overwrite_the_picture_that_it_draws(call: Call, tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(picture((100, 90, 3))))
    before = path.read_bytes()
    ended = call("preview", path, "-m", tiny_model, "--mpp", "0.5", "-o", tmp_path / "." / "a.png")
    assert ended.code == 2
    assert "is the slide itself, which would be overwritten; name another picture" in ended.err
    assert path.read_bytes() == before
