"""The notebooks run, cell by cell, in the order in which they stand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def script_of(notebook: Path) -> str:
    """The code of a notebook as Python; a line after ``!`` is a command of the shell, which must not fail."""
    cells = [cell["source"] for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    lines = [line for cell in cells for line in "".join(cell).splitlines()]
    commands = {line: f"subprocess.run({line[1:]!r}, shell=True, check=True)" for line in lines if line[:1] == "!"}
    return "\n".join(["import subprocess", *(commands.get(line, line) for line in lines)])


@pytest.mark.soak
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, tmp_path: Path) -> None:
    (tmp_path / "notebook.py").write_text(script_of(notebook))
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # for its commands
    environment = os.environ | {"PATH": path, "MPLBACKEND": "agg"}
    command = [sys.executable, "notebook.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3
