"""The yardstick gives the same labels, the measured parts add up, and the real size has the stated properties."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from maskmill.model.naming.classifier import Classifier
from maskmill.model.segmenter import Segmenter
from maskmill.model.zegformer.proposer import Proposer
from maskmill.pipeline.bench.as_released import AsReleased
from maskmill.pipeline.bench.model import AS_RELEASED, ModelBench, Variant, measure_variant, model_rows
from maskmill.pipeline.bench.result import environment, table_lines
from maskmill.pipeline.bench.stopwatch import Stopwatch
from maskmill.pipeline.bench.subjects import NON_EMPTY, load_subject


def test_label_maps_are_those_of_the_yardstick() -> None:
    subject = load_subject("bundled", images=8, seed=3)
    network, clip, sides = subject.network(), subject.clip(), (subject.short_side, subject.max_long_side)
    classifier = Classifier(clip, subject.vocabulary, subject.settings)
    yardstick = AsReleased(network, clip, classifier, *sides)
    proposer = Proposer(network, short_side=sides[0], max_long_side=sides[1])
    ours = Segmenter(proposer, classifier)(subject.images, independent=True)
    same = [np.mean(own.label_map == yardstick(image)) for own, image in zip(ours, subject.images, strict=True)]
    assert np.mean(same) >= 0.9999


def test_parts_add_up_to_the_whole() -> None:
    bench = ModelBench(subject="bundled", variants=[], images=2, repeats=1)
    for variant in (Variant(region=AS_RELEASED), Variant(region="cropmask"), Variant(region="pool", dtype="bfloat16")):
        figures, label_maps = measure_variant(bench, variant)
        parts = sum(figures["parts"].values())
        # What lies between the parts is resizing and bookkeeping.
        assert 0.6 * figures["seconds_per_image"] < parts <= figures["seconds_per_image"]
        assert [own.shape for own in label_maps] == [(128, 128)] * 2
        rows = model_rows({"variants": [{**figures, "speedup": 1.0, "cpu_speedup": 1.0, "same_labels": 1.0}]})
        assert len(table_lines(rows)) == 2


def test_a_part_inside_another_is_counted_once() -> None:
    stopwatch, started = Stopwatch(), time.perf_counter()
    with stopwatch("outer"), stopwatch("inner"):
        time.sleep(1)  # far longer than a busy machine keeps this process from the lines around it
    whole = time.perf_counter() - started
    assert stopwatch.seconds["inner"] >= 1
    assert stopwatch.seconds["outer"] + stopwatch.seconds["inner"] <= whole
    assert stopwatch.seconds["outer"] < stopwatch.seconds["inner"]


def test_the_environment_says_what_ran_where() -> None:
    found = environment()
    assert {"maskmill", "torch", "ray"} <= found["versions"].keys()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**28
    assert found["cpu"]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_thirty_masks_of_the_real_size_are_non_empty(dtype: torch.dtype) -> None:
    subject = load_subject("real", images=1, seed=0)
    (proposals,) = Proposer(subject.network().to(dtype), short_side=640)(subject.images)
    filled = proposals.mask_logits.flatten(1).amax(dim=1) > 0
    assert filled.tolist() == [query < NON_EMPTY for query in range(100)]
