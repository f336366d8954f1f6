"""The sources of images: WebDataset tars, Parquet, folders and manifests, on this machine or any fsspec store."""

from __future__ import annotations

from maskmill.pipeline.sources.reading import count_images, read_shard
from maskmill.pipeline.sources.shard import ImageRecord, ReadLimits, Shard, ShardError, read_limits
from maskmill.pipeline.sources.sharding import list_shards

__all__ = [
    "ImageRecord",
    "ReadLimits",
    "Shard",
    "ShardError",
    "count_images",
    "list_shards",
    "read_limits",
    "read_shard",
]
