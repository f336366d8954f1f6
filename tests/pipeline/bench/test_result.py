"""What a measurement records of its process."""

from __future__ import annotations

import json
import subprocess
import sys

PARENT = """
import json, subprocess, sys
from maskmill.pipeline.bench.result import peak_bytes

bytearray(b"1") * 1_000_000_000
child = "from maskmill.pipeline.bench.result import peak_bytes; print(peak_bytes())"
finished = subprocess.run([sys.executable, "-c", child], check=True, capture_output=True, text=True)
print(json.dumps([peak_bytes(), int(finished.stdout)]))
"""


def test_the_peak_is_that_of_the_process_not_of_the_one_that_started_it() -> None:
    finished = subprocess.run([sys.executable, "-c", PARENT], check=True, capture_output=True, text=True)
    parent_bytes, child_bytes = json.loads(finished.stdout)
    assert parent_bytes > 1e9
    assert child_bytes < 0.5e9
