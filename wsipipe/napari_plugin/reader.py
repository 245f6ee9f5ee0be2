"""The reader of napari's plugin, and napari with slides and results in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from wsipipe.errors import MachineError, WsipipeError
from wsipipe.extras import install
from wsipipe.files import Named, locate
from wsipipe.napari_plugin.layers import LayerData, napari_layers
from wsipipe.store.finished import is_store


def get_reader(path: str | Sequence[str]) -> Callable[[str | Sequence[str]], list[LayerData]] | None:
    """The function that reads ``path`` for napari; None unless it is a store of wsipipe, so that others may read it.

    Of several paths all must be stores.
    """
    try:
        return _read if all(is_store(locate(one)) for one in _as_list(path)) else None
    except WsipipeError:
        return None


def open_in_napari(paths: Iterable[Named]) -> None:
    """Show stores with their slides, or slides alone, in a window of napari, until it is closed.

    The first is shown; the layers of the others are hidden at first, as they would lie over it.

    Raises
    ------
    MachineError
        If napari is not installed.
    SlideError
        If one of them is neither a store nor a slide.
    """
    try:
        import napari
    except ImportError as err:
        raise MachineError(f"napari is not installed ({err.name}); {install('napari')}") from err
    found = [napari_layers(path) for path in paths]
    viewer = napari.Viewer(title="wsipipe")
    for number, layers in enumerate(found):
        for data, options, kind in layers:
            shown = options.get("visible", True) and number == 0
            viewer.add_layer(napari.layers.Layer.create(data, {**options, "visible": shown}, kind))
    viewer.canvas.overlays.scale_bar.visible = True
    napari.run()


def _read(path: str | Sequence[str]) -> list[LayerData]:
    return [layer for one in _as_list(path) for layer in napari_layers(one)]


def _as_list(path: str | Sequence[str]) -> Sequence[str]:
    return [path] if isinstance(path, str) else path
