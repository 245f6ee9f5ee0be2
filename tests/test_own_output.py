"""What goes wrong with one slide's output is that slide's, and the others are done: long names, links, permissions."""

from __future__ import annotations

import errno
import os
import pickle
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

import wsipipe
from tests.conftest import WriteSlide
from tests.faults import assert_same_bytes, files
from tests.nightly.nights import Clock, night_of
from tests.soak import in_soak
from wsipipe.errors import OutputError
from wsipipe.files import OF_AN_ENTRY, appearing, fitted_name, name_limit, write_whole
from wsipipe.nightly.night import run_night
from wsipipe.pipeline.summary import DONE, FAILED, SKIPPED, RunSummary

LONG = "切片" * 40 + "x.tif"
"""A name of 245 bytes."""


@pytest.fixture
def config(tmp_path: Path, tiny_model: Path) -> wsipipe.RunConfig:
    return wsipipe.RunConfig(
        out=str(tmp_path / "out"),
        model=str(tiny_model),
        device="cpu",
        engine="torch",
        block=64,
        tile=64,
        threads=1,
        tissue="off",
    )


def told(summary: RunSummary) -> list[str]:
    return [slide.status for slide in summary.slides]


# --- names ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [50, 143, 255])
def test_a_name_that_fits_stays_and_a_longer_one_ends_in_a_hash_of_all_of_it(limit: int) -> None:
    assert fitted_name("a" * (limit - 5), ".zarr", limit) == "a" * (limit - 5) + ".zarr"
    names = ["a" * limit + "1", "a" * limit + "2", "切片" * limit, "\udcff" * limit, "é" * (limit - 5)]
    fitted = [fitted_name(name, ".zarr", limit) for name in names]
    assert len(set(fitted)) == len(names)
    assert fitted == [fitted_name(name, ".zarr", limit) for name in names]
    for name, short in zip(names, fitted, strict=True):
        assert limit - 4 < len(os.fsencode(short)) <= limit
        assert short.endswith(".zarr")
        assert name.startswith(short.removesuffix(".zarr")[:-9])


def test_the_limit_is_that_of_the_file_system_although_the_folder_is_not_made_yet(tmp_path: Path) -> None:
    assert name_limit(tmp_path / "a" / "b") == os.pathconf(tmp_path, "PC_NAME_MAX")


def test_a_file_with_the_longest_name_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / ("x" * name_limit(tmp_path))
    for shared in (False, True):
        write_whole(path, b"whole", shared=shared)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"whole"]


def test_a_folder_that_two_write_at_once_is_that_of_the_first_and_nothing_else_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with ExitStack() as slower:
        second = slower.enter_context(appearing(path, shared=True))
        (second / "deep").mkdir(parents=True)
        with appearing(path, shared=True) as first:
            first.mkdir()
            (first / "whole").touch()
        with pytest.raises(OutputError, match="a cannot be written"):
            slower.close()
    assert [entry.relative_to(tmp_path).as_posix() for entry in sorted(tmp_path.rglob("*"))] == ["a", "a/whole"]


def slides_of(folder: Path, write_slide: WriteSlide, names: Sequence[str]) -> list[Path]:
    return [write_slide(folder / name, seed=seed) for seed, name in enumerate(names)]


def test_slides_with_the_longest_names_are_done_each_in_a_store_of_its_own(
    tmp_path: Path, config: wsipipe.RunConfig, write_slide: WriteSlide
) -> None:
    names = [LONG, "x" * 250 + "1.tif", "x" * 250 + "2.tif", "y" * (226 - 4) + ".tif", "ok.tif"]
    slides = slides_of(tmp_path / "in", write_slide, names[:1] + [name[5:] for name in names[1:3]] + names[3:])
    summary = wsipipe.run(slides, config)
    assert told(summary) == [DONE] * 5, [slide.message for slide in summary.slides]
    stores = [Path(slide.store or "").name for slide in summary.slides]
    assert len(set(stores)) == 5
    assert stores[-1] == "ok.zarr"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(stores)
    assert told(wsipipe.run(slides[::-1], config)) == [SKIPPED] * 5, "the same name each time"
    assert told(wsipipe.run(slides, replace(config, overwrite=True))) == [DONE] * 5


def test_a_night_does_a_slide_with_a_long_name_and_the_others(
    tmp_path: Path, tiny_model: Path, write_slide: WriteSlide
) -> None:
    slides_of(tmp_path / "in", write_slide, [LONG, "ok.tif"])
    night, clock = night_of(tmp_path, tiny_model), Clock()
    report = run_night(night, clock=clock, sleep=clock.sleep)
    assert (report.exit_code, {row.status for row in report.slides}) == (0, {DONE})


# --- errors of one output, and of the whole folder ------------------------------------------------------------


def test_an_output_error_keeps_its_cause_on_its_way_through_processes() -> None:
    try:
        raise OutputError("case.zarr cannot be written") from OSError(errno.ELOOP, "loop")
    except OutputError as err:
        for there in (
            err,
            pickle.loads(pickle.dumps(err)),
            pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(err)))),
        ):
            assert (there.cause, str(there)) == (errno.ELOOP, "case.zarr cannot be written")
    assert OutputError("full").cause not in OF_AN_ENTRY


@pytest.mark.parametrize("code", [errno.EACCES, errno.EINVAL, errno.ENOSPC])
def test_an_error_of_one_output_is_that_slides_and_a_full_disk_ends_the_run(
    tmp_path: Path, config: wsipipe.RunConfig, write_slide: WriteSlide, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    slides = slides_of(tmp_path, write_slide, ["bad.tif", "ok.tif"])
    real = Path.write_bytes

    def write(path: Path, blob: bytes) -> int:
        if "bad.zarr.partial/0/c" in str(path):
            raise OSError(code, os.strerror(code), str(path))
        return real(path, blob)

    monkeypatch.setattr(Path, "write_bytes", write)
    summary = wsipipe.run(slides, config)
    assert os.strerror(code) in summary.slides[0].message
    assert (summary.exit_code, told(summary)[0]) == (3 if code == errno.ENOSPC else 1, FAILED)
    assert code == errno.ENOSPC or told(summary)[1] == DONE


# --- links ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["a store", *in_soak("nothing", "itself")])
@pytest.mark.parametrize("suffix", [".zarr", ".zarr.partial", ".zarr.replaced"])
def test_a_link_in_place_of_a_store_is_replaced_again_and_again_and_what_it_leads_to_stays(
    tmp_path: Path, config: wsipipe.RunConfig, write_slide: WriteSlide, suffix: str, to: str
) -> None:
    slides = slides_of(tmp_path, write_slide, ["linked.tif", "ok.tif"])
    elsewhere = replace(config, out=str(tmp_path / "elsewhere"))
    wsipipe.run(slides, elsewhere)
    store, out = Path(elsewhere.out) / "linked.zarr", Path(config.out)
    before = files(store)
    out.mkdir()
    link = out / f"linked{suffix}"
    for _ in range(2):
        for there in out.glob("linked*"):
            shutil.rmtree(there)
        link.symlink_to({"a store": store, "nothing": tmp_path / "gone", "itself": link}[to])
        if to != "a store" and suffix != ".zarr.replaced":
            refused = wsipipe.run(slides[:1], config)
            assert told(refused) == [FAILED]
            assert f"{link} is a link to " in refused.slides[0].message
            assert link.is_symlink()
        summary = wsipipe.run(slides, replace(config, overwrite=True))
        assert told(summary)[1] == DONE
        assert told(summary)[0] == DONE, summary.slides[0].message
        assert sorted(path.name for path in out.iterdir()) == ["linked.zarr", "ok.zarr"]
        assert not (out / "linked.zarr").is_symlink()
        assert_same_bytes(out / "linked.zarr", store)
        assert files(store) == before
