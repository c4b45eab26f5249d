"""Call a function repeatedly in a thread beside a block."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def repeating(function: Callable[[], object], every: float) -> Iterator[None]:
    """Call a function in a thread until the block ends, each time after a pause. every: seconds of the pause.

    Raises: the function's error, at the end of a block that raises none itself; the error ends the calls.
    """
    over = threading.Event()

    def repeat() -> None:
        while not over.wait(every):
            function()

    with ThreadPoolExecutor(1) as pool:
        calls = pool.submit(repeat)
        try:
            yield
        finally:
            over.set()
    calls.result()
