"""The machine's own Chromium, driven by Playwright, whose own browsers are neither downloaded nor wanted."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

REQUIRED = "DENSENET_BROWSER"
# The one without windows first: it takes half the processor time.
_NAMES = (
    *("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"),
    "microsoft-edge",
)
# It talks to nobody but the service.
QUIET = (
    *("--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


def find() -> str | None:
    """The path of a Chromium, or of a browser made of it."""
    return next((path for name in _NAMES if (path := shutil.which(name))), None)


def find_or_skip() -> str:
    """The same. Skips the test where there is none, unless DENSENET_BROWSER=required."""
    if path := find():
        return path
    reason = f"no Chromium on this machine ({', '.join(_NAMES)}); Debian's is the package chromium-headless-shell"
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


@contextmanager
def launch(path: str) -> Iterator[Browser]:
    """A headless one."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*QUIET], chromium_sandbox=False)
        yield browser
        browser.close()
