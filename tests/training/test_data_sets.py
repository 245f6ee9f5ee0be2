"""Several data sets in one training: names, splits, shares, licences; and a single one as ever."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.training.discs import QUICK, changed, trained, write_discs
from tests.training.given import pairs, plain, splits
from wsipipe.cli.model_text import sources_text
from wsipipe.errors import UsageError
from wsipipe.model.model_file import read_model_info
from wsipipe.training.config import ClassConfig, WeightConfig, config_of, load_config
from wsipipe.training.data_config import DataConfig
from wsipipe.training.fields import read_fields
from wsipipe.training.sampling import Places, survey
from wsipipe.training.setup import prepare_training

TWO = """
mpp = 0.5
[[data]]
folder = "a"
mpp = 0.5
validation = ["1"]
licence = "CC0-1.0"
[[data]]
folder = "b"
name = "other"
mpp = 1.0
share = 3
validation = 0.5
licence = "CC-BY-4.0"
attribution = "B. et al., doi:10.1000/1"
[patches]
core = 16
[weights]
w0 = 0
"""


def two_sets(folder: Path) -> Path:
    pairs(folder / "a", "1", "2")
    pairs(folder / "b", "1", "2", shape=(20, 24))
    (folder / "two.toml").write_text(TWO)
    return folder


def test_each_set_has_its_own_names_splits_and_scale(tmp_path: Path) -> None:
    config = load_config(two_sets(tmp_path) / "two.toml")
    found = read_fields(config, [tmp_path])
    assert splits(found) == {"a/1": "validation", "a/2": "train", "other/1": "train", "other/2": "validation"}
    assert [(f.shape, f.data_set) for f in found] == [((40, 48), 0)] * 2 + [((40, 48), 1)] * 2
    assert config_of(config.as_json()) == config


def test_patches_come_from_each_set_by_its_share(tmp_path: Path) -> None:
    fields = [f for f in read_fields(load_config(two_sets(tmp_path) / "two.toml"), [tmp_path]) if f.split == "train"]
    found, rng = survey(fields, 1, 8), np.random.default_rng(0)
    places = Places(found, 0.5, data_sets=[f.data_set for f in fields], shares=[1, 3])
    drawn = Counter(places.draw(rng).field for _ in range(4000))
    assert drawn[1] / 4000 == pytest.approx(0.75, abs=0.03)
    shares = places.totals / places.totals.sum(1, keepdims=True)
    expected = 0.25 * shares[0] + 0.75 * shares[1]
    np.testing.assert_allclose(places.frequencies / places.frequencies.sum(), expected, atol=1e-3)
    nothing_in_second = Places(found, 0.5, data_sets=[0, 0], shares=[1, 3])
    assert nothing_in_second.shares.tolist() == [1, 0]


def test_header_has_licence_and_attribution_of_each_set(tmp_path: Path) -> None:
    config = load_config(two_sets(tmp_path) / "two.toml")
    spec = prepare_training(config, tmp_path / "m.safetensors", [tmp_path]).spec
    assert spec.licence == "CC-BY-4.0"
    assert spec.training["sources"] == [
        {"name": "a", "licence": "CC0-1.0", "attribution": None, "images": 2},
        {"name": "other", "licence": "CC-BY-4.0", "attribution": "B. et al., doi:10.1000/1", "images": 2},
    ]
    assert list(sources_text(spec.training)) == [
        "trained on a (CC0-1.0)",
        "trained on other (CC-BY-4.0): B. et al., doi:10.1000/1",
    ]
    assert replace(config, licence="MIT").licence_of_weights == "MIT"
    first, second = config.data_sets
    assert replace(config, data=(first, replace(second, licence=None))).licence_of_weights == "not stated"
    assert replace(config, data=(first, replace(first, name="c"))).licence_of_weights == "CC0-1.0"


def test_a_list_of_one_set_trains_what_a_single_table_trains(tmp_path: Path) -> None:
    """The same weights; the headers differ in how they write down the settings."""
    folder = write_discs(tmp_path / "data")
    single = changed(QUICK, loop={"steps": 2})
    trained(folder, tmp_path / "single.safetensors", single)
    trained(folder, tmp_path / "list.safetensors", replace(single, data=(single.data,)))
    one, other = (read_model_info(tmp_path / f"{name}.safetensors") for name in ("single", "list"))
    assert one.spec.training["data"] == other.spec.training["data"]
    assert "sources" not in one.spec.training
    weights = [(tmp_path / f"{name}.safetensors").read_bytes() for name in ("single", "list")]
    bodies = [data[8 + int.from_bytes(data[:8], "little") :] for data in weights]
    assert bodies[0] == bodies[1]


def test_problems_name_the_set(tmp_path: Path) -> None:
    two_sets(tmp_path)
    path = tmp_path / "two.toml"
    for before, after, message in (
        ("share = 3", "share = 0", r"\[\[data\]\] b: share 0.0 is not a positive number"),
        ('name = "other"', 'name = "a"', r"\[\[data\]\] has sets called a, a; give each a name"),
        ("mpp = 1.0", "object_um = 7\nmpp = 1.0", r"\[\[data\]\] other: object_um is for images of unknown resolution"),
        ("share = 3", "shares = 3", r"\[\[data\]\] has no key shares"),
    ):
        path.write_text(TWO.replace(before, after))
        with pytest.raises(UsageError, match=message):
            load_config(path)
    path.write_text(TWO.replace("validation = 0.5", 'validation = ["x*"]'))
    with pytest.raises(UsageError, match=r"\[\[data\]\] other: validation: no image matches 'x\*'; there are 1, 2"):
        read_fields(load_config(path), [tmp_path])
    with pytest.raises(UsageError, match=r"\[\[data\]\] is an empty list"):
        replace(plain(), data=())


def test_set_of_classes_beside_one_of_objects_keeps_the_border_weights() -> None:
    sets = (DataConfig("a"), DataConfig("b", labels_are="classes"))
    assert replace(plain(), data=sets, weights=WeightConfig(w0=5, sigma_px=1)).weights.w0 == 5
    with pytest.raises(UsageError, match=r"\[\[data\]\] a: labels_are 'instances' tells objects"):
        replace(plain(), data=sets, classes=(ClassConfig("x"), ClassConfig("y")))
