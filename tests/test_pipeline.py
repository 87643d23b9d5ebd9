"""The Grain pipeline: order, augmentation, padding; the step is the whole data position."""

import dataclasses
import itertools
import multiprocessing
import os
import shutil
import signal
from collections import Counter

import numpy as np
import pytest

from hyperface.data import datasets, images, pipeline
from hyperface.errors import InputError


@pytest.fixture
def split(tiny_data):
    return datasets.open_split("tiny", "train", tiny_data)


def take(batches, count):
    return list(itertools.islice(batches, count))


def test_a_resumed_pipeline_continues_exactly(split):
    options = {"batch_size": 10, "seed": 3, "shift": 2}
    whole = take(pipeline.training_batches(split, **options), 12)
    resumed = take(pipeline.training_batches(split, **options, start_step=7), 5)
    for expected, found in zip(whole[7:], resumed, strict=True):
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name])


def test_every_epoch_has_each_image_once_in_another_order(split):
    plain = {"batch_size": 12, "seed": 0, "mirror": False}
    batches = take(pipeline.training_batches(split, **plain), 8)
    epochs = [np.concatenate([b["images"] for b in batches[i : i + 4]]) for i in (0, 4)]
    counts = [Counter(image.tobytes() for image in epoch) for epoch in epochs]
    assert counts[0] == counts[1]
    assert set(counts[0].values()) == {1}
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize("workers", [0, 1])
def test_images_that_fit_are_read_once_and_batches_are_the_same(workers, split, monkeypatch):
    options = {"batch_size": 12, "seed": 0, "shift": 2, "workers": workers}
    size = len(split.records) * np.prod(split.image_shape)
    found = {}
    for keep in (size, size - 1):
        monkeypatch.setattr(pipeline, "KEPT", keep)
        read = []
        monkeypatch.setattr(
            pipeline, "decode", lambda data, r=read: r.append(0) or images.decode(data)
        )
        found[keep] = take(pipeline.training_batches(split, **options), 12)
        if not workers:  # Else they are read elsewhere.
            once = len(split.records)
            # Two threads may decode one image at the same time.
            assert (len(read) < 2 * once) if keep == size else (len(read) >= 3 * once)
    for expected, batch in zip(*found.values(), strict=True):
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_another_seed_is_another_order(split):
    first, second = (
        next(pipeline.training_batches(split, batch_size=12, seed=seed)) for seed in (0, 1)
    )
    assert not np.array_equal(first["labels"], second["labels"])


def test_pixels_are_mapped_as_the_papers_do(split):
    batches = pipeline.evaluation_batches(split, batch_size=48)
    (batch,) = batches
    expected = (images.decode(split.records[0]["image"]).astype(np.float32) - 127.5) / 128
    np.testing.assert_array_equal(batch["images"][0], expected)
    assert batch["images"].dtype == np.float32
    assert batch["labels"].dtype == np.int32


def test_mirror_flips_half_of_the_images_left_to_right(split):
    originals = {images.decode(r["image"]).tobytes() for r in split.records}
    batches = take(pipeline.training_batches(split, batch_size=48, seed=0), 4)
    flipped = 0
    for image in np.concatenate([b["images"] for b in batches]):
        pixels = np.round(image * 128 + 127.5).astype(np.uint8)
        if pixels.tobytes() not in originals:
            assert np.ascontiguousarray(pixels[:, ::-1]).tobytes() in originals
            flipped += 1
    assert 60 < flipped < 132


def test_shift_moves_and_repeats_the_edge():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4, 1)
    moved = pipeline._shifted(pixels, 1, -1)
    np.testing.assert_array_equal(moved[..., 0], [[1, 2, 3, 3], [1, 2, 3, 3], [5, 6, 7, 7]])


def test_evaluation_pads_the_last_batch_and_loses_nothing(split):
    batches = list(pipeline.evaluation_batches(split, batch_size=20))
    assert [b["images"].shape[0] for b in batches] == [20, 20, 20]
    assert [b["mask"].sum() for b in batches] == [20, 20, 8]
    labels = np.concatenate([b["labels"][b["mask"] > 0] for b in batches])
    np.testing.assert_array_equal(labels, [int(r["label"]) for r in split.records])


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_share_evaluation_in_stored_order(split, processes):
    """Batches of ten; with seven processes one or more have nothing but padding."""
    shares = [
        list(
            pipeline.evaluation_batches(split, batch_size=10, process=process, processes=processes)
        )
        for process in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    (whole,) = pipeline.evaluation_batches(split, batch_size=len(split.records))
    rounds = [batch for batches in zip(*shares, strict=True) for batch in batches]
    for name, values in whole.items():
        found = np.concatenate([batch[name][batch["mask"] > 0] for batch in rounds])
        np.testing.assert_array_equal(found, values)


def test_a_label_beyond_the_classes_is_refused(split):
    narrow = datasets.Split(
        split.dataset, "train", split.records, num_classes=2, image_shape=split.image_shape
    )
    with pytest.raises(InputError, match=r"labels of tiny/1.0.0 .* in \[0, 2\)"):
        list(pipeline.evaluation_batches(narrow, batch_size=8))


def test_processes_and_workers_share_the_same_images(split):
    """What one process reads in a step is what two or four read together, in the same order."""
    options = {"batch_size": 8, "seed": 3, "shift": 1}
    whole = take(pipeline.training_batches(split, **options), 9)
    for processes in (2, 4):
        shares = [
            take(
                pipeline.training_batches(
                    split, **options, process=p, processes=processes, start_step=4
                ),
                5,
            )
            for p in range(processes)
        ]
        for step in range(5):
            images = np.concatenate([share[step]["images"] for share in shares])
            np.testing.assert_array_equal(images, whole[4 + step]["images"])
    with pytest.raises(InputError, match="a multiple of the 3 processes, found 8"):
        pipeline.training_batches(split, **options, processes=3)


def test_worker_processes_change_nothing(split):
    options = {"batch_size": 8, "seed": 3, "shift": 1, "start_step": 2}
    whole = take(pipeline.training_batches(split, **options), 4)
    batches = pipeline.training_batches(split, **options, workers=2)
    for expected, found in zip(whole, take(batches, 4), strict=True):
        np.testing.assert_array_equal(found["images"], expected["images"])
    batches.close()


def test_a_killed_worker_is_said(split):
    batches = pipeline.training_batches(split, batch_size=8, seed=0, workers=2)
    next(batches)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"ended with code -9; .* The same command continues"):
        take(batches, 100)
    assert not multiprocessing.active_children()


def test_crops_are_random_in_training_and_central_in_evaluation(tiny_data):
    whole = datasets.open_split("tiny", "train", tiny_data)
    split = datasets.open_split("tiny", "train", tiny_data, crop=(12, 9))
    assert split.image_shape == (12, 9, 3)
    assert split.facts()["image_shape"] == [12, 9, 3]
    pixels = next(pipeline.evaluation_batches(whole, batch_size=48))["images"]
    central = next(pipeline.evaluation_batches(split, batch_size=48))["images"]
    np.testing.assert_array_equal(central, pixels[:, 2:14, 2:11])
    corners = set()
    for batch in take(pipeline.training_batches(split, batch_size=48, seed=0, mirror=False), 3):
        for image in batch["images"]:
            found = [
                (top, left)
                for top in range(5)
                for left in range(6)
                if np.any(np.all(pixels[:, top : top + 12, left : left + 9] == image, (1, 2, 3)))
            ]
            assert found
            corners.add(found[0])
    assert len(corners) > 25  # Of 30, in 144 draws.
    with pytest.raises(InputError, match="at most the 16 x 14 of tiny, found 12 x 15"):
        datasets.open_split("tiny", "train", tiny_data, crop=(12, 15))


def test_a_damaged_record_in_the_middle_of_an_epoch_is_named(tiny_data, tmp_path):
    """The file opens; its records fail when they are read."""
    shutil.copytree(tiny_data / "tiny", tmp_path / "tiny")
    (shard,) = tmp_path.glob("tiny/*/*train*array_record*-of-*[0-9]")
    content = bytearray(shard.read_bytes())
    for place in range(len(content) // 20, len(content) // 4, 7):
        content[place] ^= 0xFF
    shard.write_bytes(content)
    damaged = datasets.open_split("tiny", "train", tmp_path)
    with pytest.raises(InputError, match=r"tiny.* \(train\), record \d+: expected a whole record"):
        take(pipeline.training_batches(damaged, batch_size=8, seed=0), 6)


@pytest.mark.parametrize("bad", [b"", b"nothing", None])
def test_an_image_that_does_not_decode_is_named(bad, split):
    records = [split.records[place] for place in range(len(split.records))]
    cut = records[5]["image"][:100] if bad is None else bad
    records[5] = records[5] | {"image": cut}
    broken = dataclasses.replace(split, records=records)
    for batches in (
        pipeline.training_batches(broken, batch_size=8, seed=0),
        pipeline.evaluation_batches(broken, batch_size=8),
    ):
        with pytest.raises(InputError, match=r"record 5: expected a whole image.*prepare it again"):
            take(batches, 6)
