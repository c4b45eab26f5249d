"""The front end, TorchServe's Java process, is killed and started again."""

import json
import subprocess
import time
from pathlib import Path

import psutil

from densenet.chaos.environment import Checkout
from densenet.chaos.monitor import within
from densenet.chaos.oracle import Verdict, count
from densenet.chaos.plan import Fault, Finding, at_least, at_most, equal
from densenet.chaos.scenario import PATIENCE, SOON, Scene, finding, steady
from densenet.service.torchserve import STATE, Service, worker_processes
from export.console import Problem

_END = 10  # seconds for workers to see that their front end is gone
_UP = "DenseNet-121 is up"
_DONE = (
    "Java gets SIGKILL, and `scripts/serve --foreground` starts it again as soon as its workers are gone; "
    "later Java is killed once more, to see how that command ends."
)


def killed(scene: Scene) -> Finding:
    """Java is killed under scripts/serve, started anew in the foreground, and killed again."""
    checkout = Checkout(scene.scratch("front") / "checkout", scene.archive)
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
    said = [line for line in errors.splitlines() if not line.startswith("WARNING: the weights are untrained")]
    found = finding(
        Fault.FRONT_KILLED,
        _DONE,
        load.outcomes,
        injected,
        recovered,
        [line.replace(str(checkout.root), "…") for line in said],
    )
    found.checks += [
        at_least("connections lost", count(load.outcomes, Verdict.LOST), 1),
        at_most("until normal", found.normal_after, SOON, " s"),
        at_most("until its workers had ended", alone and alone - injected, _END, " s"),
        equal("its temporary folder is there until the next start", _word(left), "yes"),
        equal("and after it", _word(Path(service.temp).exists()), "no"),
        equal("exit status of --foreground", second.returncode, 1),
        equal("lines that it says", len(said), 1),
        equal("its temporary folder is left, too", _word(Path(again.temp).exists()), "no"),
    ]
    return found


def _word(there: bool) -> str:
    return "yes" if there else "no"


def _up(checkout: Checkout, process: "subprocess.Popen[str]") -> Service:
    """The service, once the command has said that it is up. Raises Problem where it ends instead."""
    assert process.stdout
    for line in process.stdout:
        if line.startswith(_UP):
            state = checkout.root / ".run" / str(checkout.port) / STATE
            return Service(**json.loads(state.read_text()))
    raise Problem(f"the service did not come up: {process.communicate()[1].strip()}")
