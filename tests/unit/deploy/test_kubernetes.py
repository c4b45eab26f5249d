"""deploy/kubernetes: every object by Kubernetes' own schemas, and held to each other and to what they deploy.

The base is plain files; kubectl, where it is installed, renders base and overlay, which are held to the same.
"""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import kubernetes_validate
import pytest
import yaml

from densenet.service import torchserve
from export import ROOT
from tests.manifests import BASE, Manifest, check_pod, in_base, memory, named, options, pods, program, read, the

OVERLAY = BASE.parent / "overlays" / "example"
OLDEST, NEWEST = "1.32", "1.37"  # the oldest that knows all we use, and the newest of the schemas
WORKER, SHARED, JAVA = 175 * 2**20, 195 * 2**20, 215 * 2**20  # docs/capacity.md
NAME = {"app.kubernetes.io/name": "densenet"}


@cache
def kustomized(folder: Path) -> str:
    return subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, check=True).stdout


def rendered(folder: Path) -> list[Manifest]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    return [one for one in yaml.safe_load_all(kustomized(folder)) if one]


@pytest.fixture(params=["files", "base", "overlay"])
def objects(request: pytest.FixtureRequest) -> list[Manifest]:
    match request.param:
        case "files":
            return in_base()
        case "base":
            return rendered(BASE)
        case _:
            return rendered(OVERLAY)


def service_pod(objects: list[Manifest]) -> Manifest:
    (pod,) = pods(objects)
    return pod


def ports(pod: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in pod["containers"] for port in one.get("ports", [])}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_every_object_is_what_kubernetes_takes(objects: list[Manifest], version: str) -> None:
    ours = [one for one in objects if not one["apiVersion"].startswith("monitoring.coreos.com")]
    kinds = {"Deployment", "Service", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy"}
    assert {one["kind"] for one in ours} >= kinds
    for one in ours:
        kubernetes_validate.validate(one, version, strict=True)


def test_a_mistake_is_noticed() -> None:
    deployment = the(in_base(), "Deployment")
    deployment["spec"]["template"]["spec"]["containers"][0]["lifecycle"]["preStop"]["sleep"] = {"second": 20}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, NEWEST, strict=True)


def test_the_service_monitor_has_what_the_operator_requires(objects: list[Manifest]) -> None:
    """By hand: its schema comes in no package. spec.selector is required, and of an endpoint its port's name."""
    spec = the(objects, "ServiceMonitor")["spec"]
    assert {*spec} == {"jobLabel", "selector", "endpoints"}
    (endpoint,) = spec["endpoints"]
    assert {*endpoint} == {"port", "path", "interval", "scrapeTimeout"}
    watched = [one for one in objects if spec["selector"]["matchLabels"].items() <= labels(one).items()]
    (service,) = [one for one in watched if one["kind"] == "Service"]
    assert endpoint["port"] in {port["name"] for port in service["spec"]["ports"]}
    assert spec["jobLabel"] in labels(service)


def labels(one: Manifest) -> dict[str, str]:
    found: dict[str, str] = one["metadata"].get("labels", {})
    return found


def test_what_selects_pods_selects_these(objects: list[Manifest]) -> None:
    template = the(objects, "Deployment")["spec"]["template"]
    assert template["metadata"]["labels"] == NAME
    selectors = [one["spec"]["selector"] for one in objects if one["kind"] == "Service"]
    selectors += [
        the(objects, kind)["spec"]["selector"]["matchLabels"] for kind in ("Deployment", "PodDisruptionBudget")
    ]
    selectors.append(the(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"])
    selectors += [one["labelSelector"]["matchLabels"] for one in template["spec"]["topologySpreadConstraints"]]
    assert selectors == [NAME] * len(selectors)
    target = the(objects, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", the(objects, "Deployment")["metadata"]["name"])


def test_every_port_that_is_named_exists(objects: list[Manifest]) -> None:
    pod = service_pod(objects)
    asked = [port["targetPort"] for one in objects if one["kind"] == "Service" for port in one["spec"]["ports"]]
    asked += [port["port"] for rule in the(objects, "NetworkPolicy")["spec"]["ingress"] for port in rule["ports"]]
    probes = [probe for one in pod["containers"] for key, probe in one.items() if key.endswith("Probe")]
    asked += [probe["httpGet"]["port"] for probe in probes if "httpGet" in probe]
    assert len(asked) == 6
    assert {*asked} == {*ports(pod)}


def test_pods_are_restricted_and_bounded(objects: list[Manifest]) -> None:
    pod = service_pod(objects)
    check_pod(pod)
    assert pod["automountServiceAccountToken"] is False


def test_memory_and_cores_are_enough_for_the_workers(objects: list[Manifest]) -> None:
    service = named(service_pod(objects)["containers"], "service")
    workers, resources = int(options(service)["--workers"]), service["resources"]
    int8 = "int8" in service["image"]
    needed = workers * (116 * 2**20 if int8 else WORKER) + SHARED + JAVA
    assert memory(resources["requests"]["memory"]) > needed
    heap = 2**30  # -Xmx1g of deploy/config.properties
    assert memory(resources["limits"]["memory"]) > needed - JAVA + heap
    assert int(resources["requests"]["cpu"]) == workers
    assert int(resources["limits"]["cpu"]) > workers


def test_the_gateway_holds_what_it_buffers_and_never_fills_the_queue(objects: list[Manifest]) -> None:
    gateway = named(service_pod(objects)["containers"], "gateway")
    properties = (ROOT / "deploy" / "config.properties").read_text()
    config = yaml.safe_load((ROOT / "handler" / "model-config.yaml").read_text())
    (limit,) = re.findall(r"^max_request_size=(\d+)", properties, re.MULTILINE)
    concurrent = int(options(gateway)["--concurrent"])
    assert concurrent < config["jobQueueSize"]
    assert memory(gateway["resources"]["limits"]["memory"]) > concurrent * int(limit) * 6 / 5


def test_a_pod_ends_in_its_time(objects: list[Manifest]) -> None:
    pod = service_pod(objects)
    service, gateway = (named(pod["containers"], name) for name in ("service", "gateway"))
    waits = [one["lifecycle"]["preStop"]["sleep"]["seconds"] for one in (service, gateway)]
    drains = [int(options(one)["--drain-seconds"]) for one in (service, gateway)]
    assert waits[0] > waits[1], "the gateway drains before what it stands in front of"
    assert waits[0] + drains[0] + torchserve.STOP_SECONDS < pod["terminationGracePeriodSeconds"]
    assert waits[1] + drains[1] < pod["terminationGracePeriodSeconds"]


def test_a_rolling_update_never_takes_a_pod_away_first(objects: list[Manifest]) -> None:
    strategy = the(objects, "Deployment")["spec"]["strategy"]["rollingUpdate"]
    assert (strategy["maxUnavailable"], strategy["maxSurge"]) == (0, 1)
    budget = the(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"]
    assert budget < the(objects, "HorizontalPodAutoscaler")["spec"]["minReplicas"]


def test_probes_ask_what_there_is(objects: list[Manifest]) -> None:
    pod = service_pod(objects)
    probes = [probe for one in pod["containers"] for key, probe in one.items() if key.endswith("Probe")]
    nginx = "".join(path.read_text() for path in (ROOT / "deploy" / "nginx").iterdir())
    for probe in probes:
        if "httpGet" in probe:
            assert f"location = {probe['httpGet']['path']} {{" in nginx
        else:
            assert probe["exec"]["command"][:4] == ["python", "-P", "-m", "densenet.service.probe"]
            assert (ROOT / "densenet" / "service" / "probe.py").is_file()
    assert {"readinessProbe", "livenessProbe"} <= {*named(pod["containers"], "gateway")}
    assert {"startupProbe", "livenessProbe"} <= {*named(pod["containers"], "service")}


def test_secrets_are_named_and_never_written_down(objects: list[Manifest]) -> None:
    assert not [one for one in objects if one["kind"] == "Secret"]
    volumes = service_pod(objects)["volumes"]
    assert {volume["secret"]["secretName"] for volume in volumes if "secret" in volume} == {
        "densenet-tls",
        "densenet-callers",
    }
    assert "PRIVATE KEY" not in "".join(path.read_text() for path in BASE.parent.rglob("*.yaml"))


def test_config_maps_exist_with_the_keys_that_are_used(objects: list[Manifest]) -> None:
    (kustomization,) = read(BASE / "kustomization.yaml")
    generated = {one["name"]: one["files"] for one in kustomization["configMapGenerator"]}
    pod = service_pod(objects)
    (used,) = [volume["configMap"]["name"] for volume in pod["volumes"] if "configMap" in volume]
    made = [one for one in objects if one["kind"] == "ConfigMap"]
    assert [one["metadata"]["name"] for one in made] in ([], [used])
    (files,) = [files for name, files in generated.items() if used.startswith(name)]
    assert all((BASE / name).is_file() for name in files)
    metrics = named(pod["containers"], "metrics")
    (mount,) = [mount["mountPath"] for mount in metrics["volumeMounts"] if mount["name"] == "metrics"]
    assert metrics["command"][-1] in {f"{mount}/{name}" for name in files}
    assert f"listen {ports(pod)['metrics']};" in (BASE / "metrics.conf").read_text()


def test_the_gateway_listens_where_the_service_sends(objects: list[Manifest]) -> None:
    pod = service_pod(objects)
    gateway = named(pod["containers"], "gateway")
    assert program(gateway) == "densenet gateway"
    assert options(gateway)["--listen"] == f"0.0.0.0:{ports(pod)['https']}"
    mounts = {mount["mountPath"] for mount in gateway["volumeMounts"]}
    for name in ("--certificate", "--key", "--keys"):
        assert options(gateway)[name].rpartition("/")[0] in mounts


def test_the_autoscaler_reads_what_the_adapter_makes(objects: list[Manifest]) -> None:
    (document,) = read(BASE.parent / "prometheus-adapter.yaml")
    (rule,) = document["rules"]["custom"]
    metrics = the(objects, "HorizontalPodAutoscaler")["spec"]["metrics"]
    (asked,) = [one["pods"]["metric"]["name"] for one in metrics if one["type"] == "Pods"]
    assert asked == rule["name"]["as"]
    (container,) = [one["containerResource"]["container"] for one in metrics if one["type"] == "ContainerResource"]
    assert named(service_pod(objects)["containers"], container)


def test_the_overlay_changes_what_it_says() -> None:
    objects = rendered(OVERLAY)
    assert {one["metadata"].get("namespace") for one in objects if one["kind"] != "Namespace"} == {"vision"}
    images = {one["image"] for one in service_pod(objects)["containers"]}
    assert images == {"registry.example/vision/densenet:1.0.0-int8"}
