"""Released sizes from random weights, in a process of its own so that its peak memory is its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

LIMIT_BYTES = 6e9
ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("depth", "classes"), [(50, 171), (101, 847)])
def test_released_sizes_fit_in_six_gigabytes(depth: int, classes: int) -> None:
    command = [sys.executable, __file__, str(depth), str(classes)]
    finished = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env={"PYTHONPATH": "."})
    measured = json.loads(finished.stdout.splitlines()[-1])
    print(measured)
    # 2.2 to 2.4 GB measured.
    assert measured["peak_bytes"] < LIMIT_BYTES
    assert measured["label_map"] == [480, 640]
    assert measured["query_scores"] == [100, classes]


def measure(depth: int, classes: int) -> dict[str, object]:
    import open_clip
    import torch

    from maskmill.model.clip.loading import new_clip
    from maskmill.model.naming.classifier import Classifier
    from maskmill.model.segmenter import Segmenter
    from maskmill.model.vocabulary import ClassEntry, Vocabulary
    from maskmill.model.zegformer.config import BackboneConfig, ZegFormerConfig
    from maskmill.model.zegformer.network import ZegFormer
    from maskmill.model.zegformer.proposer import Proposer
    from maskmill.pipeline.bench.result import peak_bytes

    torch.manual_seed(0)
    torch.set_num_threads(1)
    clip = new_clip(open_clip.get_model_config("ViT-B-16-quickgelu"))
    clip.model.eval().requires_grad_(False)
    # One prompt a class: what is measured is an image, not 40,000 sentences.
    names = [ClassEntry(name=f"thing {number}", prompts=("a photo of a {}.",)) for number in range(classes)]
    network = ZegFormer(ZegFormerConfig(backbone=BackboneConfig.resnet(depth)))
    vocabulary = Vocabulary(names, seen=[number % 10 > 0 for number in range(classes)])
    segmenter = Segmenter(Proposer(network, short_side=640), Classifier(clip, vocabulary))
    image = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    start = time.perf_counter()
    (result,) = segmenter([image])
    return {
        "depth": depth,
        "classes": classes,
        "seconds": round(time.perf_counter() - start, 1),
        "distinct_boxes": len(np.unique(result.boxes, axis=0)),
        "peak_bytes": peak_bytes(),
        "label_map": result.label_map.shape,
        "query_scores": result.query_scores.shape,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), int(sys.argv[2]))))
