"""Files of the repository as pages: their relative links lead where they lead in the repository.

Files that are a page themselves are linked as that page, other files are downloads, and folders are plain text.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[2]
PAGES = {
    "CHANGELOG.md": "docs/background/changelog.md",
    "CONTRIBUTING.md": "docs/background/contributing.md",
    "benchmarks/README.md": "docs/background/benchmarks.md",
    "workflows/README.md": "docs/operate/workflows.md",
}
"""The page that includes each file."""
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#]+)(#[^)]*)?\)")


def relinked(text: str, file: str, page: str) -> str:
    """``text`` of ``file``, with its links as ``page`` needs them; both are relative to the repository."""

    def one(link: re.Match[str]) -> str:
        label, target, anchor = link[1], os.path.normpath(Path(file).parent / link[2]), link[3] or ""
        if (ROOT / target).is_dir() and f"{target}/README.md" not in PAGES:
            return label
        target = PAGES.get(target, PAGES.get(f"{target}/README.md", target))
        return f"[{label}]({os.path.relpath(target, Path(page).parent)}{anchor})"

    return LINK.sub(one, text)


def on_include(app: Sphinx, path: Path, _stem: str, content: list[str]) -> None:
    """Mend the links of an included file, in place."""
    file = os.path.relpath(ROOT / "docs" / path, ROOT)
    content[0] = relinked(content[0], file, f"docs/{app.env.docname}.md")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("include-read", on_include)
    return {"parallel_read_safe": True}
