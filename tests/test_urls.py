"""Slides and results behind URLs: the same bytes as on a disk, whatever the bucket does."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr

import wsipipe
from tests.conftest import Call
from tests.faults import (
    PATIENCE_SECONDS,
    Process,
    picture,
    shards,
    start,
    store_files,
    summary,
    wait_until,
    write_model,
    write_slide,
)
from tests.leases.test_lease import FakeClock, no_thread
from tests.nightly.nights import Clock, night_of, rows, statuses
from tests.servers import BUCKET, Proxy, Web, download, s3_server, settings, upload
from tests.slides.made import ome_zarr, zipped
from tests.soak import in_soak, rounds
from tests.test_changed_slides import redact, write_plain
from tests.test_cluster import dask_cluster
from wsipipe import urls
from wsipipe.errors import OutputError, SlideReadError, UsageError
from wsipipe.files import locate
from wsipipe.geometry.grid import Box
from wsipipe.leases.bucket import BucketLease
from wsipipe.leases.holder import Holder
from wsipipe.leases.leases import Leases
from wsipipe.nightly.night import run_night
from wsipipe.report.record import read_history, read_report
from wsipipe.slides.discover import expand
from wsipipe.slides.pixels.mirrored import read_box
from wsipipe.urls import Url

SMALL: tuple[object, ...] = ("--block", 128, "--tile", 128, "--device", "cpu", "--engine", "torch")
TABLE = "[run]\nblock = 128\ntile = 128\ndevice = 'cpu'\nengine = 'torch'\n"
ROOT = f"s3://{BUCKET}"


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with s3_server() as port:
        yield port


@pytest.fixture(autouse=True)
def _bucket(port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process knows the bucket, and forgets what is in it after each test."""

    def connect() -> None:
        urls.connect_store.cache_clear()
        for name, value in settings(port).items():
            monkeypatch.setenv(name, value)

    connect()
    yield
    monkeypatch.undo()  # a test may have put a proxy in front, which is gone by now
    connect()
    Url(ROOT).remove([name for name, _ in Url(ROOT).files()])
    urls.connect_store.cache_clear()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two slides, a model, and in ``out`` the stores that come from files."""
    folder = tmp_path_factory.mktemp("made")
    write_slide(folder / "a.tif", picture((250, 380)))
    write_slide(folder / "b.tif", picture((130, 200), seed=1))
    write_model(folder / "b.safetensors")
    given = {"model": str(folder / "b.safetensors"), "block": 128, "tile": 128, "device": "cpu", "engine": "torch"}
    ended = wsipipe.run([folder / "a.tif", folder / "b.tif"], wsipipe.RunConfig(out=str(folder / "out"), **given))
    assert ended.exit_code == 0, ended
    return folder


@pytest.fixture
def slides(made: Path) -> str:
    """The folder of the slides, in the bucket."""
    for name in ("a.tif", "b.tif"):
        upload(made / name, f"{ROOT}/slides/{name}")
    return f"{ROOT}/slides"


def assert_same_but_for_the_name(store: Path, reference: Path, slide: str) -> None:
    """Assert that both stores hold the same bytes, except that the first is of ``slide``."""
    found, wanted = store_files(store), store_files(reference)
    root = json.loads(found["zarr.json"])
    assert root["attributes"]["wsipipe"]["slide"] == slide
    for name in ("slide", "slide_seen"):  # behind a URL the ETag is seen
        root["attributes"]["wsipipe"][name] = json.loads(wanted["zarr.json"])["attributes"]["wsipipe"][name]
    found["zarr.json"] = json.dumps(root).encode()
    assert sorted(found) == sorted(wanted)
    assert [name for name in wanted if found[name] != wanted[name]] == []


def assert_all_there(made: Path, out: str, slides: str, tmp_path: Path) -> None:
    there = {name.partition("/")[0] for name, _ in Url(out).files()}
    assert there == {"a.zarr", "b.zarr"}, "no unfinished store, and no lease, is left"
    for name in "ab":
        store = download(f"{out}/{name}.zarr", tmp_path / "downloaded" / f"{name}.zarr")
        assert_same_but_for_the_name(store, made / "out" / f"{name}.zarr", f"{slides}/{name}.tif")


def test_a_bucket_as_source_and_target_gives_the_same_bytes(
    made: Path, slides: str, tmp_path: Path, call: Call
) -> None:
    given = ["run", slides, "-m", made / "b.safetensors", "-o", f"{ROOT}/out/", *SMALL, "--json"]
    ended = call(*given)
    assert ended.code == 0, ended.err
    assert summary(ended.out)["done"] == 2
    assert_all_there(made, f"{ROOT}/out", slides, tmp_path)
    again = summary(call(*given).out)
    assert again["skipped"] == 2, "done is what the listing of its shards says"


def test_workers_elsewhere_read_and_write_the_bucket(
    made: Path, slides: str, port: int, tmp_path: Path, call: Call
) -> None:
    with dask_cluster(tmp_path / "dask", workers=2, **settings(port)) as dask:
        given = ["-m", made / "b.safetensors", "-o", f"{ROOT}/out", *SMALL, "--scheduler", dask.address]
        ended = call("run", f"{slides}/*.tif", *given)
        assert ended.code == 0, ended.err
        assert_all_there(made, f"{ROOT}/out", slides, tmp_path)


def test_workers_that_do_not_know_the_bucket_are_found_out_before_anything_begins(
    made: Path, slides: str, tmp_path: Path, call: Call
) -> None:
    elsewhere = Web(tmp_path / "nothing")  # refuses at once; a port where nobody answers is tried again
    with (
        elsewhere.serve() as address,
        dask_cluster(tmp_path / "dask", workers=1, AWS_ENDPOINT_URL=address) as dask,
    ):
        given = ["-m", made / "b.safetensors", "-o", f"{ROOT}/out", *SMALL, "--scheduler", dask.address]
        ended = call("run", slides, *given)
    assert ended.code == 3
    assert f"does not see {slides}/a.tif" in ended.err
    assert not list(Url(f"{ROOT}/out").files())


def impatient(port: int) -> None:
    """Have this process ask the bucket at ``port``, and again soon where it does not answer."""
    os.environ.update(settings(port))
    urls.REQUEST_SECONDS = 0.3


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "every"), rounds((1, 20), (20, 20)))
def test_a_bucket_that_fails_and_stalls_changes_nothing_nor_do_kills(
    made: Path, slides: str, port: int, tmp_path: Path, kills: int, every: int
) -> None:
    """One request in ``every`` is refused, not answered, or done and not answered; and the run is killed."""
    out, proxy = f"{ROOT}/out", Proxy(port, every)
    blocks = sum(len(shards(made / "out" / name)) for name in ("a.zarr", "b.zarr"))

    def begin(port: int) -> Process:
        given: list[object] = [slides, "-m", made / "b.safetensors", "-o", out, *SMALL]
        return start("run", *given, log=tmp_path / "log", first=partial(impatient, port))

    with proxy.serve() as troubled:
        for kill in range(kills):
            before = written(out)
            least = len(before) + (blocks - len(before)) // (kills - kill + 1)
            process = begin(troubled)
            assert wait_until(partial(has_blocks, out, least), process, lambda: 0.1)  # the bucket has else to do
            process.send_signal(signal.SIGKILL)
            process.communicate(timeout=PATIENCE_SECONDS)
            after = written(out)
            named = {name for name in before if before[name][0] != after[name][0]}  # copied: their store was finished
            assert all(after[name] == before[name] for name in before.keys() - named), "written again"
        process = begin(troubled)
        process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert len(proxy.troubled) == 3, "all kinds of trouble came"
    assert_all_there(made, out, slides, tmp_path)


def written(out: str) -> dict[str, tuple[bool, Any]]:
    """By the name of each shard of level 0: whether its store is unfinished, and when it was written."""
    rows = [row for row in Url(out).rows() if "/0/c/" in row["path"]]
    rows.sort(key=lambda row: ".partial" not in row["path"])
    return {row["path"].replace(".partial", ""): (".partial" in row["path"], row["last_modified"]) for row in rows}


def has_blocks(out: str, least: int) -> bool:
    """Whether this many blocks are there."""
    return len(written(out)) >= least


STEPS = ("write_bytes", "copy", "remove")
"""Whatever changes something in a bucket, except leases."""


@pytest.mark.slow
@pytest.mark.parametrize("every", rounds(7, 1))
@pytest.mark.parametrize("replaced", [True, *in_soak(False)])
def test_killed_at_any_step_of_publishing_a_store_is_whole_or_not_there_and_the_next_run_ends_alike(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, replaced: bool, every: int
) -> None:
    slide, out = write_slide(tmp_path / "a.tif", picture((60, 100))), f"{ROOT}/out"
    config = wsipipe.RunConfig(out=out, model=str(tiny_model), block=64, tile=64, device="cpu", tissue="off")
    wsipipe.run([slide], config)
    wanted = store_files(download(f"{out}/a.zarr", tmp_path / "wanted"))
    done, steps = False, 0
    if replaced:
        config = wsipipe.RunConfig(**{**vars(config), "overwrite": True})
    while not done:
        if not replaced:
            Url(out).remove([name for name, _ in Url(out).files()])
        with monkeypatch.context() as patch:
            cut = Cut(steps)
            for name in STEPS:
                patch.setattr(Url, name, cut.before(getattr(Url, name)))
            try:
                wsipipe.run([slide], config)
                done = True
            except Killed:
                steps += every
        Url(f"{out}/a.zarr.lease").unlink(missing_ok=True)  # that of a process that is really dead is taken over
        there = {name for name, _ in Url(f"{out}/a.zarr").files()}
        if "zarr.json" in there:
            assert there == wanted.keys(), "what has its root's document is whole"
        summary = wsipipe.run([slide], wsipipe.RunConfig(**{**vars(config), "overwrite": False}))
        assert summary.exit_code == 0, summary
        assert store_files(download(f"{out}/a.zarr", tmp_path / "made" / str(steps))) == wanted
    assert steps > 3 * len(STEPS)


class Killed(BaseException):
    """What ends a process, seen from within."""


class Cut:
    """All goes well until this many steps were taken, blocks aside; from then on nothing is done."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def before(self, step: Any) -> Any:
        def taken(*args: Any, **options: Any) -> Any:
            self.left -= not threading.current_thread().name.startswith("Dask")
            if self.left < 0:
                raise Killed
            return step(*args, **options)

        return taken


# Leases in a bucket.


@pytest.fixture
def by_hand() -> Iterator[None]:
    """Make heartbeats only when the test asks for them."""
    with no_thread():
        yield


LEASE = Url(f"{ROOT}/case-17.zarr.lease")


@pytest.mark.usefixtures("by_hand")
def test_a_slide_in_a_bucket_is_taken_by_one_and_free_again_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsipipe.leases.holder.this_machine", lambda: "")
    clock = FakeClock()
    first = Leases(clock=clock).take(LEASE)
    assert isinstance(first, BucketLease)
    assert isinstance(Leases(clock=clock).take(LEASE), Holder)
    first.release()
    assert not LEASE.is_file()
    assert isinstance(Leases(clock=clock).take(LEASE), BucketLease)


@pytest.mark.usefixtures("by_hand")
def test_a_dead_holder_loses_its_lease_in_a_bucket_and_a_living_one_never(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsipipe.leases.holder.this_machine", lambda: "")
    clock = FakeClock()
    held, others = Leases(clock=clock).take(LEASE), Leases(clock=clock)
    assert isinstance(held, BucketLease)
    for _ in range(20):
        clock.now += 50
        held.renew()
        assert isinstance(others.take(LEASE), Holder)
    assert not held.lost
    clock.now += 59
    assert isinstance(others.take(LEASE), Holder)
    clock.now += 2
    taken = others.take(LEASE)
    assert isinstance(taken, BucketLease)
    assert held.lost
    held.release()
    assert LEASE.is_file(), "it is the other's"
    taken.renew()
    assert not taken.lost


@pytest.mark.usefixtures("by_hand")
def test_a_holder_whose_lease_was_taken_over_finds_out_at_its_next_beat() -> None:
    held = Leases().take(LEASE)
    assert isinstance(held, BucketLease)
    LEASE.write_bytes(Holder("b", "", 1, 1, "another", 60.0).written())
    held.renew()
    assert held.lost
    held.release()
    assert LEASE.is_file()


@pytest.mark.usefixtures("by_hand")
def test_an_answer_that_is_lost_loses_no_lease_in_a_bucket(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each write is done and not answered, so that it is made again and finds itself there."""
    monkeypatch.setattr(urls, "REQUEST_SECONDS", 0.3)

    class Silent(Proxy):
        def trouble(self) -> str:
            self.requests += 1
            return "done, and not answered" if self.requests in {2, 6} else ""

    with Silent(port).serve() as silent:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent}")
        urls.connect_store.cache_clear()
        held = Leases().take(LEASE)
        assert isinstance(held, BucketLease)
        held.renew()
        held.renew()
        assert not held.lost


def test_of_many_that_want_a_lease_in_a_bucket_one_gets_it() -> None:
    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            taken = list(pool.map(lambda _: Leases().take(LEASE), range(8)))
        (lease,) = (one for one in taken if isinstance(one, BucketLease))
        lease.release()


# What cannot be.


def test_a_url_of_another_kind_is_refused_with_those_that_can_be_read() -> None:
    with pytest.raises(UsageError, match=r"ftp://host/a\.tif is not a supported URL; allowed: file://, s3://"):
        expand(["ftp://host/a.tif"])
    with pytest.raises(UsageError, match=r"has an empty part, \. or \.\. in its path"):
        Url("s3://lab/a/../b")


def test_a_file_url_is_the_path_of_the_file(made: Path) -> None:
    assert expand([f"file://{made}/a.tif"]) == [made / "a.tif"]
    assert locate("file:///a%20b") == Path("/a b")


def test_a_web_server_takes_no_results(made: Path) -> None:
    with pytest.raises(OutputError, match="results cannot be written to a web server; give a folder, or a bucket"):
        wsipipe.run([made / "a.tif"], wsipipe.RunConfig(out="https://127.0.0.1:9/out"))


def test_a_bucket_that_is_not_there_is_an_environment_error(made: Path) -> None:
    with pytest.raises(OutputError, match=r"-o s3://nowhere/out: .*check that the bucket exists"):
        wsipipe.run([made / "a.tif"], wsipipe.RunConfig(out="s3://nowhere/out"))


def test_a_slide_that_is_not_in_the_bucket_fails_and_the_others_go_on(made: Path, slides: str) -> None:
    config = wsipipe.RunConfig(
        out=f"{ROOT}/out", model=str(made / "b.safetensors"), block=128, tile=128, device="cpu", engine="torch"
    )
    summary = wsipipe.run([f"{slides}/gone.tif", f"{slides}/b.tif"], config)
    assert [slide.status for slide in summary.slides] == ["failed", "done"]
    assert f"gone.tif cannot be opened: no such file ({slides}/gone.tif)" in summary.slides[0].message


def test_what_is_in_the_way_in_a_bucket_is_not_overwritten(made: Path) -> None:
    Url(f"{ROOT}/out/a.zarr/notes.txt").write_bytes(b"mine")
    config = wsipipe.RunConfig(out=f"{ROOT}/out", model=str(made / "b.safetensors"), device="cpu")
    summary = wsipipe.run([made / "a.tif"], config)
    assert "is in the way: it is not a store that wsipipe made" in summary.slides[0].message
    assert Url(f"{ROOT}/out/a.zarr/notes.txt").read_bytes() == b"mine"


# Web servers.


@pytest.mark.parametrize("compression", ["jpeg", "zlib"])
def test_a_tiff_on_a_web_server_is_read_by_ranges(tmp_path: Path, compression: str) -> None:
    image = picture((750, 1000)).repeat(4, 0).repeat(4, 1)
    tifffile.imwrite(
        tmp_path / "a.tif", image, tile=(240, 240), compression=compression, photometric="rgb", metadata=None
    )
    box = Box(500, 2800, 300, 3700)
    level = wsipipe.open_slide(tmp_path / "a.tif").levels[0]
    wanted = read_box(level, box)
    with tifffile.TiffFile(tmp_path / "a.tif") as tiff:
        counts = np.reshape(tiff.pages.first.databytecounts, (13, 17))
    held = counts[500 // 240 : -(-2800 // 240), 300 // 240 : -(-3700 // 240)].sum()
    web = Web(tmp_path)
    with web.serve() as address:
        slide = wsipipe.open_slide(f"{address}/a.tif")
        assert slide.identity == wsipipe.open_slide(tmp_path / "a.tif").identity
        np.testing.assert_array_equal(read_box(slide.levels[0], box), wanted)
    assert not web.whole
    assert held <= sum(web.sent.values()) <= 1.3 * held


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_an_ome_zarr_on_a_web_server_is_read_chunk_by_chunk(tmp_path: Path, version: str) -> None:
    image = np.moveaxis(picture((600, 700)), -1, 0)
    ome_zarr(tmp_path / "a.zarr", [image, image[:, ::2, ::2]], "cyx", version)
    box = Box(100, 500, 150, 690)
    wanted = read_box(wsipipe.open_slide(tmp_path / "a.zarr").levels[0], box)
    level = tmp_path / "a.zarr" / "0"
    chunks = [level.joinpath(*parts) for parts in chunk_parts(version, box)]
    held = sum(chunk.stat().st_size for chunk in chunks)
    web = Web(tmp_path)
    with web.serve() as address:
        slide = wsipipe.open_slide(f"{address}/a.zarr")
        np.testing.assert_array_equal(read_box(slide.levels[0], box), wanted)
    assert held <= sum(web.sent.values()) <= 1.3 * held


def chunk_parts(version: str, box: Box) -> list[tuple[str, ...]]:
    """Where the chunks of 64 px, one channel each, are that ``box`` meets."""
    rows, cols = range(box.y0 // 64, -(-box.y1 // 64)), range(box.x0 // 64, -(-box.x1 // 64))
    parts = [(str(c), str(i), str(j)) for c in range(3) for i in rows for j in cols]
    return [("c", *part) for part in parts] if version == "0.5" else [(".".join(part),) for part in parts]


def test_a_file_that_changes_behind_its_url_is_noticed(tmp_path: Path) -> None:
    write_slide(tmp_path / "a.tif", picture((100, 90)))
    with Web(tmp_path).serve() as address:
        level = wsipipe.open_slide(f"{address}/a.tif").levels[0]
        write_slide(tmp_path / "a.tif", picture((100, 90), seed=5))
        with pytest.raises(SlideReadError, match=r"a\.tif has changed since it was opened"):
            _ = level.array


def test_a_slide_that_was_overwritten_in_its_bucket_is_another_by_its_etag(
    made: Path, tmp_path: Path, call: Call
) -> None:
    here, there = write_plain(tmp_path / "plain.tif", (300, 260)), f"{ROOT}/slides/plain.tif"
    upload(here, there)
    given = ["run", there, "-m", made / "b.safetensors", "-o", f"{ROOT}/out", *SMALL, "--json"]
    assert summary(call(*given).out)["done"] == 1
    upload(here, there)
    assert summary(call(*given).out)["skipped"] == 1, "the same bytes have the same ETag"
    redact(here)
    upload(here, there)
    (slide,) = summary(call(*given).out)["slides"]
    assert "another slide file" in slide["message"]


@pytest.mark.parametrize(
    "kind",
    ["folder", "zip", *in_soak("images of SpatialData")],  # tests/slides/readers/test_omezarr.py: on a disk
)
def test_an_ome_zarr_in_a_bucket_is_the_same_as_on_a_disk(tmp_path: Path, kind: str) -> None:
    image = np.moveaxis(picture((300, 200)), -1, 0)
    here = tmp_path / "a.zarr"
    if kind == "images of SpatialData":
        zarr.create_group(here).create_group("images")
    ome_zarr(here / "images" / "a" if kind == "images of SpatialData" else here, [image], "cyx")
    here = zipped(tmp_path / "a.zarr.zip", here) if kind == "zip" else here
    upload(here, f"{ROOT}/in/{here.name}")
    (there,) = expand([f"{ROOT}/in"])
    slide = wsipipe.open_slide(there)
    assert slide.identity == wsipipe.open_slide(here).identity
    np.testing.assert_array_equal(read_box(slide.levels[0], Box(0, 300, 0, 200)), np.moveaxis(image, 0, -1))


# Nights.


@pytest.mark.soak  # a run from a bucket into a bucket, and nights, are shown by themselves
def test_a_night_from_a_bucket_into_a_bucket(made: Path, slides: str, tmp_path: Path) -> None:
    upload(made / "b.tif", f"{slides}/torn.tif")
    torn = (made / "b.tif").read_bytes()[:5000]
    Url(f"{slides}/torn.tif").write_bytes(torn)
    night = night_of(tmp_path, made / "b.safetensors", inbox=[slides], out=f"{ROOT}/out", tables=TABLE)
    clock = Clock()
    report = run_night(night, clock=clock, sleep=clock.sleep)
    assert statuses(report) == {"a.tif": "done", "b.tif": "done", "torn.tif": "failed"}
    told = read_report(Url(f"{ROOT}/out/reports/report.json"))
    assert told == report
    assert b"data:image" in Url(f"{ROOT}/out/reports/report.html").read_bytes()
    clock.now += 24 * 3600
    again = run_night(night, clock=clock, sleep=clock.sleep)
    assert statuses(again) == {"a.tif": "skipped", "b.tif": "skipped", "torn.tif": "failed"}
    assert rows(again)["torn.tif"].attempts == 2
    assert len(read_history(Url(f"{ROOT}/out/reports/history.jsonl"))) == 2
    assert {name.split("/")[0] for name, _ in Url(slides).files()} == {"a.tif", "b.tif", "torn.tif"}


def test_an_inbox_that_cannot_be_listed_is_told_and_the_others_go_on(
    made: Path, slides: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(made / "b.tif", f"{ROOT}/other/b.tif")
    night = night_of(tmp_path, made / "b.safetensors", inbox=[f"{ROOT}/other", slides], out="out", tables=TABLE)

    def forbidden(url: Url) -> Iterator[Url]:
        if str(url) == slides:
            raise PermissionError(13, "no permission", slides)
        return listed(url)

    listed = Url.iterdir
    monkeypatch.setattr(Url, "iterdir", forbidden)
    clock = Clock()
    report = run_night(night, clock=clock, sleep=clock.sleep)
    assert statuses(report) == {"b.tif": "done", "slides": "failed"}
    assert "cannot be listed: no permission" in rows(report)["slides"].message
    assert report.exit_code == 1
