from __future__ import annotations

import re
from pathlib import Path

import pytest

from wsipipe.events import Event, SlideFailed, Warned
from wsipipe.nightly.config import read_night
from wsipipe.nightly.remedies import InNight, in_night

VALUES_OF_OPTIONS = {
    "mpp": "0.25",
    "max_upsample": "2",
    "z": "3",
    "tile": "64",
    "block": "2048",
    "batch": "2",
    "threads": "1",
    "max_memory": "9GB",
    "tissue": "off",
    "on_bad_tile": "fill",
    "tta": "flips",
    "reader": "tiff",
    "channels": "0,2",
    "roi": "10,20,1mm,0.5mm",
}


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (
            "a.tif has no mpp; give --mpp, e.g. --mpp 0.25 for a 40x scan",
            "a.tif has no mpp; give [[slides]] mpp, e.g. [[slides]] mpp = 0.25 for a 40x scan",
        ),
        ("a model (-m), or --max-upsample", "a model ([[slides]] model), or [run] max_upsample"),
        ("to segment the whole slide: --tissue off --overwrite", 'to segment the whole slide: [run] tissue = "off"'),
        ("or use --on-bad-tile fill --overwrite, which sets", 'or use [run] on_bad_tile = "fill", which sets'),
        ("then repeat the run, with --overwrite if its file has changed; or", "then repeat the run; or"),
        ("read them with --channels 0,2", 'read them with [[slides]] channels = "0,2"'),
        ("choose with --z N or --series N", "choose with [[slides]] z = N or [[slides]] series = N"),
        ("choose 3 with --channels: DAPI, CD3", "choose 3 with [[slides]] channels: DAPI, CD3"),
        ("leave out --reader openslide, then", 'leave out [[slides]] reader = "openslide", then'),
        ("is damaged; --overwrite makes it anew", "is damaged; remove it, and the next night makes it anew"),
        ("works here: --max-memory 900MB (smaller", 'works here: [run] max_memory = "900MB" (smaller'),
        ("/in/--mpp 0.25/x--z.tif and a-m.svs are torn", "/in/--mpp 0.25/x--z.tif and a-m.svs are torn"),
        ("all the same: --any-stain", "all the same: [run] any_stain = true"),
        ("--roi a/b.geojson is outside a.tif", '[[slides]] roi = "a/b.geojson" is outside a.tif'),
        ("see --help, --cluster slurm", "see --help, --cluster slurm"),
    ],
)  # fmt: skip
def test_a_remedy_is_a_key_of_the_nights_file(message: str, told: str) -> None:
    assert in_night(message) == told
    assert in_night(told) == told


def test_keys_are_those_that_a_night_has(tmp_path: Path) -> None:
    said = in_night("; ".join(f"--{name.replace('_', '-')} {value}" for name, value in VALUES_OF_OPTIONS.items()))
    tables = {"run": "", "slides": "match = '*'\n"}
    for where, line in re.findall(r"\[?\[(run|slides)\]\]? ([^;]+)", said):
        tables[where] += f"{line}\n"
    (tmp_path / "in").mkdir()
    (tmp_path / "night.toml").write_text(
        f"inbox = ['in']\nout = 'out'\n[run]\n{tables['run']}[[slides]]\n{tables['slides']}"
    )
    night = read_night(tmp_path / "night.toml")
    assert "--" not in said
    assert night.config.slides[0].mpp == 0.25
    assert night.config.run.max_memory == "9GB"


def test_events_name_the_remedy_of_the_night() -> None:
    heard: list[Event] = []
    listener = InNight(heard.append)
    listener(SlideFailed("a.tif", "give --mpp"))
    listener(Warned("a.tif", "try --tissue off"))
    assert heard == [SlideFailed("a.tif", "give [[slides]] mpp"), Warned("a.tif", 'try [run] tissue = "off"')]
