"""Data and settings that cannot be trained on: one line that says what, where and what to do, before the first step.

Nothing is written for them: neither a model nor the folder of the training.
"""

from __future__ import annotations

import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import tifffile
import torch

from tests.slides.made import pyramid
from tests.training.given import geojson, pair, pairs, pixels, plain, png, polygon, squares
from wsipipe.cli import main
from wsipipe.errors import LabelError, UsageError
from wsipipe.rasters.opened import RASTERS
from wsipipe.training import checkpoint, setup
from wsipipe.training.config import ClassConfig, TrainConfig, WeightConfig, load_config
from wsipipe.training.data_config import AnnotatedSlide, DataConfig
from wsipipe.training.train import train

SMALL = """
[network]
base_channels = 2
depth = 2
convs_per_level = 1
[patches]
core = 16
[loop]
steps = 1
workers = 0
threads = 1
"""
"""The end of a configuration: a network for images of a few pixels."""
NO_BORDERS = "[weights]\nw0 = 0\n"
FOLDER = "[data]\nfolder = 'set'\n"
SHAPE = (40, 48)
IMAGE, LABELS = pixels((*SHAPE, 3)), squares(SHAPE)


class Refusal(NamedTuple):
    """The outcome of a command."""

    code: int
    line: str


Refused = Callable[..., Refusal]


@pytest.fixture
def refused(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Refused]:
    """Run ``wsipipe train`` on a configuration within this process; it must say one line and leave nothing behind."""
    on_term, threads = signal.getsignal(signal.SIGTERM), torch.get_num_threads()

    def call(text: str, *options: object, out: str = "out/m.safetensors", source: Path | None = None) -> Refusal:
        RASTERS.clear()
        config = tmp_path / "c.toml"
        config.write_text(text)
        before = sorted(tmp_path.rglob("*"))
        given = [source or config, "-o", tmp_path / out, "--device", "cpu", *options]
        monkeypatch.setattr(sys, "argv", ["wsipipe", "train", *map(str, given)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        stdout, stderr = capfd.readouterr()
        assert stdout == ""
        assert sorted(tmp_path.rglob("*")) == sorted(before)
        (line,) = stderr.splitlines()
        assert line.startswith("wsipipe: ")
        return Refusal(int(ended.value.code or 0), line.removeprefix("wsipipe: "))

    yield call
    signal.signal(signal.SIGTERM, on_term)
    torch.set_num_threads(threads)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of three good pairs."""
    return pairs(tmp_path / "set", "a", "b", "c")


def check(refusal: Refusal, code: int, message: str) -> None:
    """Assert the exit code, and that the line matches ``message``."""
    assert refusal.code == code, refusal.line
    assert re.search(message, refusal.line), refusal.line


# ---- the data ----


def test_good_data_is_taken(tmp_path: Path, data: Path) -> None:
    """So the tests below fail because of the fault that they make."""
    (tmp_path / "c.toml").write_text(FOLDER + NO_BORDERS + SMALL)
    found = setup.prepare_training(load_config(tmp_path / "c.toml"), tmp_path / "m.safetensors", [data.parent])
    assert [field.name for field in found.maker.fields] == ["a", "b"]


def test_folder_without_images_is_refused(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "set").mkdir()
    check(refused(FOLDER + SMALL + NO_BORDERS), 2, r"folder .*/set holds no training images; wsipipe looks for NAME_im")
    check(refused("", source=tmp_path / "set"), 2, r"folder .*/set holds no training images")
    (tmp_path / "set/a_image.webp").touch()
    check(refused("", source=tmp_path / "set"), 2, r"a_image.webp is in an unsupported format; convert it to PNG")
    (tmp_path / "set").rename(tmp_path / "other")
    check(refused(FOLDER + SMALL + NO_BORDERS), 2, r"folder .*/set cannot be listed: No such file or directory")


def test_image_without_labels_is_named(data: Path, refused: Refused) -> None:
    (data / "b_label.png").unlink()
    check(
        refused(FOLDER + SMALL + NO_BORDERS), 2, r"set/b_image.png has no partner of the same name \(1 of 3 have none"
    )
    (data / "a_image.png").unlink()
    check(
        refused(FOLDER + SMALL + NO_BORDERS), 2, r"set/a_label.png has no partner of the same name \(2 of 3 have none"
    )


WRONG_LABELS: dict[str, tuple[Any, str]] = {
    "another size": (
        squares((40, 47)),
        r"set/b_image.png is 48 wide x 40 high, its labels b_label.png are 47 wide x 40 high",
    ),
    "colours": (IMAGE, r"b_label.png has 3 channels; labels have one; save the labels as one channel of integers"),
    "classes": ((LABELS > 0).astype(np.uint8), r"b_label.png: its values 1 lie in 30 separate pieces.*--labels-are\)"),
}


@pytest.mark.parametrize("kind", WRONG_LABELS)
def test_wrong_labels_are_named(data: Path, refused: Refused, kind: str) -> None:
    labels, message = WRONG_LABELS[kind]
    png(data / "b_label.png", labels)
    check(refused(FOLDER + SMALL + NO_BORDERS), 1, message)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (LABELS.astype(np.float32), r"b_label.tif holds 32-bit float32 values; labels are integers"),
        (
            LABELS.astype(np.int32) - 1,
            r"b_label.tif holds the label -1 at .*; labels must be 0 \(nothing here\) or more",
        ),
        (
            LABELS.astype(np.uint32) + np.uint32(2**31),
            r"b_label.tif holds the label \d+ at .*; the largest allowed is 2147483647",
        ),
        (np.stack([LABELS] * 2), r"b_label.tif "),
    ],
)
def test_labels_of_other_numbers_are_named(data: Path, refused: Refused, labels: Any, message: str) -> None:
    (data / "b_label.png").unlink()
    tifffile.imwrite(data / "b_label.tif", labels, photometric="minisblack")
    check(refused(FOLDER + SMALL + NO_BORDERS), 1, message)


def test_damaged_files_are_named(data: Path, refused: Refused) -> None:
    whole = (data / "b_image.png").read_bytes()
    for content, message in (
        (whole[: len(whole) // 2], "b_image.png is a damaged PNG"),
        (b"", r"b_image.png is empty \(0 bytes\)"),
        (b"<html>", r"b_image.png begins with b'<html>'; images are read from PNG, JPEG"),
    ):
        (data / "b_image.png").write_bytes(content)
        check(refused(FOLDER + SMALL + NO_BORDERS), 1, message)


def test_one_class_alone_is_refused(data: Path, refused: Refused) -> None:
    for name in "abc":
        png(data / f"{name}_label.png", LABELS * 0)
    message = r"in the 2 images to train on \(a, b\) every labelled pixel is background; a network needs two classes"
    check(refused(FOLDER + SMALL + NO_BORDERS), 1, message)
    for name in "abc":
        png(data / f"{name}_label.png", np.ones(SHAPE, np.uint8))
    check(refused(FOLDER + SMALL + NO_BORDERS), 1, "every labelled pixel is object; a network needs two classes")


def test_class_that_does_not_occur_is_named(data: Path, refused: Refused) -> None:
    for name in "abc":
        png(data / f"{name}_label.png", np.minimum(LABELS, 1).astype(np.uint8))
    classes = "[[classes]]\nname = 'gland'\n[[classes]]\nname = 'fat'\n"
    check(
        refused(FOLDER + "labels_are = 'classes'\n" + classes + SMALL + NO_BORDERS),
        1,
        r"in the 2 images to train on \(a, b\) no pixel is fat; remove it from \[\[classes\]\], or check its value",
    )


def test_values_that_stand_for_no_class_are_named(data: Path, refused: Refused) -> None:
    png(data / "b_label.png", np.minimum(LABELS, 1).astype(np.uint8) * 255)
    png(data / "a_label.png", np.minimum(LABELS, 1).astype(np.uint8))
    check(
        refused(FOLDER + "labels_are = 'classes'\n" + SMALL + NO_BORDERS),
        1,
        r"b_label.png has pixels of value 255; the classes have 0, 1; add each to \[\[classes\]\] with its value, or",
    )


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (pixels(SHAPE), "b has 1 channel of uint8"),
        (pixels((*SHAPE, 3), "uint16"), "b has 3 channels of uint16"),
    ],
)
def test_mixed_images_are_named(data: Path, refused: Refused, image: Any, said: str) -> None:
    png(data / "b_image.png", image)
    check(
        refused(FOLDER + SMALL + NO_BORDERS),
        1,
        f"a has 3 channels of uint8, {said}; all images of a training must have",
    )


def test_image_that_is_partly_transparent_is_named(data: Path, refused: Refused) -> None:
    png(data / "b_image.png", pixels((*SHAPE, 4)))
    check(refused(FOLDER + SMALL + NO_BORDERS), 1, "b_image.png is partly transparent")


@pytest.mark.parametrize("kind", ["stain = 0.1", "restain = 0.1"])
def test_stains_of_grey_images_are_refused(tmp_path: Path, refused: Refused, kind: str) -> None:
    pair(tmp_path / "set", "a", pixels(SHAPE), LABELS)
    message = rf"a has 1 channel of uint8, but \[augmentation\] {kind.split()[0]} is for RGB images; set it to 0"
    check(refused(FOLDER + SMALL + NO_BORDERS + f"[augmentation]\n{kind}\n"), 2, message)


# ---- the settings ----


def test_core_that_does_not_fit_is_refused_with_one_that_does(data: Path, refused: Refused) -> None:
    assert data.exists()
    text = FOLDER + SMALL.replace("core = 16", "core = 64") + NO_BORDERS
    message = r"^a is 48 wide x 40 high, smaller than the patches' core of 64 px \(3 of 3 images are too small\); "
    check(refused(text), 2, message + r"\[patches\] core = 40 fits all, or small_images = 'mirror'$")
    check(refused("", source=data), 2, "core of 256 .* core = 32 fits all, or small_images = 'mirror'")
    check(refused(FOLDER + SMALL.replace("core = 16", "core = 18")), 2, r"core 18 px is not a multiple of 4.*16 and 20")


def test_borders_that_cannot_be_weighted_are_refused(data: Path, refused: Refused) -> None:
    assert data.exists()
    message = r"sigma_px 5 reaches 31 px beyond the target, where a patch has 11; at most 1 is possible, "
    message += r"or use a deeper \[network\]"
    check(refused(FOLDER + SMALL), 2, message)
    check(
        refused(FOLDER + "labels_are = 'classes'\n" + SMALL + "[weights]\nsigma_px = 1\n"),
        2,
        r"c.toml: training 'unnamed': \[weights\] w0 needs objects, and labels_are 'classes' has none; set w0 = 0",
    )


def test_resolution_that_is_not_known_is_asked_for(data: Path, refused: Refused) -> None:
    assert data.exists()
    check(
        refused("mpp = 0.5\n" + FOLDER + SMALL + NO_BORDERS), 1, "a_image.png has no micrometres per pixel; give them"
    )


def test_file_that_is_not_a_configuration_is_refused(tmp_path: Path, data: Path, refused: Refused) -> None:
    assert data.exists()
    check(refused("", source=tmp_path / "no.toml"), 2, r"no.toml cannot be read: No such file or directory")
    check(refused("[data"), 2, r"c.toml is not a TOML file: ")
    check(
        refused("[dta]\nfolder = 'x'"),
        2,
        r"c.toml: the configuration has no key dta; did you mean data\? Allowed: data, ",
    )
    check(refused("", source=data / "a_image.png"), 2, r"a_image.png is not a TOML file: ")


def test_options_that_exclude_each_other_are_refused(data: Path, refused: Refused) -> None:
    assert data.exists()
    good = FOLDER + SMALL + NO_BORDERS
    check(refused(good, "--steps", 5, "--minutes", 1), 2, "--steps and --minutes exclude each other")
    check(refused(good, "--steps", 0), 2, r"\[loop\] steps 0 is not a positive number")
    check(refused(good, "--minutes", "nan"), 2, r"\[loop\] minutes nan is not a positive number")
    check(refused(good, "--seed", -1), 2, r"\[loop\] seed -1 is not a number from 0 to below 2\*\*63")
    check(refused(good, "--labels-are", "cells"), 2, "--labels-are is 'cells'; allowed: 'instances', 'components', 'cl")
    check(refused(good + "select = 'f2'\n", "--steps", 1), 2, r"\[weights\] has no key select")
    check(
        refused(good.replace("steps = 1", "steps = 1\nselect = 'f2'")), 2, "unknown metric f2; choose from pixel_error"
    )


def test_device_that_is_not_there_is_refused(data: Path, refused: Refused) -> None:
    assert data.exists()
    good = FOLDER + SMALL + NO_BORDERS
    check(refused(good, "--device", "cuda:9"), 3, "--device cuda:9: there is no cuda")
    check(refused(good, "--device", "gpu"), 2, "'gpu' is not a device")


def test_batch_that_devices_cannot_share_is_refused(data: Path, refused: Refused) -> None:
    assert data.exists()
    text = FOLDER + SMALL + NO_BORDERS + "[optimizer]\nbatch = 3\n"
    check(
        refused(text, "--device", "cpu,cpu"),
        2,
        r"\[optimizer\] batch 3 cannot be shared equally by 2 devices; nearest: 2",
    )


# ---- the output ----


def test_what_is_in_the_way_is_refused_before_the_data_are_read(tmp_path: Path, refused: Refused) -> None:
    (tmp_path / "m.safetensors").write_bytes(b"mine")
    message = r"m.safetensors already exists; give another -o, or remove it"
    check(refused(FOLDER + SMALL + NO_BORDERS, out="m.safetensors"), 2, message)
    check(refused(FOLDER + SMALL + NO_BORDERS, out="."), 2, "already exists")
    assert (tmp_path / "m.safetensors").read_bytes() == b"mine"


def test_resuming_without_a_checkpoint_is_refused(data: Path, refused: Refused) -> None:
    assert data.exists()
    message = r"no checkpoint at .*checkpoint.safetensors; run without --resume to start from scratch"
    check(refused(FOLDER + SMALL + NO_BORDERS, "--resume"), 2, message)


def test_folder_that_cannot_be_made_is_named(tmp_path: Path, data: Path, refused: Refused) -> None:
    assert data.exists()
    (tmp_path / "file").touch()
    message = r"file/m.safetensors.training cannot be created: Not a directory; use another -o"
    check(refused(FOLDER + SMALL + NO_BORDERS, out="file/m.safetensors"), 3, message)


def test_disk_without_room_for_checkpoints_is_refused(
    data: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert data.exists()
    usage = shutil.disk_usage(data)._replace(free=1000)
    monkeypatch.setattr(checkpoint.shutil, "disk_usage", lambda _: usage)
    message = r"has 0 MB left, checkpoints need \d+ MB; make room, or use another -o"
    check(refused(FOLDER + SMALL + NO_BORDERS, out="m.safetensors"), 3, message)


# ---- slides ----


def slide_config(*slides: AnnotatedSlide, **options: Any) -> TrainConfig:
    """A configuration of annotated slides whose object is called a."""
    data = DataConfig(slides=slides, validation=0.0)
    return plain(data=data, classes=(ClassConfig("a"),), weights=WeightConfig(w0=0.0), **options)


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A slide, its annotations, and empty ones."""
    pyramid(tmp_path / "s.tif", pixels((100, 130, 3)))
    geojson(tmp_path / "s.geojson", polygon("a", 10, 60, 20, 90))
    geojson(tmp_path / "nothing.geojson", polygon("Region*", 0, 100, 0, 130))
    return tmp_path


def test_slide_to_validate_on_may_be_of_one_class(slide: Path) -> None:
    shutil.copy(slide / "s.tif", slide / "negative.tif")
    config = slide_config(
        AnnotatedSlide("s.tif", annotations="s.geojson", split="train"),
        AnnotatedSlide("negative.tif", annotations="nothing.geojson", split="validation"),
    )
    found = setup.prepare_training(config, slide / "m.safetensors", [slide])
    assert found.validation
    assert {view.field.name for view in found.validation} == {"negative"}
    truth = [view.field.truth.read(view.box) for view in found.validation]
    assert not any(one.classes.any() for one in truth)


def test_slide_on_which_nothing_can_be_validated_is_named(slide: Path) -> None:
    shutil.copy(slide / "s.tif", slide / "empty.tif")
    geojson(slide / "far.geojson", polygon("Region*", 0, 0.2, 0, 0.2))
    config = slide_config(
        AnnotatedSlide("s.tif", annotations="s.geojson", split="train"),
        AnnotatedSlide("empty.tif", annotations="far.geojson", split="test"),
    )
    with pytest.raises(LabelError, match=r"empty, of the split test, has no labelled pixels; remove it"):
        setup.prepare_training(config, slide / "m.safetensors", [slide])


@pytest.mark.parametrize(
    ("name", "features", "message"),
    [
        ("s", [polygon("b", 10, 60, 20, 90)], r"s.geojson has annotations of 'b' \(1 objects\); allowed: 'a', "),
        ("s", [], r"s.geojson holds no polygons"),
        ("s", [polygon("a", 1000, 1060, 20, 90)], r"s.geojson: 1 of 1 annotations are outside the slide"),
        ("t", [], r"s.geojson cannot be opened: No such file or directory"),
    ],
)
def test_annotations_that_do_not_fit_are_named(
    slide: Path, refused: Refused, name: str, features: list[Any], message: str
) -> None:
    (slide / "s.geojson").unlink()
    geojson(slide / f"{name}.geojson", *features)
    text = "[[data.slides]]\nimage = 's.tif'\nannotations = 's.geojson'\n[[classes]]\nname = 'a'\n"
    check(refused(text + SMALL + NO_BORDERS), 1, message)


def test_slide_that_is_not_there_is_named(slide: Path, refused: Refused) -> None:
    text = "[[data.slides]]\nimage = 't.tif'\nannotations = 's.geojson'\n"
    check(refused(text + SMALL + NO_BORDERS), 1, rf"t.tif cannot be opened: No such file or directory \({slide}/t.tif")


def test_library_says_the_same(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no training images"):
        train(TrainConfig(DataConfig("."), weights=WeightConfig(w0=0)), tmp_path / "m", roots=[tmp_path], device="cpu")
    assert list(tmp_path.iterdir()) == []
