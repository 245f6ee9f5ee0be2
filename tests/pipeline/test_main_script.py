"""A script that each worker would run again is refused in one sentence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import WriteSlide
from tests.faults import PATIENCE_SECONDS
from wsipipe.errors import UsageError
from wsipipe.pipeline.cluster.main_script import check_main_script

GUARD = 'if __name__ == "__main__":'
TOP_LEVEL = [
    "check()\n",
    "if True:\n    check()\n",
    "def main():\n    check()\n\n\nmain()\n",
    f"{GUARD}\n    pass\ncheck()\n",
]
GUARDED = [
    f"{GUARD}\n    check()\n",
    f"def main():\n    check()\n\n\n{GUARD}\n    main()\n",
    "if '__main__' == __name__:\n    for _ in range(1):\n        check()\n",
]


def execute(script: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``text`` as the script that Python was started with."""
    script.write_text(text)
    main = ModuleType("__main__")
    main.__file__, main.__spec__ = str(script), None
    main.__dict__["check"] = check_main_script
    monkeypatch.setitem(sys.modules, "__main__", main)
    exec(compile(text, script, "exec"), main.__dict__)


@pytest.mark.parametrize("text", TOP_LEVEL)
def test_a_call_at_the_top_of_a_script_is_refused_and_the_line_named(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = tmp_path / "script.py"
    with pytest.raises(UsageError, match=r'line \d+: .*; put the call below `if __name__ == "__main__":`') as error:
        execute(script, text, monkeypatch)
    line = text.splitlines().index("main()" if "main()" in text.splitlines() else text.splitlines()[-1]) + 1
    assert f"{script}, line {line}: " in str(error.value)


@pytest.mark.parametrize("text", GUARDED)
def test_a_call_below_a_guard_is_not(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    execute(tmp_path / "script.py", text, monkeypatch)


def test_neither_is_a_call_of_the_command_or_of_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    check_main_script()
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))
    check_main_script()


def test_neither_is_a_call_in_a_process_of_multiprocessing_that_has_imported_the_script(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = ModuleType("__mp_main__")
    script.__file__ = str(tmp_path / "script.py")
    Path(script.__file__).write_text("check()\n")
    monkeypatch.setitem(sys.modules, "__main__", script)
    exec(compile("check()", "<string>", "exec"), {"__name__": "__main__", "check": check_main_script})


SCRIPT_TEXT = """
import wsipipe
{guard}
    config = wsipipe.RunConfig(
        out={out!r}, model={model!r}, device="cpu", engine="torch", block=128, tile=128, threads=1,
        cluster=wsipipe.ClusterConfig(kind="local", workers=2),
    )
    print([slide.status for slide in wsipipe.run([{slide!r}], config).slides])
"""


@pytest.mark.soak
@pytest.mark.parametrize("guard", ["if True:", GUARD])
def test_a_whole_script(tmp_path: Path, tiny_model: Path, write_slide: WriteSlide, guard: str) -> None:
    slide = write_slide(tmp_path / "a.tif")
    script, out = tmp_path / "script.py", tmp_path / "out"
    script.write_text(SCRIPT_TEXT.format(guard=guard, out=str(out), model=str(tiny_model), slide=str(slide)))
    ended = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS
    )
    if guard == GUARD:
        assert (ended.returncode, ended.stdout) == (0, "['done']\n"), ended.stderr
        return
    assert ended.returncode == 1
    error = f"wsipipe.errors.UsageError: {script}, line 8: each worker imports this script"
    assert ended.stderr.splitlines()[-1].startswith(error)
    assert not out.exists()
