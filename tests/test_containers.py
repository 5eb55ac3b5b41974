"""Container files, as far as they can be checked without containers: what a cluster would refuse,
what a reviewer would, and whether the commands in them exist."""

from __future__ import annotations

import importlib.util
import re
import shlex
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml

import fedhive
from fedhive.cli import COMMANDS

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "containers"
K3S = sorted((FOLDER / "k3s").glob("*.yaml"))
KINDS = {
    "Namespace": "v1", "Service": "v1", "StatefulSet": "apps/v1",
    "NetworkPolicy": "networking.k8s.io/v1",
}  # fmt: skip
IMAGE = f"fedhive:{fedhive.__version__}"


class Strict(yaml.SafeLoader):
    """Refuses a mapping that says the same key twice, of which YAML keeps the last."""


def _mapping(loader: Strict, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [key.value for key, _ in node.value if key.value != "<<"]
    assert len(keys) == len(set(keys)), f"{node.start_mark}: a key is there twice"
    loader.flatten_mapping(node)
    return loader.construct_mapping(node, deep=True)


Strict.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def documents(path: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.load_all(path.read_text(), Strict) if found is not None]


OBJECTS = list(chain.from_iterable(documents(path) for path in K3S))
SETS = [found for found in OBJECTS if found["kind"] == "StatefulSet"]
COMPOSE = documents(FOLDER / "compose.yaml")[0]


def called(name: str, kind: str) -> dict[str, Any]:
    [found] = [o for o in OBJECTS if (o["metadata"]["name"], o["kind"]) == (name, kind)]
    return found


def parsed(words: list[str]) -> None:
    """Whether fedhive would understand these words: by its own parser, as far as the first act."""
    command, rest = words[0], words[1:]
    assert command in COMMANDS
    usage = importlib.import_module(f"fedhive.{command}.command").USAGE
    verbs = set(re.findall(rf"fedhive {command} (\w+)", usage))
    assert rest[0] in verbs or rest[0].startswith("/"), rest
    source = (ROOT / f"fedhive/{command}/command.py").read_text()
    for word in rest:
        if word.startswith("--"):
            assert f'"{word}"' in source, f"fedhive {command} has no option {word}"


# ---- Kubernetes --------------------------------------------------------------------------------


@pytest.mark.parametrize("found", OBJECTS, ids=lambda o: f"{o['kind']}-{o['metadata']['name']}")
def test_objects_are_well_formed(found):
    assert found["apiVersion"] == KINDS[found["kind"]]
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", found["metadata"]["name"])
    if found["kind"] != "Namespace":
        assert found["metadata"]["namespace"] == "fedhive"
    if importlib.util.find_spec("kubernetes_validate") is not None:
        import kubernetes_validate

        kubernetes_validate.validate(found, "1.31", strict=True)


def test_names_are_unique():
    names = [(o["kind"], o["metadata"]["name"]) for o in OBJECTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("found", SETS, ids=lambda o: o["metadata"]["name"])
def test_sets_hang_together(found):
    spec, pod = found["spec"], found["spec"]["template"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    service = called(spec["serviceName"], "Service")
    assert service["spec"]["selector"].items() <= labels.items()
    claimed = {claim["metadata"]["name"] for claim in spec["volumeClaimTemplates"]}
    volumes = claimed | {volume["name"] for volume in pod["volumes"]}
    for container in pod["containers"]:
        mounts = [mount["name"] for mount in container["volumeMounts"]]
        assert set(mounts) <= volumes
        assert volumes <= set(mounts), "a volume that nobody uses"
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
        for probe in ("readinessProbe", "livenessProbe"):
            if probe in container:
                assert container[probe]["tcpSocket"]["port"] in ports
        for port in service["spec"]["ports"]:
            if service["spec"].get("clusterIP") != "None":
                assert port["targetPort"] in ports


@pytest.mark.parametrize("found", SETS, ids=lambda o: o["metadata"]["name"])
def test_pods_obey_the_restricted_standard(found):
    """By https://kubernetes.io/docs/concepts/security/pod-security-standards, and more."""
    pod = found["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    context = pod["securityContext"]
    assert context["runAsNonRoot"] is True
    assert context["runAsUser"] > 0
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert all({"configMap", "emptyDir"} & set(volume) for volume in pod["volumes"])
    for container in pod["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False
        assert own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert "memory" in container["resources"]["limits"]
        assert container["image"] == IMAGE


@pytest.mark.parametrize("found", SETS, ids=lambda o: o["metadata"]["name"])
def test_pods_run_commands_that_exist(found):
    [container] = found["spec"]["template"]["spec"]["containers"]
    names = {row["name"] for row in container.get("env", ())}
    for word in container["args"]:
        assert set(re.findall(r"\$\((\w+)\)", word)) <= names
    parsed(container["args"])


def test_the_superlink_is_one_and_is_where_its_certificate_says():
    found = called("superlink", "StatefulSet")
    assert found["spec"]["replicas"] == 1
    [container] = found["spec"]["template"]["spec"]["containers"]
    words = container["args"]
    host, port = words[words.index("--address") + 1].split(":")
    service = called("superlink", "Service")
    assert host == f"{service['metadata']['name']}.{service['metadata']['namespace']}"
    assert [int(port)] == [row["port"] for row in service["spec"]["ports"]]
    assert int(port) == container["ports"][0]["containerPort"]


def test_the_network_lets_through_what_is_needed_and_nothing_else():
    everybody = called("nothing", "NetworkPolicy")["spec"]
    assert everybody == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    [inside] = called("superlink", "NetworkPolicy")["spec"]["ingress"]
    assert inside["from"] == [{"podSelector": {"matchLabels": {"app": "supernode"}}}]
    outside = called("supernode", "NetworkPolicy")["spec"]["egress"]
    assert outside[0]["ports"] == inside["ports"] == [{"port": 9443, "protocol": "TCP"}]
    assert {row["port"] for row in outside[1]["ports"]} == {53}
    assert all(rule["to"] for rule in outside)  # an empty list would let everything through


@pytest.mark.skipif(
    importlib.util.find_spec("kubernetes_validate") is None,
    reason="pip install kubernetes-validate, for the published schemas",
)
def test_the_published_schemas_find_mistakes():
    import kubernetes_validate

    wrong = yaml.safe_load(yaml.safe_dump(SETS[0]))
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullPolcy"] = "Always"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.31", strict=True)


# ---- compose -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", COMPOSE["services"])
def test_services_are_hardened(name):
    found = COMPOSE["services"][name]
    assert found["image"] == IMAGE
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert found["user"] == "10001:10001"
    assert not {"privileged", "network_mode", "pid", "ports", "devices"} & set(found)
    assert set(found["networks"]) <= set(COMPOSE["networks"])
    for volume in found["volumes"]:
        source, target, *mode = volume.split(":")
        assert source in COMPOSE["volumes"] or (source.startswith("./") and mode == ["ro"])
        assert target.startswith("/")
    parsed(found["command"])
    if name.startswith("node-"):
        assert found["command"][found["command"].index("--name") + 1] == name


def test_nodes_keep_their_own_volumes():
    kept = [COMPOSE["services"][name]["volumes"][0] for name in COMPOSE["services"]]
    assert len(set(kept)) == len(kept)
    assert COMPOSE["networks"]["hive"]["internal"] is True


# ---- the image ---------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    text = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ")
    lines = (line.strip() for line in text.splitlines())
    return [tuple(line.split(None, 1)) for line in lines if line and not line.startswith("#")]  # type: ignore[misc]


def test_the_image_copies_what_exists_and_all_packages():
    copied = {shlex.split(rest)[0] for name, rest in instructions() if name == "COPY"}
    copied |= {word for name, rest in instructions() if name == "COPY"
               for word in shlex.split(rest)[:-1]}  # fmt: skip
    for word in copied:
        assert (ROOT / word).exists(), word
    assert {"fedhive", "strategies", "attacks", "defenses", "conf"} <= copied
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {f"!{word}" for word in copied} <= set(ignored)


def test_the_image_runs_as_nobody_and_adds_nothing_from_the_net():
    steps = instructions()
    assert steps[0] == ("FROM", "python:3.11-slim-bookworm")
    names = [name for name, _ in steps]
    assert "ADD" not in names
    user = next(rest for name, rest in steps if name == "USER")
    pod = SETS[0]["spec"]["template"]["spec"]["securityContext"]
    assert user == f"{pod['runAsUser']}:{pod['runAsGroup']}" == "10001:10001"
    assert names.index("USER") > max(i for i, name in enumerate(names) if name == "RUN")
    assert steps[-2] == ("ENTRYPOINT", '["fedhive"]')
