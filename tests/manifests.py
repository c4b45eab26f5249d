"""Kubernetes objects as files or as kustomize renders them, and what tests ask of them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from export import ROOT

Manifest = dict[str, Any]
BASE = ROOT / "deploy" / "kubernetes" / "base"
KSERVE = ROOT / "deploy" / "kserve"
_SIZES = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}


def read(path: Path) -> list[Manifest]:
    """The objects of a file."""
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def in_base() -> list[Manifest]:
    """All of the base, as its kustomization names them."""
    (kustomization,) = read(BASE / "kustomization.yaml")
    return [one for name in kustomization["resources"] for one in read(BASE / name)]


def the(objects: list[Manifest], kind: str) -> Manifest:
    (found,) = [one for one in objects if one["kind"] == kind]
    return found


def named(rows: list[Manifest], name: str) -> Manifest:
    (found,) = [row for row in rows if row["name"] == name]
    return found


def pods(objects: list[Manifest]) -> Iterator[Manifest]:
    """What runs: a Deployment's pods, those of an InferenceService, a ServingRuntime's."""
    for one in objects:
        match one["kind"]:
            case "Deployment":
                yield one["spec"]["template"]["spec"]
            case "InferenceService" if "containers" in one["spec"]["predictor"]:
                yield one["spec"]["predictor"]
            case "ServingRuntime":
                yield one["spec"]


def memory(quantity: str) -> float:
    """Bytes."""
    match = re.fullmatch(r"(\d+)([KMG]i)", quantity)
    assert match, quantity
    return int(match[1]) * _SIZES[match[2]]


def options(container: Manifest) -> dict[str, str]:
    """--name value and --name=value of a container's arguments."""
    words = [part for word in container["args"] for part in word.split("=", 1)]
    return {word: after for word, after in zip(words, [*words[1:], ""], strict=True) if word.startswith("--")}


def check_pod(pod: Manifest) -> None:
    """What holds for every pod: nothing may write, rise or run unbounded, and every mount has its volume."""
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    assert pod["containers"]
    for container in pod["containers"]:
        assert ":" in container["image"].rpartition("/")[2], "an image wants a tag or a digest"
        assert not container["image"].endswith(":latest")
        assert {*container["resources"]["requests"]} == {*container["resources"]["limits"]} == {"cpu", "memory"}
        sizes = [memory(container["resources"][kind]["memory"]) for kind in ("requests", "limits")]
        assert sizes[0] <= sizes[1]
        assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/tmp"}
        rights = pod.get("securityContext", {}) | container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
        assert rights["runAsNonRoot"] is True
        assert rights["runAsUser"] > 0
        assert rights["seccompProfile"] == {"type": "RuntimeDefault"}
        for variable in container.get("env", []):
            assert "value" not in variable or not re.search("TOKEN|SECRET|PASSWORD|KEY", variable["name"])


def program(container: Manifest) -> str:
    """The module of ours that a container runs, with a subcommand; nothing where it runs another program or the image's
    entry point."""
    command = container.get("command", [])
    words = command[command.index("-m") + 1 :] if "-m" in command else []
    return " ".join(words[:2] if words[:1] == ["densenet"] else words[:1])
