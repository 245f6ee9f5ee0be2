from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CODE = """
import sys
sys.modules["torch"] = sys.modules["distributed"] = None
import pytest
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "-k", "rgb8.tif or made.zarr or case-17.vms", sys.argv[1]]))
"""


def test_readers_and_their_tests_need_no_torch() -> None:
    contract = Path(__file__).with_name("test_contract.py")
    run = subprocess.run([sys.executable, "-c", CODE, str(contract)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout
    assert "passed" in run.stdout
