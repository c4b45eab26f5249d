"""scripts/probe: whether a running service is ready, or alive, as an exit status for whoever watches over it.

Only the standard library, and none of ours that needs more: a probe runs every few seconds.
"""

import argparse
import json
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densenet.paths import RUN
from densenet.service import tokens

STATE = "service.json"
_SEEN = "seen-ready"  # in the service's folder: its time is when a probe last saw a ready worker
HEALTH = "application/health+json"


class NotSo(Exception):
    """The service is not ready, or not alive; the message says why."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits with 0 where what was asked is so, and 1 where it is not; a line says which."""
    parser = argparse.ArgumentParser(
        "probe",
        description="Whether the running service is ready (a worker that has loaded the model answers, and the service "
        "is not about to stop) or live (TorchServe answers, and a worker was ready not long ago).",
    )
    parser.add_argument("question", choices=("ready", "live"))
    parser.add_argument("--port", type=int, help="of the service, where this checkout runs several")
    parser.add_argument("--timeout", type=float, default=5, help="seconds for an answer (%(default)g)")
    parser.add_argument(
        "--patience",
        type=float,
        default=240,
        help="live: seconds that no worker need be ready, at the start and after one died (%(default)g)",
    )
    asked = parser.parse_args(arguments)
    try:
        service = _service(asked.port)
        print(ready(service, asked.timeout) if asked.question == "ready" else live(service, asked))
    except NotSo as reason:
        sys.exit(f"not {asked.question}: {reason}")


def ready(service: dict[str, Any], timeout: float) -> str:
    """Raises NotSo unless a worker answers now."""
    if Path(service["temp"], "control", "draining").exists():
        raise NotSo("the service is draining")
    address = f"{service['inference']}/predictions/{service['model']}"
    if _get(service, "inference", address, timeout, Accept=HEALTH) != {"status": "pass"}:
        raise NotSo("something else answers there")
    return "ready"


def live(service: dict[str, Any], asked: argparse.Namespace) -> str:
    """Raises NotSo where TorchServe does not answer, or no worker has come back for as long as may be."""
    seen = Path(service["folder"], _SEEN)
    address = f"{service['management']}/models/{service['model']}"
    try:
        (model,) = _get(service, "management", address, asked.timeout)
        count = sum(worker["status"] == "READY" for worker in model["workers"])
        reason = "no worker is ready"
    except NotSo as problem:
        count, reason = 0, str(problem)
    if count:
        seen.touch()
        return f"live: {count} worker(s) ready"
    since = max(service["started"], seen.stat().st_mtime if seen.exists() else 0)
    waited = time.time() - since
    if waited >= asked.patience:
        raise NotSo(f"{reason}, for {waited:.0f} seconds")
    return f"live: {reason}, which may last {asked.patience - waited:.0f} seconds more"


def _service(port: int | None) -> dict[str, Any]:
    found = [path for path in RUN.glob(f"*/{STATE}") if port is None or path.parent.name == str(port)]
    if len(found) != 1:
        where = f" on port {port}" if port else ""
        raise NotSo(f"no service of this checkout is up{where}" if not found else "several are up; say --port")
    service: dict[str, Any] = json.loads(found[0].read_bytes())
    return service


def _get(service: dict[str, Any], kind: tokens.Kind, url: str, timeout: float, **headers: str) -> Any:
    folder = Path(service["folder"])
    if tokens.has_expired(folder, kind):
        _renew(service, kind, timeout)
    if token := tokens.current(folder, kind):
        headers["Authorization"] = f"Bearer {token}"
    try:
        with _open(service, url, timeout, headers) as answer:
            return json.loads(answer.read() or "null")
    except urllib.error.HTTPError as error:
        raise NotSo(f"{url} answers {error.code}") from error
    except (OSError, ValueError) as error:
        raise NotSo(f"{url} does not answer: {error}") from error


def _renew(service: dict[str, Any], kind: tokens.Kind, timeout: float) -> None:
    headers = {"Authorization": f"Bearer {tokens.renewing(Path(service['folder']))}"}
    try:
        _open(service, f"{service['management']}/token?type={kind}", timeout, headers).close()
    except OSError as error:
        raise NotSo(f"TorchServe renews no {kind} token: {error}") from error


def _open(service: dict[str, Any], url: str, timeout: float, headers: dict[str, str]) -> Any:
    # Without proxies: the service is on this machine.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=service["ca"])))
    request = urllib.request.Request(url, headers=headers)
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout)


if __name__ == "__main__":
    main()
