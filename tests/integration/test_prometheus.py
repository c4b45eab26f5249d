"""The rules and the dashboard: by promtool, and in a real Prometheus that scrapes the real service."""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml

from densenet import processes
from densenet.polling import wait_until
from export import ROOT
from tests.integration.conftest import Server, Starter
from tests.photos import cutouts, encode

FOLDER = ROOT / "deploy" / "prometheus"
GROUPS = yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
RECORDS = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
ALERTS = {rule["alert"]: rule["expr"] for rule in RULES if "alert" in rule}
DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "dashboard.json").read_text())
PANELS = DASHBOARD["panels"]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel.get("targets", [])]
# Needs more than an hour of history.
EMPTY_AT_FIRST = "densenet:probability:drift"
PHOTOS = [encode(image) for image in cutouts(4)]

needs_prometheus = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")) and os.environ.get("DENSENET_SYSTEM") != "required",
    reason="prometheus is not installed",
)


def promtool(*arguments: str) -> str:
    done = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@needs_prometheus
def test_promtool_accepts_configuration_and_rules() -> None:
    promtool("check", "config", "prometheus.yml")
    assert f"{len(RULES)} rules found" in promtool("check", "rules", "--lint-fatal", "rules.yaml")


@needs_prometheus
def test_the_rules_pass_their_own_tests() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules_test.yaml")


@pytest.mark.parametrize("alert", ALERTS)
def test_every_alert_is_tried_where_it_fires_and_where_it_does_not(alert: str) -> None:
    tests = yaml.safe_load((FOLDER / "rules_test.yaml").read_text())["tests"]
    tried = [case for test in tests for case in test["alert_rule_test"] if case["alertname"] == alert]
    assert {bool(case["exp_alerts"]) for case in tried} == {True, False}


def test_every_panel_is_itself_in_its_own_place() -> None:
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    places = [
        (x, y)
        for at in (panel["gridPos"] for panel in PANELS)
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(set(places)) == len(places)
    assert max(x for x, _ in places) < 24


def test_the_dashboard_has_a_row_for_everything() -> None:
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Outcomes", "Input drift", "Queue", "Errors"]
    assert all(panel.get("targets") for panel in PANELS if panel["type"] != "row")


def test_the_dashboard_asks_for_the_datasource_that_is_provisioned() -> None:
    text = (ROOT / "deploy/grafana/provisioning/datasources/prometheus.yaml").read_text()
    (source,) = yaml.safe_load(text)["datasources"]
    asked = {target["datasource"]["uid"] for panel in PANELS for target in panel.get("targets", [])}
    assert asked == {source["uid"]}


def filled(expression: str) -> str:
    """As Grafana sends it."""
    return expression.replace("$__rate_interval", "1m").replace("$job", "densenet")


def names(expression: str) -> set[str]:
    bare = re.sub(r'"[^"]*"|\{[^}]*\}|\[[^]]*\]|\b(?:by|ignoring) \([^)]*\)', "", expression)
    return set(re.findall(r"\b(?:densenet[:_][\w:]+|ts_\w+|Requests\w+|up)\b", bare))


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def query(self, expression: str, at: float | None = None) -> list[dict[str, Any]]:
        given = {"query": expression} | ({"time": str(at)} if at else {})
        answer = requests.get(f"{self.url}/api/v1/query", params=given, timeout=10).json()
        assert answer["status"] == "success", answer
        found: list[dict[str, Any]] = answer["data"]["result"]
        return found

    def values(self, expression: str, label: str) -> dict[str, float]:
        return {row["metric"].get(label, ""): float(row["value"][1]) for row in self.query(expression)}

    def get(self, path: str) -> Any:
        return requests.get(f"{self.url}/api/v1/{path}", timeout=10).json()["data"]


def until(condition: Callable[[], object]) -> None:
    assert wait_until(condition, 60, 0.3)


@pytest.fixture(scope="module")
def watched(start: Starter) -> Server:
    return start(workers=1)


def configure(folder: Path, server: Server) -> Path:
    """deploy/prometheus as it is, with seconds for every interval, and the server's port for a target."""
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    config["global"] = dict.fromkeys(config["global"], "3s")
    groups = [group | {"interval": "1s"} for group in GROUPS]
    (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    targets = yaml.safe_load((FOLDER / "targets.yaml").read_text())
    targets[0]["targets"] = [f"127.0.0.1:{server.service.port + 2}"]
    (folder / "targets.yaml").write_text(yaml.safe_dump(targets))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    return folder / "prometheus.yml"


@pytest.fixture(scope="module")
def prometheus(watched: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """One that has seen two rounds of known requests."""
    folder = tmp_path_factory.mktemp("prometheus")
    port = processes.free_port()
    options = {"config.file": configure(folder, watched), "storage.tsdb.path": folder / "data"}
    options["web.listen-address"] = f"127.0.0.1:{port}"  # type: ignore[assignment]
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with processes.running(command, folder / "output", grace=30):
        running = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: is_ready(running))
        for i in (1, 2):
            send_round(watched)
            until(lambda i=i: running.values("densenet_requests_total > 0", "status").get("415") == i)  # type: ignore[misc]
        seen = time.time()
        until(lambda: all(recorded_at(running, name) > seen + 1 for name in RECORDS if name != EMPTY_AT_FIRST))
        yield running


def is_ready(running: Prometheus) -> bool:
    try:
        return bool(running.query("up == 1"))
    except requests.RequestException:
        return False


def send_round(server: Server) -> None:
    """Three photos recognized, one not, one request refused, one that TorchServe itself answers with 500."""
    statuses = [server.send(photo, **{"X-Min-Probability": "0"}).status_code for photo in PHOTOS[:3]]
    statuses.append(server.send(PHOTOS[3], **{"X-Min-Probability": "1"}).status_code)
    statuses.append(server.send(b"some text").status_code)
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    statuses.append(server.post(data=b"a=%ZZ", headers=form).status_code)
    assert statuses == [200] * 4 + [415, 500]


def recorded_at(running: Prometheus, name: str) -> float:
    return running.values(f"min(timestamp({name}))", "").get("", 0)


@needs_prometheus
def test_prometheus_has_what_was_sent(prometheus: Prometheus) -> None:
    # One photo more was sent by whoever waited for the service.
    assert prometheus.values('densenet_requests_total{protocol="native"} > 0', "status") == {"200": 9, "415": 2}
    images = prometheus.values("densenet_images_total", "outcome")
    assert images["refused"] == 2
    assert images["recognized"] + images["not_recognized"] == 9
    assert prometheus.values("Requests5XX", "job") == {"densenet": 2}
    assert prometheus.values("up", "job") == {"densenet": 1}


@needs_prometheus
@pytest.mark.parametrize("name", RECORDS)
def test_a_recorded_series_is_what_its_rule_says(prometheus: Prometheus, name: str) -> None:
    if name == EMPTY_AT_FIRST:
        assert prometheus.query(RECORDS[name]) == []
        return
    now = time.time()
    recorded = prometheus.query(name, now)
    assert recorded
    at = float(prometheus.query(f"timestamp({name})", now)[0]["value"][1])
    computed = prometheus.query(RECORDS[name], at)
    expected = {json.dumps(row["metric"] | {"__name__": name}, sort_keys=True): row["value"][1] for row in computed}
    assert len(expected) == len(recorded)
    for row in recorded:
        value = float(expected[json.dumps(row["metric"], sort_keys=True)])
        # A scrape may come between the rule and the question.
        assert float(row["value"][1]) == pytest.approx(value, rel=0.1, abs=1e-6)


@needs_prometheus
def test_shares_are_those_of_what_was_sent(prometheus: Prometheus) -> None:
    assert prometheus.values("densenet:refused_share", "job") == {"densenet": pytest.approx(1 / 5, abs=0.05)}
    assert prometheus.values("densenet:error_share", "job") == {"densenet": 0}
    deciles = prometheus.values("densenet:probability:share", "decile")
    assert len(deciles) == 10
    assert sum(deciles.values()) == pytest.approx(1)
    assert prometheus.values("densenet:batch_images:mean", "job") == {"densenet": pytest.approx(1, abs=0.1)}
    (latency,) = prometheus.values("densenet:latency_seconds:mean", "job").values()
    (p50,) = prometheus.values("densenet:handle_seconds:p50", "job").values()
    assert 0 < p50 < 10
    assert 0 < latency < 60


@needs_prometheus
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_panel_shows_something(prometheus: Prometheus, expression: str) -> None:
    found = prometheus.query(filled(expression))
    assert bool(found) == (EMPTY_AT_FIRST not in expression)
    assert not [row for row in found if row["value"][1] == "NaN"]


@needs_prometheus
def test_every_name_in_rules_and_panels_is_there(prometheus: Prometheus) -> None:
    there = set(prometheus.get("label/__name__/values")) | {EMPTY_AT_FIRST}
    used = {name for expression in [*EXPRESSIONS, *RECORDS.values(), *ALERTS.values()] for name in names(expression)}
    assert {"up", "Requests5XX", "densenet_images_total", "densenet:queue_length"} <= used
    assert used <= there


@needs_prometheus
def test_no_rule_fails_and_no_alert_is_raised(prometheus: Prometheus) -> None:
    rules = [rule for group in prometheus.get("rules")["groups"] for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert {(rule["health"], rule.get("lastError", "")) for rule in rules} == {("ok", "")}
    assert {rule["name"] for rule in rules if rule.get("state") == "firing"} == set()
