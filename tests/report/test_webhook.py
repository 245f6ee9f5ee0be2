from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given

from tests.report.nights import night, slides_of_all_kinds, texts
from wsipipe.report.record import FAILED, SlideReport, plain
from wsipipe.report.webhook import MAX_FAILED, MAX_REASON, payload, post

SECRET = "/services/T0/B0/verysecret"


class Service:
    """A web service that answers each request with the next of ``answers``: a status, or None for never."""

    def __init__(self, *answers: int | None, said: bytes = b"") -> None:
        self.got: list[tuple[str, dict[str, str], Any]] = []
        self.leave = threading.Event()
        service, left = self, list(answers)

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                service.got.append((self.path, dict(self.headers), json.loads(body)))
                answer = left.pop(0)
                if answer is None:
                    service.leave.wait()
                    self.close_connection = True
                    return
                self.send_response(answer)
                if 300 <= answer < 400:
                    self.send_header("Location", "/elsewhere")
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def do_GET(self) -> None:
                service.got.append(("GET", {}, None))

            def log_message(self, *_args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()
        self.url = f"http://127.0.0.1:{self.server.server_port}{SECRET}"

    def close(self) -> None:
        self.leave.set()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Service]]:
    monkeypatch.setenv("no_proxy", "*")
    services: list[Service] = []

    def start(*answers: int | None, said: bytes = b"") -> Service:
        services.append(Service(*answers, said=said))
        return services[-1]

    yield start
    for service in services:
        service.close()


def test_a_night_is_posted_as_json(serve: Callable[..., Service]) -> None:
    service = serve(200)
    report = night(*slides_of_all_kinds(), exit_code=1)
    assert post(service.url, report, path="/out/report.html") == ""
    ((path, headers, sent),) = service.got
    assert path == SECRET
    assert headers["Content-Type"] == "application/json"
    assert sent["text"].startswith("wsipipe on gpu-03: 1 done, 1 failed, 1 set aside, 1 open; 1 waiting")
    assert (sent["exit_code"], sent["counts"], sent["report"]) == (1, report.counts, "/out/report.html")
    assert sent["failed"] == [
        {"slide": "/in/case-2.tif", "status": "failed", "reason": "case-2.tif is truncated", "attempts": 2},
        {
            "slide": "/in/case-3.tif",
            "status": "set aside",
            "reason": "case-3.tif has no mpp; give --mpp",
            "attempts": 3,
        },
    ]
    assert sent["seconds"] == report.seconds


def test_an_error_of_the_service_is_retried_once(serve: Callable[..., Service]) -> None:
    service = serve(500, 204)
    assert post(service.url, night(), pause=0) == ""
    assert len(service.got) == 2


def test_a_service_that_fails_twice_is_quoted(serve: Callable[..., Service]) -> None:
    service = serve(500, 503, said=b"no \x1b space" + b"!" * 5000)
    problem = post(service.url, night(), pause=0)
    assert problem.startswith("webhook http://127.0.0.1: it answered 503 Service Unavailable (no \\x1b space!!!")
    assert len(problem) < 400
    assert len(service.got) == 2


def test_a_message_that_the_service_refuses_is_not_sent_again(serve: Callable[..., Service]) -> None:
    service = serve(404, said=b"no_service")
    assert post(service.url, night(), pause=0) == "webhook http://127.0.0.1: it answered 404 Not Found (no_service)"
    assert len(service.got) == 1


def test_a_redirect_is_not_followed(serve: Callable[..., Service]) -> None:
    service = serve(302)
    assert "it answered 302" in post(service.url, night(), pause=0)
    assert [path for path, _, _ in service.got] == [SECRET]


def test_a_service_that_hangs_is_given_up_after_the_timeout(serve: Callable[..., Service]) -> None:
    service = serve(None, None)
    assert post(service.url, night(), timeout=0.2, pause=0) == "webhook http://127.0.0.1: no answer within 0.2 s"
    assert len(service.got) == 2


def test_a_service_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}{SECRET}"
        problem = post(url, night(), timeout=5, pause=0)
    assert problem.startswith("webhook http://127.0.0.1: it cannot be reached: ")
    assert "verysecret" not in problem


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd?verysecret",
        "ftp://host/verysecret",
        "data:text/plain,verysecret",
        "host/verysecret",
        "",
        "http://",
        "https:///verysecret",
        "http://[verysecret",
        "http://user:verysecret@127.0.0.1/",
        "http://127.0.0.1:verysecret/",
        "http://127.0.0.1:1/very secret\r\nX: verysecret",
        "http://\udcff/verysecret",
        "http://127.0.0.1:1/\u202everysecret",
    ],
)
def test_a_url_that_cannot_be_posted_to_is_named_without_its_secrets(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("no_proxy", "*")
    problem = post(url, night(), timeout=0.2, pause=0)
    assert problem.startswith("webhook")
    assert "secret" not in problem
    problem.encode()


@given(texts)
def test_any_text_can_be_posted(text: str) -> None:
    report = night(*slides_of_all_kinds(text), host=text, command=text, stopped=text)
    sent = json.loads(json.dumps(plain(payload(report, text))))
    json.dumps(sent, ensure_ascii=False).encode()
    assert text == "" or len(sent["failed"][0]["reason"]) > 0


def test_the_message_is_bounded() -> None:
    sent = payload(night(*[SlideReport("a", FAILED, "x" * 5000)] * 500), "")
    assert len(sent["failed"]) == MAX_FAILED
    assert len(sent["failed"][0]["reason"]) == MAX_REASON
    assert sent["counts"][FAILED] == 500
