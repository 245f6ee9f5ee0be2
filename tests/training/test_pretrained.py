"""Trainings that start from a model: what they take from it, and what they refuse."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.discs import QUICK, SGD, StopError, changed, made_setup, stopping_at, trained, write_discs
from wsipipe import LabelClass, ModelSpec, UNet, load_model
from wsipipe.errors import ModelError, TrainingError, UsageError
from wsipipe.events import TrainingEvent, TrainingStarted, TrainingWarned
from wsipipe.model.model_file import save_unet
from wsipipe.training import log
from wsipipe.training.config import ClassConfig, TrainConfig, load_config
from wsipipe.training.pretrained import Pretrained, read_pretrained

STILL = SGD | {"learning_rate": 1e-30}
"""An optimizer whose steps are too short to change a weight."""
SPEC = ModelSpec(
    (LabelClass("glass", 0, "#000000"), LabelClass("disc", 1, "#123456")),
    mean=(0.25,),
    std=(0.125, 0.25, 0.5),
    name="the base",
    licence="CC-BY-4.0",
    training={"scores": {"dice": 0.5}},
)


@pytest.fixture(autouse=True)
def _no_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log, "write_curves", lambda *_: None)


def made(path: Path, spec: ModelSpec = SPEC, *, seed: int = 7, **sizes: int) -> Path:
    """A model of random weights, of the sizes of `QUICK`."""
    torch.manual_seed(seed)
    network = UNet(**{"classes": len(spec.classes), "base_channels": 4, "depth": 2, "convs_per_level": 1} | sizes)
    for name, weights in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.constant_(weights, 0.01)  # the shortest step moves a 0
    save_unet(path, network, spec)
    return path


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("models") / "base.safetensors")


def started_from(base: Path, **tables: Any) -> TrainConfig:
    """`QUICK`, from the weights of ``base``."""
    network = {"pretrained": str(base)} | tables.pop("network", {})
    return changed(QUICK, network=network, **tables)


def weights_of(path: Path) -> dict[str, torch.Tensor]:
    network = load_model(path).network
    assert isinstance(network, UNet)
    return network.state_dict()


def differing(path: Path, other: Path) -> set[str]:
    """The names of weights that are not the same in both models."""
    some, others = weights_of(path), weights_of(other)
    return {name for name in some if not torch.equal(some[name], others[name])}


def same_weights(path: Path, other: Path) -> bool:
    return differing(path, other) == set()


def test_training_starts_from_weights_normalisation_and_colours_of_the_model(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    out, told = tmp_path / "new.safetensors", list[TrainingEvent]()
    trained(folder, out, started_from(base, optimizer=STILL), listener=told.append)
    assert same_weights(out, base)
    spec = load_model(out).spec
    assert (spec.mean, spec.std) == (SPEC.mean, SPEC.std)
    assert spec.classes[1] == LabelClass("disc", 1, "#123456")
    assert (spec.name, spec.licence) == ("discs", "not stated")
    sha256 = load_model(base).info.sha256
    origin = {"name": "the base", "sha256": sha256, "licence": "CC-BY-4.0", "training": {"scores": {"dice": 0.5}}}
    assert spec.training["from"] == origin
    assert str(base.parent) not in str(spec.training)
    assert isinstance(told[0], TrainingStarted)
    assert told[0].pretrained == "base.safetensors"
    assert not any(isinstance(event, TrainingWarned) for event in told)
    trained(folder, tmp_path / "moved.safetensors", started_from(base))
    assert differing(tmp_path / "moved.safetensors", base) == weights_of(base).keys(), "all layers learn"


@pytest.mark.slow
def test_all_replicas_start_from_the_weights(folder: Path, base: Path, tmp_path: Path) -> None:
    config = started_from(base, optimizer=STILL | {"batch": 2}, loop={"steps": 2})
    trained(folder, tmp_path / "new.safetensors", config, device="cpu,cpu")
    assert same_weights(tmp_path / "new.safetensors", base)


def test_colour_of_the_configuration_takes_precedence(folder: Path, base: Path, tmp_path: Path) -> None:
    config = started_from(base, classes=(ClassConfig("disc", "#abcdef"),))
    assert made_setup(folder, config, tmp_path).spec.classes[1].color == "#abcdef"


@pytest.mark.parametrize(
    ("classes", "network", "said"),
    [
        (("disc",), {"sigmoid": True}, "2 classes (glass, disc), this training 1 class (disc)"),
        (("cell",), {}, "2 classes (glass, disc), this training 2 classes (background, cell); name them as the model"),
    ],
    ids=["number", "name"],
)
def test_head_of_other_classes_starts_anew_and_the_rest_does_not(
    folder: Path, base: Path, tmp_path: Path, classes: tuple[str, ...], network: dict[str, Any], said: str
) -> None:
    config = started_from(base, network=network, classes=tuple(map(ClassConfig, classes)), optimizer=STILL)
    out, told = tmp_path / "new.safetensors", list[TrainingEvent]()
    trained(folder, out, config, listener=told.append)
    (warning,) = (event.message for event in told if isinstance(event, TrainingWarned))
    assert warning.startswith(f"the head starts anew: base.safetensors has {said}")
    assert differing(base, out) == {"head.weight", "head.bias"}


def pretrained_of(path: Path, **changes: Any) -> tuple[Pretrained, ModelSpec]:
    """A model with ``changes`` of `SPEC`, and the unchanged `SPEC` of a new one."""
    return read_pretrained(made(path / "base.safetensors", replace(SPEC, **changes))), SPEC


def test_other_order_of_classes_is_another_head(tmp_path: Path) -> None:
    model, spec = pretrained_of(tmp_path, classes=SPEC.classes[::-1])
    assert not model.has_head_for(spec)
    assert model.has_head_for(replace(spec, classes=SPEC.classes[::-1]))


def test_other_labels_of_the_same_classes_are_warned_of(tmp_path: Path) -> None:
    model, spec = pretrained_of(tmp_path, classes=(SPEC.classes[0], LabelClass("disc", 7, "#123456")))
    assert model.has_head_for(spec)
    (said,) = model.warnings(spec)
    assert said.startswith("the labels change: base.safetensors has [0, 7] for its classes, the new model will have [0")


def test_other_resolution_is_warned_of(tmp_path: Path) -> None:
    model, spec = pretrained_of(tmp_path, mpp=0.5)
    for mpp, words in ((0.25, "at 0.25"), (None, "at the resolution of the images")):
        (said,) = model.warnings(replace(spec, mpp=mpp))
        assert said.startswith(f"base.safetensors was trained at 0.5 micrometres per pixel, this training is {words}: ")
    assert list(model.warnings(replace(spec, mpp=0.51))) == []


# --- refused --------------------------------------------------------------------------------------------------


def test_network_of_other_sizes_is_refused_with_what_differs(folder: Path, base: Path, tmp_path: Path) -> None:
    config = started_from(base, network={"base_channels": 8, "depth": 3})
    with pytest.raises(
        UsageError,
        match=r"^base.safetensors has base_channels 4 and depth 2, this training base_channels 8 and depth 3; remove "
        r"from \[network\] what differs, to take it from the model, or train without --from$",
    ):
        trained(folder, tmp_path / "new.safetensors", config)
    grey = made(tmp_path / "grey.safetensors", replace(SPEC, std=(0.5,)), in_channels=1)
    with pytest.raises(
        UsageError, match=r"^grey.safetensors takes images with 1 channel, and those of this training have 3; tr"
    ):
        trained(folder, tmp_path / "new.safetensors", started_from(grey))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grey.safetensors"]


def test_network_of_another_program_is_refused(folder: Path, tmp_path: Path) -> None:
    onnx, pt2 = tmp_path / "net.onnx", tmp_path / "net.pt2"
    onnx.write_bytes(bytes.fromhex("08081203666f6f3a00"))  # ir_version 8, producer_name "foo", an empty graph
    with zipfile.ZipFile(pt2, "w") as archive:
        archive.writestr("net/archive_format", "pt2")
    for path, kind in ((onnx, "an ONNX file"), (pt2, "a .pt2 file")):
        with pytest.raises(UsageError, match=f"net.* is {kind}, and train continues wsipipe's own U-Nets; give"):
            trained(folder, tmp_path / "new.safetensors", started_from(path))


def test_damaged_or_missing_model_is_refused_before_anything_is_written(
    folder: Path, base: Path, tmp_path: Path
) -> None:
    (torn := tmp_path / "torn.safetensors").write_bytes(base.read_bytes()[:-9])
    for path in (torn, tmp_path / "none.safetensors"):
        with pytest.raises(ModelError, match=path.name):
            trained(folder, tmp_path / "new.safetensors", started_from(path))
    assert list(tmp_path.iterdir()) == [torn]


# --- resumed --------------------------------------------------------------------------------------------------


def test_resumed_training_continues_from_its_checkpoint_and_not_from_the_model(
    folder: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(folder, tmp_path / "whole.safetensors", started_from(base))
    out = tmp_path / "parts.safetensors"
    with pytest.raises(StopError):
        trained(folder, out, started_from(base), listener=stopping_at(3))

    def fail(*_: object) -> None:
        raise AssertionError

    with monkeypatch.context() as once:
        once.setattr(Pretrained, "weights", fail)
        told: list[TrainingEvent] = []
        moved = base.rename(base.with_name("moved.safetensors"))  # its content counts, not its place
        assert trained(folder, out, started_from(moved), resume=True, listener=told.append) == whole
        moved.rename(base)
    assert isinstance(told[0], TrainingStarted)
    assert told[0].first_step == 2


def test_checkpoint_of_another_model_is_refused(folder: Path, base: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "new.safetensors", made(tmp_path / "other.safetensors", seed=8)
    with pytest.raises(StopError):
        trained(folder, out, started_from(base), listener=stopping_at(3))
    for config in (started_from(other), QUICK):
        with pytest.raises(TrainingError, match="was written with other data or settings"):
            trained(folder, out, config, resume=True)


# --- configurations -------------------------------------------------------------------------------------------


def written(folder: Path, text: str) -> Path:
    path = folder / "c.toml"
    path.write_text('[data]\nfolder = "."\n[weights]\nw0 = 0.0\n' + text)
    return path


def test_configuration_leaves_to_the_model_what_it_does_not_state(tmp_path: Path) -> None:
    made(tmp_path / "base.safetensors", replace(SPEC, mpp=0.5, min_area_um2=8.0))
    config = load_config(written(tmp_path, "[network]\npretrained = 'base.safetensors'\ndropout = 0.0\n"))
    network = config.network
    assert (network.base_channels, network.depth, network.convs_per_level, network.sigmoid) == (4, 2, 1, False)
    assert (config.mpp, config.min_area_um2, config.classes) == (0.5, 8.0, (ClassConfig("disc"),))
    assert (network.pretrained, network.dropout) == ("base.safetensors", 0.0)
    stated = "[network]\npretrained = 'base.safetensors'\ndepth = 3\n[[classes]]\nname = 'cell'\n"
    config = load_config(written(tmp_path, stated))
    assert (config.network.depth, config.classes, config.min_area_um2) == (3, (ClassConfig("cell"),), 0.0)


def test_configuration_finds_the_model_beside_itself_or_where_the_data_are(tmp_path: Path) -> None:
    (data := tmp_path / "data").mkdir()
    path = written(tmp_path, "[network]\npretrained = 'base.safetensors'\n")
    with pytest.raises(ModelError, match=r"base.safetensors cannot be read"):
        load_config(path)
    made(data / "base.safetensors")
    assert load_config(path, [data, tmp_path]).network.depth == 2
    one_sigmoid = made(tmp_path / "other.safetensors", replace(SPEC, classes=SPEC.classes[1:]))
    assert load_config(path, [data], pretrained=str(one_sigmoid)).network.sigmoid is True


def test_model_of_grey_images_is_continued(tmp_path: Path) -> None:
    """Weights of one channel, from data of one channel."""
    grey = made(tmp_path / "grey.safetensors", replace(SPEC, std=(0.5,)), in_channels=1)
    folder = write_discs(tmp_path / "data", 2, channels=1)
    trained(folder, tmp_path / "new.safetensors", started_from(grey, optimizer=STILL, loop={"steps": 1}))
    assert same_weights(tmp_path / "new.safetensors", grey)
