"""The cost of an attempt: hours of GPUs and CPUs, bytes read and written, and the price if an hour has one."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of one attempt.

    gpu_hours, cpu_hours: of all GPUs and CPUs of the cluster while the attempt labelled. Idle ones count, because they
    are paid for as well; a node counts for the time that it was there. bytes_read: stored size of the labelled shards.
    bytes_written: labels, errors and markers; staged files, about as many bytes again, are not counted. price,
    price_per_1000_images: in the currency of --price-per-gpu-hour; None without that setting, or without an image.
    """

    gpu_hours: float
    cpu_hours: float
    bytes_read: int
    bytes_written: int
    price: float | None
    price_per_1000_images: float | None


def cost_of(
    *,
    gpu_seconds: float,
    cpu_seconds: float,
    bytes_read: int,
    bytes_written: int,
    images: int,
    price_per_gpu_hour: float | None,
) -> Cost:
    """Return the cost of an attempt. price_per_gpu_hour: price of one hour of one GPU, None if unknown."""
    gpu_hours = gpu_seconds / SECONDS_PER_HOUR
    price = None if price_per_gpu_hour is None else gpu_hours * price_per_gpu_hour
    return Cost(
        gpu_hours=gpu_hours,
        cpu_hours=cpu_seconds / SECONDS_PER_HOUR,
        bytes_read=bytes_read,
        bytes_written=bytes_written,
        price=price,
        price_per_1000_images=None if price is None or not images else 1000 * price / images,
    )
