"""In CI a skipped test fails the run, wherever it is skipped, unless its reason is allowed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.skips import ALLOWED

ROOT = Path(__file__).resolve().parents[1]
TESTS = f"""
import pytest

@pytest.mark.skipif(True, reason="no Chromium on this machine")
def test_marked(): pass

def test_in_its_body(): pytest.skip("no font")

@pytest.mark.skip(reason="{ALLOWED[0]}: /nowhere")
def test_allowed(): pass

@pytest.mark.xfail(reason="known")
def test_expected_to_fail(): assert False

def test_passes(): pass
"""
AT_COLLECTION = "import pytest\npytest.importorskip('no_such_module')\ndef test_never_seen(): pass\n"


@pytest.mark.parametrize(
    ("in_ci", "tests", "code", "told"),
    [
        (
            True,
            TESTS,
            1,
            ["no Chromium on this machine", "no font", "1 failed, 1 passed, 1 skipped, 1 xfailed, 1 error"],
        ),
        (False, TESTS, 0, ["1 passed, 3 skipped, 1 xfailed"]),
        (True, AT_COLLECTION, 2, ["no_such_module", "1 error"]),
    ],
)
def test_a_skip_is_a_failure_in_ci_only(in_ci: bool, tests: str, code: int, told: list[str], tmp_path: Path) -> None:
    (tmp_path / "test_some.py").write_text(tests)
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "tests.skips",
            "-p",
            "no:cacheprovider",
            "--rootdir",
            tmp_path,
            tmp_path,
        ],
        env={**environment, "CI": "true"} if in_ci else environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    for text in told:
        assert text in done.stdout
