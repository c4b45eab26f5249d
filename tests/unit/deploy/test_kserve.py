"""deploy/kserve by KServe's own models, and held to what is deployed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import kubernetes.client
import pytest
from kserve import models

from export import ROOT
from tests.manifests import KSERVE, check_pod, named, options, pods, program, read, the

DOCUMENT = ROOT / "docs" / "deployment.md"
FILES = ("image.yaml", "archive.yaml")
MODELS = {"InferenceService": "V1beta1InferenceService", "ServingRuntime": "V1alpha1ServingRuntime"}
PLAIN: dict[str, Any] = {"str": str, "int": int, "bool": bool}
PLAIN |= {"IntOrString": (int, str), "ResourceQuantity": str, "object": object}


def complaints(value: Any, kind: str, path: str = "") -> list[str]:
    """Where a value is not of the kind that KServe's models, or Kubernetes' within them, say, or has keys they lack."""
    if inner := re.fullmatch(r"[Ll]ist\[(.+)\]", kind):
        if not isinstance(value, list):
            return [path]
        return [found for i, one in enumerate(value) for found in complaints(one, inner[1], f"{path}[{i}]")]
    if inner := re.fullmatch(r"[Dd]ict[([]str, (.+)[])]", kind):
        return [found for key, one in value.items() for found in complaints(one, inner[1], f"{path}.{key}")]
    if kind in PLAIN:
        return [] if isinstance(value, PLAIN[kind]) else [path]
    model = getattr(models, kind, None) or getattr(kubernetes.client.models, kind)
    names = {name: attribute for attribute, name in model.attribute_map.items()}
    if not isinstance(value, dict):
        return [path]
    known = [(one, model.openapi_types[names[key]], f"{path}.{key}") for key, one in value.items() if key in names]
    unknown = [f"{path}.{key}" for key in value if key not in names]
    return unknown + [found for one in known for found in complaints(*one)]


@pytest.mark.parametrize("file", FILES)
def test_kserve_knows_every_word(file: str) -> None:
    objects = read(KSERVE / file)
    assert "InferenceService" in {one["kind"] for one in objects}
    for one in objects:
        assert complaints(one, MODELS[one["kind"]]) == []


def test_mistakes_are_noticed() -> None:
    one = the(read(KSERVE / "image.yaml"), "InferenceService")
    predictor = one["spec"]["predictor"]
    predictor["minReplica"] = predictor.pop("minReplicas")
    predictor["containers"][0]["readinessProbe"]["httpGet"]["url"] = "/"
    predictor["containers"][1]["args"] = "--workers 2"
    where = ".spec.predictor"
    assert sorted(complaints(one, MODELS["InferenceService"])) == [
        f"{where}.containers[0].readinessProbe.httpGet.url",
        f"{where}.containers[1].args",
        f"{where}.minReplica",
    ]


@pytest.mark.parametrize("file", FILES)
def test_pods_are_restricted_and_bounded(file: str) -> None:
    (pod,) = pods(read(KSERVE / file))
    check_pod(pod)


@pytest.mark.parametrize("file", FILES)
def test_one_container_is_served_and_has_the_name_that_kserve_wants(file: str) -> None:
    (pod,) = pods(read(KSERVE / file))
    assert [one["name"] for one in pod["containers"] if "ports" in one] == ["kserve-container"]
    assert the(read(KSERVE / file), "InferenceService")["metadata"]["name"] == "densenet"


def test_the_gateway_listens_where_kserve_sends() -> None:
    (pod,) = pods(read(KSERVE / "image.yaml"))
    gateway = named(pod["containers"], "kserve-container")
    (port,) = [port["containerPort"] for port in gateway["ports"]]
    assert program(gateway) == "densenet gateway"
    assert options(gateway)["--listen"] == f"127.0.0.1:{port}"
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": port}


def test_the_runtime_is_the_one_asked_for() -> None:
    objects = read(KSERVE / "archive.yaml")
    runtime, model = the(objects, "ServingRuntime"), the(objects, "InferenceService")["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"]
    formats = [{key: one[key] for key in ("name", "version")} for one in runtime["spec"]["supportedModelFormats"]]
    assert model["modelFormat"] in formats


def test_the_storage_is_laid_out_as_the_document_says(tmp_path: Path) -> None:
    """Its own lines are run, over an archive that is only a name."""
    (commands,) = re.findall(r"^```\n(mkdir -p models/config.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy", ignore=shutil.ignore_patterns("nginx"))
    (tmp_path / "model_store").mkdir()
    (tmp_path / "model_store" / "densenet.mar").touch()
    subprocess.run(["sh", "-euc", commands], cwd=tmp_path, check=True)
    laid_out = {str(path.relative_to(tmp_path / "models")) for path in (tmp_path / "models").rglob("*.*")}
    assert laid_out == {"config/config.properties", "model-store/densenet.mar"}
    ours, theirs = (
        dict(line.split("=", 1) for line in path.read_text().splitlines() if line and not line.startswith("#"))
        for path in (ROOT / "deploy" / "config.properties", tmp_path / "models" / "config" / "config.properties")
    )
    assert {key: value for key, value in theirs.items() if ours[key] != value} == {
        "model_store": "../model-store",
        "metrics_config": "/srv/densenet/metrics.yaml",
        "disable_token_authorization": "true",
    }
    (runtime,) = pods(read(KSERVE / "archive.yaml"))
    assert "/mnt/models/config/config.properties" in runtime["containers"][0]["args"]
