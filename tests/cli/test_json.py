"""The documents of ``--json`` have the keys and values that ``docs/operate/json.md`` says, and no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest

from tests.conftest import Call, WriteSlide
from tests.tissue.drawn import disc

PAGE = Path(__file__).parents[2] / "docs" / "operate" / "json.md"
KINDS = {str: "text", int: "whole number", float: "number", bool: "true or false", list: "list", type(None): "null"}
Documents = dict[str, list[Any]]


def keys_of(value: Any, known: dict[str, str], at: str = "") -> Iterator[tuple[str, str]]:
    """Each key of a document, as the page writes it, and its kind; ``known`` are the keys of the page."""
    if isinstance(value, dict):
        free = f"{at}.*".removeprefix(".")
        for key, inner in value.items():
            if free in known or any(one.startswith(f"{free}.") for one in known):
                yield from keys_of(inner, known, free)
            else:
                yield from keys_of(inner, known, f"{at}.{key}".removeprefix("."))
    elif isinstance(value, list) and any(one.startswith(f"{at}[]") for one in known):
        for inner in value:
            yield from keys_of(inner, known, f"{at}[]")
        if not value:
            yield f"{at}[]", "null"
    else:
        yield at, KINDS[type(value)]


@pytest.fixture
def sections(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """The kind of each key, by section of the page; those of dataclasses are made from them, as in the page."""
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(PAGE.parents[1] / "_ext")
    references = import_module("references")
    found: dict[str, dict[str, str]] = {}
    for title, text in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.DOTALL | re.MULTILINE):
        rows = {
            key: kind
            for keys, kind in re.findall(r"^\| (`.+?`) \| (.+?) \| .+ \|$", text, re.MULTILINE)
            for key in re.findall(r"`([^`]+)`", keys)
        }
        for name, place in re.findall(r"{json-keys} (\S+)\n(?::place: (\S+)\n)?", text):
            rows |= {key: kind for key, kind, _ in references.json_rows(references.named(name), place)}
        found[title.strip("`")] = rows
    return found


@pytest.fixture
def documents(call: Call, tmp_path: Path, tiny_model: Path, write_slide: WriteSlide) -> Documents:
    """Real documents of every command that has ``--json``, by its section."""
    good, plain, bad = write_slide(tmp_path / "a.tif"), write_slide(tmp_path / "b.tif", mpp=None), tmp_path / "c.tif"
    bad.write_bytes(b"no slide")
    out, mask = tmp_path / "out", tmp_path / "mask.png"
    mask.write_bytes(imagecodecs.png_encode(disc((40, 40), 30, (96, 128)).astype(np.uint8)))
    run = ["run", "-o", out, "-m", tiny_model, "--device", "cpu", "--block", 64]

    def document(*words: object) -> Any:
        return json.loads(call(*words, "--json").out)

    made = {
        "wsipipe run": [
            document(*run, good, plain, bad, "--objects", "--min-area", 0),
            document(*run, good),
            document(*run, good, "--tissue", mask, "--overwrite"),
        ],
        "wsipipe run --dry-run": [document(*run, plain, bad, "--objects", "--dry-run", "--overwrite")],
        "Errors": [document(*run, good, "--tile", 6)],
    }
    compared = document("evaluate", "--compare", out / "a.zarr", out / "b.zarr", out / "a.zarr")
    sides = [compared["first"], compared["second"]]  # each a document of its own, and a name
    compared |= {side: {"name": compared[side].pop("name")} for side in ("first", "second")}
    return made | {
        "wsipipe info": [document("info", good, bad, "--pixels"), document("info", plain)],
        "wsipipe check": [document("check", out)],
        "wsipipe objects": [document("objects", out), document("objects", out, "--instances", "--split")],
        "wsipipe evaluate": [
            document("evaluate", out / "b.zarr", out / "a.zarr"),
            *sides,
        ],
        "wsipipe evaluate --compare": [compared],
    }


def test_documents_have_the_keys_of_the_page(sections: dict[str, dict[str, str]], documents: Documents) -> None:
    assert sections.keys() == documents.keys()
    for title, known in sections.items():
        seen: dict[str, set[str]] = {}
        for document in documents[title]:
            for key, kind in keys_of(document, known):
                seen.setdefault(key, set()).add(kind)
        nothing = tuple(f"{key}." for key, kinds in seen.items() if kinds == {"null"})
        seen = {key: kinds for key, kinds in seen.items() if not key.endswith("[]")}
        unknown = {f"| `{key}` | {' or '.join(sorted(kinds))} | |" for key, kinds in seen.items() if key not in known}
        assert not unknown, f"{title}:\n" + "\n".join(sorted(unknown))
        for key, kinds in seen.items():
            allowed = known[key].replace("true or false", "bool").split(" or ")
            kinds = {kind.replace("true or false", "bool") for kind in kinds}
            assert kinds <= {*allowed, *(["whole number"] if "number" in allowed else [])}, (title, key, kinds)
        values = {key for key, kind in known.items() if not kind.startswith("object") and not key.startswith(nothing)}
        missing = values - seen.keys()
        assert not missing, f"{title}: no document has {missing}"
        assert not [key for key in seen if " " in key]
