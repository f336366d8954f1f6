"""The graph of a labelling job in Ray Data: which stages run in which order, with which resources and batch sizes.

    ShardTasks -> read -> decode -> propose -> classify -> encode -> receipts

Tables of rows travel between the stages (schemas in ``stages/rows.py``). Read, decode and encode are tasks, which Ray
runs wherever CPUs are free. Propose and classify hold the model's weights, so they are pools of actors: one pool for
each of the two, or a single pool that does both. Encode writes the rows to the output's staging folder and yields
receipts; the driver (``driver.py``) reads these and commits each shard that is complete.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset

from maskmill.model import Vocabulary
from maskmill.model.spec import ModelSpec
from maskmill.pipeline.cluster.pools import Pool, Pools
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

MAX_BLOCKS = 2000
"""Read tasks of one run; beyond this many shards a task reads several, so that Ray's task table stays small."""
BLOCK_BYTES = 8 * 2**20
"""Stages pass on blocks of about this size: some 100 decoded images of 128 pixels, or six of 640. The cost of a block
to Ray and the driver hardly depends on its size."""
COMMIT_CPUS = 0.01
"""Commits mostly wait for storage, so they reserve almost nothing. Zero would let them run on a head without CPUs."""
COMMIT_RETRIES = 3
TASKS_IN_FLIGHT = 2
"""Batches sent to an actor at once: one is worked on while the next one arrives."""


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
    """Build the graph. Returns its receipts, a data set that runs when it is read, and the run's breadcrumbs."""
    config = job.config
    _configure_ray_data()
    # Create the input first: from_arrow runs a task of one CPU, which must not wait behind our actors.
    tasks = _shard_tasks(job.tasks)
    trail = _start_trail(config)

    encoded = _map_tasks(tasks, "read", _read_stage(job, trail), batch_size=1, config=config)
    decoded = _map_tasks(encoded, "decode", _decode_stage(job, trail), batch_size=None, config=config)
    classified = _map_model(decoded, job, pools, trail)
    receipts = _map_tasks(classified, "encode", _encode_stage(job), config.encode_batch_size, config)
    return receipts, trail


def _configure_ray_data() -> None:
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    watch_queues(context)


def _shard_tasks(tasks: Sequence[ShardTask]) -> Dataset:
    """Return the input of the graph: the tasks pickled, one a row, in at most MAX_BLOCKS blocks."""
    per_block = -(-len(tasks) // MAX_BLOCKS)
    blocks = [
        pa.table({"task": pa.array([pickle.dumps(task) for task in tasks[at : at + per_block]], pa.large_binary())})
        for at in range(0, len(tasks), per_block)
    ]
    return ray.data.from_arrow(blocks)


def _start_trail(config: LabelConfig) -> RemoteTrail:
    """Start the actor that keeps the breadcrumbs. Ray restarts it without limit, since all workers need it."""
    actor = ray.remote(num_cpus=COMMIT_CPUS, max_restarts=-1, max_task_retries=-1, label_selector=task_nodes(config))
    return RemoteTrail(actor(Trail).remote(config.max_worker_deaths))


def _read_stage(job: Job, trail: RemoteTrail) -> Callable[[pa.Table], Any]:
    """Shards become rows of encoded images."""
    config = job.config
    shards = ShardQuarantine(trail, config.batch_timeout_s, config.worker_memory_bytes)
    return metered_reading(ReadStage(read_limits(config.model_dump()), config.storage_option, shards))


def _decode_stage(job: Job, trail: RemoteTrail) -> Callable[[pa.Table], Any]:
    """Encoded images become pixels of the size that the model wants."""
    assert job.spec.max_long_side is not None  # filled in by the preset
    how = Decoding(max_pixels=job.config.max_pixels, sample_bits=job.config.sample_bits)
    return DecodeStage(how, job.spec.short_side, job.spec.max_long_side, _quarantine(job, trail, "decode"))


def _map_model(decoded: Dataset, job: Job, pools: Pools, trail: RemoteTrail) -> Dataset:
    """Pixels become named segments, in one pool of actors or in two."""
    model = StageModel(
        spec=job.spec,
        vocabulary=job.vocabulary,
        segments=job.config.segments,
        storage_option=job.config.storage_option,
    )
    if pools.classify is None:
        return _map_actors(decoded, SegmentStage, pools.propose, model, _quarantine(job, trail, "segment"))
    proposed = _map_actors(decoded, ProposeStage, pools.propose, model, _quarantine(job, trail, "propose"))
    return _map_actors(proposed, ClassifyStage, pools.classify, model, _quarantine(job, trail, "classify"))


def _encode_stage(job: Job) -> Callable[[pa.Table], Any]:
    """Named segments become rows of the labels, written to staging; receipts say which rows."""
    config = job.config
    shard_ids = [task.shard.shard_id for task in job.tasks]
    thresholds = Thresholds(score=config.min_score, stability=config.min_stability, area=config.min_area)
    return metered_encoding(EncodeStage(job.output, job.attempt, shard_ids, job.vocabulary.names, thresholds))


def _quarantine(job: Job, trail: RemoteTrail, stage: str) -> Run:
    """How a stage runs its work: under quarantine, so that a row cannot kill workers without end; and counted."""
    config = job.config
    return MeteredRun(stage, Quarantine(trail, stage, config.batch_timeout_s, config.worker_memory_bytes))


def _map_tasks(
    data: Dataset, name: str, stage: Callable[[pa.Table], Any], batch_size: int | None, config: LabelConfig
) -> Dataset:
    """Add a stage that runs as tasks. batch_size: rows per call, None for whole blocks."""

    def call(batch: Any) -> Any:
        return stage(batch)

    call.__name__ = name  # what Ray's dashboard and state API show
    return data.map_batches(
        call,
        batch_size=batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=config.task_cpus,
        label_selector=task_nodes(config) or None,
    )


def _map_actors(data: Dataset, stage: type, pool: Pool, model: StageModel, run: Run) -> Dataset:
    """Add a stage that runs in a pool of actors, each of which loads the model once."""
    return data.map_batches(
        stage,
        fn_constructor_args=(model, pool.threads, run),
        compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=TASKS_IN_FLIGHT),
        batch_size=pool.batch_size,
        batch_format="pyarrow",
        zero_copy_batch=True,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
    )


def commit_task(config: LabelConfig) -> Any:
    """Return the remote form of ``commit_shard(output, request)``."""
    return ray.remote(num_cpus=COMMIT_CPUS, max_retries=COMMIT_RETRIES, label_selector=task_nodes(config))(commit_shard)


def task_nodes(config: LabelConfig) -> dict[str, str]:
    """Return the labels of the nodes that tasks run on; empty for all nodes."""
    return {key: str(value) for key, value in config.task_label.items()}
