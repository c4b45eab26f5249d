"""Virtual environments made in a second: they share this one's packages, and have our distributions from elsewhere."""

import subprocess
import sys
import venv
from pathlib import Path

from export import ROOT


def make(checkout: Path) -> None:
    """.venv of a copy of the repository, as scripts/setup.sh would make it there."""
    folder = checkout / ".venv"
    venv.create(folder, symlinks=True)
    # Of a folder on the path the .pth files, such as the one of this repository's editable install, do not count.
    shared = [place for place in sys.path if Path(place).name == "site-packages"]
    (site_packages(folder) / "shared.pth").write_text("\n".join(shared))
    install = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--offline", "--no-deps"]
    options = ["--no-build-isolation", "--python", folder / "bin" / "python"]
    subprocess.run([*install, *options, "--editable", checkout, "--editable", checkout / "client"], check=True)
    for stamp in Path(sys.prefix).glob("installed-*"):
        text = stamp.read_text().replace(f"{ROOT} ", f"{checkout} ", 1)
        (folder / stamp.name).write_text(text)
    # The packages' programs, such as torch-model-archiver, and the link to a Java that came with them.
    for program in Path(sys.executable).parent.iterdir():
        if not (link := folder / "bin" / program.name).exists():
            link.symlink_to(program)


def site_packages(folder: Path) -> Path:
    """Where an environment has its packages."""
    (found,) = folder.glob("lib/python*/site-packages")
    return found


def with_wheel(folder: Path, project: Path) -> Path:
    """An empty environment in that folder with a project's wheel and what it asks for; its bin folder."""
    uv = Path(sys.executable).with_name("uv")
    build = [uv, "build", "--quiet", "--wheel", "--no-build-isolation", "--python", sys.executable]
    subprocess.run([*build, "--out-dir", folder / "wheel", project], check=True)
    (wheel,) = (folder / "wheel").glob("*.whl")
    venv.create(folder / "environment", symlinks=True)
    install = [uv, "pip", "install", "--quiet", "--python", folder / "environment" / "bin" / "python", wheel]
    install += ["--constraints", ROOT / "constraints.txt"]
    # scripts/setup.sh has left all of it in uv's cache; a cache that was emptied is filled again.
    if subprocess.run([*install, "--offline"], stderr=subprocess.DEVNULL, check=False).returncode:
        subprocess.run(install, check=True)
    return folder / "environment" / "bin"
