"""What a page of somebody else's, open in the user's browser, can do to the service on the user's machine."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from densenet.service import management, temporary_instance
from densenet.service.torchserve import Service
from tests.browser import chromium
from tests.integration.conftest import Server, build_archive

FETCH = "([url, method, mode]) => fetch(url, {method, mode}).then(answer => answer.status, () => 'refused')"
# A stranger's name that leads to this machine, as after DNS rebinding.
STRANGER = "stranger.example"


@pytest.fixture(scope="module")
def rebound(chromium_path: str, browser: Browser) -> Iterator[Page]:
    """A page of a browser that takes the stranger's name for this machine."""
    # Playwright runs once a thread: the other browser's own is used.
    other = browser.browser_type.launch(
        executable_path=chromium_path,
        args=[*chromium.QUIET, f"--host-resolver-rules=MAP {STRANGER} 127.0.0.1"],
        chromium_sandbox=False,
    )
    yield other.new_page()
    other.close()


def wanted(service: Service) -> tuple[int, set[str]]:
    model = management.describe(service)
    assert model is not None
    return model.min_workers, set(management.versions(service))


def steer(page: Page, base: str) -> dict[tuple[str, str, str], object]:
    """What becomes of every request that would change something."""
    paths = [
        *(("PUT", "/models/densenet?min_worker=0"), ("PUT", "/models/densenet/1.0/set-default")),
        *(("POST", "/models?url=densenet.mar"), ("POST", "/models?url=http://127.0.0.1:1/evil.mar")),
        *(("DELETE", "/models/densenet"), ("POST", "/models/densenet?min_worker=0"), ("GET", "/models/densenet")),
    ]
    return {
        (method, path, mode): page.evaluate(FETCH, [base + path, method, mode])
        for method, path in paths
        for mode in ("cors", "no-cors")
    }


def test_a_page_from_elsewhere_changes_nothing(rebound: Page, server: Server) -> None:
    before, management_api = wanted(server.service), server.service.management
    rebound.route("http://elsewhere.example/", lambda route: route.fulfill(body="<p>hello", content_type="text/html"))
    rebound.goto("http://elsewhere.example/")
    outcomes = steer(rebound, management_api)
    # Nothing can be read, and what would change something is not sent; of what is, GET and POST, nothing does.
    assert {outcome for (_, _, mode), outcome in outcomes.items() if mode == "cors"} == {"refused"}
    assert {outcome for (method, *_), outcome in outcomes.items() if method in ("PUT", "DELETE")} == {"refused"}
    rebound.set_content(f'<form method=post action="{management_api}/models?url=densenet.mar"><button>go</form>')
    rebound.click("button")
    assert wanted(server.service) == before


def test_a_rebound_name_cannot_register_anything(rebound: Page, server: Server) -> None:
    base = server.service.management.replace("127.0.0.1", STRANGER)
    rebound.goto(base + "/api-description")
    for method, path in (("POST", "/models?url=densenet.mar"), ("DELETE", "/models/densenet")):
        assert rebound.evaluate(FETCH, [base + path, method, "cors"]) == 405
    assert wanted(server.service)[1] == {"1.0"}


def test_with_tokens_a_rebound_name_can_do_nothing(
    rebound: Page, exported: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("steered")
    archive = build_archive(exported, folder, workers=1)
    open_to_all = {"disable_token_authorization": "false", "enable_model_api": "true"}
    with temporary_instance.serving(archive, folder, **open_to_all) as service:
        base = service.management.replace("127.0.0.1", STRANGER)
        rebound.goto(base + "/api-description")
        assert set(steer(rebound, base).values()) <= {400, "refused"}
        assert wanted(service) == (1, {"1.0"})
