"""What README.md and the pages of ``docs/`` say is so: their Python runs, their commands and tables are read.

A block that is not run has the reason in a comment above it: ``<!-- not run: needs a window of napari -->``.
"""

from __future__ import annotations

import ast
import json
import re
import shlex
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_type_hints

import click
import pytest

import wsipipe
from tests.conftest import WriteSlide
from wsipipe.cli import cli
from wsipipe.nightly.config import NightConfig
from wsipipe.tables import parse_table
from wsipipe.training.config import TrainConfig, config_of

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(page for page in DOCS.rglob("*.md") if "_build" not in page.parts)]
BLOCK = re.compile(r"^( *)(?:<!-- not run: (.+) -->\n *)?```([\w{}-]*)[^\n]*\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {"python", "sh", "toml", "json", "text"}


class Block(NamedTuple):
    """A block of code in a page."""

    place: str
    """File and line."""
    language: str
    code: str
    reason: str
    """Why it is not run; mostly empty."""


def blocks(page: Path) -> Iterator[Block]:
    """The blocks of code of a page."""
    text = page.read_text()
    for found in BLOCK.finditer(text):
        indent, reason, language, code = found.groups()
        place = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, found.start()) + 1}"
        yield Block(place, language, code.replace(f"\n{indent}", "\n").removeprefix(indent), reason or "")


def every_block(*languages: str) -> list[Block]:
    """The blocks of all pages, or those in some languages."""
    return [block for page in PAGES for block in blocks(page) if not languages or block.language in languages]


def pages_with_python() -> list[Any]:
    """Parameters: the pages that have Python to run."""
    pages = [page for page in PAGES if any(one.language == "python" and not one.reason for one in blocks(page))]
    return [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages]


def test_every_block_is_of_a_language_that_is_tested_here() -> None:
    """Directives, which begin with a brace, are for Sphinx to check."""
    assert [b.place for b in every_block() if b.language not in LANGUAGES and not b.language.startswith("{")] == []


@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # torch's exporter, about its own code
@pytest.mark.parametrize("page", pages_with_python())
def test_python_runs(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_slide: WriteSlide, tiny_model: Path
) -> None:
    """The blocks of a page one after the other, in a folder that has a slide, a folder of slides, and a model."""
    write_slide(tmp_path / "case-17.svs", (130, 150))
    write_slide(tmp_path / "slides" / "case-18.tif", (96, 128))
    (tmp_path / "my.safetensors").write_bytes(tiny_model.read_bytes())
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks(page):
        if block.language == "python":
            code = compile(block.code.replace("base_channels=16", "base_channels=1, depth=1"), block.place, "exec")
            if not block.reason:
                exec(code, names)


def command_lines(code: str) -> Iterator[list[str]]:
    """The words of each line, without comments and redirection; a line that ends in a backslash goes on."""
    for line in code.replace("\\\n", " ").splitlines():
        if words := shlex.split(line.partition(" > ")[0], comments=True):
            yield words


def parse(words: list[str]) -> None:
    """Let click parse the words after ``wsipipe``, without running anything; raise a ClickException if it cannot."""
    command: click.Command = cli
    context = None
    while True:
        context = command.make_context(words[0], words[1:], parent=context)
        if not isinstance(command, click.Group):
            return
        words = [*context._protected_args, *context.args]
        _, found, _ = command.resolve_command(context, words)
        assert found is not None
        command = found


def extras_of(words: list[str]) -> set[str]:
    """The extras of wsipipe that a command of pip names."""
    return {
        extra for word in words for names in re.findall(r"(?:wsipipe|^\.)\[(.*)\]", word) for extra in names.split(",")
    }


def test_commands_have_options_and_extras_that_exist() -> None:
    extras = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    wrong = []
    for block in every_block("sh"):
        for words in command_lines(block.code):
            wrong += [f"{block.place}: no extra {extra}" for extra in extras_of(words) - extras]
            if Path(words[0]).name == "wsipipe":
                try:
                    parse(words)
                except click.ClickException as err:
                    wrong.append(f"{block.place}: {shlex.join(words)}: {err.format_message()}")
    assert wrong == []


def test_a_command_that_does_not_exist_is_found() -> None:
    for line in ("wsipipe rnu slides/", "wsipipe run slides/ --tilt 3", "wsipipe model import a.onnx", "wsipipe run"):
        with pytest.raises(click.ClickException):
            parse(shlex.split(line))
    parse(shlex.split("wsipipe model show my.safetensors"))


def test_tables_and_documents_are_read() -> None:
    for block in every_block("toml"):
        document = tomllib.loads(block.code)
        if "inbox" in document:
            parse_table(NightConfig, document)
        elif "data" in document:
            config_of(document)
    for block in every_block("json"):
        json.loads(block.code)


def test_links_of_the_first_page_lead_somewhere() -> None:
    """Those of ``docs/`` are checked by Sphinx."""
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)(?:#[^)]*)?\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_reference_of_python_has_each_public_name_once() -> None:
    listed = re.findall(r"^   ([A-Za-z_]+)$", (DOCS / "api" / "index.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(set(wsipipe.__all__) - {"__version__"})


def keys_of(kind: Any) -> Iterator[str]:
    """The keys of a table and of those in it."""
    types = get_type_hints(kind)
    for field in fields(kind):
        inside = [one for one in (types[field.name], *get_args(types[field.name])) if is_dataclass(one)]
        yield from keys_of(inside[0]) if inside else [field.name]


@pytest.mark.parametrize(("kind", "options"), [(TrainConfig, None), (NightConfig, cli.commands["run"])])
def test_every_key_of_a_toml_file_is_in_its_reference(
    kind: Any, options: click.Command | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("sphinx")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    text = "\n".join(import_module("references").sections_of(kind, options))
    rows = re.findall(r"^\| `(\w+)` \| .+ \| .* \| (.+) \|$", text, re.MULTILINE)
    assert Counter(key for key, _ in rows) == Counter(keys_of(kind))
    assert all(meaning.strip() for _, meaning in rows)


@cache
def texts_of_the_code() -> tuple[str, ...]:
    """All texts in the code; values of an f-string are a NUL."""
    found = set()
    for path in (ROOT / "wsipipe").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.add("".join(v.value if isinstance(v, ast.Constant) else "\0" for v in node.values))  # type: ignore[misc]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return tuple(found)


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    cells = re.findall(r"^\| (`.*?) \|", (DOCS / "operate" / "troubleshooting.md").read_text(), re.MULTILINE)
    messages = [message for cell in cells for message in re.findall(r"`([^`]+)`", cell)]
    assert len(messages) > 20
    parts = [part.strip(" ;") for message in messages for part in message.split("...") if part.strip(" ;()")]
    missing = [part for part in parts if not any(part in text for text in texts_of_the_code())]
    assert missing == []


def test_sizes_are_said_by_one_function_so_that_nobody_has_to_guess_which_side_is_which() -> None:
    assert [text for text in texts_of_the_code() if re.search("\0 x \0 px", text)] == []


def test_the_first_page_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 120
