"""A bad image is a row in errors, never a lost job and never a lost row."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from tests.end_to_end.conftest import IMAGES, SHARD_SIZE, Label, command_here, read_rows

pytestmark = pytest.mark.usefixtures("tiny_model", "local_ray")


def good_images(shapes: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((shapes / "folder").rglob("*.jpg"))}


@pytest.fixture
def mixed(shapes: Path, tmp_path: Path) -> Path:
    """50 good images and 5 kinds of bad one, in two tars."""
    good = good_images(shapes)
    whole = next(iter(good.values()))
    members: dict[str, bytes] = {
        "bad-truncated.jpg": whole[: len(whole) // 2],
        "bad-text.jpg": b"this is no picture, whatever its name says",
        "bad-empty.jpg": b"",
        "bad-header-only.png": b"\x89PNG\r\n\x1a\n",
        "bad-svg.png": b"<svg xmlns='http://www.w3.org/2000/svg' width='10' height='10'/>",
        **good,
    }
    source = tmp_path / "mixed"
    source.mkdir()
    names = sorted(members, key=lambda name: name[::-1])
    for number, half in enumerate((names[::2], names[1::2])):
        with tarfile.open(source / f"{number}.tar", "w") as archive:
            for name in half:
                info = tarfile.TarInfo(name)
                info.size = len(members[name])
                archive.addfile(info, io.BytesIO(members[name]))
    return source


def test_each_row_is_in_labels_or_in_errors(label: Label, mixed: Path, tmp_path: Path) -> None:
    result = label(mixed, tmp_path / "out")
    labels, errors = read_rows(tmp_path / "out"), read_rows(tmp_path / "out", "errors")
    assert len(labels) == IMAGES
    assert {row["image_id"] for row in errors} == {
        "bad-truncated",
        "bad-text",
        "bad-empty",
        "bad-header-only",
        "bad-svg",
    }
    assert all(row["error_class"] and row["error_message"] and row["attempts"] == 1 for row in errors)
    assert result.summary["failed"] == 5
    assert sum(result.summary["errors"].values()) == 5
    assert result.failed_share == pytest.approx(5 / (IMAGES + 5))


def test_exit_codes_tell_whether_too_many_failed(mixed: Path, shapes: Path, tmp_path: Path) -> None:
    arguments = ("label", mixed, tmp_path / "out", "--classes", shapes / "wds" / "classes.json")
    over = command_here(*arguments)
    assert over.returncode == 3, over.stderr
    assert "5 failed" in over.stdout
    under = command_here(*arguments, "--max-failed", "0.2")
    assert under.returncode == 0, under.stderr


def test_a_truncated_tar_is_a_visible_failure_of_what_it_lost(label: Label, shapes: Path, tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    first, second = sorted((shapes / "wds").glob("*.tar"))[:2]
    (source / first.name).write_bytes(first.read_bytes()[: first.stat().st_size // 2])
    (source / second.name).write_bytes(second.read_bytes())
    label(source, tmp_path / "out")
    (damage,) = read_rows(tmp_path / "out", "errors")
    assert (damage["stage"], damage["error_class"]) == ("read", "damaged_shard")
    assert SHARD_SIZE <= len(read_rows(tmp_path / "out")) < 2 * SHARD_SIZE


def test_an_image_missing_from_a_folder_between_listing_and_reading(label: Label, shapes: Path, tmp_path: Path) -> None:
    source = tmp_path / "list.txt"
    paths = sorted(str(path) for path in (shapes / "folder").rglob("*.jpg"))[:6]
    source.write_text("\n".join([*paths, str(tmp_path / "gone.jpg")]) + "\n")
    label(source, tmp_path / "out")
    assert len(read_rows(tmp_path / "out")) == 6
    (error,) = read_rows(tmp_path / "out", "errors")
    assert (error["stage"], error["error_class"]) == ("read", "not_found")
