"""A real Chromium, and one TorchServe with two models: that of the other tests, and the same called untrained."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, Request, expect

from densenet.service import temporary_instance
from export import CARD
from tests.browser import chromium
from tests.integration.conftest import Guarded, Server, build_archive, guarding
from tests.photos import cutouts, encode

expect.set_options(timeout=30_000)  # a machine may be busy

_REFUSED = "Failed to load resource: the server responded with a status of 4"


@pytest.fixture(scope="session", autouse=True)
def chromium_path() -> str:
    """Before anything else of the session, so that nothing is exported or started where there is no browser."""
    return chromium.find_or_skip()


@pytest.fixture(scope="package")
def browser(chromium_path: str) -> Iterator[Browser]:
    # Until it is closed no test may run an event loop of its own: hence of this package, not of the session.
    with chromium.launch(chromium_path) as browser:
        yield browser


@pytest.fixture(scope="package")
def server(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The service as it is by default."""
    folder = tmp_path_factory.mktemp("page")
    with temporary_instance.serving(build_archive(exported, folder, workers=2), folder) as service:
        yield Server(service)


@pytest.fixture(scope="package")
def guarded(exported: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """One that asks for tokens, and says that its weights are untrained."""
    folder = tmp_path_factory.mktemp("guarded")
    export = Path(shutil.copytree(exported, folder / "export"))
    card = json.loads((export / CARD).read_text())
    (export / CARD).write_text(json.dumps(card | {"weights": card["weights"] | {"name": "untrained"}}))
    with guarding(build_archive(export, folder, workers=1), folder) as service:
        yield service


@dataclass
class Visit:
    """One page in a browser, everything that it asked for, and everything that it complained of."""

    page: Page
    requests: list[Request] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    @property
    def cards(self) -> Locator:
        return self.page.locator("article")

    @property
    def tiles(self) -> Locator:
        return self.page.locator(".tile")

    def card(self, name: str) -> Locator:
        return self.cards.filter(has_text=name)

    def tile(self, name: str) -> Locator:
        return self.tiles.filter(has=self.page.get_by_alt_text(name, exact=True))

    def open(self, name: str) -> Locator:
        """Opens the card of one of several photos."""
        self.tile(name).locator(".open").click()
        return self.card(name)

    def close(self) -> None:
        self.page.keyboard.press("Escape")
        expect(self.page.locator("#viewer")).to_be_hidden()

    def choose(self, *files: Any) -> None:
        self.page.set_input_files("#file", list(files))
        self.settle()

    def settle(self) -> None:
        """Until there is a card or a tile, and no photo waits for its answer."""
        expect(self.page.locator("article, .tile").first).to_be_visible()
        waiting = self.page.locator("[data-state=waiting], [data-state=busy]")
        expect(waiting).to_have_count(0, timeout=60_000)

    def posts(self) -> list[Request]:
        return [request for request in self.requests if request.method == "POST"]

    def listen(self) -> None:
        def complain(message: ConsoleMessage) -> None:
            if message.type in ("error", "warning"):
                self.complaints.append(message.text)

        self.page.on("console", complain)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request))


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, server: Server) -> Iterator[Visitor]:
    """Opens the page in a browser profile of its own. Afterwards: no request to elsewhere, no error in the console."""
    visits: list[Visit] = []

    def open_page(url: str = server.url, *, prepare: Callable[[Page], None] | None = None, **profile: Any) -> Visit:
        context = browser.new_context(**{"viewport": {"width": 1200, "height": 860}, **profile})
        visit = Visit(context.new_page())
        visits.append(visit)
        visit.listen()
        if prepare:
            prepare(visit.page)
        visit.page.goto(url)
        return visit

    yield open_page
    for visit in visits:
        visit.page.context.close()
    for visit in visits:
        host = "/".join(visit.page.url.split("/")[:3])
        asked = {request.url for request in visit.requests}
        assert {url for url in asked if not url.startswith((host, "blob:", "data:"))} == set()
        # The browser itself notes every 4xx, however well it was dealt with.
        assert [text for text in visit.complaints if not text.startswith(_REFUSED)] == []


def photo(number: int = 0, name: str = "photo.jpg") -> dict[str, Any]:
    """One of the tests' photographs, as a file to choose."""
    return {"name": name, "mimeType": "image/jpeg", "buffer": encode(cutouts(number + 1)[number])}
