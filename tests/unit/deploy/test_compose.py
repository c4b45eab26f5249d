"""deploy/compose.yaml: read by the specification's own rules, and held to what it deploys."""

import re
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from densenet.service import torchserve
from export import ROOT

FILE = ROOT / "deploy" / "compose.yaml"
OURS = "densenet:1.0.0"


@pytest.fixture
def services() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())["services"]
    return found


def parsed(document: dict[str, Any]) -> Any:
    """By the specification's rules, with the defaults of its variables."""
    return PyCompose.from_yaml(yaml.safe_dump(filled(document)))


def filled(value: Any) -> Any:
    """Every text in it with defaults for ${NAME:-DEFAULT}; a text stays one, as in Compose."""
    if isinstance(value, dict):
        return {key: filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one) for one in value]
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value


def test_it_is_by_the_specification() -> None:
    document = yaml.safe_load(FILE.read_text())
    project = parsed(document)
    assert set(project.service_names()) == {"pod", "service", "gateway", "prometheus", "grafana"}


@pytest.mark.parametrize("wrong", [{"imagee": "x"}, {"read_only": "perhaps"}, {"cap_drop": "ALL"}])
def test_a_mistake_is_noticed(wrong: dict[str, Any]) -> None:
    document = yaml.safe_load(FILE.read_text())
    document["services"]["service"] |= wrong
    with pytest.raises(ValueError, match="services"):
        parsed(document)


def test_every_container_is_hardened_and_bounded(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert {*service["deploy"]["resources"]["limits"]} == {"cpus", "memory", "pids"}
        assert re.search(r":v?\d+\.\d+", service["image"])
        assert "privileged" not in service
        assert "healthcheck" in service or service["image"] == OURS  # the image has its own
        assert "disable" not in service.get("healthcheck", {})  # docker compose up --wait fails on such a container


def test_one_namespace_publishes_and_only_the_gateway_is_for_everybody(services: dict[str, Any]) -> None:
    inside = {name for name, service in services.items() if service.get("network_mode") == "service:pod"}
    assert inside == {*services} - {"pod"}
    assert not [name for name in inside if "ports" in services[name]]
    public, private = services["pod"]["ports"]
    assert public.endswith(":8443")
    assert private.startswith("127.0.0.1:")
    assert "--listen=0.0.0.0:8443" in services["gateway"]["command"]


def test_secrets_come_from_files_that_are_not_here(services: dict[str, Any]) -> None:
    declared = yaml.safe_load(FILE.read_text())["secrets"]
    used = {name for service in services.values() for name in service.get("secrets", [])}
    assert used == {*declared}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    for secret in declared.values():
        assert {*secret} == {"file"}
        assert secret["file"].startswith("secrets/")
    assert "/deploy/secrets/" in ignored
    text = " ".join(word for service in services.values() for word in map(str, service.get("command", [])))
    assert {*re.findall(r"/run/secrets/(\w+)", text)} == {"tls_certificate", "tls_key", "callers"}


def test_volumes_are_declared_and_files_exist(services: dict[str, Any]) -> None:
    declared = yaml.safe_load(FILE.read_text())["volumes"]
    sources = {volume.partition(":")[0] for service in services.values() for volume in service.get("volumes", [])}
    assert {source for source in sources if not source.startswith(".")} == {*declared}
    for source in sources - {*declared}:
        assert (FILE.parent / source).exists(), source
    assert (FILE.parent / "prometheus" / "prometheus.yml").is_file()


def test_a_container_ends_in_its_time(services: dict[str, Any]) -> None:
    for name, own in (("service", torchserve.STOP_SECONDS), ("gateway", 0)):
        words = " ".join(services[name]["command"])
        drain = re.search(r"--drain-seconds[ =](\d+)", words)
        assert drain
        assert int(services[name]["stop_grace_period"].removesuffix("s")) > int(drain[1]) + own
