"""provisional"""

from pathlib import Path

from wsipipe.model.network import ONNX, PT2, UNET


def kind_of(path: Path) -> str:
    with path.open("rb") as file:
        head = file.read(16)
    if head[:2] == b"PK":
        return PT2
    return UNET if head[8:9] == b"{" or len(head) < 9 else ONNX
