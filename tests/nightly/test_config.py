"""A night's configuration: checked whole, each error with its line, before anything runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from tests.faults import write_model
from tests.nightly.nights import write_night
from wsipipe.errors import UsageError
from wsipipe.nightly.config import Night, clock_of, read_night, seconds_of
from wsipipe.pipeline.config import ClusterConfig, RunConfig
from wsipipe.slides.planes import Planes


def refused(path: Path, text: str) -> list[str]:
    """The messages about a night of ``text``, a line each."""
    path.write_text(text)
    with pytest.raises(UsageError) as raised:
        read_night(path)
    return str(raised.value).split("\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    return tmp_path / "night.toml"


GOOD = 'inbox = ["in"]\nout = "out"\n'
DISTINCT = "channels must list distinct channel numbers or names, such as 0,2 or DAPI,CD3"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('out = "out"\n', "1: the configuration lacks inbox"),
        ('inbox = ["in"]\n', "1: the configuration lacks out"),
        (
            GOOD + "untill = '06:30'\n",
            "3: the configuration has no key untill; did you mean until? Allowed: inbox, out, ",
        ),
        (
            GOOD + "\n[run]\n\ndevise = 'cpu'\n",
            "6: [run] has no key devise; did you mean device? Allowed: device, engine, ",
        ),
        (GOOD + "[run]\nthreads = 'two'\n", "4: [run] threads is 'two'; allowed: a whole number"),
        (GOOD + "[run]\nreader = 'bioformats'\n", "4: [run] reader bioformats is not a reader; allowed: tiff, "),
        (
            GOOD + "[run]\n\nchannels = '1,1'\n",
            f"5: [run] {DISTINCT} (got '1,1')",
        ),
        (GOOD + "[[slides]]\nmpp = 0.5\n", "3: [[slides]] lacks match"),
        (GOOD + "retries = true\n", "3: retries is True; allowed: a whole number"),
        (GOOD + "retries = 0\n", "3: retries must be 1 or more, not 0"),
        (GOOD + "[run]\ntissue = 'mask.png'\n", "4: [run] tissue must be 'auto' or 'off', not 'mask.png'"),
        ('inbox = "in"\nout = "out"\n', "1: inbox is 'in'; allowed: a list of text: inbox = [\"in\"]"),
        ('out = "out"\ninbox = []\n', "2: inbox must name a folder, a file or a pattern"),
        ('out = "out"\n\ninbox = ["in", "gone/*.svs"]\n', "3: inbox gone/*.svs: "),
        ('out = "out"\ninbox = ["in", "in/gone"]\n', "2: inbox in/gone: "),
        ('inbox = ["in"]\nout = "in"\n', "2: out lies within the inbox in; choose a folder outside it"),
        ('inbox = ["in"]\nout = "in/new/out"\n', "2: out lies within the inbox in; choose a folder outside it"),
        ('inbox = ["*"]\nout = "in/out"\n', "2: out lies within the inbox *; choose a folder outside it"),
        (GOOD + "log = 'in/log.jsonl'\n", "3: log lies within the inbox in; choose a folder outside it"),
        (GOOD + "until = '6.30'\n", "3: until must be a time of day such as 06:30, not '6.30'"),
        (GOOD + "until = '24:00'\n", "3: until must be a time of day such as 06:30, not '24:00'"),
        (GOOD + "until = 06:30:00\n", '3: until must be a time of day in quotes: until = "06:00"'),
        (GOOD + "until = 6\n", '3: until must be a time of day in quotes: until = "06:00"'),
        (GOOD + "until = 06:00  # in the morning\n", '3: until must be in quotes: until = "06:00"'),
        (GOOD + "model = nuclei\n", '3: model must be in quotes: model = "nuclei"'),
        (GOOD + 'report = "reports\nretries = 3\n', '3: a quote is not closed: report = "reports'),
        (GOOD + "report = 'reports\nretries = 3\n", "3: a quote is not closed: report = 'reports"),
        (GOOD + "report = 'reports\nmodel = 'nuclei'\n", "3: a quote is not closed: report = 'reports"),
        (GOOD + "duration = '8 hours'\n", "3: '8 hours' is not a duration such as 8h, 90m or 1h30m"),
        (GOOD + "duration = ''\n", "3: '' is not a duration such as 8h, 90m or 1h30m"),
        (GOOD + "until = '06:30'\nduration = '8h'\n", "4: until and duration both set the end; give one of them"),
        (GOOD + "reserve = 'much'\n", "3: reserve much is not a size; give e.g. 4GB, 500MB or 1.5GiB"),
        (GOOD + "reserve = '-1GB'\n", "3: reserve must not be negative (got -1GB)"),
        (GOOD + "settle = '5'\n", "3: '5' is not a duration such as 8h, 90m or 1h30m, or seconds as a number"),
        (GOOD + "settle = -1\n", "3: -1 is not a duration: give seconds as a number from 0, or 8h, 90m or 1h30m"),
        (GOOD + "duration = inf\n", "3: inf is not a duration: "),
        (GOOD + "[run]\nroi = '1,2,3'\n", "4: [run] roi '1,2,3' must be x,y,width,height in pixels of level 0"),
        (GOOD + "[run]\nroi = 'a.geojson'\n", "4: [run] roi a.geojson is the region of one slide; give it in a table"),
        (GOOD + "[[slides]]\nmatch = 'a'\nroi = 'a.xml'\n", "5: [[slides]] roi "),
        (GOOD + "model = 'gone.safetensors'\n", "3: "),
        (GOOD + "model = 'night.toml'\n", "3: "),
        (GOOD + "[[slides]]\nmatch = '*'\nmodel = 'night.toml'\n", "5: "),
        (GOOD + "webhook = 'ftp://chat'\n", "3: webhook must be an http:// or https:// address"),
        (
            GOOD + "[cluster]\nworkers = 2\nkind = 'cloud'\n",
            "5: [cluster] kind 'cloud' is unknown; choose local, ",
        ),
        (GOOD + "[cluster]\nkind = 'local:2'\n", "4: [cluster] kind 'local:2' is unknown; choose "),
        (
            GOOD + "[cluster]\nkind = 'local'\nadapt = [1]\n",
            "5: [cluster] adapt must be [least, most] workers, not [1]",
        ),
        (GOOD + "[cluster]\nkind = 'local'\nadapt = []\n", "5: [cluster] adapt must be [least, most] workers, not []"),
        (
            GOOD + "[cluster]\nkind = 'local'\nadapt = [3, 2]\n",
            "5: [cluster] adapt must be [least, most] workers, not [3, 2]",
        ),
        (
            GOOD + "[cluster]\nkind = 'local'\nadapt = [1, 0]\n",
            "5: [cluster] adapt must be [least, most] workers, not [1, 0]",
        ),
        (
            GOOD + "[cluster]\nkind = 'local'\nadapt = [0, 0]\n",
            "5: [cluster] adapt must be [least, most] workers, not [0, 0]",
        ),
        (GOOD + "[cluster]\nkind = 'local'\nworkers = 0\n", "5: [cluster] workers must be 1 worker or more, not 0"),
        (
            GOOD + "[cluster]\nworkers = 8\n",
            "4: [cluster] workers applies to a cluster that the run starts; choose its kind",
        ),
        (
            GOOD + "[cluster]\nadapt = [1, 8]\n",
            "4: [cluster] adapt applies to a cluster that the run starts; choose its kind",
        ),
        (
            GOOD + "[cluster]\nkind = 'local'\nscheduler = 'tcp://x:1'\n",
            "4: [cluster] kind starts a cluster, but the scheduler tcp://x:1 already has one; ",
        ),
        (
            GOOD + "[cluster]\nscheduler = 'tcp://x:1'\nadapt = [1, 2]\n",
            "5: [cluster] adapt applies to a cluster that the run starts; remove it, or the scheduler",
        ),
        (GOOD + "[run]\n\nmax_memory = '4 of them'\n", "5: max_memory 4 of them is not a size; "),
        (GOOD + "[run]\nthreads = 0\n", "4: [run] threads must be a positive number, not 0"),
        (GOOD + "[run]\ndevice = 'gpu'\n", "4: [run] device gpu: 'gpu' is not a device; allowed: auto, cpu, "),
        (GOOD + "[run]\nengine = 'tensorflow'\n", "4: [run] engine tensorflow is not an engine; allowed: "),
        (GOOD + "[run]\nprecision = 'int8'\ndevice = 'cpu'\n", "4: [run] precision int8 is not a precision; allowed: "),
        (
            GOOD + "[run]\ntta = 'rotations'\ndevice = 'cpu'\n",
            "4: [run] tta 'rotations' is unknown; choose off, flips, all",
        ),
        (GOOD + "[run]\ntile = 100\nblock = 250\n", "4: tile core 100 px is not a multiple of 8, "),
        (GOOD + "[run]\ntile = 96\nblock = 128\n", "4: block 128 px is not a multiple of 96, "),
        (GOOD + "[run]\nblock = 1001\n", "4: block 1001 px is not a multiple of 8, "),
        (GOOD + "[[slides]]\nmatch = '*'\nmpp = 0\n", "5: [[slides]] mpp must be a positive number, not 0.0"),
        (
            GOOD + "[[slides]]\nmatch = '*'\nreader = 'tifff'\n",
            "5: [[slides]] reader tifff is not a reader; allowed: tiff",
        ),
        (
            GOOD + "[[slides]]\nmatch = '*'\nchannels = '0,0'\n",
            f"5: [[slides]] {DISTINCT} (got '0,0')",
        ),
        (GOOD + "[[slides]]\nmatch = '*'\nmpp = inf\n", "5: [[slides]] mpp must be a positive number, not inf"),
    ],
)
def test_what_makes_no_sense_is_said_with_its_line(path: Path, text: str, said: str) -> None:
    lines = refused(path, text)
    assert [line for line in lines if line.startswith(f"night.toml:{said}")] == lines


def test_all_errors_are_said_at_once_each_with_its_line(path: Path) -> None:
    text = """\
# The night of the test.
inbox = [
    "in",
    "gone",
]
out = "out"
until = "26:00"
reserve = "some"
webhook = "chat.example"
retries = 0
settle = "soon"

[run]
max_memory = "lots"

[cluster]
kind = "cloud"
workers = -1

[[slides]]
match = "*_20x*"
mpp = 0.5

[[slides]]
match = "*"
mpp = -0.5
"""
    lines = refused(path, text)
    assert sorted(int(line.split(":")[1]) for line in lines) == [2, 7, 8, 9, 10, 11, 14, 17, 18, 26]
    assert "night.toml:26: [[slides]] mpp must be a positive number, not -0.5" in lines
    assert f"night.toml:2: inbox gone: {path.parent / 'gone'} does not exist" in lines
    assert not list(path.parent.glob("out*"))


def test_wrong_keys_and_kinds_are_said_at_once_each_with_its_line(path: Path) -> None:
    text = GOOD + "\n[run]\ntile = '64'\nbatsch = 1\n\n[[slides]]\nmatch = 'a'\nmpp = '1'\n[[slides]]\nmpp = 1\n"
    lines = refused(path, text)
    assert [line.rpartition(";")[0] or line for line in lines] == [
        "night.toml:6: [run] has no key batsch",
        "night.toml:5: [run] tile is '64'",
        "night.toml:10: [[slides]] mpp is '1'",
        "night.toml:11: [[slides]] lacks match",
    ]


def test_keys_that_are_unknown_do_not_hide_values_that_cannot_be_used(path: Path) -> None:
    text = """\
inbox = ["in"]
untill = "06:30"
retires = 3
settle = true
[run]
threads = 0
tile = "x"
min_area = 8
batch = -1
max_memory = "lots"
tissue = 3
[[slides]]
mpp = 0
"""
    lines = refused(path, text)
    assert sorted(int(line.split(":")[1]) for line in lines) == [1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13]
    assert "night.toml:1: the configuration lacks out" in lines
    assert "night.toml:8: [run] min_area is about objects, which are not asked for; add [run] objects = true" in lines
    assert "night.toml:9: [run] batch must be a positive number, not -1" in lines
    assert "night.toml:13: [[slides]] mpp must be a positive number, not 0.0" in lines


def test_what_is_no_toml_is_said_with_its_line(path: Path) -> None:
    (line,) = refused(path, GOOD + "until\n")
    assert "night.toml is not a TOML file" in line
    assert "line 3" in line


def test_a_device_that_is_not_here_is_no_error_of_the_configuration(path: Path) -> None:
    """It is one of the machine, and may be there the next night: the report says it, and so does the exit code."""
    path.write_text(GOOD + "[run]\ndevice = 'cuda:77'\n")
    assert read_night(path).run_config().device == "cuda:77"


def test_paths_are_relative_to_the_file(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m.safetensors")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    given = {"inbox": ["in/*.tif"], "out": "../out", "model": "m.safetensors", "log": "logs/n.jsonl", "metrics": "/m"}
    write_night(path, **given)
    monkeypatch.chdir(elsewhere)
    night = read_night(Path(os.path.relpath(path)))
    assert night.path == elsewhere / ".." / "night.toml"
    assert Path(night.run_config().out).resolve() == tmp_path.parent / "out"
    assert Path(str(night.run_config().model)).resolve() == tmp_path / "m.safetensors"
    assert night.report.resolve() == tmp_path.parent / "out" / "reports"
    assert (night.place("/m"), Path(night.place("logs/n.jsonl")).resolve()) == ("/m", tmp_path / "logs" / "n.jsonl")
    write_night(path, **given, report="r")
    assert read_night(path).report == tmp_path / "r"


def test_slides_of_one_pattern_have_planes_of_their_own(path: Path) -> None:
    path.write_text(
        GOOD + "[run]\nchannels = '0'\nz = 1\n[[slides]]\nmatch = '*.tif'\nchannels = 'DAPI'\nreader = 'tiff'\n"
    )
    night = read_night(path)
    of_tif, others = night.options(Path("/in/a.tif")), night.options(Path("/in/a.zarr"))
    assert (of_tif.reader, of_tif.planes) == ("tiff", Planes(("DAPI",), z=1))
    assert (others.reader, others.planes) == (None, Planes((0,), z=1))


def test_a_region_may_be_of_one_slide(path: Path) -> None:
    (path.parent / "a.geojson").write_text("{}")
    path.write_text(GOOD + "[run]\nroi = '0,0,1mm,1mm'\n[[slides]]\nmatch = 'a.svs'\nroi = 'a.geojson'\n")
    night = read_night(path)
    assert night.options(Path("/in/a.svs")).roi == str(path.parent / "a.geojson")
    assert night.options(Path("/in/b.svs")).roi == "0,0,1mm,1mm"


def test_the_first_table_of_slides_that_matches_counts(path: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_model(tmp_path / f"{name}.safetensors")
    text = GOOD + "model = 'a.safetensors'\n"
    for match, more in (
        ("*_20x*.tif", "mpp = 0.5"),
        ("*.tif", "model = 'b.safetensors'"),
        ("*/scanner-2/*", "mpp = 0.3"),
        ("*_20x*", "mpp = 9"),
    ):
        text += f"[[slides]]\nmatch = '{match}'\n{more}\n"
    path.write_text(text)
    night = read_night(path)

    def options(slide: str) -> tuple[float | None, str]:
        config = night.options(Path(slide))
        return config.mpp, Path(str(config.model)).name

    assert options("/in/x_20x.tif") == (0.5, "a.safetensors")
    assert options("/in/x_40x.tif") == (None, "b.safetensors")
    assert options("/in/scanner-2/x.svs") == (0.3, "a.safetensors")
    assert options("/in/x_20x.svs") == (9.0, "a.safetensors")
    assert options("/in/X_20X.TIF") == (None, "a.safetensors")


def test_options_of_the_tables_are_those_of_a_run(path: Path) -> None:
    path.write_text(
        GOOD
        + "[run]\ndevice = 'cpu'\nengine = 'torch'\ntile = 64\nblock = 128\nbatch = 2\nthreads = 3\n"
        + "max_memory = '2GB'\nprobabilities = true\nmax_upsample = 2\n"
        + "objects = true\nmin_area = 8.5\nsplit = true\ninstances = true\n"
        + "reader = 'openslide'\nchannels = '2,DAPI'\nz = 3\n"
        + "[cluster]\nkind = 'slurm'\nworkers = 4\nadapt = [1, 4]\n[cluster.options]\nqueue = 'night'\n"
    )
    config = read_night(path).run_config()
    wanted = RunConfig(
        out=str(path.parent / "out"),
        renew=True,
        device="cpu",
        engine="torch",
        tile=64,
        block=128,
        batch=2,
        threads=3,
        max_memory_bytes=2 * 10**9,
        probabilities=True,
        objects=True,
        instances=True,
        min_area_um2=8.5,
        split=True,
        max_upsample=2.0,
        reader="openslide",
        planes=Planes((2, "DAPI"), z=3),
        cluster=ClusterConfig(kind="slurm", workers=4, adapt=(1, 4), options={"queue": "night"}),
    )
    assert config == wanted


@pytest.fixture
def night(path: Path) -> Night:
    path.write_text(GOOD)
    return read_night(path)


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


@pytest.mark.parametrize(
    ("given", "now", "end"),
    [
        ({}, "2026-11-24T22:00:00", None),
        ({"until": "06:30"}, "2026-11-24T22:00:00", "2026-11-25T06:30:00"),
        ({"until": "06:30"}, "2026-11-25T01:59:59.5", "2026-11-25T06:30:00"),
        ({"until": "06:30"}, "2026-11-25T06:30:00", "2026-11-26T06:30:00"),
        ({"until": "6:30"}, "2026-12-31T22:00:00", "2027-01-01T06:30:00"),
        ({"until": "23:30"}, "2026-11-24T22:00:00", "2026-11-24T23:30:00"),
        ({"until": "00:00"}, "2026-11-24T22:00:00", "2026-11-25T00:00:00"),
        ({"duration": "8h"}, "2026-11-24T22:00:00", "2026-11-25T06:00:00"),
        ({"duration": "1h30m"}, "2026-11-24T22:00:00", "2026-11-24T23:30:00"),
        ({"duration": 5400}, "2026-11-24T22:00:00", "2026-11-24T23:30:00"),
    ],
)
def test_a_night_ends_when_it_should(path: Path, given: dict[str, str | int], now: str, end: str | None) -> None:
    write_night(path, inbox=["in"], out="out", tables="", **given)
    assert read_night(path).ends(at(now)) == (None if end is None else at(end))


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize(("day", "hours"), [("2026-10-31", 9.5), ("2026-03-07", 7.5), ("2026-06-01", 8.5)])
def test_until_is_by_the_clock_on_the_wall_where_summer_time_ends_or_begins(path: Path, day: str, hours: float) -> None:
    now = at(f"{day}T22:00")
    end = read_night(write_night(path, inbox=["in"], out="out", until="06:30", tables="")).ends(now)
    assert end is not None
    assert (end - now) / 3600 == hours


def test_the_digest_is_of_the_text_and_of_the_files_that_it_names(path: Path, night: Night) -> None:
    def digest() -> str:
        read = read_night(path)
        return read.digest(read.options(Path("a.tif")))

    assert digest() == night.digest(night.options(Path("a.tif")))
    path.write_text(GOOD + "# try again\n")
    assert digest() != night.digest(night.options(Path("a.tif")))
    region = path.parent / "a.geojson"
    region.write_text('{"type": "FeatureCollection", "features": []}')
    path.write_text('inbox = ["in"]\nout = "out"\n[[slides]]\nmatch = "a.tif"\nroi = "a.geojson"\n')
    before = digest()
    assert digest() == before
    region.write_text('{"type": "FeatureCollection", "features": [] }')
    assert digest() != before


@pytest.mark.parametrize(
    ("text", "seconds"), [(0.5, 0.5), ("0s", 0), ("8h", 28800), ("90m", 5400), ("1h30m", 5400), ("5m1s", 301)]
)
def test_durations(text: str | float, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "5 m", "m", "-5m", "1.5h", "5m ", "1d"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="not a duration"):
        seconds_of(text)


@pytest.mark.parametrize("text", ["", "6", "06:3", "06:60", "24:00", "-1:00", "06:30:00", "06:30 "])
def test_what_is_no_time_of_the_day(text: str) -> None:
    with pytest.raises(UsageError, match="must be a time of day"):
        clock_of(text)
