from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from click.testing import CliRunner

from tests.slides.made import APERIO, picture, pyramid
from wsipipe.cli.info import info as command


def info(*arguments: str | Path) -> tuple[int, str]:
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    return result.exit_code, result.stdout


def test_info_says_which_reader_and_why(tmp_path: Path) -> None:
    pyramid(tmp_path / "case-17.svs", picture((256, 256, 3)), description=APERIO.format(w=256, h=256))
    code, said = info(tmp_path / "case-17.svs")
    assert code == 0
    assert "aperio, read by tiff (it begins as TIFF does); micrometres per pixel: 0.499" in said


def test_pixels_are_compared_between_all_readers_that_open_a_slide(tmp_path: Path) -> None:
    pytest.importorskip("openslide")
    pyramid(tmp_path / "case-17.svs", picture((256, 256, 3)), description=APERIO.format(w=256, h=256))
    assert "pixels: tiff and openslide: level 0 at most 0.0, level 1 at most 0.0, level 2 at most 0.0" in info(
        tmp_path / "case-17.svs", "--pixels"
    )[1].replace("\n", " ")
    pyramid(tmp_path / "float.tif", np.ones((256, 256), np.float32))
    code, said = info(tmp_path / "float.tif", "--pixels", "--json")
    (row,) = json.loads(said)
    assert code == 1
    assert "SampleFormat" in row["error"]
    assert row["pixels"][0].startswith("tiff refuses it: float.tif has SampleFormat 3")


def test_planes_are_chosen_and_listed(tmp_path: Path) -> None:
    path = tmp_path / "a.ome.tif"
    pixels = np.stack([picture((64, 80), seed=i) for i in range(6)]).reshape(2, 3, 64, 80)
    metadata = {"axes": "ZCYX", "Channel": {"Name": ["DAPI", "CD3", "CD8"]}}
    tifffile.imwrite(path, pixels, metadata=metadata, photometric="minisblack")
    code, said = info(path)
    assert code == 1
    assert "error: a.ome.tif holds 2 focal planes (0 to 1); choose with --z N" in said
    code, said = info(path, "--z", "1", "--channels", "CD8,DAPI")
    assert code == 0
    assert "channels: DAPI, CD3, CD8" in said
    assert "read: --channels 2,0 --z 1" in said
    assert "2 x uint8" in said
