"""The data of training: records, label maps, views, words, regions and named masks."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from maskmill.pipeline.errors import UsageError
from maskmill.pipeline.shapes import CLASSES
from maskmill.pipeline.shapes.write import ShapesSettings, write_shapes
from maskmill.pipeline.training.augment import PAD_VALUE, AugmentSettings, augment, is_recoloured
from maskmill.pipeline.training.classes import read_classes
from maskmill.pipeline.training.clip import several_positives_loss
from maskmill.pipeline.training.crops import rough_logits
from maskmill.pipeline.training.predicted_masks import true_classes
from maskmill.pipeline.training.record_store import open_records
from maskmill.pipeline.training.segmentation import IGNORED, SegmentationData, SegmentationDataset
from maskmill.pipeline.training.tokens import learn_merges, words_of, write_merges


@pytest.mark.parametrize("file_format", ["parquet", "folder"])
def test_records_are_the_same_whatever_the_format(drawings: Path, tmp_path: Path, file_format: str) -> None:
    other = tmp_path / "other"
    write_shapes(str(other), ShapesSettings(images=20, seed=7, file_format=file_format))
    first, second = open_records(str(drawings), tmp_path / "a"), open_records(str(other), tmp_path / "b")
    assert len(first) == len(second) == 20
    for position in (19, 0, 8):  # any order
        for ours, theirs in zip(first.load(position), second.load(position), strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_records_are_copied_once_and_again_when_the_data_changes(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    write_shapes(str(data), ShapesSettings(images=3, seed=1))
    first = open_records(str(data), cache)
    copies = list(cache.iterdir())
    open_records(str(data), cache)
    assert list(cache.iterdir()) == copies
    shutil.rmtree(data)
    write_shapes(str(data), ShapesSettings(images=4, seed=1))
    second = open_records(str(data), cache)
    assert (len(first), len(second)) == (3, 4)


def test_an_image_without_label_map_is_named(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write_shapes(str(data), ShapesSettings(images=2, seed=1, file_format="folder"))
    (data / "000001.seg.png").unlink()
    with pytest.raises(UsageError, match=r"000001.*label map"):
        open_records(str(data), tmp_path / "cache")


def test_only_seen_classes_reach_segmentation(drawings: Path, tmp_path: Path) -> None:
    records = open_records(str(drawings), tmp_path)
    classes = read_classes(str(drawings / "classes.json"))
    assert [CLASSES[class_id].seen for class_id in classes.seen_ids] == [True] * 37
    unseen_somewhere = [classes.holds_unseen(records.label(position)) for position in range(len(records))]
    assert 0 < sum(unseen_somewhere) < 20
    plain = {"short_side": 128, "crop": 128, "scale_least": 1.0, "scale_most": 1.0}
    skipping = SegmentationDataset(records, classes, SegmentationData(**plain, images_with_unseen="skip"))
    assert len(skipping) == 20 - sum(unseen_somewhere)
    assert all((skipping[position, 0].labels != IGNORED).all() for position in range(len(skipping)))
    ignoring = SegmentationDataset(records, classes, SegmentationData(**plain, images_with_unseen="ignore", flip=False))
    for position in range(20):
        truth = records.label(position)
        labels = ignoring[position, 0].labels.numpy()
        is_seen = np.isin(truth, classes.seen_ids)
        assert (labels[~is_seen] == IGNORED).all()
        np.testing.assert_array_equal(np.array(classes.seen_ids)[labels[is_seen]], truth[is_seen])


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"classes": [{"name": "a", "wrong": 1}]}', "wrong"),
        ('{"classes": [{"name": "a"}], "ignore_label": 0}', "ignore_label 0"),
        ("[", "not a class file"),
    ],
)
def test_wrong_class_files_are_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "classes.json"
    path.write_text(content)
    with pytest.raises(UsageError, match=message):
        read_classes(str(path))


def test_views_keep_image_and_labels_together() -> None:
    label = np.kron(np.arange(12).reshape(3, 4), np.ones((40, 40), dtype=np.int64))
    image = np.repeat((label * 20)[..., None], 3, axis=2).astype(np.uint8)
    settings = AugmentSettings(
        short_side=90, crop=96, scale_least=0.7, scale_most=1.4, brightness=0, contrast=0, saturation=0
    )
    seen_padding = seen_mirrored = False
    for seed in range(12):
        pixels, labels = augment(image, label, settings, IGNORED, seed)
        assert pixels.shape == (96, 96, 3)
        assert labels.shape == (96, 96)
        padded = labels == IGNORED
        seen_padding |= bool(padded.any())
        assert (pixels[padded] == PAD_VALUE).all()
        rows = labels[~padded.all(1)][0]
        seen_mirrored |= bool(rows[0] > rows[rows >= 0][-1])
        # Edges are blended in the image and hard in the labels.
        agree = np.abs(pixels[~padded][:, 0].astype(int) - labels[~padded] * 20) <= 10
        assert agree.mean() > 0.97
        np.testing.assert_array_equal(pixels, augment(image, label, settings, IGNORED, seed)[0])
    assert seen_padding
    assert seen_mirrored


def test_wrong_colours_keep_the_segments_and_lose_the_names(drawings: Path, tmp_path: Path) -> None:
    records = open_records(str(drawings), tmp_path)
    classes = read_classes(str(drawings / "classes.json"))
    plain = {"short_side": 128, "crop": 128, "scale_least": 1, "scale_most": 1, "flip": False}
    plain |= {"brightness": 0, "contrast": 0, "saturation": 0}
    true = SegmentationDataset(records, classes, SegmentationData(**plain))
    wrong = SegmentationDataset(records, classes, SegmentationData(**plain, recoloured_share=0.5))
    shares = []
    for seed in range(60):
        expected, view = true[seed % 20, seed], wrong[seed % 20, seed]
        assert torch.equal(view.labels, expected.labels)
        assert view.named.item() is not is_recoloured(SegmentationData(recoloured_share=0.5), seed)
        assert torch.equal(view.images, expected.images) == bool(view.named)
        assert expected.named
        shares.append(bool(view.named))
    assert 0.3 < np.mean(shares) < 0.7


def test_every_word_becomes_one_token(tmp_path: Path) -> None:
    words = words_of(["A photo of a red circle.", "a blue triangle", "Tree", "tree"])
    assert words == ["a", "blue", "circle", "of", "photo", "red", "tree", "triangle"]
    path = tmp_path / "merges.txt.gz"
    write_merges(learn_merges(words), path)
    tokenizer = SimpleTokenizer(bpe_path=str(path), context_length=8)
    for word in words:
        assert (tokenizer(word)[0] != 0).sum() == 3, word  # start, the word, end
    assert (tokenizer("reed")[0] != 0).sum() > 3  # a word that was not given still has tokens


def test_roughened_masks_stay_near_the_truth() -> None:
    y, x = np.mgrid[:128, :128]
    mask = (y - 60) ** 2 + (x - 70) ** 2 < 30**2
    overlaps = []
    for seed in range(40):
        rough = rough_logits(mask, 1.5, (192, 192), np.random.default_rng(seed))[::3, ::3].numpy() > 0
        true = mask[np.ix_(np.arange(0, 128, 2), np.arange(0, 128, 2))]
        overlaps.append((rough & true).sum() / (rough | true).sum())
    assert 0.75 < np.mean(overlaps) < 0.97
    assert min(overlaps) > 0.3


def test_predicted_masks_are_named_by_their_pixels() -> None:
    label = np.zeros((20, 20), dtype=np.int64)
    label[:, 10:] = 4
    label[15:, 10:] = 255
    masks = torch.zeros(4, 40, 40, dtype=torch.bool)
    masks[0, :, 18:] = True  # nearly all of class 4, the unlabelled pixels do not count
    masks[1, :, 12:30] = True  # half and half
    masks[2, :4, :4] = True  # too small
    assert true_classes(masks, label, 255).tolist() == [4, -1, -1, -1]


def test_contrastive_loss_takes_several_positives() -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    expected = torch.tensor([0, 2, 0, 0])
    log = logits.log_softmax(1)
    by_hand = -((log[0, 0] + log[0, 2] + log[0, 3]) / 3 + log[2, 1]) / 2  # no region shows caption 1
    assert several_positives_loss(logits, expected).item() == pytest.approx(by_hand.item(), rel=1e-6)
