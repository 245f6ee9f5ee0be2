from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from tests.objects.stores import made_store
from tests.report.nights import HOSTILE, write_pyramid, write_store
from tests.store.test_store import labels_of, spec_of, write_blocks, write_coarse
from wsipipe.errors import MachineError, SlideError
from wsipipe.pipeline.objects_plan import ObjectsRequest, plan_objects
from wsipipe.pipeline.objects_store import make_objects
from wsipipe.store import lifecycle
from wsipipe.viewer import server
from wsipipe.viewer.serving import ViewServer, view


def asked(address: str, **headers: str) -> tuple[int, bytes, dict[str, str]]:
    """Status, body and headers of what is at ``address``."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
            return answer.status, answer.read(), dict(answer.headers)
    except urllib.error.HTTPError as err:
        with err:
            return err.code, err.read(), dict(err.headers)


def picture_at(address: str) -> np.ndarray:
    status, blob, headers = asked(address)
    assert status == 200
    decode = imagecodecs.png_decode if headers["Content-Type"] == "image/png" else imagecodecs.jpeg8_decode
    return np.asarray(decode(blob))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of results: a store with probabilities and objects, and a slide with a hostile name."""
    folder = tmp_path_factory.mktemp("out")
    spec, _, _ = made_store(folder, probabilities=True)
    make_objects(plan_objects(spec.path, ObjectsRequest(min_area_um2=0)), 1, 2**40, lambda _done, _all: None)
    return folder


@pytest.fixture(scope="module")
def served(out: Path) -> Iterator[ViewServer]:
    with ViewServer([out, out / "case-17.tif"]) as running:
        yield running


def test_store_has_all_that_there_is_to_see(served: ViewServer) -> None:
    about = json.loads(asked(f"{served.address}about/0")[1])
    assert about["layers"] == ["slide", "labels", "heat"]
    assert about["objects"] > 0
    assert [one["label"] for one in about["classes"]] == [7, 200]
    for layer in ("slide", "labels", "heat"):
        assert picture_at(f"{served.address}tiles/0/{layer}/0/0/0?shown=7,200")[:150, :130].any()
    alone = json.loads(asked(f"{served.address}about/1")[1])
    assert (alone["layers"], alone["objects"], alone["name"]) == (["slide"], None, "case-17.tif")


def test_outlines_are_those_of_the_table_and_have_its_measures(served: ViewServer) -> None:
    where = "x0=0&y0=0&x1=60&y1=60&unit=1&tolerance=0"
    found = json.loads(asked(f"{served.address}outlines/0?{where}")[1])
    columns = found["columns"]
    assert found["objects"] == len(columns["id"]) == len(columns["xs"]) > 0
    assert set(columns["class"]) <= {"gland", "fat"}
    for xs, ys, pixels in zip(columns["xs"], columns["ys"], columns["pixels"], strict=True):
        area = 0.0
        for polygon_x, polygon_y in zip(xs, ys, strict=True):
            for hole, (x, y) in enumerate(zip(polygon_x, polygon_y, strict=True)):
                ring = abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1))) / 2
                area += -ring if hole else ring
        assert area == int(pixels)


def test_more_outlines_than_a_browser_should_draw_are_only_counted(
    served: ViewServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsipipe.viewer.outlines.MOST_OUTLINES", 1)
    found = json.loads(asked(f"{served.address}outlines/0?x0=0&y0=0&x1=999&y1=999&unit=1&tolerance=0")[1])
    assert found["objects"] > 1
    assert "columns" not in found


def test_nobody_looks_without_the_token_or_by_another_name(served: ViewServer) -> None:
    root, token = served.address.removesuffix("/").rsplit("/", 1)
    for address in (f"{root}/", f"{root}/{token[:-1]}/", f"{root}/x{token}/catalog", f"{root}/{token}x/about/0"):
        assert asked(address)[0] in (403, 404)
    assert asked(f"{root}/wrong/about/0")[:2] == (403, b"403")
    assert asked(f"{served.address}catalog", Host="evil.example")[0] == 403
    assert asked(f"{served.address}catalog", Host=f"localhost:{served.port}")[0] == 200


def test_addresses_of_this_machine_are_names_of_the_server(out: Path) -> None:
    with ViewServer([out], host="::1") as running:
        assert asked(running.address)[0] == 200
    with ViewServer([out], host="0.0.0.0") as running:
        assert asked(running.address)[0] == 200
        assert asked(f"{running.address}catalog", Host="10.1.2.3")[0] == 200
        assert asked(f"{running.address}catalog", Host="evil.example")[0] == 403


def test_damaged_labels_are_said_in_a_line(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((64, 80, 3), 200, np.uint8)])
    store = write_store(tmp_path / "a.zarr", slide, np.full((64, 80), 7, np.uint8))
    (shard,) = (file for file in Path(store, "0/c").rglob("*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[:-9])
    with ViewServer([store]) as running:
        status, said, _ = asked(f"{running.address}tiles/0/labels/0/0/0?shown=7")
    assert status == 500
    assert said.startswith(b"a.zarr is damaged (")


def test_only_what_was_named_can_be_asked_for(served: ViewServer) -> None:
    for path in (
        "about/2",
        "about/-1",
        "about/..%2f..%2fetc%2fpasswd",
        "static/..%2fserver.py",
        "static/server.py",
        "tiles/0/secret/0/0/0",
        "tiles/1/labels/0/0/0",
        "tiles/9/slide/0/0/0",
        "thumbnail/7",
        "look?items=7",
        "outlines/1?x0=0&y0=0&x1=1&y1=1&unit=1&tolerance=0",
    ):
        assert asked(served.address + path)[0] == 404, path
    for path in ("look?items=", "look?items=0,1,2,3,4", f"look?items={'9' * 5000}", "outlines/0"):
        assert asked(served.address + path)[0] == 400, path
    for number in ("a", "nan", "inf"):
        assert asked(f"{served.address}outlines/0?x0={number}&y0=0&x1=1&y1=1&unit=1&tolerance=0")[0] == 400, number
    assert picture_at(f"{served.address}tiles/0/slide/0/9/9").max() == 0  # beyond the slide
    assert picture_at(f"{served.address}tiles/0/slide/77/0/0").max() == 0


def test_pages_run_no_script_but_the_servers_and_load_nothing_from_elsewhere(served: ViewServer) -> None:
    for path in ("", "look?items=0", "look?items=0,1"):
        status, page, headers = asked(served.address + path)
        assert status == 200
        assert "script-src 'self';" in headers["Content-Security-Policy"]
        assert headers["Referrer-Policy"] == "no-referrer"
        assert b"http" not in page.replace(b"http-equiv", b"")
    for name in ("bokeh.js", "viewer.js", "catalog.js", "view.css"):
        assert asked(f"{served.address}static/{name}")[0] == 200


def test_hostile_names_are_data(tmp_path: Path) -> None:
    names = [text.replace("/", "_")[:60] for text in HOSTILE if "\0" not in text]
    for number, name in enumerate(names):
        write_pyramid(tmp_path / f"{number}{name}.tif", [np.full((16, 16, 3), 200, np.uint8)])
    slides = sorted(tmp_path.iterdir())
    with ViewServer(slides) as running:
        found = json.loads(asked(f"{running.address}catalog")[1])
        assert {entry["name"] for entry in found} == {slide.name for slide in slides}
        assert all(asked(f"{running.address}about/{n}")[0] == 200 for n in range(len(slides)))
        for page in ("", "look?items=0"):
            assert b"onerror" not in asked(running.address + page)[1]


def test_store_that_is_written_shows_its_blocks_as_they_come(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "case-17.tif", [np.full((150, 130, 3), 200, np.uint8)])
    spec = spec_of(tmp_path, (150, 130), 4, 48)
    labels = labels_of(spec)
    lifecycle.begin_store(spec)
    every = list(spec.grid.indices())
    with ViewServer([tmp_path]) as running:
        (entry,) = json.loads(asked(f"{running.address}catalog")[1])
        assert entry["status"] == "0% done"
        write_blocks(spec, labels, every[:6], None)
        (entry,) = json.loads(asked(f"{running.address}catalog")[1])
        assert entry["status"] == "50% done"
        tile = f"{running.address}tiles/0/labels/0/0/0?shown=7,200"
        assert (picture_at(tile)[:96, :130, 3] > 0).tolist() == (labels[:96, :130] > 0).tolist()
        assert not picture_at(tile)[96:150, :130].any()
        write_blocks(spec, labels, every[6:], None)
        assert (picture_at(tile)[:150, :130, 3] > 0).tolist() == (labels > 0).tolist()
        write_coarse(spec)
        lifecycle.publish(spec, {})  # which gives it another name
        (entry,) = json.loads(asked(f"{running.address}catalog")[1])
        assert (entry["number"], entry["status"]) == (0, "done")
        assert json.loads(asked(f"{running.address}about/0")[1])["complete"]
        assert (picture_at(tile)[:150, :130, 3] > 0).tolist() == (labels > 0).tolist()
        assert slide.exists()


def test_result_whose_slide_is_gone_is_shown_without_it_and_says_so(tmp_path: Path) -> None:
    slide = write_pyramid(tmp_path / "a.tif", [np.full((64, 80, 3), 200, np.uint8)])
    store = write_store(tmp_path / "a.zarr", slide, np.full((64, 80), 7, np.uint8))
    slide.unlink()
    with ViewServer([store]) as running:
        about = json.loads(asked(f"{running.address}about/0")[1])
        assert about["layers"] == ["labels"]
        assert "a.tif" in about["warning"]
        assert (picture_at(f"{running.address}tiles/0/labels/0/0/0?shown=7")[:64, :80, 3] == 255).all()


def test_tiles_are_held_within_a_bound(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CACHE_BYTES", 20_000)
    with ViewServer([out]) as running:
        for shown in range(40):
            assert asked(f"{running.address}tiles/0/labels/0/0/0?shown=7,{shown}")[0] == 200
        held = running._viewer._tiles
        assert 0 < held.total_weight <= 20_000


def test_what_cannot_be_shown_is_said_before_a_page_opens(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"no slide")
    with pytest.raises(SlideError, match=r"a\.tif"):
        view(tmp_path / "a.tif")
    with pytest.raises(SlideError, match="nowhere"):
        view(tmp_path / "nowhere.zarr")
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(MachineError, match="another --port"):
        view(tmp_path / "a.tif", tmp_path, port=taken.getsockname()[1])


def test_folder_of_a_run_that_has_just_begun_has_no_results_yet(tmp_path: Path) -> None:
    (tmp_path / "case-17.zarr.lease").mkdir()
    with ViewServer([tmp_path]) as running:
        assert json.loads(asked(f"{running.address}catalog")[1]) == []
        running.close()  # once more at the end of the context


def test_in_a_notebook_the_page_is_shown_where_it_is_asked_for(out: Path) -> None:
    with view(out / "case-17.zarr") as running:
        assert f'src="{running.address}"' in running._repr_html_()
        assert asked(running.address)[0] == 200


def test_command_says_where_the_page_is_and_ends_when_it_is_told_to(out: Path) -> None:
    command = [sys.executable, "-m", "wsipipe", "view", str(out), "--no-browser"]
    bare = {name: value for name, value in os.environ.items() if name not in ("DISPLAY", "WAYLAND_DISPLAY")}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=bare) as process:
        try:
            assert process.stdout is not None
            address = process.stdout.readline().split()[0]
            assert "ssh -N -L" in process.stdout.readline()
            assert asked(f"{address}about/0")[0] == 200
        finally:
            process.terminate()
    assert process.returncode == 0
