"""Sources: what was written in any format is read back, and nothing is dropped or trusted."""

import gzip
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import requests
from conftest import write_people
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperface.data.sources import open_source
from hyperface.data.sources.digits import digits, downloaded_digits, read_idx
from hyperface.data.sources.lists import listed
from hyperface.data.sources.orl import restore_newlines
from hyperface.data.sources.recordio import MAGIC, recordio
from hyperface.data.sources.tables import parquet, tfds_dataset
from hyperface.data.sources.trees import folder, tarred, zipped
from hyperface.data.sources.verification import verification
from hyperface.errors import InputError

IMAGES = st.dictionaries(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["1.png", "2.JPG", "x/3.bmp"])),
    st.binary(min_size=1, max_size=40),
    min_size=1,
)


def contents(source):
    """(identity, bytes) by name."""
    people = [source.identities[i] for i in source.people]
    return {n: (people[i], source.read(i)) for i, n in enumerate(source.names)}


def write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def write_tar(path, files, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def write_folder(root, files):
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


# ---------------------------------------------------------------------- one folder an identity


@settings(max_examples=15)
@given(IMAGES)
def test_trees_come_back_as_they_went_in(tmp_path_factory, drawn):
    files = {f"{person}/{name}": data for (person, name), data in drawn.items()}
    files |= {"y/1.png": b"y", "z/1.png": b"z"}
    expected = {name: (name[0], data) for name, data in files.items()}
    at = tmp_path_factory.mktemp("trees")
    around = {f"around/{name}": data for name, data in files.items()}
    sources = [
        folder(write_folder(at / "root", files)),
        zipped(write_zip(at / "a.zip", files)),
        zipped(write_zip(at / "around.zip", around)),
        tarred(write_tar(at / "a.tar", files)),
        tarred(write_tar(at / "a.tar.gz", around, "w:gz")),
        tarred(write_tar(at / "a.tar.xz", files, "w:xz")),
    ]
    for source in sources:
        assert contents(source) == expected
        assert list(source.identities) == sorted({name[0] for name in files})
        assert not source.rejected


def test_a_stray_image_beside_the_people_is_listed(tmp_path):
    files = {f"lfw/{person}/1.jpg": b"x" for person in "ABC"} | {"lfw/sample.jpg": b"y"}
    source = zipped(write_zip(tmp_path / "a.zip", files))
    assert list(source.identities) == ["A", "B", "C"]
    assert source.rejected == (("lfw/sample.jpg", "not below an identity's folder"),)


def test_links_that_lead_to_each_other_end(tmp_path):
    write_folder(tmp_path, {"a/1.png": b"1", "b/1.png": b"2"})
    (tmp_path / "a/l").symlink_to(tmp_path / "b")
    (tmp_path / "b/l").symlink_to(tmp_path / "a")
    source = folder(tmp_path)
    assert set(source.names) <= {"a/1.png", "b/1.png", "a/l/1.png"}
    assert {"a/1.png", "b/1.png"} <= set(source.names) | {"a/1.png"}


def test_numbered_people_are_sorted_as_numbers(tmp_path):
    files = {f"{person}/a.png": b"x" for person in ("10", "9", "2")}
    assert list(folder(write_folder(tmp_path, files)).identities) == ["2", "9", "10"]


def test_names_that_lead_out_of_an_archive_are_listed(tmp_path):
    bad = ["../out/1.png", "/etc/a/1.png", "a/../../b.png", "a\\..\\1.png", "C:/a/1.png"]
    files = {"a/1.png": b"good", **dict.fromkeys(bad, b"bad")}
    for source in (
        zipped(write_zip(tmp_path / "a.zip", files)),
        tarred(write_tar(tmp_path / "a.tar", files)),
    ):
        assert contents(source) == {"a/1.png": ("a", b"good")}
        assert {r.name for r in source.rejected} == {name.replace("\\", "/") for name in bad}
        assert {r.reason for r in source.rejected} == {"its name leads out of the archive"}


def test_links_out_of_a_folder_are_listed_and_inside_it_followed(tmp_path):
    outside = write_folder(tmp_path / "outside", {"1.png": b"o"})
    root = write_folder(tmp_path / "root", {"a/1.png": b"1"})
    (root / "a/link.png").symlink_to(root / "a/1.png")
    (root / "a/out.png").symlink_to(outside / "1.png")
    (root / "b").symlink_to(outside)
    (root / "c").mkdir()
    (root / "c/up").symlink_to(root)
    (root / "a/gone.png").symlink_to(root / "nothing.png")
    source = folder(root)
    assert sorted(source.names) == ["a/1.png", "a/link.png"]
    reasons = {r.name: r.reason for r in source.rejected}
    assert reasons.keys() == {"a/out.png", "b/", "c/up/", "a/gone.png"}
    assert "--follow-links" in reasons["a/out.png"]
    assert "read already" in reasons["c/up/"]
    assert sorted(folder(root, follow_links=True).names) == [
        "a/1.png", "a/link.png", "a/out.png", "b/1.png"
    ]  # fmt: skip


def test_links_and_devices_in_a_tar_are_listed(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/1.png": b"1"})
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("a/2.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    assert [r.name for r in tarred(path).rejected] == ["a/2.png"]


def test_names_that_are_not_utf8_are_listed(tmp_path):
    write_folder(tmp_path, {"a/1.png": b"1"})
    (tmp_path / "a" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"2")
    (reject,) = folder(tmp_path).rejected
    assert reject == ("a/caf\\udce9.png", "its name is not UTF-8")


def test_people_who_differ_in_case_are_refused_unless_they_are_two(tmp_path):
    write_folder(tmp_path, {"Ann/1.png": b"1", "ann/1.png": b"2"})
    with pytest.raises(InputError, match="found 'Ann' and 'ann': merge them, or pass"):
        folder(tmp_path)
    assert list(folder(tmp_path, distinct_case=True).identities) == ["Ann", "ann"]


def test_images_beside_the_people_and_doubled_names_are_listed(tmp_path):
    write_folder(tmp_path / "f", {"a/1.png": b"1", "loose.png": b"2", "a/notes.txt": b""})
    (reject,) = folder(tmp_path / "f").rejected
    assert reject == ("loose.png", "not below an identity's folder")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1.png", b"first")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a/1.png", b"second")
    source = zipped(tmp_path / "a.zip")
    assert len(source.names) == 1
    assert "twice" in source.rejected[0].reason


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.touch()])
def test_a_missing_or_empty_folder_is_one_clear_error(tmp_path, make):
    root = tmp_path / "faces"
    make(root)
    with pytest.raises(InputError, match=r"expected (a folder|folders of images)"):
        folder(root)


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives_cut_anywhere_lose_nothing_silently(tmp_path, kind, rng):
    """Cut at every 64th byte: all images as they were, a listed reject, or a clear error."""
    files = {f"{p}/{i}.png": rng.bytes(150) for p in "ab" for i in range(2)}
    if kind == "zip":
        whole, read = write_zip(tmp_path / "a.zip", files), zipped
    else:
        whole = write_tar(tmp_path / f"a.{kind}", files, "w:gz" if "gz" in kind else "w")
        read = tarred
    data = whole.read_bytes()
    errors = 0
    for length in range(0, len(data), 64):
        whole.write_bytes(data[:length])
        try:
            source = read(whole)
        except InputError:
            errors += 1
            continue
        found = {name: source.read(i) for i, name in enumerate(source.names)}
        assert found == files
    assert errors > 0


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_flipped_bits_of_an_archive_never_lose_an_image_silently(tmp_path, kind, rng):
    files = {f"{p}/{i}.png": rng.bytes(90) for p in "ab" for i in range(2)}
    write, read = (write_zip, zipped) if kind == "zip" else (write_tar, tarred)
    path = write(tmp_path / f"a.{kind}", files)
    data = path.read_bytes()
    for position in range(0, len(data), 37):
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        try:
            source = read(path)
        except InputError:
            continue
        # A flip within an image, or in a name, shows later or not at all; none may vanish.
        others = [r for r in source.rejected if "twice" not in r.reason]
        assert len(source.names) + len(others) >= len(files) - _renamed(source, files)


def _renamed(source, files):
    """Members whose flipped name no longer ends like an image's."""
    return len(files.keys() - set(source.names)) - len(set(source.names) - files.keys())


def test_a_zip_member_with_a_wrong_sum_says_so(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a/1.png": b"abcdefgh", "a/2.png": b"12345678"})
    path.write_bytes(path.read_bytes().replace(b"abcdefgh", b"abcdefgX", 1))
    source = zipped(path)
    with pytest.raises(ValueError, match="expected a whole member"):
        source.read(0)
    assert source.read(1) == b"12345678"


def test_a_bad_header_in_a_tar_is_not_taken_for_its_end(tmp_path):
    path = write_tar(tmp_path / "a.tar", {"a/1.png": b"1", "a/2.png": b"2"})
    data = bytearray(path.read_bytes())
    data[1024 + 150] ^= 0xFF  # The checksum of the second header.
    path.write_bytes(data)
    with pytest.raises(InputError, match="a damaged header"):
        tarred(path)


def test_a_member_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("hyperface.data.sources.source.MAX_BYTES", 10)
    source = zipped(write_zip(tmp_path / "a.zip", {"a/1.png": bytes(11)}))
    with pytest.raises(ValueError, match="at most 10 bytes, found 11"):
        source.read(0)


# ------------------------------------------------------------------------------------ list files


def test_lists_of_paths_and_labels(tmp_path):
    files = {"x/1.png": b"1", "with space/2.png": b"2", "3.png": b"3"}
    write_folder(tmp_path, files)
    plain = "x/1.png 7\nwith space/2.png 10\r\n\n3.png 7\nmissing.png 7\nx/1.png 9\n"
    insightface = "1\tx/1.png\t7\n1\twith space/2.png\t10\t1\t2\n1\t3.png\t7\n"
    im2rec = "0\t7.000000\tx/1.png\n1\t10\twith space/2.png\n2\t7\t3.png\n"
    expected = {"x/1.png": ("7", b"1"), "with space/2.png": ("10", b"2"), "3.png": ("7", b"3")}
    for text in (insightface, im2rec):
        (tmp_path / "list.lst").write_text(text)
        source = listed(tmp_path / "list.lst")
        assert contents(source) == expected
        assert list(source.identities) == ["7", "10"]
    (tmp_path / "list.txt").write_text(plain)
    source = listed(tmp_path / "list.txt")
    assert {source.names[i]: source.read(i) for i in range(3)} == files
    with pytest.raises(ValueError, match="No such file"):
        source.read(3)
    assert source.rejected == (("x/1.png", "in line 6 again, first in line 1"),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "expected images in the list source, found none"),
        (b"a.png 1\nb.png\n", r"list.txt:2: expected 'path label', found 'b.png'"),
        (b"0\tx\ty\n", "list.txt:1: expected 'path label'"),
        (b"0\tinf\tx.png\n", "list.txt:1: expected 'path label'"),
        (b"1\tx.png\tnan\n", "list.txt:1: expected 'path label'"),
        (b"caf\xe9.png 1\n", "expected UTF-8"),
    ],
)
def test_bad_lists_name_the_line(tmp_path, text, message):
    (tmp_path / "list.txt").write_bytes(text)
    with pytest.raises(InputError, match=message):
        listed(tmp_path / "list.txt")


# -------------------------------------------------------------------------------------- RecordIO


def record(data: bytes) -> bytes:
    """One record, written independently: data is cut at every aligned magic number."""
    magic = struct.pack("<I", MAGIC)
    cuts = [i for i in range(0, len(data) - 3, 4) if data[i : i + 4] == magic]
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start:cut])
        start = cut + 4
    pieces.append(data[start:])
    out = b""
    for place, piece in enumerate(pieces):
        # The whole, the first, the last or a middle part.
        last = place == len(pieces) - 1
        part = (0 if last else 1) if place == 0 else 3 if last else 2
        out += magic + struct.pack("<I", part << 29 | len(piece)) + piece
        out += bytes(-len(piece) % 4)
    return out


def image_record(label, image: bytes, number=0) -> bytes:
    if isinstance(label, list):
        head = struct.pack("<IfQQ", len(label), 0.0, number, 0)
        return record(head + struct.pack(f"<{len(label)}f", *label) + image)
    return record(struct.pack("<IfQQ", 0, label, number, 0) + image)


def write_rec(path, records, index=True):
    offsets, data = [], b""
    for one in records:
        offsets.append(len(data))
        data += one
    path.write_bytes(data)
    if index:
        lines = "".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets))
        path.with_suffix(".idx").write_text(lines)
    return path


MAGICAL = struct.pack("<I", MAGIC)


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 3),
            st.lists(st.one_of(st.binary(max_size=9), st.just(MAGICAL)), min_size=1).map(b"".join),
        ).filter(lambda item: item[1]),
        min_size=1,
        max_size=6,
    ),
    st.booleans(),
)
def test_recordio_comes_back_as_it_went_in(tmp_path_factory, drawn, index):
    """With InsightFace's listing records, with and without index, parts at every magic number."""
    people = sorted({label for label, _ in drawn})
    records = [image_record([len(drawn) + 1.0, len(drawn) + len(people) + 1.0], b"")]
    records += [image_record(float(label), data) for label, data in drawn]
    records += [image_record([1.0, 2.0], b"") for _ in people]
    path = write_rec(tmp_path_factory.mktemp("rec") / "train.rec", records, index)
    path.with_name("property").write_text("4,112,112\n")
    source = recordio(path)
    assert [source.read(i) for i in range(len(drawn))] == [data for _, data in drawn]
    assert [source.identities[i] for i in source.people] == [str(label) for label, _ in drawn]
    assert list(source.names) == [f"{label}/{k}" for k, (label, _) in enumerate(drawn, 1)]
    assert not source.rejected


def test_the_label_of_a_record_with_several_is_the_first_of_its_list(tmp_path):
    """The header's label then means nothing: whoever read it would make all people one."""
    heads = [struct.pack("<IfQQ2f", 2, 7.0, i, 0, float(i), 5.0) for i in (0, 1, 2)]
    path = write_rec(tmp_path / "a.rec", [record(head + b"image") for head in heads])
    source = recordio(path)
    assert [source.identities[i] for i in source.people] == ["0", "1", "2"]
    assert source.read(2) == b"image"


def test_recordio_cut_at_any_byte_keeps_what_is_whole(tmp_path, rng):
    images = [rng.bytes(int(n)) for n in rng.integers(1, 200, 6)]
    records = [image_record(float(i % 2), image) for i, image in enumerate(images)]
    path = write_rec(tmp_path / "a.rec", records, index=False)
    data, ends = path.read_bytes(), np.cumsum([len(r) for r in records])
    for length in range(0, len(data), 64):
        path.write_bytes(data[:length])
        # The last image may lack its padding and still be whole.
        whole = int(np.sum(ends - 3 <= length))
        if not whole:
            with pytest.raises(InputError, match="expected images"):
                recordio(path)
            continue
        source = recordio(path)
        assert [source.read(i) for i in range(len(source.names))] == images[: len(source.names)]
        assert len(source.names) in (whole, int(np.sum(ends <= length)))
        cut = length > ends[len(source.names) - 1]
        assert bool(source.rejected) == cut


def test_recordio_with_flipped_bits_lists_the_stretch(tmp_path, rng):
    records = [image_record(float(i % 3), rng.bytes(61)) for i in range(6)]
    path = write_rec(tmp_path / "a.rec", records, index=False)
    data = path.read_bytes()
    for position in [*range(0, len(data), 11)]:
        flipped = bytearray(data)
        flipped[position] ^= 1 << (position % 8)
        path.write_bytes(flipped)
        source = recordio(path)
        assert len(source.names) + len(source.rejected) >= 6
    flipped = bytearray(data)
    flipped[len(records[0])] ^= 1  # The second record's magic number.
    path.write_bytes(flipped)
    source = recordio(path)
    assert len(source.names) == 5
    assert source.rejected[0] == (
        f"bytes {len(records[0])} to {len(records[0]) * 2}", "not a whole record"
    )  # fmt: skip


def test_a_length_that_swallows_the_next_record_is_refused_when_read(tmp_path):
    records = [image_record(float(i), bytes([i]) * 8) for i in range(1, 4)]
    data = bytearray(b"".join(records))
    second = len(records[0])
    data[second + 4 : second + 8] = struct.pack("<I", len(records[1]) - 8 + len(records[2]))
    (tmp_path / "a.rec").write_bytes(data)
    source = recordio(tmp_path / "a.rec")
    assert source.read(0) == b"\1" * 8
    with pytest.raises(ValueError, match="found the start of another inside it"):
        source.read(1)


def test_recordio_beside_files_that_contradict_it(tmp_path):
    path = write_rec(tmp_path / "a.rec", [image_record(3.0, b"x"), image_record(0.0, b"y")])
    path.with_name("property").write_text("3,112,112")
    with pytest.raises(InputError, match=r"above the largest label 3, found b'3'"):
        recordio(path)
    path.with_name("property").unlink()
    path.with_suffix(".idx").write_text("0\t0\n1\t4\n")
    with pytest.raises(InputError, match="the index belongs to another file"):
        recordio(path)
    path.with_suffix(".idx").write_text("0 0\n")
    with pytest.raises(InputError, match=r"a.idx:1: expected 'key<tab>byte'"):
        recordio(path)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record(b"short"), "expected a header of 24 bytes, found 5"),
        (image_record(float("nan"), b"x"), "as label, found nan"),
        (image_record(1.5, b"x"), "as label, found 1.5"),
        (image_record(float("inf"), b"x"), "as label, found inf"),
        (image_record(3e38, b"x"), "as label, found 3"),
        (image_record(0.0, b""), "found an empty one"),
        (record(struct.pack("<IfQQ", 9, 0, 0, 0)), "expected 9 labels"),
    ],
)
def test_records_that_are_no_images_are_listed(tmp_path, bad, reason):
    source = recordio(write_rec(tmp_path / "a.rec", [image_record(0.0, b"x"), bad]))
    assert len(source.names) == 1
    assert reason in source.rejected[0].reason


# --------------------------------------------------------------------------- verification files


def write_bin(path, images, same, protocol=4):
    path.write_bytes(pickle.dumps((images, same), protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
@pytest.mark.parametrize("arrays", [False, True])
def test_verification_files_bring_images_and_pairs(tmp_path, protocol, arrays, rng):
    images = [rng.bytes(20) for _ in range(4)]
    stored = [np.frombuffer(x, np.uint8) for x in images] if arrays else images
    same = list(np.array([True, False])) if arrays else [True, False]
    source = verification(write_bin(tmp_path / "lfw.bin", stored, same, protocol))
    assert [source.read(i) for i in range(4)] == images
    np.testing.assert_array_equal(source.pairs.first, [0, 2])
    np.testing.assert_array_equal(source.pairs.second, [1, 3])
    np.testing.assert_array_equal(source.pairs.same, [True, False])


def test_the_flags_may_be_one_array(tmp_path):
    source = verification(write_bin(tmp_path / "a.bin", [b"a", b"b"], np.array([True])))
    assert source.pairs.same.tolist() == [True]


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil",)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (([b"a", b"b"], [Evil()]), "asks for posix.system, which is refused"),
        (([b"a", b"b"], [len]), "asks for builtins.len|asks for __builtin__.len"),
        (([np.zeros(2)], [True]), "an array of 'f8'"),
        (([np.array([b"a"], object)] * 2, [True]), "an array of 'O8'"),
        (([b"a"], [True]), "found 1 images and 1 flags"),
        (([b"a", "text"], [True]), "a list of encoded images"),
        (([b"a", b"b"], ["yes"]), "2 images and 0 flags"),
        (([b"a", b"b"], [2.5]), "the instruction BINFLOAT at byte"),
        ([1, 2, 3], "expected images and flags, found list"),
    ],
)
def test_a_pickle_gets_nothing_but_plain_values(tmp_path, monkeypatch, value, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(pickle.dumps(value, 2))
    with pytest.raises(InputError, match=message):
        verification(tmp_path / "a.bin")
    assert not (tmp_path / "evil").exists()


def test_a_cut_or_flipped_pickle_is_one_clear_error(tmp_path):
    path = write_bin(tmp_path / "a.bin", [bytes(range(90))] * 2, [True])
    data = path.read_bytes()
    for length in range(0, len(data), 8):
        path.write_bytes(data[:length])
        with pytest.raises(InputError):
            verification(path)
    for position in range(len(data)):
        flipped = bytearray(data)
        flipped[position] ^= 4
        path.write_bytes(flipped)
        try:
            verification(path)
        except InputError:
            continue


# ----------------------------------------------------------------------------- parquet and TFDS


def write_parquet(path, rows, metadata=None, group=2, labels=None):
    images = [{"bytes": data, "path": None} for data in rows]
    table = pyarrow.table({"image": images, "label": labels})
    if metadata:
        table = table.replace_schema_metadata({"huggingface": json.dumps(metadata)})
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path


def test_parquet_files_in_hugging_face_layout(tmp_path):
    rows = [b"a", b"b", b"c", b"d", b"e"]
    names = {"info": {"features": {"label": {"names": ["ann", "bob"], "_type": "ClassLabel"}}}}
    write_parquet(tmp_path / "train-0.parquet", rows[:3], names, labels=[1, 0, 1])
    write_parquet(tmp_path / "train-1.parquet", rows[3:], names, labels=[0, 0])
    source = parquet(tmp_path)
    assert [source.read(i) for i in range(5)] == rows
    assert source.read(0) == b"a"  # Back to an earlier group.
    assert [source.identities[i] for i in source.people] == ["bob", "ann", "bob", "ann", "ann"]
    write_parquet(tmp_path / "one.parquet", rows, labels=["x", "y", "x", "x", "y"])
    assert list(parquet(tmp_path / "one.parquet").identities) == ["x", "y"]


def test_bad_parquet_is_one_clear_error(tmp_path):
    path = write_parquet(tmp_path / "a.parquet", [b"a", b"b"], labels=[0, None])
    with pytest.raises(InputError, match="a label in every row, found none in 1"):
        parquet(path)
    with pytest.raises(InputError, match="columns 'image' and 'person', found 'image', 'label'"):
        parquet(path, label="person")
    data = path.read_bytes()
    for length in range(0, len(data), 64):
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match="expected a whole parquet file"):
            parquet(path)


def test_labels_that_name_nobody_are_refused(tmp_path):
    names = {"info": {"features": {"label": {"names": ["ann", "bob"]}}}}
    for labels, message in (
        ([0, -1], "a label in every row, found none in 1"),
        ([0, 2], "labels from 0 to 1, whose names the file has, found 2 in row 1"),
        (["x", "y"], "found 'x' in row 0"),
    ):
        path = write_parquet(tmp_path / "a.parquet", [b"a", b"b"], names, labels=labels)
        with pytest.raises(InputError, match=message):
            parquet(path)


def test_the_fingerprint_changes_with_the_content(tmp_path, rng):
    """What is prepared again is known by it."""

    def of(make):
        return [make(value).fingerprint for value in (0, 0, 1)]

    def parquet_of(value):
        return parquet(write_parquet(tmp_path / "a.parquet", [b"a" * (9 + value)], labels=[0]))

    def bin_of(value):
        return verification(write_bin(tmp_path / "a.bin", [b"a", b"b"], [bool(value)]))

    def digits_of(value):
        root = tmp_path / "idx"
        return digits(write_mnist(root, np.random.default_rng(value)))

    def rec_of(value):
        return recordio(write_rec(tmp_path / "a.rec", [image_record(float(value), b"x")]))

    def zip_of(value):
        return zipped(write_zip(tmp_path / "a.zip", {"a/1.png": b"x" * (1 + value)}))

    for make in (parquet_of, bin_of, digits_of, rec_of, zip_of):
        first, again, other = of(make)
        assert first == again != other


def test_a_tfds_data_set_keeps_its_splits(tiny_data):
    source = tfds_dataset("tiny", tiny_data)
    assert len(source.names) == 80
    assert sorted(set(source.splits)) == ["test", "train"]
    assert source.read(0).startswith(b"\x89PNG")
    with pytest.raises(InputError, match="expected a TFDS data set 'none'"):
        tfds_dataset("none", tiny_data)


# ----------------------------------------------------------------------------------------- MNIST


def write_mnist(root, rng, count=20):
    root.mkdir(exist_ok=True)
    for part in ("train", "t10k"):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = b"\0\0\x08\x03" + struct.pack(">3I", count, 28, 28)
        (root / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        header = b"\0\0\x08\x01" + struct.pack(">I", count)
        (root / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return root


def test_mnist_from_idx_files(tmp_path, rng):
    source = open_source(str(write_mnist(tmp_path / "idx", rng)), tmp_path)
    assert source.kind == "digits"
    assert list(source.identities) == [str(digit) for digit in range(10)]
    assert [str(s) for s in source.splits] == ["train"] * 20 + ["test"] * 20
    np.testing.assert_array_equal(source.people, np.tile(np.arange(20) % 10, 2))


def test_mnist_files_that_disagree_are_refused(tmp_path, rng):
    root = write_mnist(tmp_path / "idx", rng)
    labels = root / "train-labels-idx1-ubyte"
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 3) + b"\1\2\3")
    with pytest.raises(InputError, match="one 28 x 28 image per label"):
        open_source(str(root), tmp_path)


def test_mnist_is_downloaded_where_there_is_internet(tmp_path, rng, monkeypatch):
    root = write_mnist(tmp_path, rng)

    def get(url, timeout):
        answer = requests.Response()
        answer.status_code = 200
        name = url.rsplit("/", 1)[1].removesuffix(".gz")
        answer._content = gzip.compress((root / name).read_bytes())
        return answer

    monkeypatch.setattr(requests, "get", get)
    assert len(downloaded_digits().names) == 40

    def refuse(url, timeout):
        raise requests.ConnectionError("no such host")

    monkeypatch.setattr(requests, "get", refuse)
    with pytest.raises(InputError, match=r"could not download MNIST: no such host.*give the fold"):
        downloaded_digits()


def test_idx_files_plain_and_gzipped(tmp_path, rng):
    values = rng.integers(0, 256, (3, 4, 2), dtype=np.uint8)
    data = b"\0\0\x08\x03" + struct.pack(">3I", 3, 4, 2) + values.tobytes()
    (tmp_path / "plain").write_bytes(data)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(data))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain"), values)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed"), values)
    (tmp_path / "short").write_bytes(data[:-1])
    (tmp_path / "header").write_bytes(data[:9])
    (tmp_path / "text").write_bytes(b"hello")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(data)[:20])
    for name, message in {
        "short": "found 23",
        "header": "IDX file of bytes",
        "text": "IDX file of bytes",
        "cut": "whole gzip file",
        "none": "found neither",
    }.items():
        with pytest.raises(InputError, match=message):
            read_idx(tmp_path / name)


# ------------------------------------------------------------------------------------------- ORL


def test_newline_translation_is_undone(rng):
    pixels = rng.integers(0, 256, 92 * 112, dtype=np.uint8)
    pixels[pixels == 13] = 14  # A translated "\r" cannot be told from "\n".
    clean = b"P5\n92 112\n255\n" + pixels.tobytes()
    assert restore_newlines(clean) == clean
    assert restore_newlines(clean.replace(b"\n", b"\r\n")) == clean


def test_what_cannot_be_restored_is_refused():
    with pytest.raises(ValueError, match=r"expected 4 pixels .* found 3"):
        restore_newlines(b"P5\r\n2 2\r\n255\r\n\x01\x02\x03")
    with pytest.raises(ValueError, match="binary PGM"):
        restore_newlines(b"GIF89a")


# ----------------------------------------------------------------------------------------- kinds


def test_the_kind_is_found_out_from_the_path(tmp_path):
    root = write_people(tmp_path / "people", people=2, images=1)
    files = {"a/1.png": b"1"}
    kinds = {
        root: "folder",
        write_zip(tmp_path / "a.zip", files): "zip",
        write_tar(tmp_path / "a.v1.tar.bz2", files, "w:bz2"): "tar",
        write_rec(tmp_path / "a.rec", [image_record(0.0, b"x")]): "recordio",
        write_bin(tmp_path / "a.bin", [b"a", b"b"], [True]): "verification",
        write_parquet(tmp_path / "a.parquet", [b"a"], labels=[0]): "parquet",
    }
    for path, kind in kinds.items():
        assert open_source(str(path), tmp_path).kind == kind
    (tmp_path / "a.dat").touch()
    with pytest.raises(InputError, match="name it by --kind"):
        open_source(str(tmp_path / "a.dat"), tmp_path)
    folder_of_records = tmp_path / "records"
    folder_of_records.mkdir()
    write_rec(folder_of_records / "train.rec", [])
    with pytest.raises(InputError, match=r"give .*train.rec"):
        open_source(str(folder_of_records), tmp_path)
