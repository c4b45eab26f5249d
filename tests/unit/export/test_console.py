"""The errors and signals of commands."""

import signal
import subprocess
import sys

import pytest

# Destroying an object takes longer than the signal needs to come, so its handler raises where Python drops exceptions.
PROGRAM = """
import os, sys, time
from export import console

class Connection:
    def __del__(self):
        os.kill(os.getpid(), {number})
        time.sleep(0.001)

def main():
    try:
        Connection()
        time.sleep(60)
    finally:
        print("cleaned up")

console.run(main, "test")
"""


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGHUP, 129), pytest.param(signal.SIGINT, 130, id="Ctrl-C")]
)
def test_a_signal_ends_a_command_even_where_python_drops_exceptions(number: signal.Signals, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(number=int(number))],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )
    assert (done.returncode, done.stdout) == (status, "cleaned up\n"), done.stderr
    assert "Exception ignored" not in done.stderr


def test_other_exceptions_that_python_drops_are_still_shown() -> None:
    program = PROGRAM.replace("os.kill(os.getpid(), {number})", "raise ValueError").replace("time.sleep(60)", "pass")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert "Exception ignored" in done.stderr
    assert "ValueError" in done.stderr
