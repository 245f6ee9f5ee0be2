"""Secrets in URLs: passwords are refused, signatures work, and neither is kept or told anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import wsipipe
from tests.conftest import Call, WriteSlide
from tests.faults import store_files, summary
from tests.faults import wsipipe as command
from tests.servers import Web
from tests.soak import in_soak
from wsipipe import urls
from wsipipe.errors import UsageError, WsipipeError
from wsipipe.redaction import without_secrets
from wsipipe.slides.discover import expand
from wsipipe.urls import Url

SECRET = "c0ffee4711"
SIGNED = f"X-Amz-Expires=60&X-Amz-Signature={SECRET}%2Fab%3D"
SMALL: tuple[object, ...] = ("--block", 128, "--tile", 128, "--device", "cpu")


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    yield
    urls.signatures.clear()
    urls.connect_store.cache_clear()


@pytest.fixture
def signed(tmp_path: Path, write_slide: WriteSlide) -> Iterator[str]:
    """The URL of a slide, without the signature that it needs."""
    write_slide(tmp_path / "web" / "case.tif", (300, 260))
    with Web(tmp_path / "web", query=SIGNED).serve() as address:
        yield f"{address}/case.tif"


def assert_kept_nowhere(folder: Path, *texts: str) -> None:
    for text in texts:
        assert SECRET not in text
    for path in folder.rglob("*"):
        assert SECRET not in path.name
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


@pytest.mark.parametrize("more", [(), *in_soak(("--cluster", "local:2", "--threads", 1))])
def test_a_presigned_url_is_read_and_its_signature_is_kept_nowhere(
    signed: str, tmp_path: Path, tiny_model: Path, more: tuple[object, ...]
) -> None:
    given = ["-m", tiny_model, *SMALL, "--json"]
    ended = command("run", f"{signed}?{SIGNED}", "-o", tmp_path / "out", *given, *more)
    assert ended.returncode == 0, ended.stderr
    assert summary(ended.stdout)["slides"][0]["slide"] == signed
    assert_kept_nowhere(tmp_path / "out", ended.stdout, ended.stderr)
    assert command("run", tmp_path / "web" / "case.tif", "-o", tmp_path / "file", *given).returncode == 0
    found, wanted = store_files(tmp_path / "out" / "case.zarr"), store_files(tmp_path / "file" / "case.zarr")
    assert {n: b for n, b in found.items() if n != "zarr.json"} == {n: b for n, b in wanted.items() if n != "zarr.json"}
    again = command("run", f"{signed}?{SIGNED}", "-o", tmp_path / "out", *given)
    assert summary(again.stdout)["skipped"] == 1


def test_a_night_over_a_presigned_url_keeps_no_signature(
    signed: str, tmp_path: Path, tiny_model: Path, call: Call
) -> None:
    night, out = tmp_path / "night.toml", tmp_path / "out"
    night.write_text(
        f"""
inbox = ["{signed}?{SIGNED}", "{signed.replace("case.tif", "missing.tif")}?{SIGNED}"]
out = "{out}"
model = "{tiny_model}"
settle = "0s"
log = "{out}/log.jsonl"
metrics = "{out}/metrics.prom"
[run]
device = "cpu"
"""
    )
    dry, ended = call("nightly", "--dry-run", night), call("nightly", night)
    assert ended.code == 1, ended.err
    assert (out / "case.zarr").is_dir()
    assert (out / "reports" / "report.html").exists()
    assert_kept_nowhere(out, *dry[1:], *ended[1:])


def test_a_signature_that_does_not_fit_is_not_told(signed: str, tmp_path: Path, tiny_model: Path, call: Call) -> None:
    ended = call("run", f"{signed}?{SIGNED}x", "-m", tiny_model, "-o", tmp_path / "out", "--device", "cpu")
    assert ended.code == 1
    assert "no permission" in ended.out + ended.err
    assert_kept_nowhere(tmp_path / "out", ended.out, ended.err)


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{SECRET}@example.org/a.svs",
        f"https://{SECRET}@example.org/a.svs?x=1",
        f"s3://key:{SECRET}@lab/a.svs",
        f"abfss://lab:{SECRET}@account.dfs.core.windows.net/a.svs",
        f"https://me:{SECRET}/b@example.org/a.svs",
    ],
)
def test_a_password_in_a_url_is_refused_with_the_way_out_and_not_told(
    url: str, tmp_path: Path, tiny_model: Path, call: Call
) -> None:
    night = tmp_path / "night.toml"
    night.write_text(f'inbox = ["{url}"]\nout = "out"\nmodel = "{tiny_model}"\n')
    for words in (["run", url, "-o", tmp_path / "out"], ["run", "a.tif", "-o", url], ["info", url], ["nightly", night]):
        ended = call(*words)
        assert ended.code == 2
        assert "remove it" in ended.err or "correct it" in ended.err
        assert_kept_nowhere(tmp_path / "out", ended.out, ended.err)
    assert not (tmp_path / "out").exists()


def test_the_password_of_a_scheduler_is_refused_and_not_told(tmp_path: Path, tiny_model: Path, call: Call) -> None:
    address = f"tcp://me:{SECRET}@127.0.0.1:8786"
    ended = call("run", "a.tif", "-m", tiny_model, "-o", tmp_path / "out", "--scheduler", address)
    assert ended.code == 2
    assert "certificates" in ended.err
    assert SECRET not in ended.out + ended.err


def test_two_query_strings_do_not_tell_two_slides_apart() -> None:
    with pytest.raises(UsageError, match="two query strings"):
        expand(["https://example.org/download?id=1", "https://example.org/download?id=2"])


def test_the_container_of_azure_is_no_secret_and_a_question_mark_of_a_bucket_is_a_pattern() -> None:
    assert str(Url("abfss://lab@account.dfs.core.windows.net/a.svs")).startswith("abfss://lab@account")
    assert Url("s3://lab/case-?.svs").name == "case-?.svs"
    assert urls.signatures == {}


def test_no_error_has_the_secrets_of_a_url_that_a_library_quotes() -> None:
    quoted = f"GET https://me:{SECRET}@example.org/a.svs?{SIGNED} failed; https://example.org?{SIGNED}"
    assert str(WsipipeError(quoted)) == "GET https://example.org/a.svs failed; https://example.org"
    assert without_secrets("s3://lab/case-?.svs and me@example.org") == "s3://lab/case-?.svs and me@example.org"
    assert json.dumps(repr(Url(f"https://example.org/a.svs?{SIGNED}"))).count(SECRET) == 0


def test_a_folder_behind_a_signature_reads_its_files_with_it() -> None:
    folder = Url(f"https://example.org/a.zarr?{SIGNED}")
    assert SECRET in repr((folder / "0" / "zarr.json").store)
    assert SECRET not in repr(Url("https://example.org/b.zarr").store)


def test_slides_open_in_python_too(signed: str) -> None:
    slide = wsipipe.open_slide(f"{signed}?{SIGNED}")
    assert slide.path == signed
    assert slide.levels[0].array[:10, :10].shape == (10, 10, 3)
