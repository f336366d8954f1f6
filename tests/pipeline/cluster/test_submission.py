"""What `maskmill submit` makes of a job file and of how a job ended; the cluster itself is in tests/end_to_end."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.job_submission import JobDetails, JobStatus, JobType

from maskmill.jobs.submit import entrypoint_of
from maskmill.pipeline.cluster.submission import SubmitError, _Tail, exit_code, in_upload
from maskmill.pipeline.errors import UsageError


@pytest.fixture
def job(tmp_path: Path) -> Path:
    path = tmp_path / "configs" / "job.yaml"
    path.parent.mkdir()
    path.write_text("input: in\noutput: out\nclasses: cat\n")
    return path


def test_the_entrypoint_names_the_job_as_it_lies_in_the_upload(job: Path) -> None:
    words = entrypoint_of(job, ["max-failed=0.5", "classes=a cat; rm -rf /"], job.parent.parent)
    assert words == (
        "exec python -P -m maskmill.jobs.main label --config configs/job.yaml "
        "--set max-failed=0.5 --set 'classes=a cat; rm -rf /'"
    )


@pytest.mark.parametrize("setting", ["storage-option=secret=s", "storage_option=secret=s", "notify-url=https://h/s"])
def test_secrets_do_not_go_into_the_list_of_jobs(job: Path, setting: str) -> None:
    with pytest.raises(UsageError, match="would show in the cluster's list of jobs"):
        entrypoint_of(job, [setting], job.parent)


def test_a_job_outside_of_the_upload_is_refused(job: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with pytest.raises(UsageError, match="lies outside of --working-dir"):
        entrypoint_of(job, [], tmp_path / "other")


def test_a_job_that_names_another_cluster_is_refused(job: Path) -> None:
    with pytest.raises(UsageError, match="joins the cluster it is submitted to"):
        entrypoint_of(job, ["address=auto"], job.parent)


def ended(status: JobStatus, code: int | None) -> JobDetails:
    return JobDetails(type=JobType.SUBMISSION, submission_id="j", status=status, entrypoint="x", driver_exit_code=code)


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (JobStatus.SUCCEEDED, 0, 0),
        (JobStatus.FAILED, 1, 1),
        (JobStatus.FAILED, 3, 3),
        (JobStatus.FAILED, 130, 130),
        (JobStatus.FAILED, -9, 137),
        (JobStatus.STOPPED, None, 130),
    ],
)
def test_exit_codes_come_through(status: JobStatus, code: int | None, expected: int) -> None:
    assert exit_code(ended(status, code)) == expected


def test_a_job_that_never_ran_has_none() -> None:
    with pytest.raises(SubmitError, match="ended as FAILED"):
        exit_code(ended(JobStatus.FAILED, None))


def test_a_log_that_begins_anew_is_not_shown_twice() -> None:
    shown: list[str] = []
    first = _Tail(shown.append, skip=0)
    first.add("one\ntw")
    second = _Tail(shown.append, skip=first.seen)
    for chunk in ("one\n", "two\n", "three\n"):
        second.add(chunk)
    assert "".join(shown) == "one\ntwo\nthree\n"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.key", "*.key"),
        ("build/", "build/"),
        ("/data", "/job_folder/data"),
        ("runs/old", "/job_folder/runs/old"),
        ("**/cache", "/job_folder/**/cache"),
        ("!keep/this.txt", "!/job_folder/keep/this.txt"),
        ("!this.txt", "!this.txt"),
    ],
)
def test_excludes_mean_the_same_one_level_down(pattern: str, expected: str) -> None:
    assert in_upload(pattern) == expected
