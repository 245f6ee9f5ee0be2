"""ImageScope's XML and COCO's JSON, written here by their documentation, against GeoJSON and pycocotools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.training.given import at_place, pixels, plain, png
from tests.training.given import one as only_field
from tests.training.given import whole as whole_field
from wsipipe.errors import LabelError
from wsipipe.geometry.grid import Box
from wsipipe.rasters.annotations import Annotated, Annotations, open_annotations
from wsipipe.rasters.coco import outlines_of_runs

SHAPE = (40, 50)
SQUARE = [(4, 6), (14, 6), (14, 16), (4, 16)]
"""x, y; 100 px."""


def all_of(annotations: Annotations) -> Annotated:
    return annotations.read(Box(0, annotations.shape[0], 0, annotations.shape[1]))


def region(points: Any, kind: int = 0, negative: int = 0) -> str:
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return (
        f'<Region Id="1" Type="{kind}" Zoom="0.2" ImageLocation="" NegativeROA="{negative}" Text="">'
        f"<Attributes/><Vertices>{vertices}</Vertices></Region>"
    )


def layer(*regions: str, name: str = "", attribute: tuple[str, str] = ("Description", "")) -> str:
    return (
        f'<Annotation Id="1" Name="{name}" ReadOnly="0" Visible="1" LineColor="65280"><Attributes><Attribute '
        f'Name="{attribute[0]}" Id="0" Value="{attribute[1]}"/></Attributes><Regions><RegionAttributeHeaders>'
        '<AttributeHeader Id="9999" Name="Region" ColumnWidth="-1"/></RegionAttributeHeaders>'
        f"{''.join(regions)}</Regions><Plots/></Annotation>"
    )


def imagescope(path: Path, *layers: str, head: str = '<?xml version="1.0"?>') -> Path:
    path.write_text(f'{head}<Annotations MicronsPerPixel="0.252000">{"".join(layers)}</Annotations>')
    return path


def test_imagescope_layers_are_classes_by_name_by_attribute_or_alone(tmp_path: Path) -> None:
    other = [(x + 20, y) for x, y in SQUARE]
    for number, layers in enumerate(
        (
            (layer(region(SQUARE), name="Tumor"), layer(region(other), name="Stroma")),
            (layer(region(SQUARE), attribute=("Tumor", "")), layer(region(other), attribute=("Stroma", ""))),
            (layer(region(SQUARE), attribute=("Description", "Tumor")), layer(region(other), name="Stroma")),
        )
    ):
        path = imagescope(tmp_path / f"{number}.xml", *layers)
        drawn = all_of(open_annotations(path, SHAPE, ("Tumor", "Stroma")))
        assert (drawn.classes[6:16, 4:14] == 1).all()
        assert (drawn.classes[6:16, 24:34] == 2).all()
        assert ((drawn.classes > 0).sum(), drawn.inside.all()) == (200, True)
    nameless = imagescope(tmp_path / "monuseg.xml", layer(region(SQUARE), region(other), region([(1, 1)])))
    drawn = all_of(open_annotations(nameless, SHAPE, ("nucleus",)))
    assert np.bincount(drawn.instances.ravel()).tolist() == [1800, 100, 100]
    with pytest.raises(LabelError, match=r"monuseg.xml has annotations of 'Unclassified' \(2 objects\)"):
        open_annotations(nameless, SHAPE, ("Tumor", "Stroma"))


def test_imagescope_negative_regions_are_cut_out_of_their_layer_alone(tmp_path: Path) -> None:
    hole = region([(8, 8), (40, 8), (40, 12), (8, 12)], kind=1, negative=1)
    path = imagescope(tmp_path / "a.xml", layer(region(SQUARE), hole, name="Tumor"), layer(region(SQUARE), name="ROI"))
    drawn = all_of(open_annotations(path, SHAPE, ("Tumor",)))
    assert (drawn.classes.sum(), drawn.inside.sum()) == (100 - 4 * 6, 100)
    path = imagescope(tmp_path / "b.xml", layer(region(SQUARE), name="Tumor"), layer(region(SQUARE), hole, name="ROI"))
    drawn = all_of(open_annotations(path, SHAPE, ("Tumor",)))
    assert (drawn.classes.sum(), drawn.inside.sum()) == (100, 100 - 4 * 6)


def test_imagescope_rectangles_ellipses_and_rulers(tmp_path: Path) -> None:
    box, ruler = [(10, 5), (40, 25)], region([(0, 0), (9, 9)], kind=4)
    path = imagescope(tmp_path / "a.xml", layer(region(box, kind=2), ruler, name="Tumor"))
    y, x = np.indices(SHAPE) + 0.5
    expected = ((x - 25) / 15) ** 2 + ((y - 15) / 10) ** 2 < 1
    found = all_of(open_annotations(path, SHAPE, ("Tumor",))).classes > 0
    assert (found != expected).sum() <= 2
    path = imagescope(tmp_path / "b.xml", layer(region(box, kind=1), name="Tumor"))
    assert all_of(open_annotations(path, SHAPE, ("Tumor",))).classes[5:25, 10:40].sum() == 600


BAD_XML = {
    "cut off": (layer(region(SQUARE))[:-9], "is not XML"),
    "letters": (layer(region([(0, 0), ("a", 1), (3, 3)])), r"region 1 has the vertex .*'X': 'a'"),
    "no area": (layer(region(SQUARE, kind=4)), r"no regions with an area \(1 regions in all\)"),
}


@pytest.mark.parametrize("what", BAD_XML)
def test_bad_imagescope_file_is_refused_by_name(tmp_path: Path, what: str) -> None:
    path = imagescope(tmp_path / "case-17.xml", BAD_XML[what][0])
    with pytest.raises(LabelError, match=f"^case-17.xml.*{BAD_XML[what][1]}"):
        open_annotations(path, SHAPE, ("Tumor",))


def test_xml_with_entities_or_of_something_else_is_not_read(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>'
    path = imagescope(tmp_path / "case-17.xml", layer(region(SQUARE), name="&b;"), head=bomb)
    with pytest.raises(LabelError, match=r"case-17.xml declares a document type"):
        open_annotations(path, SHAPE, ("Tumor",))
    path.write_text("<svg></svg>")
    with pytest.raises(LabelError, match="is XML of svg, not of Annotations"):
        open_annotations(path, SHAPE, ("Tumor",))


def coco(path: Path, *annotations: dict[str, Any], images: tuple[str, ...] = ("a.png",), **image: Any) -> Path:
    entries = [{"id": 7 + k, "file_name": name, "height": 40, "width": 50} | image for k, name in enumerate(images)]
    drawn = [{"id": 1 + k, "image_id": 7, "category_id": 3, "iscrowd": 0} | one for k, one in enumerate(annotations)]
    categories = [{"id": 3, "name": "Tumor", "supercategory": ""}, {"id": 9, "name": "Stroma", "supercategory": ""}]
    path.write_text(json.dumps({"info": {}, "images": entries, "annotations": drawn, "categories": categories}))
    return path


def flat(points: Any, by: int = 0) -> list[float]:
    return [float(c + by) for point in points for c in point]


def runs(mask: Any) -> list[int]:
    """Uncompressed run lengths, by brute force."""
    counts, last = [0], 0
    for value in mask.ravel(order="F"):
        if value != last:
            counts.append(0)
            last = value
        counts[-1] += 1
    return counts


def test_coco_polygons_run_lengths_categories_and_crowds(tmp_path: Path) -> None:
    mask = np.zeros(SHAPE, np.uint8)
    mask[20:30, 30:45] = 1
    mask[24:26, 33:36] = 0  # a hole
    crowd = np.zeros(SHAPE, np.uint8)
    crowd[25:40, 0:40] = 1
    rle = {"size": list(SHAPE), "counts": runs(mask)}
    path = coco(
        tmp_path / "all.json",
        {"segmentation": [flat(SQUARE), flat([(0, 0), (3, 0), (3, 3), (0, 3)])]},
        {"segmentation": rle, "category_id": 9},
        {"segmentation": {"size": list(SHAPE), "counts": runs(crowd)}, "iscrowd": 1},
        {"segmentation": [flat(SQUARE, 20)], "image_id": 8},
        images=("dir/a.png", "b.png"),
    )
    drawn = all_of(open_annotations(path, SHAPE, ("Tumor", "Stroma"), image="a_image.png"))
    np.testing.assert_array_equal(drawn.classes == 2, mask > 0)
    assert np.bincount(drawn.instances[drawn.classes == 1]).tolist() == [0, 109]
    np.testing.assert_array_equal(drawn.inside, (crowd == 0) | (mask > 0))
    assert all_of(open_annotations(path, SHAPE, ("Tumor",), image="b.png")).classes.sum() == 100
    with pytest.raises(LabelError, match=r"all.json has 2 images \(a.png, b.png ...\), none of them called all.json"):
        open_annotations(path, SHAPE, ("Tumor",))


def test_coco_image_without_objects_is_background(tmp_path: Path) -> None:
    drawn = all_of(open_annotations(coco(tmp_path / "a.json"), SHAPE, ("Tumor",)))
    assert (drawn.classes.any(), drawn.inside.all()) == (False, True)


@given(st.integers(0, 2**32 - 1), st.floats(0.02, 0.98))
def test_outlines_of_run_lengths_cover_the_mask(seed: int, share: float) -> None:
    import shapely

    mask = np.random.default_rng(seed).random((9, 7)) < share
    parts = outlines_of_runs(np.array(runs(mask)), 9, 7)
    polygons = [shapely.Polygon(part[0], part[1:]) for part in parts]
    y, x = np.indices(mask.shape) + 0.5
    inside = shapely.contains_xy(shapely.union_all(polygons), x, y)
    np.testing.assert_array_equal(inside, mask)


@pytest.mark.parametrize("seed", range(4))
def test_compressed_run_lengths_are_those_of_pycocotools(tmp_path: Path, seed: int) -> None:
    masks = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(seed)
    mask = (rng.random(SHAPE) < (0.5, 0.01, 0.99, 0)[seed]).astype(np.uint8)
    mask[3, 4] = 1
    packed = masks.encode(np.asfortranarray(mask))
    packed["counts"] = packed["counts"].decode()
    drawn = all_of(open_annotations(coco(tmp_path / "a.json", {"segmentation": packed}), SHAPE, ("Tumor",)))
    np.testing.assert_array_equal(drawn.classes, mask)


BAD_COCO = {
    "box alone": ({"segmentation": [], "bbox": [0, 0, 3, 3]}, "annotation 1 of a.png .*a box alone is not enough"),
    "no outline": ({}, "annotation 1 of a.png .*segmentation"),
    "odd": ({"segmentation": [[0, 0, 1, 1, 2]]}, "annotation 1 of a.png is not an object of COCO"),
    "two points": ({"segmentation": [[0, 0, 1, 1]]}, "outline has only 2 points"),
    "category": ({"segmentation": [flat(SQUARE)], "category_id": 4}, "annotation 1 .*KeyError: 4"),
    "runs": ({"segmentation": {"size": [40, 50], "counts": [1, 2]}}, "do not add up to 50 wide x 40 high"),
    "size": ({"segmentation": {"size": [50, 40], "counts": [2000]}}, r"has the size \[50, 40\], its image \[40, 50\]"),
    "text": ({"segmentation": {"size": [40, 50], "counts": "~~"}}, "run lengths have the character '~'"),
}


@pytest.mark.parametrize("what", BAD_COCO)
def test_bad_coco_file_is_refused_by_name(tmp_path: Path, what: str) -> None:
    with pytest.raises(LabelError, match=f"^case-17.json.*{BAD_COCO[what][1]}"):
        open_annotations(coco(tmp_path / "case-17.json", BAD_COCO[what][0]), SHAPE, ("Tumor",))


def test_coco_of_an_image_of_another_size_is_refused(tmp_path: Path) -> None:
    path = coco(tmp_path / "case-17.json", {"segmentation": [flat(SQUARE)]})
    with pytest.raises(LabelError, match=r"a.png is 50 wide x 40 high, but the slide is 100 wide x 80 high at level 0"):
        open_annotations(path, SHAPE, ("Tumor",), downsample=2.0)


@pytest.mark.parametrize("kind", ["xml", "json"])
def test_training_takes_either_format_for_a_pair_and_for_a_slide(tmp_path: Path, kind: str) -> None:
    from wsipipe.training.config import ClassConfig
    from wsipipe.training.data_config import AnnotatedSlide

    png(tmp_path / "images" / "a.png", pixels((*SHAPE, 3)))
    labels = tmp_path / "annotations" / f"a.{kind}"
    labels.parent.mkdir()
    if kind == "xml":
        imagescope(labels, layer(region(SQUARE)), layer(region([(0, 0), (50, 0), (50, 20), (0, 20)]), name="Region"))
    else:
        crowd = {"segmentation": [flat([(0, 20), (50, 20), (50, 40), (0, 40)])], "iscrowd": 1}
        coco(labels, {"segmentation": [flat(SQUARE)]}, crowd)
    config = replace(plain(), classes=(ClassConfig("Tumor"),))
    slides = (AnnotatedSlide("images/a.png", annotations=f"annotations/a.{kind}"),)
    for data in ({"folder": "."}, {"slides": slides}):
        truth = only_field(at_place(config, **data), tmp_path)
        drawn = truth.truth.read(whole_field(truth))
        assert (drawn.classes.sum(), (drawn.instances > 0).sum(), drawn.inside.sum()) == (100, 100, 20 * 50)


@pytest.mark.parametrize("kind", ["xml", "json"])
def test_evaluate_takes_either_format(tmp_path: Path, kind: str) -> None:
    from tests.evaluation.test_evaluate import write_store
    from wsipipe.evaluation.evaluate import Options, evaluate

    predicted = np.zeros(SHAPE, np.uint8)
    predicted[6:16, 4:14] = 7
    labels, name = tmp_path / f"case.{kind}", "gland"
    if kind == "xml":
        imagescope(labels, layer(region(SQUARE), name=name))
    else:
        labels.write_text(coco(labels, {"segmentation": [flat(SQUARE)]}).read_text().replace("Tumor", name))
    store = write_store(tmp_path / "case.zarr", predicted)
    options = Options(metrics=("pixel_error",))
    assert evaluate(store, labels, options).scores["pixel_error"] == 0
