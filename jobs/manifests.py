"""Fills the manifests of jobs/k8s with the settings of a job file. They are parsed YAML, not templates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.storage.text_files import decode_text

MOUNT = "/etc/maskmill"
CONFIG_MAP_BYTES = 1_000_000
"""Kubernetes accepts at most 1 MiB for a whole ConfigMap."""
MODEL_FILES = ("weights", "clip")


@dataclass(frozen=True, slots=True)
class Images:
    """Container images: cpu for the head and CPU nodes, cuda for GPU nodes."""

    cpu: str
    cuda: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """When the job runs, and the name of its Kubernetes object."""

    cron: str
    time_zone: str
    name: str


class Manifests:
    """The manifests of jobs/k8s by file name."""

    def __init__(self, texts: dict[str, str]) -> None:
        self.texts = texts

    def read(self, name: str) -> dict[str, Any]:
        """Return the parsed document, a new copy at every call."""
        return yaml.safe_load(self.texts[name])


class _PlainDumper(yaml.SafeDumper):
    """Writes repeated parts in full, without YAML aliases, because kustomize patches address each by its path."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def dump(document: Any) -> bytes:
    """Return the document as YAML, with keys in the given order."""
    return yaml.dump(document, Dumper=_PlainDumper, sort_keys=False, width=120, allow_unicode=True).encode()


def rendered(
    base: Manifests, job: Path, config: LabelConfig, kind: str, schedule: Schedule, images: Images
) -> dict[str, bytes]:
    """Return the files to write, name -> content. Raises UsageError if the job cannot run in a cluster as it is."""
    settings, attachments = job_settings(job, config, one_pod=kind == "cronjob")
    main = _cron_job(base, schedule, images, config) if kind == "cronjob" else _ray_job(base, schedule, images, config)
    if kind == "raycronjob":
        ray_job, main = main, base.read("raycronjob.yaml")
        main["spec"] |= {"schedule": schedule.cron, "timeZone": schedule.time_zone, "jobTemplate": ray_job["spec"]}
    main["metadata"]["name"] = schedule.name
    names = [f"{kind}.yaml", "serviceaccount.yaml", "networkpolicy.yaml"]
    kustomization = base.read("kustomization.yaml")
    kustomization["resources"] = names
    kustomization["configMapGenerator"][0]["files"] = ["job.yaml", *attachments]
    return {
        "kustomization.yaml": dump(kustomization),
        names[0]: dump(main),
        **{name: base.texts[name].encode() for name in names[1:]},
        "job.yaml": dump(settings),
        **attachments,
    }


def job_settings(job: Path, config: LabelConfig, one_pod: bool) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the settings for the pods, and the files that they name, which are mounted in the pods, by file name."""
    if config.storage_option or config.notify_url:
        raise UsageError(
            f"{job}: storage-option and notify-url would lie readable in a ConfigMap; give the service account a role "
            "for the bucket, and notify from an overlay with a Secret"
        )
    for field in MODEL_FILES:
        value = getattr(config, field)
        if value is not None and Path(value).exists():
            raise UsageError(f"{job}: {field} {value} lies on this machine; give a URI, or a path inside of the image")
    if not one_pod and (config.propose_actors is None or config.propose_gpus is None):
        raise UsageError(f"{job}: say propose-actors and propose-gpus; the cluster starts empty and grows to them")
    given = {
        str(key).replace("-", "_"): value
        for key, value in yaml.safe_load(decode_text(job.read_bytes(), str(job))).items()
    }
    settings = {"incremental": config.limit is None, "log_format": "json", **given}
    attachments = {}
    classes = Path(config.classes)
    if classes.is_file():
        attachments[classes.name] = classes.read_bytes()
        settings["classes"] = f"{MOUNT}/{classes.name}"
    size = sum(map(len, attachments.values()))
    if size > CONFIG_MAP_BYTES:
        raise UsageError(f"{classes} is larger than a ConfigMap may be; put it into the bucket and name it by its URI")
    return settings, attachments


def gpus_of(config: LabelConfig) -> int:
    """Return how many whole GPUs the pools of the job need together."""
    pools = ((config.propose_actors, config.propose_gpus), (config.classify_actors, config.classify_gpus))
    return math.ceil(sum((actors or 1) * (gpus or 0) for actors, gpus in pools))


def _ray_job(base: Manifests, schedule: Schedule, images: Images, config: LabelConfig) -> dict[str, Any]:
    ray_job = base.read("rayjob.yaml")
    cluster = ray_job["spec"]["rayClusterSpec"]
    wanted = gpus_of(config)
    for group in cluster["workerGroupSpecs"]:
        on_gpu = group["groupName"] == "gpu"
        group["template"]["spec"]["containers"][0]["image"] = images.cuda if on_gpu else images.cpu
        if on_gpu and wanted:
            group["maxReplicas"] = wanted
    if not wanted:
        cluster["workerGroupSpecs"] = [each for each in cluster["workerGroupSpecs"] if each["groupName"] != "gpu"]
    labels = [set(group["labels"].items()) for group in cluster["workerGroupSpecs"]]
    if not any(set(config.task_label.items()) <= group_labels for group_labels in labels):
        raise UsageError(f"task-label {config.task_label}: no group of nodes has it; they have pool=cpu and pool=gpu")
    cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["image"] = images.cpu
    ray_job["spec"]["submitterPodTemplate"]["spec"]["containers"][0]["image"] = images.cpu
    return ray_job


def _cron_job(base: Manifests, schedule: Schedule, images: Images, config: LabelConfig) -> dict[str, Any]:
    cron_job = base.read("cronjob.yaml")
    cron_job["spec"] |= {"schedule": schedule.cron, "timeZone": schedule.time_zone}
    container = cron_job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"][0]
    resources = container["resources"]
    if config.propose_gpus == 0:
        container["image"] = images.cpu
        for amounts in resources.values():
            del amounts["nvidia.com/gpu"]
    else:
        container["image"] = images.cuda
        for amounts in resources.values():
            amounts["nvidia.com/gpu"] = str(max(1, gpus_of(config)))
    return cron_job
