"""Folders, zips and tars as people have them: nobody is mislabelled, and no file goes unnamed."""

import io
import tarfile
import unicodedata

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from conftest import write_people
from PIL import Image
from test_sources import write_folder, write_rec, write_tar, write_zip

from hyperface.data import store
from hyperface.data.datasets import data_directory
from hyperface.data.manifest import Manifest
from hyperface.data.planning import Options, default_held_out
from hyperface.data.sources import open_source
from hyperface.data.sources.identities import choose
from hyperface.data.sources.members import picture_kind
from hyperface.errors import InputError


def write_any(kind, path, files):
    """The same files as a folder, a zip or a compressed tar, and where it is."""
    if kind == "folder":
        return write_folder(path / "any", files)
    if kind == "zip":
        return write_zip(path / "any.zip", files)
    return write_tar(path / "any.tar.gz", files, "w:gz")


def opened(path, **options):
    return open_source(str(path), path.parent, **options)


def by_person(source):
    """The names of each person's images."""
    found = {identity: [] for identity in source.identities}
    for person, name in zip(source.people, source.names, strict=True):
        found[source.identities[person]].append(name)
    return found


def encoded(kind, mode="RGB", seed=0, size=(16, 16), **options):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 4), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


kinds = pytest.mark.parametrize("kind", ["folder", "zip", "tar"])

# ---------------------------------------------------------------------------- which are the people

ONE_READING = {
    "split folders": (["train/n0/1.png", "train/n1/1.png", "test/n2/1.png"], ["n0", "n1", "n2"]),
    "a person in two splits": (["train/n0/1.png", "val/n0/1.png", "val/n1/1.png"], ["n0", "n1"]),
    "folds": ([f"fold_{k}/n{k}/1.png" for k in range(3)], ["n0", "n1", "n2"]),
    "doubled": ([f"lfw/lfw/n{k}/1.png" for k in range(3)], ["n0", "n1", "n2"]),
    "a stray picture": (
        ["sheet.png", "lfw/sheet.png", *(f"lfw/n{k}/1.png" for k in range(3))],
        ["n0", "n1", "n2"],
    ),
    "sessions": ([f"n{k}/s{s}/1.png" for k in range(3) for s in range(2)], ["n0", "n1", "n2"]),
    "named sessions": (["n0/frontal/1.png", "n1/profile/1.png"], ["n0", "n1"]),
    "some with sessions": (
        ["n0/1.png", "n0/old/2.png", "n1/1.png", "n2/1.png"],
        ["n0", "n1", "n2"],
    ),
    "splits and sessions": (
        [f"train/n{k}/video{k}/1.png" for k in range(2)] + ["test/n2/video7/1.png"],
        ["n0", "n1", "n2"],
    ),
    "one person": (["ann/1.png", "ann/2.png"], ["ann"]),
    "one person with sessions": (["ann/session1/1.png", "ann/session2/1.png"], ["ann"]),
    "one person within": (["ann/old/1.png"], ["ann"]),
    "one person of a split": (["train/ann/1.png"], ["ann"]),
    "three folders around": ([f"a/b/c/n{k}/1.png" for k in range(12)], None),
}


@kinds
@pytest.mark.parametrize("name", ONE_READING)
def test_people_are_found_at_any_level(tmp_path, kind, name):
    paths, people = ONE_READING[name]
    source = opened(write_any(kind, tmp_path, dict.fromkeys(paths, b"x")))
    people = people or [f"n{k}" for k in range(12)]
    assert sorted(source.identities) == sorted(people)
    assert len(source.names) + len(source.rejected) == len(paths)
    # Protocols take the person from the start of an image's name.
    for person, names in by_person(source).items():
        assert all(one.startswith(f"{person}/") for one in names)


TWO_READINGS = {
    "initials": [f"{n[0]}/{n}/1.png" for n in ("Ann", "Al", "Bo")],
    "clips of other names": [f"n{k}/{k}{c}/1.png" for k in range(3) for c in "xy"],
    "as many names as folders": [f"{a}/{b}/1.png" for a in "xy" for b in "pq"],
    "others beside the people": [
        *(f"others/{k}.png" for k in range(20)),
        *(f"people/n{k}/1.png" for k in range(5)),
    ],
    "splits that are flat": ["train/1.png", "test/2.png", "test/3.png", "train/old/4.png"],
    "as many pictures as folders": ["ann/1.png", "ann/2.png", "ann/x/1.png", "ann/y/1.png"],
    "contact sheets": [f"{g}/{n}.png" for g in "xy" for n in ("sheet", f"{g}1/1", f"{g}2/1")],
}


@kinds
@pytest.mark.parametrize("name", TWO_READINGS)
def test_two_readings_are_shown_and_the_user_asked(tmp_path, kind, name):
    paths = TWO_READINGS[name]
    path = write_any(kind, tmp_path, dict.fromkeys(paths, b"x"))
    with pytest.raises(InputError, match=r"level 1 has \d.*level 2 has \d.*--identity-level"):
        opened(path)
    for level in (1, 2):
        source = opened(path, identity_level=level)
        expected = {p.split("/")[level - 1] for p in paths if p.count("/") >= level}
        assert set(source.identities) == expected
        assert len(source.names) + len(source.rejected) == len(paths)
    with pytest.raises(InputError, match="--identity-level: expected 1 to 2"):
        opened(path, identity_level=3)


def test_images_in_no_folder_are_not_passed_over_for_a_few_that_are_in_one(tmp_path):
    files = dict.fromkeys(["1.png", "2.png", "3.png", "old/1.png", "new/1.png"], b"x")
    root = write_folder(tmp_path, files)
    with pytest.raises(InputError, match=r"3 images outside of any folder, and level 1 has 2"):
        opened(root)
    assert len(opened(root, identity_level=1).rejected) == 3
    flat = write_folder(tmp_path / "flat", {"1.png": b"x"})
    with pytest.raises(InputError, match=r"1 images are outside of any folder.*list file"):
        opened(flat)


def test_people_in_doubt_are_said_and_strict_refuses_them(tmp_path):
    root = write_people(tmp_path / "around/who", people=3, images=1).parent
    source = opened(root)
    assert len(source.identities) == 3
    assert "level 1 has 1 identities (who)" in source.doubt
    with pytest.raises(InputError, match=r"--strict.*level 2 has 3.*--identity-level 1"):
        store.prepare(source, tmp_path / "data/x", Options(strict=True))
    store.prepare(opened(root, identity_level=2), tmp_path / "data/x", Options(strict=True))
    for paths, doubt in (
        (["ann/sheet.png", "ann/x/1.png", "ann/x/2.png"], "level 2 has 1 identities (x)"),
        (["ann/1.png", "bo/1.png", "cy/x/1.png"], "level 2 has 1 identities (x) with 1 images"),
        (
            [f"who/n{k}/session{s}/1.png" for k in range(3) for s in "12"],
            "level 1 has 1 identities (who)",
        ),
    ):
        folders = {tuple(path.split("/")[:-1]): 1 for path in paths}
        assert doubt in choose(folders, "any").doubt
    # Nothing is in doubt where the folder around all is named as the source.
    assert not opened(tmp_path / "around", identity_level=2).doubt
    assert choose({("who", f"p{k}"): 1 for k in range(3)}, "Who").doubt == ""


def test_images_of_one_name_in_two_splits_stay_two(tmp_path):
    files = {f"{split}/ann/1.png": split.encode() for split in ("train", "test")}
    source = opened(write_folder(tmp_path, files))
    assert by_person(source) == {"ann": ["ann/test/1.png", "ann/train/1.png"]}
    assert [source.read(0), source.read(1)] == [b"test", b"train"]


# ------------------------------------------------------------------------- which files are images


@kinds
def test_images_are_known_by_their_content_where_the_suffix_does_not_tell(tmp_path, kind):
    files = {
        "a/0.png": encoded("PNG"),
        "b/0.gif": encoded("GIF"),
        "c/0.jfif": encoded("JPEG"),
        "d/subject01": encoded("PNG"),
        "e/0.jpe": encoded("JPEG"),
        "f/0.TIF": encoded("TIFF"),
        "g/0.dat": encoded("WEBP"),
        "h/0.bak": encoded("BMP"),
        "i/0.001": encoded("PPM"),
        "j/0.": encoded("TIFF"),
    }
    other = {
        "a/notes.txt": b"BMW and P5",
        "a/list": b"",
        "LICENSE": b"P5 is a format",
        "c/0.zip": b"PK\3\4",
    }
    unread = {
        "k/0.heic": b"\0\0\0\x18ftypheic" + bytes(20),
        "k/0.nef": encoded("TIFF"),
        "k/0.jp2": b"\0\0\0\x0cjP  \r\n\x87\n",
    }
    source = opened(write_any(kind, tmp_path, files | other | unread))
    assert list(source.identities) == sorted("abcdefghij")
    assert {r.name for r in source.ignored} == set(other)
    assert {r.name for r in source.rejected} == set(unread)
    assert all("convert it" in r.reason for r in source.rejected)
    made = Manifest.read(store.prepare(source, tmp_path / "data/x"))
    assert made.images == {"train": len(files)}
    assert len(made.ignored) == len(other)


def test_every_format_that_is_written_is_known_by_its_first_bytes():
    for kind, name in {"PPM": "PNM", "WEBP": "WebP"}.items() | {
        (kind, kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP")
    }:
        assert picture_kind(encoded(kind)[:32]) == name
    for data in (b"", b"BM", b"P4 pictures", b"MM", b"RIFF\0\0\0\0WAVE", b"%PDF-1.4"):
        assert picture_kind(data) is None


@kinds
def test_hidden_and_service_folders_are_left_out_and_counted(tmp_path, kind):
    people = {f"p{k}/{i}.png": b"x" for k in range(2) for i in range(2)}
    hidden = {
        ".ipynb_checkpoints/0-checkpoint.png": 1,
        "p1/.ipynb_checkpoints/0-checkpoint.png": 1,
        "@eaDir/p0/thumb.jpg": 2,
        "@eaDir/p1/thumb.jpg": 2,
        "__MACOSX/p1/._0.png": 1,
        "p0/.thumbnails/a/b.png": 1,
        "p0/._0.png": 1,
        "p0/.DS_Store": 1,
        "p0/Thumbs.db": 1,
    }
    source = opened(write_any(kind, tmp_path, people | dict.fromkeys(hidden, b"x")))
    assert sorted(source.names) == sorted(people)
    assert not source.rejected
    reasons = dict(source.ignored)
    assert reasons["@eaDir/"] == "a hidden or service folder with 2 files"
    assert reasons.keys() == {
        ".ipynb_checkpoints/", "p1/.ipynb_checkpoints/", "@eaDir/", "__MACOSX/", "p0/.thumbnails/",
        "p0/._0.png", "p0/.DS_Store", "p0/Thumbs.db",
    }  # fmt: skip


def test_strict_minds_images_alone(tmp_path):
    root = write_people(tmp_path / "faces", people=2, images=1)
    write_folder(root, {"README.txt": b"text", ".x/1.png": b""})
    store.prepare(opened(root), tmp_path / "data/x", Options(strict=True))
    write_folder(root, {"person0/unknown": encoded("PNG")[:40]})
    with pytest.raises(InputError, match="person0/unknown"):
        store.prepare(opened(root), tmp_path / "data/y", Options(strict=True))


# ----------------------------------------------------------------------------- links and archives


def test_links_that_loop_or_lead_nowhere_are_listed(tmp_path):
    root = write_folder(tmp_path / "f", {"ann/0.png": b"x", "bo/0.png": b"y"})
    for one, other in (("a.txt", "b.txt"), ("b.txt", "a.txt"), ("c.png", "c.png")):
        (root / "ann" / one).symlink_to(other)
    (root / "loop").symlink_to("loop")
    (root / "ann/gone.png").symlink_to("/nowhere/gone.png")
    for follow in (False, True):
        source = opened(root, follow_links=follow)
        reasons = dict(source.rejected)
        assert sorted(source.names) == ["ann/0.png", "bo/0.png"]
        assert reasons.pop("ann/gone.png") == "a link to nothing: /nowhere/gone.png"
        assert reasons.keys() == {"ann/a.txt", "ann/b.txt", "ann/c.png", "loop"}
        assert all("Too many levels" in reason for reason in reasons.values())


def test_zips_of_windows_have_folders(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"Ann\\1.png": b"1", "Bo\\x\\2.png": b"2", "Bo\\": b""})
    source = opened(path, identity_level=1)
    assert by_person(source) == {"Ann": ["Ann/1.png"], "Bo": ["Bo/x/2.png"]}
    assert not source.rejected


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_hard_links_of_a_tar_are_images(tmp_path, mode):
    path = tmp_path / "a.tar"
    with tarfile.open(path, mode) as archive:
        for person in ("ann", "bo"):
            info = tarfile.TarInfo(f"./{person}/1.png")
            info.size = 3
            archive.addfile(info, io.BytesIO(person.encode().ljust(3)))
        for name, target in (("2.png", "./ann/1.png"), ("3", "./ann/2.png"), ("4.png", "./no.png")):
            link = tarfile.TarInfo(f"./ann/{name}")
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    source = opened(path)
    assert {n: source.read(i) for i, n in enumerate(source.names)} == {
        "ann/1.png": b"ann", "ann/2.png": b"ann", "bo/1.png": b"bo "
    }  # fmt: skip
    assert [r.name for r in source.rejected] == ["ann/4.png"]
    assert "hard link to ./no.png" in source.rejected[0].reason
    assert [r.name for r in source.ignored] == ["ann/3"]


@pytest.mark.parametrize("name", ["FACES.TAR.GZ", "Faces.Tgz", "F.TAR", "faces.v1.Tar"])
def test_suffixes_in_capitals_are_known(tmp_path, name):
    mode = "w:gz" if name.upper().endswith("GZ") else "w"
    assert opened(write_tar(tmp_path / name, {"a/1.png": b"x"}, mode)).kind == "tar"


def test_folders_of_tables_and_records_in_capitals_are_known(tmp_path):
    (tmp_path / "t").mkdir()
    table = pyarrow.table({"image": [b"x"], "label": ["a"]})
    pyarrow.parquet.write_table(table, tmp_path / "t/A.PARQUET")
    assert opened(tmp_path / "t").kind == "parquet"
    (tmp_path / "r").mkdir()
    write_rec(tmp_path / "r/A.REC", [], index=False)
    with pytest.raises(InputError, match=r"give .*A\.REC"):
        opened(tmp_path / "r")


# ---------------------------------------------------------------------------- spellings of a name


@kinds
def test_one_name_in_two_unicode_forms_is_refused(tmp_path, kind):
    names = [unicodedata.normalize(form, "José") for form in ("NFC", "NFD")]
    path = write_any(kind, tmp_path, {f"{name}/1.png": b"x" for name in names})
    for options in ({}, {"distinct_case": True}):
        with pytest.raises(InputError, match=r"one spelling of 'José'.*Jose\\u0301.*Jos\\xe9"):
            opened(path, **options)


def test_labels_of_lists_and_tables_have_one_spelling(tmp_path):
    write_folder(tmp_path, dict.fromkeys(["a.png", "b.png"], b"x"))
    listed = tmp_path / "l.txt"
    for one, other in (("1", "01"), ("1", "1.0"), ("007", "7")):
        listed.write_text(f"a.png {one}\nb.png {other}\n")
        with pytest.raises(InputError, match=f"found '{one}' and '{other}'"):
            opened(listed)
    listed.write_text("a.png 0_1\nb.png 01\n")
    assert len(opened(listed).identities) == 2
    listed.write_text("a.png Ann\nb.png ann\n")
    table = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(
        pyarrow.table({"image": [b"x", b"y"], "label": ["Ann", "ann"]}), table
    )
    for path in (listed, table):
        with pytest.raises(InputError, match=r"'Ann' and 'ann'.*--distinct-case"):
            opened(path)
        assert len(opened(path, distinct_case=True).identities) == 2


def test_one_file_spelt_in_several_ways_is_one_image(tmp_path):
    write_folder(tmp_path, {"a.png": b"x", "b.png": b"y", "x/c.png": b"z"})
    text = "a.png 3\n./a.png 4\n.//a.png 5\nx/../a.png 3\nx/c.png 6\nx//c.png 6\n"
    (tmp_path / "l.txt").write_text(text)
    source = opened(tmp_path / "l.txt")
    assert list(source.names) == ["a.png", "x/c.png"]
    assert [r.reason[:15] for r in source.rejected] == [
        f"in line {n} again"[:15] for n in (2, 3, 4, 6)
    ]


def test_windows_text_files_name_images(tmp_path):
    """A byte-order mark and odd line ends belong to no name; a line separator in a name does."""
    root = write_people(tmp_path / "f", people=2, images=2)
    odd = "person0/a\u2028b\x85c.png"
    (root / "person0/0.png").replace(root / odd)
    (tmp_path / "l.txt").write_bytes(f"\ufefff/{odd} 1\r\nf/person1/0.png 2\r\n".encode())
    assert list(opened(tmp_path / "l.txt").names) == [f"f/{odd}", "f/person1/0.png"]


# ------------------------------------------------------------------------------ home and held out


def test_the_users_home_is_meant_by_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("HYPERFACE_DATA_DIR", "~/data")
    write_people(tmp_path / "faces", people=1, images=1)
    assert data_directory() == data_directory("~/data") == tmp_path / "data"
    assert len(open_source("~/faces", tmp_path).names) == 1


@pytest.mark.parametrize(("people", "held_out"), [(29, 0), (30, 10), (109, 10), (110, 11)])
def test_a_tenth_of_many_people_is_held_out(tmp_path, people, held_out):
    lines = "".join(f"{k}.png {k}\n" for k in range(people))
    (tmp_path / "l.txt").write_text(lines)
    source = opened(tmp_path / "l.txt")
    assert default_held_out(source, Options()) == held_out
    for options in (Options(held_out=3), Options(held_out="all"), Options(test_people=["1"])):
        assert default_held_out(source, options) is None


def test_a_default_test_split_is_another_data_set_than_none(tmp_path):
    root = write_people(tmp_path / "f", people=31, images=1)
    made = Manifest.read(store.prepare(opened(root), tmp_path / "data/x"))
    assert made.images == {"train": 21, "test": 10}
    same = store.prepare(opened(root), tmp_path / "data/x", Options(held_out=10))
    assert same == tmp_path / "data/x/1.0.0"
    with pytest.raises(InputError, match="found one from other files or options"):
        store.prepare(opened(root), tmp_path / "data/x", Options(held_out=0))
