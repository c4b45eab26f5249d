"""More concurrent clients than the queue holds."""

import time
from collections import Counter

from densenet.chaos.load import PATIENCE
from densenet.chaos.monitor import Log, healthy, within
from densenet.chaos.oracle import Outcome, Verdict, count
from densenet.chaos.plan import Check, Fault, Finding, at_least, at_most
from densenet.chaos.scenario import Scenario, make_finding, steady

CLIENTS = 200
_SECONDS = 8
_MAX_RECOVERY = 5  # seconds from the last request until the service is back to normal
_FULL = "clean error: 503 ServiceUnavailableException"


def at_once(scenario: Scenario) -> Finding:
    """Check that clients get only right answers and 503 during an overload, and that the service recovers."""
    done = f"{CLIENTS} clients send requests without a pause for {_SECONDS} seconds; the queue holds 100 requests."
    with scenario.service("overload") as service:
        log = Log(service)
        with steady(service.inference) as few:
            with steady(service.inference, clients=CLIENTS) as many:
                time.sleep(_SECONDS)
            over = time.monotonic()
            recovered = within(PATIENCE, lambda: healthy(service))
    outcomes: list[Outcome] = [*few.outcomes, *many.outcomes]
    labels = Counter(outcome.label for outcome in outcomes)
    result = make_finding(Fault.QUEUE_FULL, done, outcomes, over, recovered, log.warnings())
    allowed = {"right: 200", _FULL}
    result.checks += [
        Check("outcomes", "right answers and 503", " and ".join(sorted(labels)), set(labels) <= allowed),
        at_least("requests refused with 503", count(outcomes, Verdict.REFUSED), 1),
        at_most("recovery time after the end of the overload", result.normal_after, _MAX_RECOVERY, " s"),
    ]
    return result
