"""The configuration: every key is read, every mistake is named by file, table and key."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from wsipipe.errors import UsageError
from wsipipe.model.model_file import save_untrained
from wsipipe.training.augment import Augmentation
from wsipipe.training.config import (
    ClassConfig,
    LoopConfig,
    LossConfig,
    NetworkConfig,
    OptimizerConfig,
    PatchConfig,
    TrainConfig,
    WeightConfig,
    config_of,
    load_config,
    parse_labels_are,
)
from wsipipe.training.data_config import AnnotatedSlide, DataConfig

WORKFLOWS = sorted(
    path for path in (Path(__file__).parents[2] / "workflows").rglob("*.toml") if path.name != "night.toml"
)

EVERY_KEY = """
name = "glands"
licence = "MIT"
mpp = 1
min_area_um2 = 8.5
[data]
labels_are = "classes"
mpp = 0.5
background = ["Ignore*"]
validation = ["a*", "b"]
test = 0.25
name = "clinic"
share = 2
licence = "CC-BY-4.0"
attribution = "the clinic"
[[data.slides]]
image = "a.svs"
annotations = "a.geojson"
mpp = 0.25
split = "test"
[[data.slides]]
image = "b.svs"
labels = "b.tif"
[[classes]]
name = "gland"
color = "#00ff7f"
value = 7
[[classes]]
name = "fat"
[network]
base_channels = 8
depth = 3
convs_per_level = 1
dropout = 0.25
sigmoid = false
pretrained = "base.safetensors"
[patches]
core = 64
balance = 0.25
small_images = "mirror"
[weights]
balance = false
w0 = 2
sigma_px = 1.5
ridge_px = 2.0
[loss]
steadiness = 0.5
[augmentation]
elastic_px = 1
elastic_grid = 4
flip = false
rotate = false
scale = 1.5
intensity = 0.2
noise = 0.01
blur_px = 0.25
stain = 0.125
restain = 0.5
hed = 0.1
restyle = 0.5
erythrocytes = 0.25
erythrocyte_px = 14
dull = 0.3
white_balance = 0.05
defocus_px = 3
jpeg = 40
[optimizer]
name = "sgd"
learning_rate = 0.5
momentum = 0.9
weight_decay = 0.25
warm_up = 7
clip = 2.0
batch = 4
average = 0.99
[loop]
steps = 10
minutes = 2.5
seed = 3
validate_every = 5
checkpoint_every = 6
select = "iou"
calibrate = true
workers = 2
threads = 1
precision = "bfloat16"
"""

READ = TrainConfig(
    name="glands",
    licence="MIT",
    mpp=1.0,
    min_area_um2=8.5,
    data=DataConfig(
        slides=(
            AnnotatedSlide("a.svs", annotations="a.geojson", mpp=0.25, split="test"),
            AnnotatedSlide("b.svs", labels="b.tif"),
        ),
        labels_are="classes",
        mpp=0.5,
        background=("Ignore*",),
        validation=("a*", "b"),
        test=0.25,
        name="clinic",
        share=2.0,
        licence="CC-BY-4.0",
        attribution="the clinic",
    ),
    classes=(ClassConfig("gland", "#00ff7f", 7), ClassConfig("fat")),
    network=NetworkConfig(8, 3, 1, 0.25, pretrained="base.safetensors"),
    patches=PatchConfig(64, 0.25, "mirror"),
    weights=WeightConfig(False, 2.0, 1.5, 2.0),
    loss=LossConfig(0.5),
    augmentation=Augmentation(
        1.0, 4, False, False, 1.5, 0.2, 0.01, 0.25, 0.125, 0.5, 0.1, 0.5, 0.25, 14.0, 0.3, 0.05, 3.0, 40
    ),
    optimizer=OptimizerConfig("sgd", 0.5, 0.9, 0.25, 7, 2.0, 4, 0.99),
    loop=LoopConfig(
        steps=10,
        minutes=2.5,
        seed=3,
        validate_every=5,
        checkpoint_every=6,
        select="iou",
        calibrate=True,
        workers=2,
        threads=1,
        precision="bfloat16",
    ),
)
OF_A_FOLDER = '[data]\nfolder = "f"\n'


def loaded(folder: Path, text: str) -> TrainConfig:
    path = folder / "c.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def refusal(folder: Path, text: str) -> str:
    """What `load_config` says, without the file, which it must name."""
    with pytest.raises(UsageError) as raised:
        loaded(folder, text)
    file, message = str(raised.value).split(": ", 1)
    assert file == str(folder / "c.toml")
    assert "\n" not in message
    return message


def test_every_key_is_read(tmp_path: Path) -> None:
    save_untrained(tmp_path / "base.safetensors", {"base_channels": 1, "depth": 1}, seed=0, mpp=None)
    assert loaded(tmp_path, EVERY_KEY) == READ
    assert type(READ.mpp) is float


def test_every_field_was_read_above() -> None:
    """A new key must be added to the text, except the other ways to name images, which exclude each other."""
    for table in (READ, READ.network, READ.patches, READ.weights, READ.augmentation, READ.optimizer, READ.loop):
        for key in dataclasses.fields(table):
            assert re.search(rf"^(\[+)?{key.name}\b", EVERY_KEY, re.MULTILINE), key.name
    named = {key.name for key in dataclasses.fields(DataConfig)} - {"slides"}
    assert named - set(re.findall(r"^(\w+) =", EVERY_KEY, re.MULTILINE)) == {"folder", "table", "object_um"}


@pytest.mark.parametrize("data", ['folder = "f"', 'table = "t.csv"', 'folder = "f"\nobject_um = 7'])
def test_data_is_a_folder_or_a_table(tmp_path: Path, data: str) -> None:
    config = loaded(tmp_path, f"mpp = 0.5\n[data]\n{data}\n")
    assert (config.data.folder, config.data.table) in (("f", None), (None, "t.csv"))
    assert config.data.object_um in (None, 7.0)


def test_everything_but_the_data_has_a_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, OF_A_FOLDER) == TrainConfig(DataConfig("f"))


def test_defaults_are_those_that_the_docstrings_name() -> None:
    config = TrainConfig(DataConfig("f"))
    assert config.colors == ("#56b4e9",)
    assert config.values == {0: 0, 1: 1}
    assert config.loop.workers is config.loop.threads is config.loop.minutes is None
    assert config.data.validation == 0.1
    assert config.data.test == 0.0
    paper = {"elastic_px": 10.0, "elastic_grid": 3}
    assert {name: getattr(config.augmentation, name) for name in paper} == paper
    assert (config.weights.w0, config.weights.sigma_px) == (10.0, 5.0)
    assert config.weights.ridge_px == 1.5
    assert config.patches.small_images == "refuse"
    assert config.augmentation.unfit(1, "uint16") == ""


def test_values_are_the_numbers_of_the_classes_unless_given() -> None:
    assert READ.values == {0: 0, 7: 1, 2: 2}
    assert READ.colors[0] == "#00ff7f"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow_loads_and_survives_json(path: Path) -> None:
    config = load_config(path)
    assert config.name != "unnamed"
    assert config_of(json.loads(json.dumps(config.as_json()))) == config


def test_settings_survive_json() -> None:
    assert config_of(json.loads(json.dumps(READ.as_json()))) == READ
    assert config_of(TrainConfig(DataConfig("f")).as_json()) == TrainConfig(DataConfig("f"))


@pytest.mark.parametrize("prefix", ["\ufeff", "# Größe\r\n"])
def test_file_as_editors_of_windows_write_it_is_read(tmp_path: Path, prefix: str) -> None:
    assert loaded(tmp_path, prefix + OF_A_FOLDER.replace("\n", "\r\n")).data.folder == "f"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            'nmae = "x"\n' + OF_A_FOLDER,
            "the configuration has no key nmae; did you mean name? Allowed: data, name, licence",
        ),
        (
            OF_A_FOLDER + "[patches]\nkore = 3",
            "[patches] has no key kore; did you mean core? Allowed: core, balance, small",
        ),
        (OF_A_FOLDER + "fodler = 3", "[data] has no key fodler; did you mean folder? Allowed: folder, table, slides"),
        (
            OF_A_FOLDER + "[[classes]]\ncolour = ''",
            "[[classes]] has no key colour; did you mean color? Allowed: name, color",
        ),
        (OF_A_FOLDER + "[[classes]]\ncolor = ''", "[[classes]] lacks name"),
        ("[[data.slides]]\nlabels = 'a'", "[[data.slides]] lacks image"),
        ("[[data.slides]]\nimage = 3", "[[data.slides]] image is 3; allowed: text"),
        ("name = 'x'", "the configuration lacks data"),
        ("data = 'f'", "data is 'f'; it must be a table, [data]"),
        (OF_A_FOLDER + "[[patches]]\ncore = 64", "patches is [{'core': 64}]; it must be a table, [patches]"),
        (OF_A_FOLDER + "[classes]\nname = 'x'", "classes is {'name': 'x'}; it must be a list of tables, [[classes]]"),
        ("[data.slides]\nimage = 'x'", "data.slides is {'image': 'x'}; it must be a list of tables, [[data.slides]]"),
        (OF_A_FOLDER + "[patches]\ncore = '256'", "[patches] core is '256'; allowed: a whole number"),
        (OF_A_FOLDER + "[patches]\ncore = 256.0", "[patches] core is 256.0; allowed: a whole number"),
        (OF_A_FOLDER + "[patches]\ncore = true", "[patches] core is True; allowed: a whole number"),
        (OF_A_FOLDER + "[weights]\nbalance = 1", "[weights] balance is 1; allowed: true or false"),
        (OF_A_FOLDER + "[weights]\nw0 = '1'", "[weights] w0 is '1'; allowed: a number"),
        ("mpp = '0.5'\n" + OF_A_FOLDER, "mpp is '0.5'; allowed: a number"),
        (OF_A_FOLDER + "[loop]\nminutes = 'x'", "[loop] minutes is 'x'; allowed: a number"),
        (OF_A_FOLDER + "validation = 'a*'", "[data] validation is 'a*'; allowed: a number or a list of text"),
        (OF_A_FOLDER + "test = [1]", "[data] test is 1; allowed: text"),
        (OF_A_FOLDER + "labels_are = 'x'", "[data] labels_are is 'x'; allowed: 'instances', 'components', 'classes'"),
        (OF_A_FOLDER + "[optimizer]\nname = 'adam'", "[optimizer] name is 'adam'; allowed: 'adamw', 'sgd'"),
        (OF_A_FOLDER + "[patches]\nsmall_images = []", "[patches] small_images is []; allowed: 'refuse', 'mirror'"),
    ],
)
def test_key_or_type_that_is_wrong_is_named_with_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(tmp_path, text).startswith(message)


SLIDE = "[[data.slides]]\nimage = 'a'\n"
CLASSES = "[[classes]]\nname = 'a'\n[[classes]]\nname = 'b'\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[data]", "[data] has no images; give one of folder, table and slides"),
        (OF_A_FOLDER + "table = 't'", "[data] has folder and table; give one of folder, table and slides"),
        (SLIDE, "[[data.slides]] a needs one of annotations and labels"),
        (SLIDE + "labels = 'l'\nannotations = 'l'", "[[data.slides]] a needs one of annotations and labels"),
        (
            SLIDE + "labels = 'l'\nsplit = 'val'",
            "[[data.slides]] a has the split 'val'; allowed: train, validation, te",
        ),
        (SLIDE + "labels = 'l'\nmpp = 0", "[[data.slides]] a: mpp 0.0 is not a positive number"),
        (OF_A_FOLDER + "validation = 1", "[data] validation 1.0 is not a number from 0 to below 1; a list of names is"),
        (OF_A_FOLDER + "test = nan", "[data] test nan is not a number from 0 to below 1"),
        ("classes = []\n" + OF_A_FOLDER, "[[classes]] has 0 entries, []; 1 to 255 with different names are allowed"),
        (OF_A_FOLDER + CLASSES.replace("b", "a"), "[[classes]] has 2 entries, ['a', 'a']; 1 to 255 with different"),
        (OF_A_FOLDER + CLASSES, "[data] labels_are 'instances' tells objects, not which of the 2 classes they are; gi"),
        (SLIDE + "labels = 'l'\n" + CLASSES, "[data] labels_are 'instances' tells objects, not which of the 2 class"),
        (OF_A_FOLDER + "[[classes]]\nname = 'a'\ncolor = 'red'", "[[classes]] has the color 'red'; allowed: '#rrggbb'"),
        (OF_A_FOLDER + "[[classes]]\nname = 'Background'", "[[classes]] has a background, which needs no entry"),
        (OF_A_FOLDER + "[[classes]]\nname = 'a'\nvalue = 255", "[[classes]] a has the value 255, but only rasters of"),
        (
            OF_A_FOLDER + "labels_are = 'classes'\n[[classes]]\nname = 'a'\nvalue = 0",
            "[[classes]] has the values {'a': 0}; from 1 to 2147483647 are allowed, 0 is background",
        ),
        (
            OF_A_FOLDER + "labels_are = 'classes'\n[[classes]]\nname = 'a'\n[[classes]]\nname = 'b'\nvalue = 1",
            "[[classes]] has two classes with the same value",
        ),
        (
            OF_A_FOLDER + "labels_are = 'classes'\n[network]\nsigmoid = true\n[weights]\nw0 = 0\n" + CLASSES,
            "[network] sigmoid is for one class; there are 2: a, b",
        ),
        ("mpp = 0\n" + OF_A_FOLDER, "mpp 0.0 is not a positive number"),
        ("mpp = nan\n" + OF_A_FOLDER, "mpp nan is not a positive number"),
        (OF_A_FOLDER + "mpp = -1", "[data] mpp -1.0 is not a positive number"),
        (OF_A_FOLDER + "object_um = 7", "[data] object_um scales the images to an mpp; give mpp"),
        (
            "mpp = 1\n" + OF_A_FOLDER + "object_um = 7\nmpp = 2",
            "[data] object_um is for images of unknown resolution; give one of",
        ),
        ("mpp = 1\n[data]\nobject_um = 7\n" + SLIDE + "labels = 'l'", "[data] object_um is for images of a folder or"),
        (
            OF_A_FOLDER + "background = ['x']",
            "[data] background ['x'] names annotations, but no slide has any; remove it",
        ),
        (OF_A_FOLDER + "[patches]\nbalance = 1.5", "[patches] balance 1.5 is not a number from 0 to 1"),
        (
            OF_A_FOLDER + "[patches]\ncore = 100",
            "tile core 100 px is not a multiple of 16, which is the stride of the network; near",
        ),
        (OF_A_FOLDER + "[patches]\ncore = 0", "tile core 0 px is not a multiple of 16"),
        (OF_A_FOLDER + "[network]\ndepth = 64", "[network] depth 64 is not a number from 0 to 10"),
        (OF_A_FOLDER + "[network]\nbase_channels = 0", "[network] base_channels 0 is not a number from 1 to 4096"),
        (OF_A_FOLDER + "[network]\nconvs_per_level = 0", "a U-Net of depth 4 with 0 convolutions per level does not"),
        (OF_A_FOLDER + "[weights]\nw0 = -1", "[weights] w0 -1.0 is not a number of 0 or more"),
        (
            OF_A_FOLDER + "[weights]\nridge_px = 1",
            "[weights] ridge_px 1 is not from 1.5 to below 95: a patch has 94 px of context",
        ),
        (
            OF_A_FOLDER + "[weights]\nridge_px = 95",
            "[weights] ridge_px 95 is not from 1.5 to below 95: a patch has 94 px",
        ),
        (
            OF_A_FOLDER + "[weights]\nsigma_px = 15\nridge_px = 5",
            "[weights] sigma_px 15 reaches 95 px beyond the target, where a patch has 94; at most 14 is possible, or",
        ),
        (OF_A_FOLDER + "[weights]\nsigma_px = 0", "[weights] sigma_px 0.0 is not a positive number"),
        (
            OF_A_FOLDER + "[weights]\nsigma_px = 16",
            "[weights] sigma_px 16 reaches 97 px beyond the target, where a patch has 94; at most 15 is possible, or",
        ),
        (
            OF_A_FOLDER + "labels_are = 'classes'",
            "[weights] w0 needs objects, and labels_are 'classes' has none; set w",
        ),
        (OF_A_FOLDER + "[optimizer]\nweight_decay = nan", "[optimizer] weight_decay nan is not a number of 0 or more"),
        (OF_A_FOLDER + "[network]\ndropout = 1", "[network] dropout 1.0 is not a number from 0 to below 1"),
        (OF_A_FOLDER + "[optimizer]\nmomentum = 1", "[optimizer] momentum 1.0 is not a number from 0 to below 1"),
        (OF_A_FOLDER + "[optimizer]\nwarm_up = -1", "[optimizer] warm_up -1 is not a number of 0 or more"),
        (OF_A_FOLDER + "[optimizer]\nbatch = 0", "[optimizer] batch 0 is not a positive number"),
        (OF_A_FOLDER + "[optimizer]\nlearning_rate = inf", "[optimizer] learning_rate inf is not a positive number"),
        (OF_A_FOLDER + "[optimizer]\nclip = 0", "[optimizer] clip 0.0 is not a positive number"),
        (OF_A_FOLDER + "[loop]\nsteps = 0", "[loop] steps 0 is not a positive number"),
        (OF_A_FOLDER + "[loop]\nminutes = 0", "[loop] minutes 0.0 is not a positive number"),
        (OF_A_FOLDER + "[loop]\nvalidate_every = 0", "[loop] validate_every 0 is not a positive number"),
        (OF_A_FOLDER + "[loop]\ncheckpoint_every = 0", "[loop] checkpoint_every 0 is not a positive number"),
        (OF_A_FOLDER + "[loop]\nseed = -1", "[loop] seed -1 is not a number from 0 to below 2**63"),
        (OF_A_FOLDER + f"[loop]\nseed = {2**64}", f"[loop] seed {2**64} is not a number from 0 to below 2**63"),
        (OF_A_FOLDER + "[loop]\nworkers = -1", "[loop] workers -1 is not a number of 0 or more"),
        (OF_A_FOLDER + "[loop]\nthreads = 0", "[loop] threads 0 is not a positive number"),
        (
            OF_A_FOLDER + "[augmentation]\nscale = 0.8",
            "[augmentation] scale 0.8 is not a number of 1 or more; 1.25 draws from 1 /",
        ),
        (OF_A_FOLDER + "[augmentation]\nrestain = 2", "[augmentation] restain 2.0 is not a number from 0 to 1"),
    ],
)
def test_value_that_makes_no_sense_is_named_with_what_is_allowed(tmp_path: Path, text: str, message: str) -> None:
    said = refusal(tmp_path, text)
    assert said.removeprefix("training 'unnamed': ").startswith(message)


def test_widest_sigma_that_is_offered_is_taken(tmp_path: Path) -> None:
    assert loaded(tmp_path, OF_A_FOLDER + "[weights]\nsigma_px = 15").weights.sigma_px == 15


def test_share_of_python_is_checked_as_that_of_a_file() -> None:
    wrong: Any = 5
    with pytest.raises(UsageError, match="validation 5 is not a number from 0 to below 1"):
        TrainConfig(DataConfig("f", validation=wrong))


def test_annotated_slides_have_classes_without_values() -> None:
    slides = (AnnotatedSlide("a.svs", annotations="a.geojson"),)
    classes = (ClassConfig("a"), ClassConfig("b"))
    assert TrainConfig(DataConfig(slides=slides), classes=classes).weights.w0
    with pytest.raises(UsageError, match=r"has the value 1, .* annotations have names"):
        TrainConfig(DataConfig(slides=slides), classes=(ClassConfig("a", value=1),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[data\n", "is not a TOML file: "),
        (b"name = '\xff'\n", "is not a TOML file: "),
        (b"a = 1\na = 2\n", "is not a TOML file: "),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_file_that_is_not_toml_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "c.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UsageError, match=re.escape(f"{path} {message}")):
        load_config(path)


def test_labels_are_of_the_command_line() -> None:
    assert parse_labels_are("classes") == "classes"
    with pytest.raises(UsageError, match="--labels-are is 'objects'; allowed: 'instances', 'components', 'classes'"):
        parse_labels_are("objects")
