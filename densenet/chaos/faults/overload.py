"""More clients at once than the queue holds."""

import time
from collections import Counter

from densenet.chaos.monitor import Log, whole, within
from densenet.chaos.oracle import Outcome, Verdict, count
from densenet.chaos.plan import Check, Fault, Finding, at_least, at_most
from densenet.chaos.scenario import PATIENCE, Scene, finding, steady

CLIENTS = 200
_SECONDS = 8
_QUICK = 5  # seconds after the last of them until all is as before
_FULL = "clean error: 503 ServiceUnavailableException"


def at_once(scene: Scene) -> Finding:
    """Only right answers and 503 while it lasts; as before when it is over."""
    done = f"{CLIENTS} clients ask without a pause for {_SECONDS} seconds, where the queue holds 100 requests."
    with scene.service("crowd") as service:
        log = Log(service)
        with steady(service.inference) as few:
            with steady(service.inference, clients=CLIENTS) as many:
                time.sleep(_SECONDS)
            over = time.monotonic()
            recovered = within(PATIENCE, lambda: whole(service))
    outcomes: list[Outcome] = [*few.outcomes, *many.outcomes]
    labels = Counter(outcome.label for outcome in outcomes)
    found = finding(Fault.QUEUE_FULL, done, outcomes, over, recovered, log.warnings())
    allowed = {"right: 200", _FULL}
    found.checks += [
        Check("what clients saw", "right answers and 503", " and ".join(sorted(labels)), set(labels) <= allowed),
        at_least("refusals", count(outcomes, Verdict.REFUSED), 1),
        at_most("until normal, from the end of the crowd", found.normal_after, _QUICK, " s"),
    ]
    return found
