"""The manifests of `maskmill schedule`: valid for KubeRay's own schemas, closed to the outside, ours inside."""

from __future__ import annotations

import copy
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

from maskmill.jobs.main import app
from maskmill.jobs.options import resolve
from maskmill.pipeline.config import LabelConfig

ROOT = Path(__file__).resolve().parents[2]
CRDS = ROOT.parent / "shared" / "kuberay-crds"
JOB = """\
input: s3://photos/in/*.tar
output: s3://labels/out
classes: classes.txt
propose-actors: 4
propose-gpus: 0.5
classify-actors: 4
classify-gpus: 0.25
task-label: {pool: cpu}
"""

needs_crds = pytest.mark.skipif(not CRDS.is_dir(), reason=f"KubeRay's CRDs are not there: {CRDS}")

Document = dict[str, Any]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "classes.txt").write_text("cat\ndog\n")
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


def schedule(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, ["schedule", *map(str, arguments)])


def manifests(job: Path, kind: str, *arguments: str) -> dict[str, Document]:
    """What is written, by file name, parsed."""
    folder = job.parent / f"k8s-{kind}"
    result = schedule(job, folder, "--kind", kind, *arguments)
    assert result.exit_code == 0, result.output
    return {path.name: yaml.safe_load(path.read_text()) for path in folder.iterdir() if path.suffix == ".yaml"}


def strict(schema: Any) -> Any:
    """The schema with unknown fields refused, which Kubernetes only drops, and a typing mistake with them."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    closed = "properties" in schema and isinstance(schema["properties"], dict) and "type" in schema
    if closed and not schema.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in schema:
        found["additionalProperties"] = False
    return found


@cache
def crd_schema(plural: str) -> Document:
    """The v1 schema of one of KubeRay's kinds. The API server adds what metadata may hold."""
    crd = yaml.load((CRDS / f"ray.io_{plural}.yaml").read_text(), Loader=yaml.CSafeLoader)
    (version,) = (each for each in crd["spec"]["versions"] if each["name"] == "v1")
    schema = strict(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    return schema


def pod_schema() -> Document:
    """Kubernetes' own schema of a pod template, as KubeRay's embeds it."""
    spec = crd_schema("rayjobs")["properties"]["spec"]["properties"]
    schema = copy.copy(spec["submitterPodTemplate"])
    schema["properties"] = {**schema["properties"], "metadata": {"type": "object"}}
    return schema


def check(document: Document, schema: Document) -> None:
    jsonschema.Draft7Validator(schema).validate(document)


@needs_crds
@pytest.mark.parametrize(("kind", "plural"), [("rayjob", "rayjobs"), ("raycronjob", "raycronjobs")])
def test_kuberay_accepts_them(job: Path, kind: str, plural: str) -> None:
    check(manifests(job, kind)[f"{kind}.yaml"], crd_schema(plural))


@needs_crds
def test_a_pod_of_the_plain_cron_job_is_a_pod(job: Path) -> None:
    check(manifests(job, "cronjob")["cronjob.yaml"]["spec"]["jobTemplate"]["spec"]["template"], pod_schema())


def misspell(document: Document) -> None:
    document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplica"] = 3


def text_for_a_number(document: Document) -> None:
    document["spec"]["backoffLimit"] = "none"


def nameless_group(document: Document) -> None:
    del document["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["groupName"]


def unknown_auth(document: Document) -> None:
    document["spec"]["rayClusterSpec"]["authOptions"]["mode"] = "password"


def misspell_in_a_pod(document: Document) -> None:
    document["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["securityContext"]["runAsNoRoot"] = True


@needs_crds
@pytest.mark.parametrize("break_it", [misspell, text_for_a_number, nameless_group, unknown_auth, misspell_in_a_pod])
def test_a_broken_one_is_noticed(job: Path, break_it: Callable[[Document], None]) -> None:
    document = manifests(job, "rayjob")["rayjob.yaml"]
    break_it(document)
    with pytest.raises(jsonschema.ValidationError):
        check(document, crd_schema("rayjobs"))


def test_the_pods_get_the_job_and_its_classes(job: Path) -> None:
    folder = job.parent / "k8s-raycronjob"
    written = manifests(job, "raycronjob")
    (generator,) = written["kustomization.yaml"]["configMapGenerator"]
    assert all((folder / name).is_file() for name in generator["files"])
    assert all((folder / name).is_file() for name in written["kustomization.yaml"]["resources"])
    settings = written["job.yaml"]
    assert settings["classes"] == "/etc/maskmill/classes.txt"
    assert (settings["incremental"], settings["log_format"]) == (True, "json")
    config = resolve(LabelConfig, config_file=folder / "job.yaml", settings=(), flags={})
    assert (config.propose_actors, config.task_label) == (4, {"pool": "cpu"})
    template = written["raycronjob.yaml"]["spec"]["jobTemplate"]
    assert template["entrypoint"] == "maskmill label --config /etc/maskmill/job.yaml"
    mounts = template["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {mount["mountPath"] for mount in mounts} == {"/etc/maskmill"}


def pods(document: Any) -> list[Document]:
    """Every pod specification in a manifest."""
    if isinstance(document, list):
        return [pod for each in document for pod in pods(each)]
    if not isinstance(document, dict):
        return []
    return ([document] if "containers" in document else []) + [pod for each in document.values() for pod in pods(each)]


@pytest.mark.parametrize("kind", ["rayjob", "raycronjob", "cronjob"])
def test_nothing_is_open_and_nobody_is_root(job: Path, kind: str) -> None:
    written = manifests(job, kind)
    found = pods(written[f"{kind}.yaml"])
    assert found
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    text = yaml.safe_dump(written)
    assert not any(word in text for word in ("LoadBalancer", "NodePort", "kind: Ingress", "hostNetwork", "hostPort"))
    policy = written["networkpolicy.yaml"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    assert all(set(peer) & {"podSelector"} for rule in policy["ingress"] for peer in rule["from"])


@pytest.mark.parametrize("kind", ["rayjob", "raycronjob"])
def test_a_cluster_wants_the_token_and_its_head_does_no_work(job: Path, kind: str) -> None:
    spec = manifests(job, kind)[f"{kind}.yaml"]["spec"]
    cluster = spec.get("jobTemplate", spec)["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert (cluster["headGroupSpec"]["serviceType"], cluster["headGroupSpec"]["enableIngress"]) == ("ClusterIP", False)
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}
    assert {group["groupName"]: group["maxReplicas"] for group in cluster["workerGroupSpecs"]} == {"cpu": 8, "gpu": 3}


def test_when_and_with_what_is_filled_in(job: Path) -> None:
    arguments = ("--cron", "30 4 * * 1-5", "--time-zone", "Europe/Berlin", "--name", "night")
    images = ("--cpu-image", "reg/m:1-cpu", "--cuda-image", "reg/m:1-cuda")
    for kind in ("raycronjob", "cronjob"):
        document = manifests(job, kind, *arguments, *images)[f"{kind}.yaml"]
        assert (document["spec"]["schedule"], document["spec"]["timeZone"]) == ("30 4 * * 1-5", "Europe/Berlin")
        assert document["metadata"]["name"] == "night"
        used = {container["image"] for pod in pods(document) for container in pod["containers"]}
        assert used == ({"reg/m:1-cpu", "reg/m:1-cuda"} if kind == "raycronjob" else {"reg/m:1-cuda"})


def test_a_job_without_gpus_asks_for_none(job: Path) -> None:
    job.write_text(JOB.replace("0.5", "0").replace("0.25", "0"))
    for kind in ("rayjob", "cronjob"):
        assert "nvidia" not in yaml.safe_dump(manifests(job, kind)[f"{kind}.yaml"])


def test_overlaps_and_useless_retries_are_ruled_out(job: Path) -> None:
    spec = manifests(job, "cronjob")["cronjob.yaml"]["spec"]
    assert spec["concurrencyPolicy"] == "Forbid"
    (give_up, ignore) = spec["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
    assert (give_up["action"], give_up["onExitCodes"]["values"]) == ("FailJob", [2, 3, 4])
    assert ignore["action"] == "Ignore"
    assert manifests(job, "rayjob")["rayjob.yaml"]["spec"]["backoffLimit"] == 0


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ("", ["--kind", "deployment"], "Choose from: rayjob, raycronjob, cronjob"),
        ("", ["--cron", "every night"], "five fields of cron"),
        ("", ["--name", "My_Job"], "no name for Kubernetes"),
        ("batchsize: 3", [], "unknown key 'batchsize'"),
        ("storage_option: {key: k}", [], "would lie readable in a ConfigMap"),
        ("notify_url: https://hooks.example/secret", [], "would lie readable in a ConfigMap"),
        ("weights: job.yaml", [], "lies on this machine"),
        ("task_label: {pool: disk}", [], "no group of nodes has it"),
    ],
)
def test_what_could_not_work_is_refused(job: Path, change: str, arguments: list[str], message: str) -> None:
    kept = JOB if not change.startswith("task_label") else JOB.replace("task-label: {pool: cpu}\n", "")
    job.write_text(f"{kept}{change}\n")
    result = schedule(job, job.parent / "k8s", *arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert "hooks.example" not in result.output
    assert not (job.parent / "k8s").exists()


def test_pools_must_be_sized_where_the_cluster_starts_empty(job: Path) -> None:
    job.write_text(JOB.replace("propose-actors: 4\n", ""))
    assert "say propose-actors" in schedule(job, job.parent / "k8s").stderr


def kustomized(folder: Path) -> list[Document]:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("kubectl is not installed")
    built = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


@pytest.mark.parametrize("kind", ["rayjob", "raycronjob", "cronjob"])
def test_kustomize_builds_it_and_an_overlay_on_it(job: Path, kind: str) -> None:
    manifests(job, kind)
    overlay = job.parent / "overlay"
    overlay.mkdir()
    patch = [{"op": "add", "path": "/metadata/annotations", "value": {"eks.amazonaws.com/role-arn": "arn:x"}}]
    kustomization = {
        "resources": [f"../k8s-{kind}"],
        "namespace": "nights",
        "patches": [{"target": {"kind": "ServiceAccount"}, "patch": yaml.safe_dump(patch)}],
    }
    (overlay / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    built = {document["kind"]: document for document in kustomized(overlay)}
    kinds = {"rayjob": "RayJob", "raycronjob": "RayCronJob", "cronjob": "CronJob"}
    assert set(built) == {kinds[kind], "ServiceAccount", "NetworkPolicy", "ConfigMap"}
    assert {document["metadata"]["namespace"] for document in built.values()} == {"nights"}
    assert built["ServiceAccount"]["metadata"]["annotations"] == patch[0]["value"]
    # The pods mount the ConfigMap by the name that it has after the build.
    mounted = {
        volume["configMap"]["name"]
        for pod in pods(built[kinds[kind]])
        for volume in pod.get("volumes", ())
        if "configMap" in volume
    }
    assert mounted == {built["ConfigMap"]["metadata"]["name"]}
    assert set(built["ConfigMap"]["data"]) == {"job.yaml", "classes.txt"}
