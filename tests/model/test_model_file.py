from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from wsipipe.errors import ModelError
from wsipipe.model.model_file import FORMAT_VERSION, load_model, read_model_info, save_unet
from wsipipe.model.spec import LabelClass, ModelSpec, default_classes
from wsipipe.model.unet import UNet

FULL = ModelSpec(
    classes=(
        LabelClass("background", 0, "#000000"),
        LabelClass("Drüse", 200, "#E6194b"),
        LabelClass("fat", 7, "#00ff00"),
    ),
    mpp=0.25,
    mean=(0.7, 0.5, 0.6),
    std=(0.1, 0.2, 0.3),
    name="glands",
    licence="CC-BY-4.0",
    training={"data": ["a", "b"], "epochs": 3, "dice": 0.9, "nested": {"x": None}},
)


def network_of(classes: int = 3, seed: int = 0) -> UNet:
    torch.manual_seed(seed)
    return UNet(3, classes, base_channels=2, depth=2, convs_per_level=1)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A good model."""
    path = tmp_path / "glands.safetensors"
    save_unet(path, network_of(), FULL)
    return path


def test_a_model_gives_back_weights_bit_for_bit_and_all_that_was_said(path: Path) -> None:
    model, network = load_model(path), network_of()
    saved, loaded = network.state_dict(), model.network.state_dict()
    assert list(saved) == list(loaded)
    assert all(torch.equal(saved[name].view(torch.int32), loaded[name].view(torch.int32)) for name in saved)
    assert model.spec == model.info.spec == read_model_info(path).spec == FULL
    assert model.info.network.architecture == network.architecture
    assert model.info.receptive == network.receptive
    assert model.info.path == str(path.absolute())
    assert model.info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_loaded_network_is_ready_to_evaluate(path: Path) -> None:
    model = load_model(path)
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert {p.device.type for p in model.network.parameters()} == {"cpu"}
    image = torch.randn(1, 3, 30, 30)
    with torch.no_grad():
        assert torch.equal(model.network(image), network_of().eval()(image))


def test_loading_draws_no_random_number(path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    load_model(path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("classes", [1, 2, 3, 12])
def test_defaults_survive_the_round_trip(tmp_path: Path, classes: int) -> None:
    spec = ModelSpec(default_classes(classes))
    save_unet(tmp_path / "x", network_of(classes), spec)
    assert load_model(tmp_path / "x").spec == replace(spec, mean=(0.5,), std=(0.25,))
    assert [c.label for c in spec.classes] == ([1] if classes == 1 else list(range(classes)))


def test_the_same_network_and_spec_are_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "other"):
        save_unet(tmp_path / name, network_of(), FULL)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


def test_a_network_in_channels_last_memory_is_saved_as_well(tmp_path: Path) -> None:
    save_unet(tmp_path / "x", network_of().to(memory_format=torch.channels_last), FULL)
    image = torch.randn(1, 3, 30, 30)
    with torch.no_grad():
        assert torch.equal(load_model(tmp_path / "x").network(image), network_of().eval()(image))


def test_infos_and_specs_are_values(path: Path) -> None:
    info = read_model_info(path)
    assert info == read_model_info(path)
    assert hash(info) == hash(read_model_info(path))
    assert pickle.loads(pickle.dumps(info)) == info
    with pytest.raises(FrozenInstanceError):
        info.spec.name = "other"  # type: ignore[misc]


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_pickle_under_another_name_is_refused_and_not_executed(tmp_path: Path, writer: str) -> None:
    path, executed = tmp_path / "x.safetensors", tmp_path / "executed"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Bomb(executed)))
    else:
        torch.save({"weights": Bomb(executed)}, path)
    for read in (read_model_info, load_model):
        with pytest.raises(ModelError, match=r"x\.safetensors is a pickle"):
            read(path)
    assert not executed.exists()
    if writer == "pickle":
        pickle.loads(path.read_bytes())
        assert executed.exists()  # it would have


def test_a_truncated_file_is_refused_wherever_it_ends(path: Path) -> None:
    whole = path.read_bytes()
    for length in {0, 1, 7, 8, 9, *range(10, len(whole), 97), len(whole) - 1}:
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"glands\.safetensors is (truncated|not a model, or is truncated)"):
            load_model(path)


def test_bytes_behind_the_end_are_refused(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(ModelError, match=r"glands\.safetensors"):
        load_model(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_somebody_elses_safetensors_file_is_refused(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"weight": torch.zeros(3)}, tmp_path / "llama.safetensors", metadata=metadata)
    with pytest.raises(ModelError, match=r"llama\.safetensors is a safetensors file, but not a wsipipe model"):
        load_model(tmp_path / "llama.safetensors")


@pytest.mark.parametrize("read", [read_model_info, load_model])
def test_a_path_that_is_not_a_file_is_refused_by_name(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    with pytest.raises(ModelError, match=r"gone\.safetensors cannot be read: No such file"):
        read(tmp_path / "gone.safetensors")
    with pytest.raises(ModelError, match=rf"{tmp_path.name} cannot be read: Is a directory"):
        read(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match=r"file/x cannot be read: Not a directory"):
        read(tmp_path / "file" / "x")


Change = Callable[[dict[str, Any]], Any]


def rewrite(path: Path, change: Change | None = None, text: str | None = None, **tensors: torch.Tensor | None) -> None:
    """Change the header or the weights of the model at ``path``; a tensor that is None is left out."""
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["wsipipe"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if change is not None:
        change(header)
    for name, tensor in tensors.items():
        weights.pop(name, None)
        if tensor is not None:
            weights[name] = tensor
    path.write_bytes(save(weights, metadata={"wsipipe": json.dumps(header) if text is None else text}))


def test_rewriting_nothing_is_fine(path: Path) -> None:  # so that what follows fails for its own reason
    rewrite(path)
    assert load_model(path).spec == FULL


def test_a_newer_format_is_refused_with_both_versions(path: Path) -> None:
    rewrite(path, lambda h: h.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(ModelError, match=r"glands\.safetensors has format version 2, this wsipipe reads up to 1"):
        read_model_info(path)


@pytest.mark.parametrize("text", ["", "nonsense", "[]", "null", "7", '"x"', "{", "[" * 100_000], ids=lambda t: t[:9])
def test_a_header_that_is_not_the_document_it_should_be_is_refused(path: Path, text: str) -> None:
    rewrite(path, text=text)
    with pytest.raises(ModelError, match=r"glands\.safetensors has an invalid header"):
        read_model_info(path)


KEYS = ["format_version", "architecture", "halo", "classes", "mpp", "mean", "std", "name", "licence", "training"]


@pytest.mark.parametrize("key", KEYS)
def test_a_header_without_one_of_its_parts_is_refused(path: Path, key: str) -> None:
    rewrite(path, lambda h: h.pop(key))
    with pytest.raises(ModelError, match=rf"glands\.safetensors .*{key}"):
        read_model_info(path)


@pytest.mark.parametrize("key", ["in_channels", "classes", "base_channels", "depth", "convs_per_level"])
def test_an_architecture_without_one_of_its_sizes_is_refused(path: Path, key: str) -> None:
    rewrite(path, lambda h: h["architecture"].pop(key))
    with pytest.raises(ModelError, match=rf"glands\.safetensors .*{key}"):
        read_model_info(path)


@pytest.mark.parametrize("key", ["in_channels", "classes", "base_channels", "depth", "convs_per_level"])
@pytest.mark.parametrize("value", [-1, 0, None, "x", 2.7, float("inf"), 10**5, [1]], ids=repr)
def test_an_impossible_architecture_is_refused(path: Path, key: str, value: Any) -> None:
    rewrite(path, lambda h: h["architecture"].update({key: value}))
    with pytest.raises(ModelError, match=r"glands\.safetensors"):
        load_model(path)


WRONG: dict[str, Change] = {
    "halo of another network": lambda h: h.update(halo=11),
    "unknown size in the architecture": lambda h: h["architecture"].update(norm=1),
    "architecture is a list": lambda h: h.update(architecture=[2, 1]),
    "no class": lambda h: h.update(classes=[]),
    "a class too many": lambda h: h["classes"].append({"name": "x", "label": 9, "color": "#ffffff"}),
    "a class too few": lambda h: h["classes"].pop(),
    "classes is a number": lambda h: h.update(classes=3),
    "a class is a string": lambda h: h["classes"].__setitem__(0, "background"),
    "a class with an unknown key": lambda h: h["classes"][0].update(rank=1),
    "a class without a name": lambda h: h["classes"][0].pop("name"),
    "a class whose name is a number": lambda h: h["classes"][0].update(name=5),
    "two classes with one label": lambda h: h["classes"][1].update(label=7),
    "label 256": lambda h: h["classes"][1].update(label=256),
    "label -1": lambda h: h["classes"][1].update(label=-1),
    "label 1.5": lambda h: h["classes"][1].update(label=1.5),
    "label is a string": lambda h: h["classes"][1].update(label="1"),
    "colour red": lambda h: h["classes"][1].update(color="red"),
    "colour #12345g": lambda h: h["classes"][1].update(color="#12345g"),
    "colour is a number": lambda h: h["classes"][1].update(color=7),
    "mpp 0": lambda h: h.update(mpp=0),
    "mpp -1": lambda h: h.update(mpp=-1),
    "mpp nan": lambda h: h.update(mpp=float("nan")),
    "mpp infinite": lambda h: h.update(mpp=float("inf")),
    "mpp is a string": lambda h: h.update(mpp="0.5"),
    "two means for three channels": lambda h: h.update(mean=[0.5, 0.5]),
    "no mean": lambda h: h.update(mean=[]),
    "mean nan": lambda h: h.update(mean=[float("nan")]),
    "mean is a number": lambda h: h.update(mean=0.5),
    "two deviations for three channels": lambda h: h.update(std=[0.5, 0.5]),
    "no deviation": lambda h: h.update(std=[]),
    "deviation 0": lambda h: h.update(std=[0.1, 0.0, 0.1]),
    "deviation -1": lambda h: h.update(std=[-1.0]),
    "deviation infinite": lambda h: h.update(std=[float("inf")]),
    "version is a string": lambda h: h.update(format_version="1"),
}


@pytest.mark.parametrize("what", WRONG)
def test_an_inconsistent_header_is_refused_by_the_name_of_the_file(path: Path, what: str) -> None:
    rewrite(path, WRONG[what])
    with pytest.raises(ModelError, match=r"glands\.safetensors"):
        load_model(path)


@pytest.mark.parametrize(
    "tensors",
    [
        {"head.weight": torch.zeros(3, 2, 3, 3)},
        {"head.weight": torch.zeros(2, 2, 1, 1)},
        {"head.bias": None},
        {"extra": torch.zeros(1)},
        {"head.bias": torch.zeros(3, dtype=torch.int32)},
        {"head.bias": torch.zeros(3, dtype=torch.float16)},
        {"head.bias": torch.zeros(3, dtype=torch.float64)},
    ],
    ids=["kernel", "classes", "missing", "extra", "int32", "float16", "float64"],
)
def test_weights_that_are_not_those_of_the_architecture_are_refused(
    path: Path, tensors: dict[str, torch.Tensor | None]
) -> None:
    rewrite(path, **tensors)
    with pytest.raises(ModelError, match=r"glands\.safetensors"):
        load_model(path)


def test_only_a_background_is_not_a_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="only a background"):
        ModelSpec((LabelClass("background", 0, "#000000"),))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "spec",
    [
        ModelSpec(default_classes(2)),
        ModelSpec(default_classes(3), mean=(0.5, 0.5)),
        ModelSpec(default_classes(3), std=(0.5, 0.5)),
    ],
    ids=["classes", "mean", "std"],
)
def test_a_spec_that_does_not_fit_the_network_is_not_saved(tmp_path: Path, spec: ModelSpec) -> None:
    with pytest.raises(ModelError, match=r"x\.safetensors names"):
        save_unet(tmp_path / "x.safetensors", network_of(3), spec)
    assert not list(tmp_path.iterdir())


def test_training_notes_that_are_not_json_leave_nothing_behind(path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises((ModelError, TypeError)):
        save_unet(path, network_of(), ModelSpec(default_classes(3), training={"when": object()}))
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_saving_replaces_the_file_in_one_step(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, replace = path.read_bytes(), Path.replace
    seen: list[bytes] = []

    def watched(self: Path, target: Path) -> Path:
        seen.append(Path(target).read_bytes())  # untouched until the very last
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", watched)
    save_unet(path, network_of(seed=1), FULL)
    assert seen == [before]
    assert path.read_bytes() != before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_a_save_that_fails_leaves_the_older_model_alone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, write = path.read_bytes(), Path.write_bytes

    def full(self: Path, data: bytes) -> int:
        write(self, data[: len(data) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"):
        save_unet(path, network_of(seed=1), FULL)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]
