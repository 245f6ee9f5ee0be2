"""What the store that is at a path says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass

from wsipipe.errors import DamagedStoreError, OutputError, StoreError
from wsipipe.files import locate
from wsipipe.store.documents import STORE_VERSION
from wsipipe.store.spec import PARTIAL, ROOT, Fingerprint
from wsipipe.urls import Url


@dataclass(frozen=True)
class Record:
    """What a store that is there says of itself."""

    slide: str
    """Path of the slide it was made from."""
    fingerprint: Fingerprint
    """What its labels follow from."""
    block: int
    """Side in pixels of its blocks."""
    complete: bool
    """Whether it says of itself that it is finished."""
    tissue_share: float | None
    """What of it was looked at, as the run says that finished it."""


def read_record(path: str) -> Record | None:
    """What the store at ``path`` says of itself, or None if there is nothing.

    Raises
    ------
    DamagedStoreError
        If it is there, and its metadata are not readable.
    StoreError
        If what is there is not a store of wsipipe.
    """
    root = locate(path) / ROOT
    try:
        attributes = json.loads(root.read_bytes())["attributes"]["wsipipe"]
        if attributes["store_version"] > STORE_VERSION:
            raise StoreError(f"{path} was made by a newer wsipipe ({attributes['version']}); use that, or another -o")
        fingerprint = Fingerprint(**attributes["fingerprint"])
        share = ((attributes.get("run") or {}).get("tissue") or {}).get("share")
        return Record(attributes["slide"], fingerprint, attributes["block"], attributes["complete"], share)
    except FileNotFoundError:
        if _is_debris(path):
            return None
        raise StoreError(
            f"{path} is in the way: it is not a store that wsipipe made; move it, or use another -o"
        ) from None
    except KeyError as err:
        raise StoreError(
            f"{path} is in the way: it is a Zarr store, but wsipipe did not make it; move it, or use another -o"
        ) from err
    except (ValueError, TypeError) as err:
        raise DamagedStoreError(
            f"{root} can not be read ({err}), so what the store was made from is not known; --overwrite makes it anew"
        ) from err
    except NotADirectoryError as err:
        raise StoreError(f"{path} is in the way: it is a file; move it, or use another -o") from err
    except OSError as err:
        raise OutputError(f"{root} can not be read: {err.strerror}") from err


def _is_debris(path: str) -> bool:
    """Whether there is nothing at ``path``, or what a writer left that was killed before the root's document."""
    folder = locate(path)
    if isinstance(folder, Url):  # killed while it copied from the unfinished store to its name, or removed either
        return not folder.is_dir() or path.endswith(PARTIAL) or (locate(path + PARTIAL) / ROOT).is_file()
    left = list(folder.iterdir()) if folder.is_dir() else []
    return all(file.name.startswith(ROOT) and file.name.endswith(PARTIAL) for file in left)
