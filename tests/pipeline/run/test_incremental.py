"""What counts as new, changed, vanished and cut anew, from real files and markers; no model needed."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import uuid
from pathlib import Path

import pytest
from PIL import Image

from maskmill.pipeline.config import LabelConfig
from maskmill.pipeline.output.commit import CommitRequest, commit_shard
from maskmill.pipeline.output.folder import Output
from maskmill.pipeline.output.markers import remove_shards
from maskmill.pipeline.run.execute import run_plan
from maskmill.pipeline.run.incremental import (
    Changes,
    find_changes,
    is_unchanged,
    listing_digest,
    read_inventory,
    write_inventory,
)
from maskmill.pipeline.run.plan import plan_run
from maskmill.pipeline.run.record import write_record
from maskmill.pipeline.sources import Shard, list_shards
from maskmill.pipeline.sources.listing import list_files
from tests.conftest import Bucket
from tests.pipeline.faulty_proxy import FaultyProxy

SHARD_SIZE = 2


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(5):
        add_image(folder / f"{number}.png")
    return folder


@pytest.fixture
def output(tmp_path: Path) -> Output:
    return Output(str(tmp_path / "out"))


def add_image(path: Path, colour: int = 0) -> None:
    Image.new("RGB", (4, 4), (colour, 0, 0)).save(path)
    # File systems' clocks are coarser than this test.
    os.utime(path, ns=(colour, 1_000_000_000 * (colour + 1)))


def shards_of(source: Path | str) -> list[Shard]:
    return list_shards(str(source), shard_size=SHARD_SIZE)


def label_all(output: Output, shards: list[Shard]) -> None:
    run = (output.read_json("run.json") or {"run_id": "r"})["run_id"]
    attempt = uuid.uuid4().hex
    for shard in shards:
        commit_shard(output, CommitRequest(shard=shard, attempt=attempt, rows=0, parts=[], run_id=run, fingerprint="f"))


def begin(config: LabelConfig) -> None:
    """A run that has written down what it is."""
    plan = plan_run(config)
    write_record(plan.output, plan.record, plan.vocabulary)


def finish(output: Output, source: Path | str) -> None:
    """A run that ended."""
    shards = shards_of(source)
    changes = changes_of(output, source)
    label_all(output, [shard for shard in shards if shard.shard_id in changes.to_label])
    remove_shards(output, changes.superseded)
    write_inventory(output, listing_digest(list_files(str(source))), shards, changes.vanished)


def changes_of(output: Output, source: Path | str) -> Changes:
    return find_changes(output, shards_of(source), read_inventory(output), output.names("stats", ".json"))


def unchanged(output: Output, source: Path | str) -> bool:
    digest = listing_digest(list_files(str(source)))
    return is_unchanged(read_inventory(output), digest, output.names("stats", ".json"))


def test_at_first_all_is_new_then_nothing(output: Output, source: Path) -> None:
    ids = tuple(shard.shard_id for shard in shards_of(source))
    assert changes_of(output, source) == Changes(new=ids)
    assert not unchanged(output, source)
    finish(output, source)
    assert changes_of(output, source) == Changes()
    assert unchanged(output, source)


def test_a_killed_run_s_shards_are_known_by_their_markers_alone(output: Output, source: Path) -> None:
    shards = shards_of(source)
    label_all(output, shards[:1])
    assert changes_of(output, source) == Changes(new=tuple(shard.shard_id for shard in shards[1:]))


def test_changed_bytes_and_changed_time_are_labelled_again(output: Output, source: Path) -> None:
    finish(output, source)
    add_image(source / "3.png", colour=9)
    (shard,) = (shard for shard in shards_of(source) if "3.png" in shard.members)
    assert changes_of(output, source) == Changes(changed=(shard.shard_id,))
    # A run killed after this commit leaves an inventory that is behind the marker: the marker decides.
    label_all(output, [shard])
    assert changes_of(output, source) == Changes()
    assert not unchanged(output, source)


def test_a_deleted_marker_is_new_work(output: Output, source: Path) -> None:
    finish(output, source)
    gone = shards_of(source)[0].shard_id
    output.remove(f"stats/{gone}.json")
    assert not unchanged(output, source)
    assert changes_of(output, source) == Changes(new=(gone,))


def test_files_that_are_gone_vanish_and_stay_vanished(output: Output, source: Path, tmp_path: Path) -> None:
    for night in ("a", "b"):
        shutil.copytree(source, tmp_path / "nights" / night)
        (tmp_path / "nights" / f"{night}.txt").write_text(
            "".join(f"{path}\n" for path in sorted((tmp_path / "nights" / night).iterdir()))
        )
    pattern = tmp_path / "nights" / "*.txt"
    finish(output, pattern)
    first = {shard.shard_id for shard in shards_of(tmp_path / "nights" / "a.txt")}
    (tmp_path / "nights" / "a.txt").unlink()
    changes = changes_of(output, pattern)
    assert (set(changes.vanished), changes.to_label, changes.superseded) == (first, frozenset(), ())
    finish(output, pattern)
    assert unchanged(output, pattern)
    assert read_inventory(output).vanished == tuple(sorted(first))
    assert set(changes_of(output, pattern).vanished) == first
    assert all(output.exists(f"labels/{shard_id}.parquet") for shard_id in first)


def test_a_folder_that_grew_is_cut_anew_from_there_and_holds_no_image_twice(output: Output, source: Path) -> None:
    finish(output, source)
    before = shards_of(source)
    add_image(source / "5.png")
    after = shards_of(source)
    assert changes_of(output, source) == Changes(new=(after[-1].shard_id,), superseded=(before[-1].shard_id,))
    finish(output, source)
    assert output.names("stats", ".json") == sorted(shard.shard_id for shard in after)
    assert output.names("labels", ".parquet") == output.names("stats", ".json")


def test_a_manifest_that_grew_keeps_its_full_shards(output: Output, source: Path, tmp_path: Path) -> None:
    manifest = tmp_path / "list.txt"
    lines = [f"{path}\n" for path in sorted(source.iterdir())]
    manifest.write_text("".join(lines[:4]))
    finish(output, manifest)
    manifest.write_text("".join(lines))
    assert changes_of(output, manifest) == Changes(new=(shards_of(manifest)[-1].shard_id,))


def tar_of_one_image(data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        info = tarfile.TarInfo("one.png")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def test_a_run_with_nothing_to_do_removes_what_attempts_before_its_last_left_staged(
    output: Output, source: Path
) -> None:
    config = LabelConfig(input=str(source), output=output.uri, classes="cat,dog", incremental=True)
    begin(config)
    label_all(output, list_shards(config.input))
    run_plan(plan_run(config), lambda progress: None)
    for attempt in ("0-taken-over", "9-at-work"):  # attempts sort by their start
        output.write_bytes(f"_staging/{attempt}/labels/part.parquet", b"")
    assert plan_run(config).nothing_new
    run_plan(plan_run(config), lambda progress: None)
    assert output.names("_staging", "") == ["9-at-work"]


def test_nothing_new_costs_one_listing_whatever_the_number_of_shards(
    s3_bucket: Bucket, faulty_s3: FaultyProxy, source: Path
) -> None:
    tar = tar_of_one_image((source / "0.png").read_bytes())
    config = LabelConfig(
        input=f"{s3_bucket.uri}/in/*.tar", output=f"{s3_bucket.uri}/out", classes="cat,dog", incremental=True
    )
    requests: dict[int, list[str]] = {}
    for shards in (3, 30):
        for number in range(shards):
            s3_bucket.put(f"in/{number:03d}.tar", tar)
        if shards == 3:
            begin(config)
        label_all(Output(config.output), list_shards(config.input))
        run_plan(plan_run(config), lambda progress: None)
        asked = requests.setdefault(shards, [])
        faulty_s3.fault = lambda method, path, _, asked=asked: asked.append(f"{method} {path}")  # breaks nothing
        plan = plan_run(config)
        result = run_plan(plan, lambda progress: None)
        faulty_s3.fault = lambda method, path, number: None
        assert plan.nothing_new
        assert result.summary["shards"] == shards
    for asked in requests.values():
        # One more asks for a single key: whether there is a folder of the pattern's very name.
        assert len([each for each in asked if "list-type" in each and "prefix=in%2F&" in each]) == 1
    assert len(requests[3]) == len(requests[30])
