"""In continuous integration a skipped test is a failure, unless the machine cannot be given what the test needs.

A plugin of pytest, active where the environment has CI=true, as the common services set it.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)
ALLOWED = (
    "KubeRay's CRDs are not there",  # 1.5 MB of somebody else's schemas, which this repository does not hold
    "kubectl is not installed",  # no package of Debian or PyPI has it
)
"""How the reasons of skips begin that are no failure."""


def _judged(report: Report) -> Report:
    """The report, failed if it is of a skip that must not be."""
    if os.environ.get("CI") != "true" or report.outcome != "skipped" or hasattr(report, "wasxfail"):
        return report
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not reason.removeprefix("Skipped: ").startswith(ALLOWED):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} is skipped, which tests/skips.py does not allow in CI: {reason}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _judged((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _judged((yield))
