"""Plans a run before Ray starts: checks the settings, lists the input, and finds what is already labelled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc

from maskmill.model import Vocabulary
from maskmill.model.spec import ModelSpec
from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import ERRORS_FOLDER, LABELS_FOLDER, Output, errors_name, no_run
from maskmill.pipeline.output.markers import finished_shards, read_versions
from maskmill.pipeline.output.ownership import check_free, some_names
from maskmill.pipeline.run.incremental import (
    Changes,
    find_changes,
    is_unchanged,
    listing_digest,
    may_continue,
    read_inventory,
)
from maskmill.pipeline.run.record import (
    RunRecord,
    changed_parts,
    fingerprint,
    new_record,
    read_record,
    with_absolute_input,
)
from maskmill.pipeline.run.resolve import check_model, model_spec, read_vocabulary, with_absolute_addresses
from maskmill.pipeline.sources import Shard, list_shards
from maskmill.pipeline.sources.apart import check_apart, check_entries_apart, check_listing_apart
from maskmill.pipeline.sources.listing import Listing, list_files
from maskmill.pipeline.stages.read import DAMAGED_SHARD, ShardTask
from maskmill.pipeline.storage.files import public_uri
from maskmill.pipeline.storage.writable import check_writable


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run will do.

    shards: the whole input. tasks: what is left to do. start_anew: clear the output first. changes: what an incremental
    run found, None for other runs. listing: the hash of the files that were seen, "" if the next run must not rely on
    it. kept: finished shards whose labels stay although the input no longer has them, or has them beyond ``limit``.
    up_to_date: nothing changed since the last run ended; shards is then empty, because the input was not cut.
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
        """Return whether this is an incremental run with nothing to label."""
        return self.changes is not None and not self.tasks

    @property
    def shard_ids(self) -> list[str]:
        """Return the shards whose labels make up the finished output: those of the input, and the kept ones."""
        return [*(shard.shard_id for shard in self.shards), *self.kept]


def plan_run(config: LabelConfig) -> Plan:
    """Check everything that can be checked without Ray, and find what is left to do. Writes nothing that stays.

    Raises UsageError for wrong settings, for a wrong or empty input, and for an output that cannot be written to, holds
    other files, lies in the input, contains the input, or was made with other settings or from other data.
    """
    config = with_absolute_addresses(config)
    check_apart(config.output, config.input)
    check_writable(config.output, config.storage_option)
    output = Output(config.output, config.storage_option)
    old = read_record(output)
    spec = model_spec(config, None if old is None or config.overwrite else old.fingerprint)
    check_model(config, spec)
    vocabulary = read_vocabulary(config, spec)
    listing = list_files(config.input, config.storage_option)
    check_listing_apart(config.output, listing)
    parts = fingerprint(config, spec, vocabulary)
    check_free(output, holds_run=old is not None, overwrite=config.overwrite)
    record = new_record(config, parts, shards=0)
    start_anew = config.overwrite
    if old is not None and not config.overwrite:
        record, start_anew = _continue(with_absolute_input(old, config), record, config)
    done = set() if start_anew or old is None else set(finished_shards(output))
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
        same_settings = old is not None and old.digest == record.digest
        plan = _plan_incremental(plan, listing, done, same_settings=same_settings)
    else:
        plan = _plan_whole(plan, listing, done, anew=new_record(config, parts, shards=0))
    return replace(plan, record=replace(plan.record, skipped=listing.skipped))


def _plan_whole(plan: Plan, listing: Listing, done: set[str], anew: RunRecord) -> Plan:
    """Plan what is left of the whole input. anew: the record of the run that would replace the one in the output."""
    config = plan.config
    shards = _list_shards(config, listing)
    check_entries_apart(config.output, listing, config.image_column, config.storage_option)
    kept: tuple[str, ...] = ()
    if done:
        # Shards beyond --limit that an earlier call labelled belong to the run as well, so they must not look vanished.
        present = {shard.shard_id for shard in shards}
        whole = shards if config.limit is None or done <= present else _list_shards(_unlimited(config), listing)
        inventory = read_inventory(plan.output)
        changes = find_changes(plan.output, whole, inventory, done)
        known = set(inventory.vanished) if inventory else set()
        if may_continue(plan.output, whole, changes, known, config.on_change):
            kept = tuple(sorted(done - present))
        else:
            done, plan = set(), replace(plan, start_anew=True, record=anew)
    return replace(
        plan,
        shards=shards,
        tasks=pending_tasks(shards, done),
        kept=kept,
        # With --on-change keep, changed shards keep old labels; without a digest the next run still sees the change.
        listing=listing_digest(listing) if config.limit is None and config.on_change != "keep" else "",
        record=replace(plan.record, shards=len(shards) + len(kept)),
    )


def _unlimited(config: LabelConfig) -> LabelConfig:
    return config.model_copy(update={"limit": None})


def _plan_incremental(plan: Plan, listing: Listing, done: set[str], same_settings: bool) -> Plan:
    digest = listing_digest(listing)
    inventory = None if plan.start_anew else read_inventory(plan.output)
    if inventory is not None and same_settings and is_unchanged(inventory, digest, done):
        changes = Changes(vanished=tuple(inventory.vanished))
        return replace(plan, changes=changes, listing=digest, up_to_date=True)
    shards = _list_shards(plan.config, listing)
    check_entries_apart(plan.config.output, listing, plan.config.image_column, plan.config.storage_option)
    changes = find_changes(plan.output, shards, inventory, done)
    plan = replace(plan, shards=shards, changes=changes, listing=digest, kept=changes.vanished)
    present = {shard.shard_id for shard in shards}
    return replace(
        plan,
        tasks=pending_tasks(shards, present - changes.to_label),
        record=replace(plan.record, shards=len(plan.shard_ids)),
    )


def _continue(old: RunRecord, new: RunRecord, config: LabelConfig) -> tuple[RunRecord, bool]:
    """Return the record to continue with, and whether the output must be cleared first. Raises UsageError."""
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
    """Return a task for each shard that is not in ``done``."""
    pending = [shard for shard in shards if shard.shard_id not in done]
    return [ShardTask(index=index, shard=shard) for index, shard in enumerate(pending)]


def plan_retry(config: LabelConfig, stage: str | None = None, error_class: str | None = None) -> Plan:
    """Plan to label the failed images of a run again: all in the errors tables, or those of one stage or error class.

    A shard without a marker is left alone, unless it has a labels file: its commit was interrupted, and the whole shard
    is labelled. Raises UsageError if the output holds no such run.
    """
    config = with_absolute_addresses(config)
    output = Output(config.output, config.storage_option)
    check_writable(config.output, config.storage_option)
    record = read_record(output)
    if record is None:
        raise no_run(config.output)
    record = with_absolute_input(record, config)
    spec = model_spec(config, record.fingerprint)
    vocabulary = read_vocabulary(config, spec)
    changed = changed_parts(record, fingerprint(config, spec, vocabulary))
    if changed:
        raise UsageError(f"retry must use the settings of run {record.run_id}; changed since: {', '.join(changed)}")
    shards = _list_shards(config)
    done, with_errors = set(finished_shards(output)), set(output.names(ERRORS_FOLDER, ".parquet"))
    # A labels file without a marker comes from an interrupted commit: a retry removes the marker before the files.
    interrupted = set(output.names(LABELS_FOLDER, ".parquet")) - done
    kept = tuple(sorted(done - {shard.shard_id for shard in shards}))
    _check_still_there(output, config, kept, with_errors)
    committed = [shard for shard in shards if shard.shard_id in done | interrupted]
    return Plan(
        config=config,
        spec=spec,
        vocabulary=vocabulary,
        output=output,
        shards=committed,
        tasks=_retry_tasks(output, committed, interrupted, with_errors, stage, error_class),
        record=record,
        kept=kept,
    )


def _check_still_there(output: Output, config: LabelConfig, gone: Sequence[str], with_errors: set[str]) -> None:
    """Raise UsageError if failed images lie in shards that left the input without being recorded as vanished."""
    inventory = read_inventory(output)
    lost = sorted(set(gone) & with_errors - set(inventory.vanished if inventory else ()))
    if lost:
        places = sorted({public_uri(uri) for _, uri in read_versions(output, lost[:1]).values()})
        raise UsageError(
            f"{len(lost)} shards with failed images ({some_names(lost)}), read from {some_names(places)}, are not in "
            f"the input {public_uri(config.input)} any more, or are cut otherwise there: "
            "`maskmill label --incremental` brings the run up to date"
        )


def _retry_tasks(
    output: Output,
    committed: Sequence[Shard],
    interrupted: set[str],
    with_errors: set[str],
    stage: str | None,
    error_class: str | None,
) -> list[ShardTask]:
    wanted = [shard for shard in committed if shard.shard_id in with_errors - interrupted]
    versions = read_versions(output, [shard.shard_id for shard in wanted])
    tasks: list[ShardTask] = []
    for shard in committed:
        if shard.shard_id in interrupted:
            tasks.append(ShardTask(index=len(tasks), shard=shard))
        elif shard.shard_id in with_errors:
            errors = _selected(output.read_table(errors_name(shard.shard_id)), stage, error_class)
            if errors.num_rows:
                is_same = versions[shard.shard_id][0] == shard.version
                tasks.append(_retry_task(len(tasks), shard, errors, is_same))
    return tasks


def _selected(errors: pa.Table, stage: str | None, error_class: str | None) -> pa.Table:
    for column, wanted in (("stage", stage), ("error_class", error_class)):
        if wanted is not None:
            errors = errors.filter(pc.equal(errors[column], wanted))
    return errors


def _retry_task(index: int, shard: Shard, errors: pa.Table, is_same: bool) -> ShardTask:
    # A repaired shard, or a file that was replaced, may have other rows, so the whole shard is labelled. A shard of a
    # folder or a manifest has the names of its members in its id, so there a row stays the same image.
    is_one_file = shard.kind in ("tar", "parquet")
    if DAMAGED_SHARD in errors["error_class"].to_pylist() or (is_one_file and not is_same):
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
