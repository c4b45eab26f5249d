"""Workers that die, hang, or run out of memory, while others are asked."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from densenet.chaos import sender, workload
from densenet.chaos.monitor import Log, one_worker, whole, within
from densenet.chaos.oracle import Verdict
from densenet.chaos.plan import Fault, Finding, Skipped, at_most, equal
from densenet.chaos.scenario import PATIENCE, SOON, Scene, failed, finding, steady
from densenet.service.torchserve import Service, decoder_processes, worker_processes
from export.archive import copy_with_settings

RESPONSE_TIMEOUT = 5  # seconds, in place of the archive's 120
_ROOM = 100e6  # bytes that a decoder may still take, where a picture of 60 megapixels wants 180 and more
_CGROUP = Path("/sys/fs/cgroup/memory")


def killed(scene: Scene) -> Finding:
    """A worker is killed outright."""
    with scene.service("killed") as service:
        return _replaced(Fault.WORKER_KILLED, service, "One of two workers gets SIGKILL.", _kill, most=SOON)


def hung(scene: Scene) -> Finding:
    """A worker stops, and never comes back by itself."""
    quick = scene.scratch("quick") / "densenet.mar"
    copy_with_settings(scene.archive, quick, {"responseTimeout": RESPONSE_TIMEOUT})
    done = (
        f"One of two workers gets SIGSTOP. `responseTimeout` is {RESPONSE_TIMEOUT} seconds here, so that the test is "
        "short; by default it is 120."
    )
    with scene.service("hung", quick) as service:
        found = _replaced(Fault.WORKER_HUNG, service, done, _hang, most=RESPONSE_TIMEOUT + SOON)
    found.notes.append(
        "By default the one request in the hung worker waits for two minutes and is then answered 500 `Worker died.`; "
        "meanwhile the others get all their answers from the workers that are left, at their share of the speed."
    )
    return found


def _kill(worker: psutil.Process) -> None:
    worker.kill()


def _hang(worker: psutil.Process) -> None:
    worker.suspend()


def _replaced(
    fault: Fault, service: Service, done: str, strike: Callable[[psutil.Process], None], *, most: float
) -> Finding:
    """A worker is struck, must be replaced, and takes at most the one request with it that it was working on."""
    log = Log(service)
    with steady(service.inference) as load:
        victim = one_worker(service)
        injected = time.monotonic()
        strike(victim)
        recovered = within(PATIENCE, lambda: whole(service, gone=victim.pid))
    found = finding(fault, done, load.outcomes, injected, recovered, log.warnings())
    found.checks += [
        at_most("failed requests", failed(load.outcomes), 1),
        at_most("until normal", found.normal_after, most, " s"),
    ]
    return found


def memory_limit(scene: Scene) -> Finding:
    """A decoder may not take more memory, and is sent a picture that needs it."""
    with scene.service("memory") as service, steady(service.inference) as load:
        log, picture = Log(service), workload.huge()
        (known,) = workload.learn(service.inference, [picture])
        workers = worker_processes(service)
        limited = {decoder: _limit(decoder) for worker in workers for decoder in decoder_processes(worker)}
        injected = time.monotonic()
        with workload.quiet_session() as session:
            answer = sender.ask(session, service.inference, picture, known)
            for decoder, most in limited.items():
                decoder.rlimit(psutil.RLIMIT_AS, most)
            again = sender.ask(session, service.inference, picture, known)
        recovered = within(PATIENCE, lambda: whole(service))
        dead = sum(not process.is_running() for process in [*workers, *limited])
    done = (
        f"The address space of both workers' decoders is limited to {_ROOM / 1e6:.0f} MB more than they have "
        "(RLIMIT_AS), and a picture of 60 megapixels is sent, which needs 180; then the limit is lifted, and it is "
        "sent again."
    )
    found = finding(Fault.MEMORY_LIMIT, done, [*load.outcomes, answer, again], injected, recovered, log.warnings())
    found.checks += [
        equal("answer to the picture", answer.label, "clean error: 422 too_costly"),
        equal("answer to it without the limit", again.verdict.value, Verdict.RIGHT.value),
        at_most("other failed requests", failed(load.outcomes), 0),
        equal("workers and decoders that died", dead, 0),
    ]
    return found


def _limit(decoder: psutil.Process) -> tuple[int, int]:
    """Leaves a decoder little room; the limit that it had before."""
    soft, hard = decoder.rlimit(psutil.RLIMIT_AS)
    decoder.rlimit(psutil.RLIMIT_AS, (int(decoder.memory_info().vms + _ROOM), hard))
    return soft, hard


def out_of_memory(scene: Scene) -> Finding:
    """The kernel kills a decoder for the memory that it takes."""
    picture = workload.huge()
    with scene.service("oom") as service, steady(service.inference) as load:
        log = Log(service)
        (known,) = workload.learn(service.inference, [picture])
        workers = worker_processes(service)
        decoders = [decoder for worker in workers for decoder in decoder_processes(worker)]
        with _memory_group([*workers, *decoders]):
            injected = time.monotonic()
            with workload.quiet_session() as session:
                answer = sender.ask(session, service.inference, picture, known)
            within(PATIENCE, lambda: any(not decoder.is_running() for decoder in decoders))
            recovered = within(PATIENCE, lambda: whole(service))
        dead = sum(not worker.is_running() for worker in workers)
    done = (
        "Both workers and their decoders are put into a control group that may hold 60 MB more than they take, and a "
        "picture of 60 megapixels is sent, which needs 180; the kernel kills the decoder."
    )
    found = finding(Fault.OUT_OF_MEMORY, done, [*load.outcomes, answer], injected, recovered, log.warnings())
    found.checks += [
        equal("the picture is answered with a clean error", answer.verdict.value, Verdict.REFUSED.value),
        at_most("other failed requests", failed(load.outcomes), 0),
        equal("workers that died", dead, 0),
        at_most("until normal", found.normal_after, SOON, " s"),
    ]
    return found


@contextmanager
def _memory_group(processes: list[psutil.Process]) -> Iterator[None]:
    """A control group of cgroup v1 around processes, a little larger than they are. Raises Skipped without one."""
    group = _CGROUP / f"chaos-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        raise Skipped(f"no control group for memory can be made here ({error.strerror})") from error
    try:
        for process in processes:
            (group / "cgroup.procs").write_text(str(process.pid))
        (group / "memory.limit_in_bytes").write_text("60M")  # pages that were charged elsewhere stay there
        yield
    finally:
        for pid in (group / "cgroup.procs").read_text().split():
            (_CGROUP / "cgroup.procs").write_text(pid)
        group.rmdir()
