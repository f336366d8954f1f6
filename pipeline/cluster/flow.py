"""The whole graph in order, and the only place where resources and batch sizes meet Ray."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from maskmill.model import Vocabulary
from maskmill.model.precision import fastest
from maskmill.model.spec import ModelSpec
from maskmill.pipeline.cluster import canary
from maskmill.pipeline.cluster.attended import attended
from maskmill.pipeline.cluster.connect import connect
from maskmill.pipeline.cluster.pools import Pool, Pools, local_size
from maskmill.pipeline.cluster.prometheus import MeteredRun, metered_encoding, metered_reading
from maskmill.pipeline.cluster.queues import watch_queues
from maskmill.pipeline.cluster.trail import RemoteTrail
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.decoding.decode import Decoding
from maskmill.pipeline.output.commit import commit_shard
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.sources import read_limits
from maskmill.pipeline.stages.decode import DecodeStage
from maskmill.pipeline.stages.encode import EncodeStage, Thresholds
from maskmill.pipeline.stages.model import ClassifyStage, ProposeStage, SegmentStage, StageModel
from maskmill.pipeline.stages.quarantine import Quarantine, Run, Trail
from maskmill.pipeline.stages.read import ReadStage, ShardTask
from maskmill.pipeline.stages.shard_quarantine import ShardQuarantine
from maskmill.pipeline.stages.weights import loadable_spec

MAX_BLOCKS = 2000
"""Read tasks of one run; beyond this many shards a task reads several, so that Ray's task table stays small."""
BLOCK_BYTES = 8 * 2**20
"""Stages hand over blocks of about this size: some 100 decoded images of 128 pixels, six of 640. Each costs Ray and the
driver about as much whatever its size."""
COMMIT_CPUS = 0.01
"""Commits mostly wait for storage. Not zero: on a cluster whose head has no CPUs they must not land there."""
COMMIT_RETRIES = 3
DEFAULT_OBJECT_STORE_BYTES = 2 * 2**30


def start_ray(config: LabelConfig) -> tuple[float, float]:
    """Join the cluster, or start a local Ray; returns its CPUs and GPUs."""
    cpus, gpus = local_size(config) or (None, None)
    return connect(
        config.address,
        cpus=None if cpus is None else int(cpus),
        gpus=None if gpus is None else int(gpus),
        object_store_bytes=config.object_store_bytes or DEFAULT_OBJECT_STORE_BYTES,
        timeout_s=config.stall_timeout_s,
    )


def check_workers(config: LabelConfig, *, own_ray: bool) -> None:
    """Have one task run where those of the graph will. Raises WorkersBrokenError with the reason where it cannot.

    own_ray: this Ray was started for the run.
    """
    options = {"num_cpus": config.task_cpus, "label_selector": task_nodes(config) or {}}
    canary.check_workers(options, own_ray=own_ray, timeout_s=config.stall_timeout_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is to be done, in plain picklable values."""

    config: LabelConfig
    spec: ModelSpec
    vocabulary: Vocabulary
    output: Output
    tasks: Sequence[ShardTask]
    run_id: str
    attempt: str
    fingerprint: str


def build_dataset(job: Job, pools: Pools) -> tuple[Dataset, RemoteTrail]:
    """read -> decode -> propose -> classify -> encode and stage; yields receipts. Also the run's breadcrumbs."""
    config = job.config
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    watch_queues(context)

    assert job.spec.max_long_side is not None  # filled in by the preset
    # Before any actor: Ray Data looks at the blocks in a task of a whole CPU, and there may be one CPU in all.
    data = _tasks_dataset(job.tasks)
    limits = read_limits(config.model_dump())
    keep = ray.remote(
        num_cpus=COMMIT_CPUS, max_restarts=-1, max_task_retries=-1, label_selector=task_nodes(config) or {}
    )
    trail = RemoteTrail(keep(Trail).remote(config.max_worker_deaths))

    shards = ShardQuarantine(trail, config.batch_timeout_s, config.worker_memory_bytes)
    read = ReadStage(limits, config.storage_option, shards)

    def quarantine(stage: str) -> Run:
        return MeteredRun(stage, Quarantine(trail, stage, config.batch_timeout_s, config.worker_memory_bytes))

    how = Decoding(max_pixels=config.max_pixels, sample_bits=config.sample_bits)
    decode = DecodeStage(how, job.spec.short_side, job.spec.max_long_side, quarantine("decode"))
    shard_ids = [task.shard.shard_id for task in job.tasks]
    thresholds = Thresholds(score=config.min_score, stability=config.min_stability, area=config.min_area)
    stage = EncodeStage(job.output, job.attempt, shard_ids, job.vocabulary.names, thresholds)

    data = _map_tasks(data, "read", metered_reading(read), batch_size=1, config=config)
    data = _map_tasks(data, "decode", decode, batch_size=None, config=config)
    model = StageModel(
        spec=job.spec, vocabulary=job.vocabulary, segments=config.segments, storage_option=config.storage_option
    )
    if pools.classify is None:
        data = _map_actors(data, SegmentStage, pools.propose, model, quarantine("segment"))
    else:
        data = _map_actors(data, ProposeStage, pools.propose, model, quarantine("propose"))
        data = _map_actors(data, ClassifyStage, pools.classify, model, quarantine("classify"))
    encode = metered_encoding(stage)
    return _map_tasks(data, "encode", encode, batch_size=config.encode_batch_size, config=config), trail


def measured_dtype(config: LabelConfig, spec: ModelSpec, pools: Pools) -> dict[str, Any]:
    """Measure on a device like the model's which precision is fastest; Ray must be running."""
    pool = pools.propose

    def measure() -> dict[str, float]:
        import torch

        from maskmill.model.precision import measure_precisions

        torch.set_num_threads(pool.threads)
        return measure_precisions(loadable_spec(spec, config.storage_option))

    remote = ray.remote(num_cpus=pool.cpus, num_gpus=pool.gpus, max_retries=COMMIT_RETRIES)(measure)
    seconds = attended(
        lambda: ray.get(remote.remote()), timeout_s=config.stall_timeout_s, what="measuring which precision is fastest"
    )
    return {"dtype": fastest(seconds), "seconds_per_image": seconds}


def _tasks_dataset(tasks: Sequence[ShardTask]) -> Dataset:
    per_block = -(-len(tasks) // MAX_BLOCKS)
    blocks = [
        pa.table({"task": pa.array([pickle.dumps(task) for task in tasks[at : at + per_block]], pa.large_binary())})
        for at in range(0, len(tasks), per_block)
    ]
    return ray.data.from_arrow(blocks)


def task_nodes(config: LabelConfig) -> dict[str, str] | None:
    """The labels of the nodes that tasks run on; None for any node that has room."""
    return {key: str(value) for key, value in config.task_label.items()} or None


def _map_tasks(
    data: Dataset, name: str, stage: Callable[[pa.Table], Any], batch_size: int | None, config: LabelConfig
) -> Dataset:
    def call(batch: Any) -> Any:
        return stage(batch)

    call.__name__ = name  # what Ray's dashboard and state API show
    return data.map_batches(
        call,
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=config.task_cpus,
        label_selector=task_nodes(config),
    )


def _map_actors(data: Dataset, stage: type, pool: Pool, model: StageModel, run: Run) -> Dataset:
    return data.map_batches(
        stage,
        fn_constructor_args=(model, pool.threads, run),
        compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=2),
        batch_size=pool.batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )


def commit_task(config: LabelConfig) -> Any:
    """The remote form of ``commit_shard(output, request)``."""
    nodes = task_nodes(config) or {}
    return ray.remote(num_cpus=COMMIT_CPUS, max_retries=COMMIT_RETRIES, label_selector=nodes)(commit_shard)
