"""Readiness: why a service did not come up, read off what TorchServe and Java have printed."""

from pathlib import Path

import pytest

from densenet.service.readiness import Watch

INVALID = """nvidia-smi not available or failed
Invalid configuration: For input string: "10MB"
Exception in thread "Thread-0" java.util.concurrent.RejectedExecutionException: event executor terminated
"""
NO_JAVA = """Invalid maximum heap size: -Xmx1zettabyte
Error: Could not create the Java Virtual Machine.
Error: A fatal exception has occurred. Program will exit.
"""
TAKEN = "java.io.IOException: Failed to bind to address: http://127.0.0.1:8080\n"


@pytest.mark.parametrize(
    ("console", "reason"),
    [
        (INVALID, 'Invalid configuration: For input string: "10MB"'),
        (NO_JAVA, "Invalid maximum heap size: -Xmx1zettabyte"),
        (TAKEN, "Failed to bind to address: http://127.0.0.1:8080"),
    ],
)
def test_the_reason_of_an_end_is_the_first_and_not_what_follows_from_it(
    console: str, reason: str, tmp_path: Path
) -> None:
    watch = Watch(tmp_path)
    (tmp_path / "console.log").write_text(console)
    assert watch.server_failure() == reason


def test_without_a_reason_the_log_is_named(tmp_path: Path) -> None:
    watch = Watch(tmp_path)
    (tmp_path / "console.log").write_text("Model server started.\n")
    assert watch.server_failure() == f"see {tmp_path / 'ts_log.log'}"
