"""What a run would do, found out before Ray starts: settings checked, input listed, earlier work recognised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from model import Vocabulary
from model.presets import ModelSpec
from pipeline.config import LabelConfig, check_output_apart_from_input
from pipeline.errors import UsageError
from pipeline.incremental import Changes, find_changes, is_unchanged, listing_digest, read_inventory
from pipeline.input_stages import DAMAGED_SHARD, ShardTask
from pipeline.output import Output, errors_name
from pipeline.record import RunRecord, changed_parts, fingerprint, new_record, read_record
from pipeline.resolve import model_spec, read_vocabulary
from pipeline.sources import Shard, list_shards
from pipeline.sources.listing import Listing, list_files


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """A run about to happen.

    shards: the whole input; tasks: what is left to do; start_anew: clear the output first. changes, listing: of an
    incremental run, what it found and the hash of what it saw. kept: shards of earlier runs that are no longer in the
    input, whose labels stay. up_to_date: nothing changed since the last run ended; shards is empty then, since the
    input was not even cut.
    """

    config: LabelConfig
    spec: ModelSpec
    vocabulary: Vocabulary
    output: Output
    shards: Sequence[Shard]
    tasks: Sequence[ShardTask]
    record: RunRecord
    start_anew: bool = False
    changes: Changes | None = None
    listing: str = ""
    kept: tuple[str, ...] = ()
    up_to_date: bool = False

    @property
    def nothing_new(self) -> bool:
        """Whether an incremental run has nothing to label."""
        return self.changes is not None and not self.tasks

    @property
    def shard_ids(self) -> list[str]:
        """The shards whose labels make up the output when the run is done: the input's, and those kept."""
        return [*(shard.shard_id for shard in self.shards), *self.kept]


def plan_run(config: LabelConfig) -> Plan:
    """Check everything that can be checked without Ray and find out what is left to do. Writes nothing.

    Raises UsageError for wrong settings, a wrong or empty input, or an output made with other settings.
    """
    check_output_apart_from_input(config)
    spec = model_spec(config)
    vocabulary = read_vocabulary(config, spec)
    output = Output(config.output, config.storage_option)
    listing = list_files(config.input, config.storage_option)
    parts = fingerprint(config, spec, vocabulary)
    old = read_record(output)
    record = new_record(config, parts, shards=0)
    start_anew = config.overwrite
    if old is not None and not config.overwrite:
        record, start_anew = _continue(old, record, config)
    done = set() if start_anew else set(output.names("stats", ".json"))
    plan = Plan(
        config=config,
        spec=spec,
        vocabulary=vocabulary,
        output=output,
        shards=(),
        tasks=(),
        record=record,
        start_anew=start_anew,
    )
    if config.incremental:
        return _plan_incremental(plan, listing, done, same_settings=old is not None and old.digest == record.digest)
    shards = _list_shards(config, listing)
    kept = _vanished_before(output, shards) if done else ()
    return replace(
        plan,
        shards=shards,
        tasks=pending_tasks(shards, done),
        kept=kept,
        record=replace(record, shards=len(shards) + len(kept)),
    )


def _vanished_before(output: Output, shards: Sequence[Shard]) -> tuple[str, ...]:
    inventory, present = read_inventory(output), {shard.shard_id for shard in shards}
    return tuple(each for each in inventory.vanished if each not in present) if inventory else ()


def _plan_incremental(plan: Plan, listing: Listing, done: set[str], same_settings: bool) -> Plan:
    digest = listing_digest(listing)
    inventory = None if plan.start_anew else read_inventory(plan.output)
    if inventory is not None and same_settings and is_unchanged(inventory, digest, done):
        changes = Changes(vanished=tuple(inventory.vanished))
        return replace(plan, changes=changes, listing=digest, up_to_date=True)
    shards = _list_shards(plan.config, listing)
    changes = find_changes(plan.output, shards, inventory, done)
    plan = replace(plan, shards=shards, changes=changes, listing=digest, kept=changes.vanished)
    present = {shard.shard_id for shard in shards}
    return replace(
        plan,
        tasks=pending_tasks(shards, present - changes.to_label),
        record=replace(plan.record, shards=len(plan.shard_ids)),
    )


def _continue(old: RunRecord, new: RunRecord, config: LabelConfig) -> tuple[RunRecord, bool]:
    """The record to go on with, and whether the output is cleared first."""
    changed = changed_parts(old, new.fingerprint)
    if not changed:
        return old, False
    if config.on_change == "restart":
        return new, True
    if config.on_change == "keep":
        return replace(new, run_id=old.run_id, earlier=[*old.earlier, asdict(old) | {"earlier": []}]), False
    raise UsageError(
        f"the output holds run {old.run_id}, made with other settings: {', '.join(changed)} changed. "
        "Use the same settings to continue it, or --on-change restart | keep, or another output"
    )


def pending_tasks(shards: Sequence[Shard], done: set[str]) -> list[ShardTask]:
    """A task for each shard without a marker."""
    pending = [shard for shard in shards if shard.shard_id not in done]
    return [ShardTask(index=index, shard=shard) for index, shard in enumerate(pending)]


def plan_retry(config: LabelConfig, stage: str | None = None, error_class: str | None = None) -> Plan:
    """Plan to label again the images in the errors tables of a run, or those of one stage or class of error.

    Raises UsageError where the output holds no such run. Shards without a marker are not touched,
    unless their commit was interrupted: then they are labelled as a whole.
    """
    output = Output(config.output, config.storage_option)
    record = read_record(output)
    if record is None:
        raise UsageError(f"{config.output} holds no run (no run.json there)")
    spec = model_spec(config)
    vocabulary = read_vocabulary(config, spec)
    changed = changed_parts(record, fingerprint(config, spec, vocabulary))
    if changed:
        raise UsageError(f"retry must use the settings of run {record.run_id}; changed since: {', '.join(changed)}")
    shards = _list_shards(config)
    done, with_errors = set(output.names("stats", ".json")), set(output.names("errors", ".parquet"))
    # Files without a marker: a commit was interrupted, of a retry perhaps, which takes the marker away first.
    interrupted = set(output.names("labels", ".parquet")) - done
    tasks: list[ShardTask] = []
    for shard in shards:
        if shard.shard_id in interrupted:
            tasks.append(ShardTask(index=len(tasks), shard=shard))
        elif shard.shard_id in done & with_errors:
            errors = _selected(output.read_table(errors_name(shard.shard_id)), stage, error_class)
            if errors.num_rows:
                tasks.append(_retry_task(len(tasks), shard, errors))
    committed = [shard for shard in shards if shard.shard_id in done | interrupted]
    return Plan(
        config=config,
        spec=spec,
        vocabulary=vocabulary,
        output=output,
        shards=committed,
        tasks=tasks,
        record=record,
        kept=_vanished_before(output, shards),
    )


def _selected(errors: pa.Table, stage: str | None, error_class: str | None) -> pa.Table:
    for column, wanted in (("stage", stage), ("error_class", error_class)):
        if wanted is not None:
            errors = errors.filter(pc.equal(errors[column], wanted))
    return errors


def _retry_task(index: int, shard: Shard, errors: pa.Table) -> ShardTask:
    # How many rows a repaired shard has is not known: it is labelled as a whole.
    if DAMAGED_SHARD in errors["error_class"].to_pylist():
        return ShardTask(index=index, shard=shard)
    attempts = dict(zip(errors["row"].to_pylist(), errors["attempts"].to_pylist(), strict=True))
    return ShardTask(index=index, shard=shard, attempts=attempts)


def _list_shards(config: LabelConfig, listing: Listing | None = None) -> list[Shard]:
    return list_shards(
        config.input,
        storage_options=config.storage_option,
        shard_size=config.shard_size,
        image_column=config.image_column,
        limit=config.limit,
        listing=listing,
    )
