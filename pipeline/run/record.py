"""Reads and writes run.json and classes.json: what a run is, and what its labels depend on."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from importlib.metadata import version
from typing import Any

from maskmill.model import Vocabulary
from maskmill.model.spec import ModelSpec, default_parts, spec_fingerprint
from maskmill.pipeline.config import URIS, LabelConfig, default_output_settings, output_settings
from maskmill.pipeline.decoding.decode import DECODE_VERSION
from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.output.folder import CLASSES_FILE, RUN_FILE, Output
from maskmill.pipeline.output.schema import SCHEMA_VERSION
from maskmill.pipeline.stages.weights import local_spec
from maskmill.pipeline.storage.addresses import absolute
from maskmill.pipeline.uris import public_uri


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """The contents of run.json. Times are seconds since 1970; ``fingerprint`` maps each part to a short hash."""

    run_id: str
    created_at: float
    schema_version: int
    versions: dict[str, str]
    config: dict[str, Any]
    fingerprint: dict[str, str]
    shards: int
    measured_dtype: dict[str, Any] | None = None
    """The precision chosen where it was left to the device, with seconds per image of each that was measured. A rerun
    keeps the choice."""
    skipped: dict[str, int] = field(default_factory=dict)
    """How many files of the input are no images, by ending. Every view of the run shows these counts."""
    earlier: list[dict[str, Any]] = field(default_factory=list)
    """Records of the same run under other settings, whose finished shards were kept (--on-change keep)."""

    @property
    def digest(self) -> str:
        """Return one short hash of the whole fingerprint."""
        return digest(self.fingerprint)


def digest(value: Any) -> str:
    """Return a short stable hash of any JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def fingerprint(config: LabelConfig, spec: ModelSpec, vocabulary: Vocabulary) -> dict[str, str]:
    """Return hashes of what the labels depend on, part by part, so that a refusal can name the part that changed.

    Raises UsageError if there are no weights.
    """
    try:
        model = spec_fingerprint(local_spec(spec, config.storage_option), vocabulary)
    except ValueError as error:
        raise UsageError(str(error)) from error
    return {
        **model,
        **_digests(output_settings(config)),
        # The hash leaves out signatures in the address, which change with every attempt although the input does not.
        "input": digest(public_uri(config.input)),
        "decoding": str(DECODE_VERSION),
        "schema_version": str(SCHEMA_VERSION),
    }


def _digests(settings: Mapping[str, Any]) -> dict[str, str]:
    return {name: digest(value) for name, value in settings.items()}


def new_record(config: LabelConfig, parts: dict[str, str], shards: int) -> RunRecord:
    """Return the record of a run that starts now."""
    packages = ("maskmill", "ray", "torch", "open_clip_torch", "pyarrow")
    return RunRecord(
        run_id=f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}",
        created_at=time.time(),
        schema_version=SCHEMA_VERSION,
        versions={name: version(name) for name in packages},
        config=config.public(),
        fingerprint=parts,
        shards=shards,
    )


def read_record(output: Output) -> RunRecord | None:
    """Return the record of the run that the output holds, None if it holds none.

    Raises UsageError if run.json was written by another program or another version of maskmill.
    """
    try:
        plain = output.read_json(RUN_FILE)
    except ValueError:
        plain = {}
    if plain is None:
        return None
    needed = {
        field.name for field in fields(RunRecord) if field.default is MISSING and field.default_factory is MISSING
    }
    place = f"{public_uri(output.uri)}/{RUN_FILE}"
    if not isinstance(plain, dict) or not needed <= set(plain):
        raise UsageError(f"{place} is no record of a maskmill run and is not replaced; choose another output")
    unknown = sorted(set(plain) - {field.name for field in fields(RunRecord)})
    if unknown:
        raise UsageError(f"{place} was written by another version of maskmill (it also has {', '.join(unknown)})")
    return RunRecord(**plain)


def with_absolute_input(record: RunRecord, config: LabelConfig) -> RunRecord:
    """Return the record with absolute addresses, if its relative ones mean the places that ``config`` names.

    Runs of earlier versions stored addresses as they were typed, relative ones included. A relative address that was
    typed in another folder means other data; the finished shards reveal that, because their ids are made from absolute
    paths.
    """
    stored, wanted = record.config.get("input"), public_uri(config.input)
    if not isinstance(stored, str) or absolute(stored) != wanted or record.fingerprint.get("input") != digest(stored):
        return record
    now = config.public()
    typed = {name: value for name in URIS if isinstance(value := record.config.get(name), str)}
    addresses = {name: now.get(name) for name, value in typed.items() if now.get(name) == absolute(value)}
    return replace(
        record,
        config={**record.config, **addresses},
        fingerprint={**record.fingerprint, "input": digest(wanted)},
    )


def write_record(output: Output, record: RunRecord, vocabulary: Vocabulary) -> None:
    """Write classes.json, then run.json."""
    output.write_json(CLASSES_FILE, classes_json(vocabulary))
    output.write_json(RUN_FILE, asdict(record))


def classes_json(vocabulary: Vocabulary) -> dict[str, Any]:
    """Return the vocabulary with the class ids that the labels use."""
    plain = vocabulary.to_dict()
    return {**plain, "classes": [{"class_id": i, **entry} for i, entry in enumerate(plain["classes"])]}


def changed_parts(old: RunRecord, parts: Mapping[str, str]) -> list[str]:
    """Return the names of the parts in which the fingerprint ``parts`` differs from that of the run in the output.

    A part that one of them lacks has its default there: the version that wrote it did not know the setting yet, and did
    what later versions do by default.
    """
    defaults = {**default_parts(), **_digests(default_output_settings())}
    names = sorted(set(old.fingerprint) | set(parts))
    return [
        name for name in names if old.fingerprint.get(name, defaults.get(name)) != parts.get(name, defaults.get(name))
    ]
