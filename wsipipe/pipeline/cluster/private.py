"""Who may speak to schedulers and workers: those with a certificate of the run that started them, and nobody else.

Whoever speaks to a worker can have it run any code. TLS with certificates on both sides keeps out other users of the
network and, on loopback, of the machine.

Source: https://distributed.dask.org/en/stable/tls.html
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distributed.security import Security

from wsipipe.errors import UsageError

TLS = "tls://"
LOOPBACK = "127.0.0.1"
HTTP_ADDRESS = f"{LOOPBACK}:0"
"""Where the HTTP server of a scheduler or a worker listens, on a free port; distributed always starts one."""
CLIENT_FILES = {"ca_file": "ca-file", "cert": "client.cert", "key": "client.key"}
"""The files that a client needs, and the settings below ``distributed.comm.tls`` that name them."""


def http_routes() -> dict[str, Any]:
    """Settings that leave HTTP servers only the pages of the dashboard, which is there where bokeh is installed.

    Other routes of distributed name slides, show logs, retire workers, or pass requests on to other machines. The lists
    are new ones each time, for distributed appends to them.
    """
    return {
        "distributed.scheduler.http.routes": ["distributed.http.statics"],
        "distributed.worker.http.routes": [],
    }


def run_certificates() -> Security:
    """Certificates for one run, in memory only; scheduler, workers and client of that run have the same."""
    security: Security = Security.temporary()
    return security


def handed_over(folder: Path) -> Security:
    """Like `run_certificates`; what a worker elsewhere needs lies in files of ``folder``, for this user only."""
    security = run_certificates()
    for name in ("tls_ca_file", "tls_worker_cert", "tls_worker_key"):
        path = folder / f"{name}.pem"
        path.touch(0o600)
        path.write_text(getattr(security, name))
        setattr(security, name, str(path))
    return security


def check_client_certificates(scheduler: str) -> None:
    """Raise a UsageError if ``scheduler`` is a ``tls://`` address and dask's configuration has no certificates for it.

    Dask itself gives a TypeError about an SSLContext, or a FileNotFoundError without a name.
    """
    if not scheduler.startswith(TLS):
        return
    files = Security().get_tls_config_for_role("client")
    for name, setting in CLIENT_FILES.items():
        file, setting = files[name], f"distributed.comm.tls.{setting}"
        if file is None and name != "key":  # a key may be in the file of the certificate
            variable = f"DASK_{setting.replace('.', '__').replace('-', '_').upper()}"
            raise UsageError(
                f"--scheduler {scheduler} needs certificates, but dask's configuration has no {setting}; "
                f"set it there, or in {variable}"
            )
        if file is not None and "\n" not in file and not Path(file).is_file():
            raise UsageError(f"--scheduler {scheduler} needs certificates, but {setting} is not a file: {file}")
