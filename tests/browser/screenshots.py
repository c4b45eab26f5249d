"""python -m tests.browser.screenshots [URL]: takes the documentation's pictures of the page, docs/page-*.png.

With the address of a running service they show what its weights say. Without one they show a stand-in for weights
that cannot be had everywhere: random filters, and a last layer fitted to the very photos in the pictures.
"""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from torch import nn

from densenet.service import temporary_instance
from export import PHOTOS, ROOT, bundle, weights
from tests.browser import chromium
from tests.conftest import make_network, tutorial_transform
from tests.integration.conftest import build_archive

DOCS = ROOT / "docs"
DESKTOP: dict[str, Any] = {"viewport": {"width": 1120, "height": 840}}
PHONE: dict[str, Any] = {
    "viewport": {"width": 390, "height": 800},
    "has_touch": True,
    "is_mobile": True,
    "device_scale_factor": 1.5,
}
# Of each photo the classes it is to be taken for, by position, with their probabilities.
WANTED = {
    "astronaut.jpg": {834: 0.12, 652: 0.11, 457: 0.08, 819: 0.05, 400: 0.04},
    "cat.jpg": {285: 0.71, 281: 0.17, 282: 0.08, 287: 0.02, 478: 0.002},
    "coffee.jpg": {967: 0.83, 968: 0.11, 504: 0.03, 969: 0.01, 925: 0.002},
    "rocket.jpg": {657: 0.64, 744: 0.29, 812: 0.03, 900: 0.008, 517: 0.004},
}


def stand_in() -> nn.Module:
    """A DenseNet-121 that takes these photos for what they are, and knows nothing else."""
    network = make_network()
    pictures = torch.stack([tutorial_transform()(Image.open(PHOTOS / name).convert("RGB")) for name in WANTED])
    wanted = torch.full((len(WANTED), 1000), 1e-6)
    for row, classes in zip(wanted, WANTED.values(), strict=True):
        row[list(classes)] = torch.tensor(list(classes.values()))
    logits = wanted.log()
    with torch.no_grad():
        features = torch.relu(network.features(pictures)).mean(dim=(2, 3))
        centre, bias = features.mean(dim=0), logits.mean(dim=0)
        network.classifier.weight.copy_((torch.linalg.pinv(features - centre) @ (logits - bias)).T)
        network.classifier.bias.copy_(bias - network.classifier.weight @ centre)
    return network


@contextmanager
def serving(network: nn.Module) -> Iterator[str]:
    """The address of a TorchServe with that network."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        torch.save(network.state_dict(), folder / "stand-in.pth")
        bundle.make(weights.load(str(folder / "stand-in.pth")), None).write(folder / "export")
        with temporary_instance.serving(build_archive(folder / "export", folder, workers=2), folder) as service:
            yield service.url


def take(browser: Browser, url: str, name: str, photos: list[str], **profile: Any) -> None:
    """One picture: the page with answers to these photos, the newest one's best class lit up if `name` says so."""
    page = browser.new_page(**profile)
    page.goto(url)
    if photos:
        page.set_input_files("#file", [PHOTOS / photo for photo in photos])
        expect(page.locator("[data-state=waiting], [data-state=busy]")).to_have_count(0, timeout=60_000)
        expect(page.locator(".tile:not(.blind) img:not([src])")).to_have_count(0)
    if name.endswith("explanation"):
        light_up(page)
    page.wait_for_timeout(1000)  # until nothing moves any more
    picture = DOCS / f"page-{name}.png"
    page.screenshot(path=picture)
    compress(picture)
    page.close()


def light_up(page: Page) -> None:
    """Where the best class was seen."""
    page.locator("button.class").first.click()
    expect(page.locator("button.class[aria-busy]")).to_have_count(0)


def compress(picture: Path) -> None:
    """As a palette: a quarter of the size, and no difference to be seen."""
    with Image.open(picture) as image:
        colours = image.convert("RGB").quantize(256)
        image.convert("RGB").quantize(palette=colours, dither=Image.Dither.FLOYDSTEINBERG).save(picture, optimize=True)


def main(url: str) -> None:
    """All pictures."""
    with chromium.launch(chromium.find_or_skip()) as browser:
        take(browser, url, "answers", ["cat.jpg"], **DESKTOP)
        take(browser, url, "several", [*WANTED, "README.md"], **DESKTOP)
        take(browser, url, "dark", ["coffee.jpg"], color_scheme="dark", **DESKTOP)
        take(browser, url, "explanation", ["cat.jpg"], **DESKTOP)
        take(browser, url, "phone", ["rocket.jpg"], locale="ko-KR", **PHONE)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(sys.argv[1])
    else:
        with serving(stand_in()) as address:
            main(address)
