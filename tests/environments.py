"""Virtual environments made in a second: they share this one's packages, and have our distributions from elsewhere."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from export import ROOT


def make(checkout: Path) -> None:
    """.venv of a copy of the repository, as scripts/setup.sh would make it there."""
    folder = checkout / ".venv"
    venv.create(folder, symlinks=True)
    # A folder on the path, whose own .pth files, such as the one of this repository's editable install, do not count.
    (site_packages(folder) / "shared.pth").write_text(sysconfig.get_path("purelib"))
    install = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--offline", "--no-deps"]
    options = ["--no-build-isolation", "--python", folder / "bin" / "python"]
    subprocess.run([*install, *options, "--editable", checkout], check=True)
    for stamp in (ROOT / ".venv").glob("installed-*"):
        text = stamp.read_text().replace(f"{ROOT}\n", f"{checkout}\n", 1)
        (folder / stamp.name).write_text(text)
    # The packages' programs, such as torch-model-archiver, and the link to a Java that came with them.
    for program in Path(sys.executable).parent.iterdir():
        if not (link := folder / "bin" / program.name).exists():
            link.symlink_to(program)


def site_packages(folder: Path) -> Path:
    """Where an environment has its packages."""
    (found,) = folder.glob("lib/python*/site-packages")
    return found
