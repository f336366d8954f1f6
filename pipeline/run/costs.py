"""What an attempt cost: hours of GPUs and CPUs, bytes read and written, and the price where one is given."""

from __future__ import annotations

from dataclasses import dataclass

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of one attempt.

    gpu_hours, cpu_hours: all GPUs and CPUs of the cluster over the time the attempt labelled, busy or not, since idle
    ones are paid for as well; nodes that came or left count for the time they were there. bytes_read: stored size of
    the shards labelled. bytes_written: labels, errors and markers; staging writes about as much again for a while.
    price, price_per_1000_images: in the currency of --price-per-gpu-hour; None without it, or without an image.
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
    """Put sums of an attempt into hours and prices."""
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
