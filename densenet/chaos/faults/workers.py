"""Workers that die, hang or run out of memory while the service is under load."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from densenet.chaos import sender, workload
from densenet.chaos.load import PATIENCE
from densenet.chaos.monitor import Log, healthy, one_worker, within
from densenet.chaos.oracle import Verdict
from densenet.chaos.plan import Fault, Finding, Skipped, at_most, equal
from densenet.chaos.scenario import SOON, Scenario, failed, make_finding, steady
from densenet.service.torchserve import Service, decoder_processes, worker_processes
from export.archive import copy_with_settings

RESPONSE_TIMEOUT = 5  # seconds, instead of the archive's 120
_HEADROOM = 100e6  # bytes that a decoder may still allocate; an image of 60 megapixels needs over 180 MB
_CGROUP = Path("/sys/fs/cgroup/memory")


def killed(scenario: Scenario) -> Finding:
    """Kill a worker."""
    with scenario.service("killed") as service:
        done = "SIGKILL is sent to one of two workers."
        return _replaced(Fault.WORKER_KILLED, service, done, psutil.Process.kill, maximum=SOON)


def hung(scenario: Scenario) -> Finding:
    """Suspend a worker, which never resumes by itself."""
    quick = scenario.scratch("quick") / "densenet.mar"
    copy_with_settings(scenario.archive, quick, {"responseTimeout": RESPONSE_TIMEOUT})
    done = (
        f"SIGSTOP is sent to one of two workers. `responseTimeout` is {RESPONSE_TIMEOUT} seconds instead of 120, the "
        "default, to keep the test short."
    )
    with scenario.service("hung", quick) as service:
        result = _replaced(Fault.WORKER_HUNG, service, done, psutil.Process.suspend, maximum=RESPONSE_TIMEOUT + SOON)
    result.notes.append(
        "With the default, the request in the hung worker fails after two minutes with 500 `Worker died.`. Until then "
        "the remaining workers answer all other requests, at a proportionally lower rate."
    )
    return result


def _replaced(
    fault: Fault, service: Service, done: str, disable: Callable[[psutil.Process], None], *, maximum: float
) -> Finding:
    """Disable a worker; check that it is replaced and that at most the request it was processing fails."""
    log = Log(service)
    with steady(service.inference) as load:
        victim = one_worker(service)
        injected = time.monotonic()
        disable(victim)
        recovered = within(PATIENCE, lambda: healthy(service, gone=victim.pid))
    result = make_finding(fault, done, load.outcomes, injected, recovered, log.warnings())
    result.checks += [
        at_most("failed requests", failed(load.outcomes), 1),
        at_most("recovery time", result.normal_after, maximum, " s"),
    ]
    return result


def memory_limit(scenario: Scenario) -> Finding:
    """Limit the decoders' memory and send an image that needs more."""
    with scenario.service("memory") as service, steady(service.inference) as load:
        log, huge = Log(service), workload.huge()
        (expected,) = workload.learn(service.inference, [huge])
        workers = worker_processes(service)
        limited = {decoder: _limit(decoder) for worker in workers for decoder in decoder_processes(worker)}
        injected = time.monotonic()
        with sender.quiet_session() as session:
            answer = sender.send(session, service.inference, huge, expected)
            for decoder, original in limited.items():
                decoder.rlimit(psutil.RLIMIT_AS, original)
            again = sender.send(session, service.inference, huge, expected)
        recovered = within(PATIENCE, lambda: healthy(service))
        dead = sum(not process.is_running() for process in [*workers, *limited])
    done = (
        f"The address space of both workers' decoders is limited to {_HEADROOM / 1e6:.0f} MB more than they use "
        "(RLIMIT_AS), and an image of 60 megapixels is sent, which needs 180 MB. Then the limit is removed, and "
        "the image is sent again."
    )
    result = make_finding(
        Fault.MEMORY_LIMIT, done, [*load.outcomes, answer, again], injected, recovered, log.warnings()
    )
    result.checks += [
        equal("answer to the image", answer.label, "clean error: 422 too_costly"),
        equal("answer to the image without the limit", again.verdict.value, Verdict.RIGHT.value),
        at_most("other failed requests", failed(load.outcomes), 0),
        equal("workers and decoders that died", dead, 0),
    ]
    return result


def _limit(decoder: psutil.Process) -> tuple[int, int]:
    """Limit a decoder's address space; return its previous RLIMIT_AS (soft, hard), in bytes."""
    soft, hard = decoder.rlimit(psutil.RLIMIT_AS)
    decoder.rlimit(psutil.RLIMIT_AS, (int(decoder.memory_info().vms + _HEADROOM), hard))
    return soft, hard


def out_of_memory(scenario: Scenario) -> Finding:
    """Make the kernel's OOM killer kill a decoder."""
    huge = workload.huge()
    with scenario.service("oom") as service, steady(service.inference) as load:
        log = Log(service)
        (expected,) = workload.learn(service.inference, [huge])
        workers = worker_processes(service)
        decoders = [decoder for worker in workers for decoder in decoder_processes(worker)]
        with _memory_group(decoders):
            injected = time.monotonic()
            with sender.quiet_session() as session:
                answer = sender.send(session, service.inference, huge, expected)
            within(PATIENCE, lambda: any(not decoder.is_running() for decoder in decoders))
            recovered = within(PATIENCE, lambda: healthy(service))
        dead = sum(not worker.is_running() for worker in workers)
    done = (
        "Both workers' decoders run in a control group with 200 MB more than they use, and an image of 60 megapixels "
        "is sent, which needs 240 MB. The kernel kills the decoder."
    )
    result = make_finding(Fault.OUT_OF_MEMORY, done, [*load.outcomes, answer], injected, recovered, log.warnings())
    result.checks += [
        equal("verdict on the answer to the image", answer.verdict.value, Verdict.REFUSED.value),
        at_most("other failed requests", failed(load.outcomes), 0),
        equal("workers that died", dead, 0),
        at_most("recovery time", result.normal_after, SOON, " s"),
    ]
    return result


@contextmanager
def _memory_group(processes: list[psutil.Process]) -> Iterator[None]:
    """Move processes into a memory control group (cgroup v1) that is a little larger than they are.

    Raises: Skipped if the control group cannot be created.
    """
    group = _CGROUP / f"chaos-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise Skipped(f"cannot create a memory control group ({error.strerror})") from error
    try:
        for process in processes:
            (group / "cgroup.procs").write_text(str(process.pid))
        (group / "memory.limit_in_bytes").write_text("200M")  # the pages in use stay charged elsewhere
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (_CGROUP / "cgroup.procs").write_text(pid)
        group.rmdir()
