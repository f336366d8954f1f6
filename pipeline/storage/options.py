"""Parses storage options, gives their values types, and checks their names."""

from __future__ import annotations

import inspect
import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import fsspec

from maskmill.pipeline.errors import UsageError

StorageOptions = Mapping[str, Any]
"""Arguments of a file system's constructor; values may be text, dots in a key nest ("client_kwargs.endpoint_url")."""

_NUMBERS = {
    "connect_timeout",
    "default_block_size",
    "max_attempts",
    "max_concurrency",
    "max_pool_connections",
    "port",
    "read_timeout",
}


def parse_storage_options(entries: list[str]) -> dict[str, str]:
    """Turn ``["key=value", ...]`` into a dict. Raises UsageError with the number, never the text, of a bad entry."""
    options: dict[str, str] = {}
    for position, entry in enumerate(entries, start=1):
        name, separator, value = entry.partition("=")
        if not separator or not name:
            raise UsageError(f"storage option number {position} must look like key=value or group.key=value")
        options[name] = value
    return options


def nested_options(options: StorageOptions) -> dict[str, Any]:
    """Expand dotted keys ("client_kwargs.endpoint_url") into nested dicts; text becomes a number or a truth value."""
    nested: dict[str, Any] = {}
    for name, value in options.items():
        *groups, key = name.split(".")
        target = nested
        for group in groups:
            target = target.setdefault(group, {})
            if not isinstance(target, dict):
                raise UsageError(f"storage option {name!r}: {group!r} has a value and cannot be a group as well")
        target[key] = _typed(key, value)
    return nested


def _typed(key: str, value: Any) -> Any:
    if not isinstance(value, str):
        return value
    # Only named keys become numbers: a password may consist of digits and must stay text.
    if key in _NUMBERS and value.isdecimal():
        return int(value)
    return {"true": True, "false": False}.get(value.lower(), value)


def s3_options(options: dict[str, Any]) -> dict[str, Any]:
    """Check the names of the options, and add time-outs, after which a stalled connection is given up and retried."""
    known = _s3_option_names()
    unknown = sorted(set(options) - known)
    if unknown:
        # Check here: s3fs accepts any name, and reports an unknown one late or never.
        raise UsageError(f"unknown storage option {unknown[0]!r} for s3://; choose from: {', '.join(sorted(known))}")
    if "endpoint_url" not in options and "endpoint_url" not in options.get("client_kwargs", {}):
        # botocore reads these variables too, but fsspec would reuse a connection made under another value of them.
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options = options | ({"endpoint_url": endpoint} if endpoint else {})
    config = {"connect_timeout": 10, "read_timeout": 30, "retries": {"mode": "standard", "max_attempts": 2}}
    return {
        "use_listings_cache": False,
        **options,
        "config_kwargs": {**config, **options.get("config_kwargs", {})},
    }


@cache
def _s3_option_names() -> frozenset[str]:
    named = {"profile", "use_listings_cache"}
    for kind in fsspec.get_filesystem_class("s3").__mro__[:-1]:
        parameters = inspect.signature(kind.__init__).parameters.values()
        named |= {each.name for each in parameters if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)}
    return frozenset(named - {"self", "session", "loop", "asynchronous"})
