"""wsipipe: gigapixel whole-slide images in, OME-Zarr segmentations out.

>>> import wsipipe
>>> slide = wsipipe.open_slide("case-17.svs")  # doctest: +SKIP
>>> labels = wsipipe.segment(slide, "nuclei.safetensors")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsipipe.version import VERSION

if TYPE_CHECKING:
    from wsipipe.errors import WsipipeError
    from wsipipe.importing.import_model import NetworkRequest, named_classes
    from wsipipe.importing.save import save_model
    from wsipipe.model.model_file import load_model
    from wsipipe.model.spec import LabelClass, ModelSpec
    from wsipipe.model.unet import UNet
    from wsipipe.napari_plugin.layers import napari_layers
    from wsipipe.objects.read import open_objects
    from wsipipe.pipeline.config import ClusterConfig, RunConfig
    from wsipipe.pipeline.run import run
    from wsipipe.pipeline.segment import segment
    from wsipipe.slides.open import open_slide
    from wsipipe.slides.slide import Slide
    from wsipipe.viewer.serving import view

__version__ = VERSION

# Where each public name lives; it is imported when it is first used, so that `wsipipe --help` is quick.
_HOME = {
    "ClusterConfig": "pipeline.config",
    "LabelClass": "model.spec",
    "ModelSpec": "model.spec",
    "NetworkRequest": "importing.import_model",
    "RunConfig": "pipeline.config",
    "Slide": "slides.slide",
    "UNet": "model.unet",
    "WsipipeError": "errors",
    "load_model": "model.model_file",
    "named_classes": "importing.import_model",
    "napari_layers": "napari_plugin.layers",
    "open_objects": "objects.read",
    "open_slide": "slides.open",
    "run": "pipeline.run",
    "save_model": "importing.save",
    "segment": "pipeline.segment",
    "view": "viewer.serving",
}

__all__ = [
    "ClusterConfig",
    "LabelClass",
    "ModelSpec",
    "NetworkRequest",
    "RunConfig",
    "Slide",
    "UNet",
    "WsipipeError",
    "__version__",
    "load_model",
    "named_classes",
    "napari_layers",
    "open_objects",
    "open_slide",
    "run",
    "save_model",
    "segment",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsipipe' has no attribute {name!r}")
    return getattr(import_module(f"wsipipe.{_HOME[name]}"), name)
