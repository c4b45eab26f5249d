"""A killed front end (TorchServe's Java process), started again by scripts/serve."""

import json
import subprocess
import time
from pathlib import Path

import psutil

from densenet.chaos.environment import Checkout
from densenet.chaos.load import PATIENCE
from densenet.chaos.monitor import within
from densenet.chaos.oracle import Verdict, count
from densenet.chaos.plan import Fault, Finding, at_least, at_most, equal
from densenet.chaos.scenario import SOON, Scenario, make_finding, steady
from densenet.service.torchserve import STATE, Service, worker_processes
from export.console import CliError

_END = 10  # seconds for workers to notice that their front end is gone
_UP = "DenseNet-121 is up"
_DONE = (
    "SIGKILL is sent to Java, and `scripts/serve --foreground` starts the service again once its workers have exited. "
    "Then Java is killed again, to check how that command exits."
)


def killed(scenario: Scenario) -> Finding:
    """Kill Java under scripts/serve, start it again in the foreground, and kill it again."""
    checkout = Checkout(scenario.scratch("front") / "checkout", scenario.archive)
    try:
        with checkout.serve() as first:
            service = _up(checkout, first)
            first.wait(PATIENCE)
        with steady(service.inference) as load:
            below, injected = worker_processes(service), time.monotonic()
            psutil.Process(service.pid).kill()
            alone = within(_END, lambda: not any(worker.is_running() for worker in below))
            left = Path(service.temp).exists()
            second = checkout.start("--foreground")
            again = _up(checkout, second)
            recovered = time.monotonic()
        psutil.Process(again.pid).kill()
        _, errors = second.communicate(timeout=PATIENCE)
    finally:
        checkout.stop()
    printed = [line for line in errors.splitlines() if not line.startswith("WARNING: the weights are untrained")]
    result = make_finding(
        Fault.FRONT_KILLED,
        _DONE,
        load.outcomes,
        injected,
        recovered,
        [line.replace(str(checkout.root), "…") for line in printed],
    )
    result.checks += [
        at_least("lost connections", count(load.outcomes, Verdict.LOST), 1),
        at_most("recovery time", result.normal_after, SOON, " s"),
        at_most("time until the workers exited", alone and alone - injected, _END, " s"),
        equal("the temporary folder exists before the next start", _yes_no(left), "yes"),
        equal("the temporary folder exists after the next start", _yes_no(Path(service.temp).exists()), "no"),
        equal("exit status of --foreground", second.returncode, 1),
        equal("lines printed by --foreground", len(printed), 1),
        equal("the temporary folder exists after --foreground exited", _yes_no(Path(again.temp).exists()), "no"),
    ]
    return result


def _yes_no(value: bool) -> str:
    return "yes" if value else "no"


def _up(checkout: Checkout, process: "subprocess.Popen[str]") -> Service:
    """Wait until scripts/serve reports that the service is up, and return the service.

    Raises: CliError if the command exits instead.
    """
    assert process.stdout
    for line in process.stdout:
        if line.startswith(_UP):
            state = checkout.root / ".run" / str(checkout.port) / STATE
            return Service(**json.loads(state.read_text()))
    raise CliError(f"the service did not start: {process.communicate()[1].strip()}")
