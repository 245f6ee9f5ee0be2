"""The webhook: a message about a night for a web service, such as a chat."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from wsipipe.report.record import FAILED, SET_ASIDE, NightReport, plain
from wsipipe.report.words import in_a_line, shortened, shown
from wsipipe.version import VERSION

MAX_FAILED, MAX_REASON = 100, 1000
"""Most slides that are listed, and most characters of a reason; the report has all of them."""
ANSWER_BYTES = 200
"""Bytes of an error response that are quoted."""


class _Stay(urllib.request.HTTPRedirectHandler):
    """A handler that refuses redirects: a POST would arrive there as a GET, without the message."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


def post(url: str, report: NightReport, *, path: str = "", timeout: float = 10.0, pause: float = 3.0) -> str:
    """Send ``report`` to ``url`` by POST, as JSON. Returns the problem, or ``""``, and never raises.

    ::

        {"text": "wsipipe on gpu-03: 38 done, 1 failed, 1 set aside",   shown by chats
         "host": "gpu-03", "version": "0.1.0", "command": "wsipipe nightly night.toml",
         "started": "2026-11-24T22:00:00+00:00", "finished": "2026-11-25T06:12:00+00:00", "seconds": 29520.0,
         "exit_code": 1, "stopped": "",
         "counts": {"done": 38, "failed": 1, "set aside": 1, "open": 0, "waiting": 0, "taken": 0, "skipped": 412},
         "pixels": 121000000000, "pixels_per_second": 112000000.0,
         "failed": [{"slide": "/data/case-17.svs", "status": "failed", "reason": "case-17.svs is ...", "attempts": 1}],
         "report": "/out/report.html"}

    ``failed`` lists the slides that failed or are set aside, at most 100, with at most 1000 characters of each reason.
    Invisible characters, and what is not Unicode, are escaped.

    Parameters
    ----------
    url
        ``http://`` or ``https://``. Problems name only its host: the URLs of chats have secrets in their paths.
    report
        The report of the night.
    path
        Path or URL of the page, for the message.
    timeout
        Seconds to wait for the connection, and for each part of the answer.
    pause
        Seconds between the first attempt and the second, which is the last. A message that the service refuses (4xx)
        is not sent again.
    """
    try:
        parts = urlsplit(url)
        where = f"webhook {parts.scheme}://{parts.hostname}"
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return f"webhook: the URL must be http:// or https:// with a host (got {parts.scheme or 'no scheme'})"
        if parts.username is not None:
            return f"{where}: a user name or password in the URL is not sent; remove it"
        request = urllib.request.Request(
            url,
            data=json.dumps(plain(payload(report, path))).encode(),
            headers={"Content-Type": "application/json", "User-Agent": f"wsipipe/{VERSION}"},
        )
        problem, again = _try(request, timeout)
        if again:
            time.sleep(pause)
            problem, _ = _try(request, timeout)
    except Exception as err:  # the night is over and reported; a malformed URL must not fail it
        return (
            f"webhook: it could not be posted ({type(err).__name__})"  # nothing more: the text of the error has the URL
        )
    return f"{where}: {problem}" if problem else ""


def payload(report: NightReport, path: str) -> dict[str, Any]:
    """The document that `post` sends; ``path`` is where the page is."""
    failed = [slide for slide in report.slides if slide.status in (FAILED, SET_ASIDE)]
    return {
        "text": f"wsipipe on {shown(report.host)}: {in_a_line(report)}",
        "host": shown(report.host),
        "version": report.version,
        "command": shown(report.command),
        "started": report.started,
        "finished": report.finished,
        "seconds": report.seconds,
        "exit_code": report.exit_code,
        "stopped": shown(report.stopped),
        "counts": report.counts,
        "pixels": report.pixels,
        "pixels_per_second": report.pixels_per_second,
        "failed": [
            {
                "slide": shown(slide.slide),
                "status": slide.status,
                "reason": shown(shortened(slide.message, MAX_REASON)),
                "attempts": slide.attempts,
            }
            for slide in failed[:MAX_FAILED]
        ],
        "report": shown(path),
    }


def _try(request: urllib.request.Request, timeout: float) -> tuple[str, bool]:
    """The problem, if any, and whether a second attempt may help."""
    try:
        with urllib.request.build_opener(_Stay).open(request, timeout=timeout):
            return "", False
    except urllib.error.HTTPError as err:
        with err:
            return f"it answered {err.code} {err.reason}{_answer(err)}", not 300 <= err.code < 500
    except TimeoutError:
        return f"no answer within {timeout:g} s", True
    except urllib.error.URLError as err:
        if isinstance(err.reason, TimeoutError):
            return f"no connection within {timeout:g} s", True
        return f"it cannot be reached: {err.reason}", True
    except http.client.InvalidURL:
        raise
    except (OSError, http.client.HTTPException) as err:
        return f"the connection broke: {err or type(err).__name__}", True


def _answer(err: urllib.error.HTTPError) -> str:
    """The beginning of an error response, which often gives the reason."""
    try:
        said = err.read(ANSWER_BYTES).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException):
        return ""
    return f" ({shown(said)})" if said else ""
