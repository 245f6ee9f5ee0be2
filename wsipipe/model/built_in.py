"""The models that come with wsipipe, and the names by which ``-m`` and Python know them."""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).parent
BUILT_IN = {"nuclei": FOLDER / "nuclei.safetensors", "nuclei-int8": FOLDER / "nuclei-int8.onnx"}
"""The file of each; `MODEL_CARD.md` is about both."""
DEFAULT_MODEL = "nuclei"


def model_path(model: str | Path) -> Path:
    """The file of ``model``: of a name in `BUILT_IN` the one that comes with wsipipe, else ``model`` itself."""
    return BUILT_IN.get(str(model), Path(model))
