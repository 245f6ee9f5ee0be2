"""The public names of the package: there, documented field by field, and readable where Python shows them."""

from __future__ import annotations

import pydoc
from dataclasses import fields, is_dataclass, make_dataclass, replace
from typing import Any

import pytest

import wsipipe
from wsipipe.documented import document
from wsipipe.events import ClassCount
from wsipipe.pipeline.summary import DONE, FAILED, RunSummary, SlideOutcome
from wsipipe.tables import field_docs


def test_dir_and_completion_show_the_public_names() -> None:
    assert {name for name in dir(wsipipe) if not name.startswith("__")} == set(wsipipe.__all__) - {"__version__"}
    assert all(hasattr(wsipipe, name) for name in wsipipe.__all__)
    assert all(getattr(wsipipe, name).__doc__ for name in wsipipe.__all__ if name != "__version__")


@pytest.mark.parametrize("name", [name for name in wsipipe.__all__ if is_dataclass(getattr(wsipipe, name))])
def test_help_says_what_each_field_means(name: str) -> None:
    kind: Any = getattr(wsipipe, name)
    public = {one.name for one in fields(kind) if not one.name.startswith("_")}
    assert public <= field_docs(kind).keys()
    text = pydoc.plain(pydoc.render_doc(kind))
    for field in public:
        assert field_docs(kind)[field] in text, field


def test_help_of_the_package_lists_them() -> None:
    text = pydoc.plain(pydoc.render_doc(wsipipe))
    assert [name for name in wsipipe.__all__ if name not in text] == ["__version__"]


HOSTILE = "<img src=x onerror=alert(1)>\x1b[2J"


def summary_of(*slides: SlideOutcome) -> RunSummary:
    return RunSummary("out", "m.safetensors", slides, 12.0, 2, 1, 10.0, 1e6, 10, 10)


def test_a_summary_is_readable() -> None:
    done = SlideOutcome("/in/a.svs", DONE, "out/a.zarr", pixels=12_000_000, seconds=4.0)
    done.objects = (ClassCount("nucleus", 1234, None, None, None, None),)
    summary = summary_of(done, SlideOutcome("/in/b.svs", FAILED, "out/b.zarr", "b.svs has no micrometres per pixel"))
    assert repr(summary).splitlines() == [
        "1 done, 1 failed -> out, in 12.0 s",
        "    failed   b.svs: b.svs has no micrometres per pixel",
        "    done     a.svs: out/a.zarr  12.0 MP in 4.0 s, 1,234 objects",
    ]
    table = summary._repr_html_()
    assert "<td>a.svs</td><td>done</td><td>out/a.zarr</td><td>12.0</td><td>4.0</td><td>1,234</td>" in table
    stopped = replace(summary, stopped="no space left on out")
    assert "no space left on out" in repr(stopped)


def test_a_summary_of_many_slides_is_short_and_begins_with_those_that_failed() -> None:
    slides = [SlideOutcome(f"{i}.svs", DONE) for i in range(300)] + [SlideOutcome("bad.svs", FAILED)]
    lines = repr(summary_of(*slides)).splitlines()
    assert len(lines) == 52
    assert "bad.svs" in lines[1]
    assert lines[-1] == "and 251 more, in summary.slides"


def test_what_slides_are_called_is_text() -> None:
    summary = summary_of(SlideOutcome(f"/in/{HOSTILE}.svs", FAILED, None, f"{HOSTILE} is broken\nand more"))
    assert "\x1b" not in repr(summary)
    assert len(repr(summary).splitlines()) == 2
    table = summary._repr_html_()
    assert "<img" not in table
    assert "\x1b" not in table
    assert "&lt;img" in table


def test_without_its_source_a_dataclass_keeps_its_docstring() -> None:
    kind = make_dataclass("Made", [("side", int)])
    before = kind.__doc__
    document(kind)
    assert kind.__doc__ == before


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'wsipipe' has no attribute 'segmnt'"):
        _ = wsipipe.segmnt  # type: ignore[attr-defined]
