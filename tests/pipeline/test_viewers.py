"""What stores say to other viewers; those that do not say it are stores as well."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import zarr
from ome_zarr_models.v05.image_label import ImageLabel

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import files
from tests.napari_plugin.made import made_result
from tests.pipeline.test_instances import make_ids
from tests.slides.made import ome_zarr, picture
from wsipipe.model.built_in import DEFAULT_MODEL
from wsipipe.model.model_file import read_model_info
from wsipipe.pipeline.summary import DONE, SKIPPED


def test_labels_of_an_ome_zarr_slide_name_their_image(tmp_path: Path, tiny_model: Path) -> None:
    slide = ome_zarr(tmp_path / "slides" / "a slide.zarr", [picture((64, 64, 3))], "yxc")
    config = wsipipe.RunConfig(out=str(tmp_path / "out"), model=str(tiny_model), device="cpu", block=64)
    assert wsipipe.run([slide], config).exit_code == 0
    store = tmp_path / "out" / "a slide.zarr"
    label = ImageLabel.from_zarr(zarr.open_group(store, mode="r")).attributes.ome.image_label
    assert label is not None
    assert label.source is not None
    assert label.source.image == "../../slides/a slide.zarr"
    assert np.array_equal(zarr.open_array(store / label.source.image / "0", mode="r"), zarr.open_array(slide / "0"))


def test_a_store_that_says_less_is_complete_and_an_unfinished_one_is_resumed(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide
) -> None:
    config = wsipipe.RunConfig(
        out=str(tmp_path / "out"), model=str(tiny_model), device="cpu", block=64, probabilities=True, tissue="off"
    )
    slide = write_slide(tmp_path / "a.tif")
    assert wsipipe.run([slide], config).exit_code == 0
    store = tmp_path / "out" / "a.zarr"
    whole = files(store)
    document = json.loads((store / "probabilities" / "zarr.json").read_bytes())
    del document["attributes"]["ome"]["omero"]
    (store / "probabilities" / "zarr.json").write_text(json.dumps(document))
    older = files(store)
    assert [slide.status for slide in wsipipe.run([slide], config).slides] == [SKIPPED]
    assert files(store) == older
    root = json.loads((store / "zarr.json").read_bytes())
    root["attributes"]["wsipipe"]["complete"] = False
    (store / "zarr.json").write_text(json.dumps(root))
    (store / "0" / "c" / "0" / "1").unlink()
    store.rename(tmp_path / "out" / "a.zarr.partial")
    assert [slide.status for slide in wsipipe.run([slide], config).slides] == [DONE]
    resumed = files(store)
    assert resumed.keys() == whole.keys()
    assert [name for name in whole if resumed[name] != whole[name]] == ["zarr.json"]  # how the runs went


def test_addresses_on_the_page_of_other_viewers_are_images_of_a_store(tmp_path: Path) -> None:
    store = made_result(tmp_path).store
    make_ids(store)
    page = (Path(__file__).parents[2] / "docs" / "other-viewers.md").read_text()
    (state,) = (json.loads(text) for text in re.findall(r"```json\n(.*?)```", page, re.DOTALL))
    address = "http://127.0.0.1:8000/case-17.zarr"
    named = {layer["source"].removeprefix(f"zarr://{address}") for layer in state["layers"]}
    assert named == set(re.findall(rf"^\| `{address}(.*?)` \|", page, re.MULTILINE))
    assert named == {"", "/probabilities", "/tissue", "/labels/instances"}
    for name in named:
        ome = zarr.open_group(store / name.strip("/"), mode="r").attrs["ome"]
        assert {axis["name"] for axis in ome["multiscales"][0]["axes"]} - {"c"} == state["dimensions"].keys()
    (colors,) = (layer["segmentColors"] for layer in state["layers"] if "segmentColors" in layer)
    assert colors == {str(one.label): one.color for one in read_model_info(DEFAULT_MODEL).spec.classes if one.label}
