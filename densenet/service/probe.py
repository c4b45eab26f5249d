"""scripts/probe: check whether a running service is ready or live; the exit status is the result.

A probe runs every few seconds, so this module imports only the standard library and modules that do likewise.
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
_LAST_READY = "seen-ready"  # a file in the service's folder, touched whenever a probe sees a ready worker
HEALTH = "application/health+json"


class ProbeFailed(Exception):
    """The service is not ready, or not live; the message gives the reason."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the result and exit with 0 if the probe succeeds; exit with 1 and the reason if it fails."""
    parser = argparse.ArgumentParser(
        "probe",
        description="Check whether the running service is ready (a worker that has loaded the model answers, and the "
        "service is not draining) or live (TorchServe answers, and a worker was ready recently).",
    )
    parser.add_argument("question", choices=("ready", "live"))
    parser.add_argument("--port", type=int, help="port of the service, if this checkout runs several")
    parser.add_argument("--url", help="address that takes images, of a service that is not this checkout's")
    parser.add_argument("--management", metavar="URL", help="address of its management API, with --url; for live")
    parser.add_argument("--key-file", type=Path, metavar="FILE", help="its key_file.json, if it requires tokens")
    parser.add_argument("--timeout", type=float, default=5, help="seconds to wait for an answer (%(default)g)")
    parser.add_argument(
        "--patience",
        type=float,
        default=240,
        help="live: seconds without a ready worker before the probe fails (%(default)g); 0 for a service that "
        "scripts/serve did not start",
    )
    options = parser.parse_args(arguments)
    try:
        service = _service(options)
        print(ready(service, options.timeout) if options.question == "ready" else live(service, options))
    except ProbeFailed as reason:
        sys.exit(f"not {options.question}: {reason}")


def ready(service: dict[str, Any], timeout: float) -> str:
    """Send a health check to a worker and return the line to print.

    Raises:
        ProbeFailed: if the service is draining, or no worker answers in time.
    """
    if service["temp"] and Path(service["temp"], "control", "draining").exists():
        raise ProbeFailed("the service is draining")
    address = f"{service['inference']}/predictions/{service['model']}"
    if _get(service, "inference", address, timeout, Accept=HEALTH) != {"status": "pass"}:
        raise ProbeFailed(f"another program answers at {address}")
    return f"ready: {address}{_weights(service)}"


def live(service: dict[str, Any], options: argparse.Namespace) -> str:
    """Count the ready workers and return the line to print.

    Raises:
        ProbeFailed: if TorchServe has not answered, or has had no ready worker, for `options.patience` seconds.
    """
    if not service["management"]:
        raise ProbeFailed("live asks the management API; give its address with --management")
    address = f"{service['management']}/models/{service['model']}"
    try:
        (model,) = _get(service, "management", address, options.timeout)
        count = sum(worker["status"] == "READY" for worker in model["workers"])
        reason = "no worker is ready"
    except ProbeFailed as error:
        count, reason = 0, str(error)
    except (ValueError, LookupError, TypeError) as error:
        raise ProbeFailed(f"another program answers at {address}") from error
    what = f"{service['management']}{_weights(service)}"
    if not service["temp"]:  # scripts/serve did not start it, and no folder of it remembers when a worker was ready
        if not count:
            raise ProbeFailed(reason)
        return f"live: {count} worker(s) ready: {what}"
    last_ready = Path(service["folder"], _LAST_READY)
    if count:
        last_ready.touch()
        return f"live: {count} worker(s) ready: {what}"
    since = max(service["started"], last_ready.stat().st_mtime if last_ready.exists() else 0)
    waited = time.time() - since
    if waited >= options.patience:
        raise ProbeFailed(f"{reason}, for {waited:.0f} seconds")
    return f"live: {reason}; the probe fails after {options.patience - waited:.0f} more seconds"


def _weights(service: dict[str, Any]) -> str:
    card = service["card"]
    return f", weights {card['weights']['name']}, {card['precision']}" if card else ""


def _service(options: argparse.Namespace) -> dict[str, Any]:
    port = options.port
    states = [path for path in RUN.glob(f"*/{STATE}") if port is None or path.parent.name == str(port)]
    if options.url or options.management or options.key_file or not states:
        return _look_up(options)
    if len(states) > 1:
        raise ProbeFailed("several services of this checkout are up; choose one with --port")
    service: dict[str, Any] = json.loads(states[0].read_bytes())
    return service


def _look_up(options: argparse.Namespace) -> dict[str, Any]:
    """Find a service that scripts/serve did not start, by modules that take longer to import."""
    from densenet.service import lookup
    from export.console import CliError

    try:
        return vars(lookup.find(options.port, options.url, options.management, options.key_file))
    except CliError as error:
        raise ProbeFailed(str(error)) from error


def _get(service: dict[str, Any], kind: tokens.Kind, url: str, timeout: float, **headers: str) -> Any:
    folder = Path(service["folder"])
    if tokens.has_expired(folder, kind):
        _renew(service, kind, timeout)
    if token := tokens.current(folder, kind):
        headers["Authorization"] = f"Bearer {token}"
    try:
        with _open(service, url, timeout, headers) as response:
            return json.loads(response.read() or "null")
    except urllib.error.HTTPError as error:
        raise ProbeFailed(f"{url} answers with status {error.code}") from error
    except (OSError, ValueError) as error:
        raise ProbeFailed(f"{url} does not answer: {error}") from error


def _renew(service: dict[str, Any], kind: tokens.Kind, timeout: float) -> None:
    headers = {"Authorization": f"Bearer {tokens.renewal_token(Path(service['folder']))}"}
    try:
        _open(service, f"{service['management']}/token?type={kind}", timeout, headers).close()
    except OSError as error:
        raise ProbeFailed(f"TorchServe did not renew the {kind} token: {error}") from error


def _open(service: dict[str, Any], url: str, timeout: float, headers: dict[str, str]) -> Any:
    # The service runs on this machine, so the environment's proxies must not be used.
    handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
    if url.startswith("https:"):
        handlers.append(urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=service["ca"])))
    request = urllib.request.Request(url)
    for name, value in headers.items():
        request.add_unredirected_header(name, value)  # a redirect may lead to a stranger, who must not get the token
    return urllib.request.build_opener(*handlers).open(request, timeout=timeout)


if __name__ == "__main__":
    main()
