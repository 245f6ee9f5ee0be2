"""wsipipe: gigapixel whole-slide images in, OME-Zarr segmentations out.

>>> import wsipipe
>>> slide = wsipipe.open_slide("case-17.svs")  # doctest: +SKIP
>>> labels = wsipipe.segment(slide)  # doctest: +SKIP
>>> wsipipe.run(["slides/"], wsipipe.RunConfig(objects=True))  # doctest: +SKIP
>>> store = wsipipe.open_store("segmentations/case-17.zarr")  # doctest: +SKIP
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from wsipipe.version import VERSION

if TYPE_CHECKING:
    from wsipipe.errors import MachineError, ModelError, SlideError, UsageError, WsipipeError
    from wsipipe.events import ClassCount
    from wsipipe.importing.import_model import NetworkRequest, named_classes
    from wsipipe.importing.save import save_model
    from wsipipe.model.model_file import Model, ModelInfo, load_model
    from wsipipe.model.spec import LabelClass, ModelSpec
    from wsipipe.model.unet import UNet
    from wsipipe.napari_plugin.layers import napari_layers
    from wsipipe.objects.read import ObjectTable, open_objects
    from wsipipe.pipeline.config import ClusterConfig, RunConfig
    from wsipipe.pipeline.run import run
    from wsipipe.pipeline.segment import segment
    from wsipipe.pipeline.summary import RunSummary, SlideOutcome
    from wsipipe.results import ClassStatistics, Store, open_store
    from wsipipe.slides.open import open_slide
    from wsipipe.slides.planes import Planes
    from wsipipe.slides.slide import Level, Slide
    from wsipipe.viewer.serving import ViewServer, view

__version__ = VERSION

# Where each public name lives; it is imported when it is first used, so that `wsipipe --help` is quick.
_HOME = {
    "ClassCount": "events",
    "ClassStatistics": "results",
    "ClusterConfig": "pipeline.config",
    "LabelClass": "model.spec",
    "Level": "slides.slide",
    "MachineError": "errors",
    "Model": "model.model_file",
    "ModelError": "errors",
    "ModelInfo": "model.model_file",
    "ModelSpec": "model.spec",
    "NetworkRequest": "importing.import_model",
    "ObjectTable": "objects.read",
    "Planes": "slides.planes",
    "RunConfig": "pipeline.config",
    "RunSummary": "pipeline.summary",
    "Slide": "slides.slide",
    "SlideError": "errors",
    "SlideOutcome": "pipeline.summary",
    "Store": "results",
    "UNet": "model.unet",
    "UsageError": "errors",
    "ViewServer": "viewer.serving",
    "WsipipeError": "errors",
    "load_model": "model.model_file",
    "named_classes": "importing.import_model",
    "napari_layers": "napari_plugin.layers",
    "open_objects": "objects.read",
    "open_slide": "slides.open",
    "open_store": "results",
    "run": "pipeline.run",
    "save_model": "importing.save",
    "segment": "pipeline.segment",
    "view": "viewer.serving",
}

__all__ = [
    "ClassCount",
    "ClassStatistics",
    "ClusterConfig",
    "LabelClass",
    "Level",
    "MachineError",
    "Model",
    "ModelError",
    "ModelInfo",
    "ModelSpec",
    "NetworkRequest",
    "ObjectTable",
    "Planes",
    "RunConfig",
    "RunSummary",
    "Slide",
    "SlideError",
    "SlideOutcome",
    "Store",
    "UNet",
    "UsageError",
    "ViewServer",
    "WsipipeError",
    "__version__",
    "load_model",
    "named_classes",
    "napari_layers",
    "open_objects",
    "open_slide",
    "open_store",
    "run",
    "save_model",
    "segment",
    "view",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'wsipipe' has no attribute {name!r}")
    found = getattr(import_module(f"wsipipe.{_HOME[name]}"), name)
    if hasattr(found, "__dataclass_fields__"):
        from wsipipe.documented import document

        document(found)
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
