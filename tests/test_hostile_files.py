"""Files made to exhaust memory or time, to be believed, or to start a program, are refused."""

import bz2
import contextlib
import gzip
import io
import json
import lzma
import resource
import shutil
import struct
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
from test_sources import image_record, write_bin, write_zip

from hyperface import archives, arrays, weights
from hyperface.data.datasets import open_split
from hyperface.data.landmarks import read_landmarks
from hyperface.data.manifest import Manifest
from hyperface.data.sources.digits import read_idx
from hyperface.data.sources.recordio import MAGIC, recordio
from hyperface.data.sources.tables import parquet
from hyperface.data.sources.trees import tarred, zipped
from hyperface.data.sources.verification import verification
from hyperface.errors import InputError
from hyperface.files import read_names, text_lines
from hyperface.protocols._blufr import read_blufr
from hyperface.protocols.features import read_features
from hyperface.protocols.ijb import read_ijb_templates
from hyperface.protocols.lfw import read_lfw_pairs
from hyperface.protocols.megaface import read_devkit_feature, read_megaface_list
from hyperface.weights import files


@contextlib.contextmanager
def cheap(seconds: float = 30.0, mebibytes: int = 256):
    """Fails where the block takes longer, or more memory than was ever taken before.

    On an idle core each takes less than 2 s, and an attack that works takes minutes: between the
    two there is room for cores that are slow or shared.
    """
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.process_time() - start < seconds
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < mebibytes * 1024


# Archives


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_zip_members_are_stored_or_deflated(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", method) as archive:
        archive.writestr("a/1.png", bytes(40_000_000))
    source = zipped(tmp_path / "a.zip")
    with cheap(), pytest.raises(ValueError, match=r"stored or deflated, found (bzip2|lzma)"):
        source.read(0)


def test_a_zip_whose_members_share_bytes_is_refused(tmp_path):
    path = write_zip(tmp_path / "a.zip", {"a/1.png": bytes(5000)})
    with zipfile.ZipFile(path, "a") as archive:
        (first,) = archive.filelist
        archive.filelist += [first] * 200
        archive.writestr("a/2.png", b"")
    with pytest.raises(InputError, match=r"whose members fit into its .* bytes of members that ov"):
        zipped(path)


@pytest.mark.parametrize("kind", [b"L", b"K", b"x", b"g"])
def test_a_long_name_in_a_tar_is_not_read(tmp_path, kind):
    """A name of 2.5 GB, of which none is there: the header alone says it."""
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = kind, 2_500_000_000
    data = header.tobuf(tarfile.GNU_FORMAT) + bytes(10**7)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(data))
    with cheap(), pytest.raises(InputError, match="a header of 2,500,000,000 bytes, above 65,536"):
        tarred(tmp_path / "a.tgz")


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_a_compressed_file_unpacks_to_a_limit(tmp_path, packed, monkeypatch):
    monkeypatch.setattr(archives, "FLOOR", 10**6)
    header = tarfile.TarInfo("a/1.png")
    header.size = 10**7
    (tmp_path / "a.tgz").write_bytes(packed(header.tobuf() + bytes(2 * 10**7)))
    with pytest.raises(InputError, match=r"unpacks to more than 1,\d\d\d,\d\d\d bytes"):
        tarred(tmp_path / "a.tgz")


def test_an_xz_stream_that_asks_for_a_gigabyte_is_refused(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 2**30}]
    (tmp_path / "a.tar.xz").write_bytes(lzma.compress(bytes(2000), filters=filters))
    with cheap(), pytest.raises(InputError, match="Memory usage limit"):
        tarred(tmp_path / "a.tar.xz")


@pytest.mark.parametrize("packed", [gzip.compress, bz2.compress, lzma.compress])
def test_joined_streams_unpack_whole_and_seek(tmp_path, packed, rng):
    parts = [rng.bytes(n) for n in (70_000, 1, 300_000)]
    (tmp_path / "a").write_bytes(b"".join(map(packed, parts)) + bytes(12))
    data = b"".join(parts)
    with archives.open_unpacked(tmp_path / "a") as file:
        assert file.read() == data
        for start in (100_000, 5, 370_000, 0):
            file.seek(start)
            assert file.read(1000) == data[start : start + 1000]
    (tmp_path / "cut").write_bytes(packed(data)[:-20])
    with archives.open_unpacked(tmp_path / "cut") as file, pytest.raises((EOFError, OSError)):
        file.read()


def test_a_sparse_member_is_refused(tmp_path):
    header = tarfile.TarInfo("a/1.png")
    header.type = tarfile.GNUTYPE_SPARSE
    (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with pytest.raises(InputError, match="a sparse member: pack the archive without --sparse"):
        tarred(tmp_path / "a.tar")


def test_a_gzipped_idx_file_unpacks_to_a_limit(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(60_000_000)))
    with cheap(), pytest.raises(InputError, match="unpacks to more than 50,000,000 bytes"):
        read_idx(tmp_path / "a")


# Arrays


def write_npz(path, shape, method=zipfile.ZIP_DEFLATED, names=("a", "b")):
    """Features of zeros of any shape, which take next to nothing."""
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, described)
    listed = io.BytesIO()
    np.save(listed, np.array(names))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("names.npy", listed.getvalue())
        with archive.open("features.npy", "w", force_zip64=True) as file:
            file.write(header.getvalue())
            for _ in range(4 * int(np.prod(shape)) // 2**20):
                file.write(bytes(2**20))
    return path


def test_an_npz_that_unpacks_to_far_more_is_refused(tmp_path):
    path = write_npz(tmp_path / "a.npz", (2**15, 2**11))
    with cheap(), pytest.raises(InputError, match=r"at most 3\d,\d*,\d* bytes in so small an arch"):
        read_features(path)


def test_what_a_header_declares_is_compared_before_it_is_allocated(tmp_path):
    header = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": (10**12, 512)}
    np.lib.format.write_array_header_1_0(header, described)
    path = tmp_path / "a.npy"
    path.write_bytes(header.getvalue() + bytes(64))
    for mapped in (False, True):
        with (
            cheap(),
            pytest.raises(InputError, match=r"shape \(1000000000000, 512\) .*in 64 bytes"),
        ):
            arrays.open_npy(path, mapped=mapped)


def test_arrays_are_read_in_both_orders(tmp_path, rng):
    features = rng.normal(size=(7, 3)).astype(np.float32)
    for array in (features, np.asfortranarray(features), features[:0]):
        np.save(tmp_path / "a.npy", array)
        np.savez_compressed(tmp_path / "a.npz", features=array)
        for found in (
            arrays.open_npy(tmp_path / "a.npy", mapped=True),
            arrays.open_npy(tmp_path / "a.npy", mapped=False),
            *arrays.read_npz(tmp_path / "a.npz", ("features",)),
        ):
            np.testing.assert_array_equal(found, array)


# Verification files


BOMBS = {
    "a memo index of 2^30": b"\x80\x04Nr\xff\xff\xff\x3f.",
    "a memo index, protocol 0": b"Np1073741824\n.",
    "two million lists": b"\x80\x04" + b"]" * 2_000_000 + b".",
    "a long of 2^31 bytes": b"\x80\x04\x8b\xff\xff\xff\x7f1.",
    "text of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",
    "a frame": b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
    "a buffer of a number": b"\x80\x04cnumpy.core.numeric\n_frombuffer\n"
    b"(J\xff\xff\xff\x7fcnumpy\ndtype\n(\x8c\x02u1tRtR.",
    "a number of a million digits": b"L" + b"9" * 1_000_000 + b"L\n.",
    "text encoded again and again": b"\x80\x02c_codecs\nencode\nX"
    + struct.pack("<I", 1_000_000)
    + b"a" * 1_000_000
    + b"q\x00\x85q\x01R0"
    + b"c_codecs\nencode\nh\x01R" * 3000
    + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_cannot_ask_for_more_than_its_file_has(tmp_path, name):
    (tmp_path / "a.bin").write_bytes(BOMBS[name])
    with cheap(), pytest.raises(InputError, match="expected images and flags, found"):
        verification(tmp_path / "a.bin")


def test_one_image_may_stand_in_several_pairs_but_not_in_hundreds(tmp_path):
    large = bytes(4_000_000)
    source = verification(write_bin(tmp_path / "a.bin", [large] * 12, [True] * 6))
    assert source.read(11) == large
    path = write_bin(tmp_path / "a.bin", [large] * 400, [True] * 200)
    with cheap(), pytest.raises(InputError, match="images of 1,600,000,000 bytes in a file of 4,"):
        verification(path)


# RecordIO


def part(kind: int, length: int) -> bytes:
    return struct.pack("<II", MAGIC, kind << 29 | length)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("<I", MAGIC) * 2**18,
        part(1, 0) + part(2, 0) * 2**17,
        b"".join(part(2 if i else 1, 8) + part(1, 0) for i in range(2**16)),
        (image_record(float("nan"), b"x")) * 30_000,
    ],
    ids=["magic words", "middle parts", "a chain from each part", "labels"],
)
def test_a_file_of_broken_records_ends_soon(tmp_path, data):
    (tmp_path / "a.rec").write_bytes(data)
    with cheap(), pytest.raises(InputError, match="more than 10,000 damaged stretches"):
        recordio(tmp_path / "a.rec")


def test_an_index_has_no_more_lines_than_the_file_has_records(tmp_path):
    (tmp_path / "a.rec").write_bytes(image_record(0.0, b"x"))
    (tmp_path / "a.idx").write_text("".join(f"{n}\t{n}\n" for n in range(99)))
    with pytest.raises(InputError, match="at most 4 lines"):
        recordio(tmp_path / "a.rec")
    (tmp_path / "a.idx").write_text(f"1\t{'9' * 5000}\n")
    with pytest.raises(InputError, match=r"a.idx:1: expected 'key<tab>byte'"):
        recordio(tmp_path / "a.rec")


# Weights


def field(number: int, data: bytes) -> bytes:
    """A field of a protocol buffer."""
    length, size = b"", len(data)
    while size > 127:
        length, size = length + bytes([size & 127 | 128]), size >> 7
    head = number << 3 | 2
    head = bytes([head & 127 | 128, head >> 7]) if head > 127 else bytes([head])
    return head + length + bytes([size]) + data


def caffe_net(blob: bytes) -> bytes:
    return field(100, field(1, b"conv1") + field(7, blob))


@pytest.mark.parametrize(
    ("blob", "message"),
    [
        (field(7, field(1, b"\x7f" * 2_000_000)) + field(5, bytes(4)), "more than 32 axes"),
        (field(7, b"\x08\x01" * 65) + field(5, bytes(4)), "more than 32 axes"),
        (b"\x2d0000" * 300_000, "more than 200,000 fields"),
    ],
)
def test_a_caffe_file_has_axes_and_fields_as_a_network_has(tmp_path, blob, message):
    (tmp_path / "a.caffemodel").write_bytes(caffe_net(blob))
    with cheap(), pytest.raises(InputError, match=message):
        weights.read(tmp_path / "a.caffemodel")


def write_safetensors(path, header: bytes, body: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(header)) + header + body)
    return path


def test_safetensors_of_other_types_or_long_headers_are_refused(tmp_path):
    for kind in ("F8_E4M3", "F8_E5M2"):
        described = json.dumps({"a": {"dtype": kind, "shape": [8], "data_offsets": [0, 8]}})
        path = write_safetensors(tmp_path / "a.safetensors", described.encode(), bytes(8))
        with pytest.raises(InputError, match=r"float16 to float64 .*a type that NumPy does not ha"):
            weights.read(path)
    entry = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    header = json.dumps({f"a{n}": entry for n in range(100_000)}).encode()
    with cheap(), pytest.raises(InputError, match=r"a header of .* bytes, above 4,194,304"):
        weights.read(write_safetensors(tmp_path / "a.safetensors", header))


def test_a_torch_file_cannot_ask_for_more_than_it_has(tmp_path):
    """Checked before torch sees it, so also where torch is not installed."""
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(1000))
    with pytest.raises(ValueError, match="'archive/data/0' is compressed"):
        files._check_torch(path)
    path.write_bytes(b"\x80\x02cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R.")
    with pytest.raises(ValueError, match="a bytearray"):
        files._check_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data/0", bytes(1000))
    files._check_torch(path)


# Parquet


def write_table(path, images, labels, **options):
    table = pyarrow.table({"image": images, "label": labels})
    pyarrow.parquet.write_table(table, path, **options)
    return path


def test_a_parquet_file_has_rows_and_pages_that_can_be_true(tmp_path, rng):
    path = tmp_path / "a.parquet"
    write_table(path, pyarrow.array([b"x"] * 10**6), np.zeros(10**6, np.int32))
    with cheap(), pytest.raises(InputError, match="1,000,000 rows in"):
        parquet(path)
    write_table(path, [bytes(110_000_000)], [0], compression="zstd", use_dictionary=False)
    with cheap(), pytest.raises(InputError, match=r"a page of \[1100000\d\d, \d+\] bytes"):
        parquet(path)
    write_table(path, [rng.bytes(500)] * 3, ["x" * 5000] * 3)
    with pytest.raises(InputError, match="a label of 5,000 bytes, above 4,096"):
        parquet(path)
    encodings = {"image": "DELTA_BYTE_ARRAY", "label": "PLAIN"}
    write_table(
        path, [rng.bytes(500)] * 3, ["x"] * 3, use_dictionary=False, column_encoding=encodings
    )
    with pytest.raises(InputError, match="an encoding that is not read"):
        parquet(path)


def test_an_image_that_many_rows_share_is_in_memory_once(tmp_path):
    """A dictionary entry of 1 MB for 3000 rows, which Arrow would copy 3000 times."""
    path = tmp_path / "a.parquet"
    labels = [f"{n}" * 20 for n in range(3000)]
    shared = pyarrow.DictionaryArray.from_arrays(np.zeros(3000, np.int32), [bytes(2**20)])
    write_table(path, shared, labels, store_schema=False)
    with cheap():
        source = parquet(path)
        assert all(len(source.read(index)) == 2**20 for index in range(0, 3000, 100))


def test_text_of_a_parquet_file_that_is_not_utf8_is_refused(tmp_path, rng):
    path = write_table(tmp_path / "a.parquet", [rng.bytes(50)] * 2, ["name", "name"])
    data = path.read_bytes()
    path.write_bytes(data.replace(b"label", b"la\xff\xfel").replace(b"name", b"\xff\xfe\xff\xfe"))
    with pytest.raises(InputError):
        parquet(path)


def test_a_footer_that_contradicts_itself_does_not_end_the_process(tmp_path, rng):
    """PyArrow's view of a column's metadata does, where histograms do not fit the schema."""
    path = write_table(tmp_path / "a.parquet", [rng.bytes(50)] * 4, list(range(4)))
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    for at in range(footer, footer + 60):  # There the schema says which values may be missing.
        for change in (1, 2, 4, 8, 16):
            path.write_bytes(data[:at] + bytes([data[at] ^ change]) + data[at + 1 :])
            # A crash of PyArrow would end this process: that it goes on is what is asserted.
            with contextlib.suppress(InputError):
                parquet(path)


# Text


def test_a_line_of_any_length_is_refused(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"x" * 50_000_000)
    for read in (lambda path: list(text_lines(path)), read_landmarks, read_names):
        with (
            cheap(mebibytes=20),
            pytest.raises(InputError, match=r"a.txt:1: expected a line of le"),
        ):
            read(path)


def test_a_list_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    path = tmp_path / "pairs.txt"
    with path.open("wb") as file:
        file.truncate(2**40)
    for read in (read_lfw_pairs, read_devkit_feature, read_megaface_list):
        with cheap(), pytest.raises(InputError, match=r"at most .* bytes, found 1,099,511,627,776"):
            read(path)


def test_deep_json_is_refused(tmp_path):
    path = tmp_path / "a.json"
    for text in ('{"path": ' + "[" * 100_000, '{"path": {"a": ' + "[" * 500 + "]" * 500 + "}}"):
        path.write_text(text)
        with pytest.raises(InputError):
            read_megaface_list(path)


def test_a_mat_file_has_as_many_cells_as_a_protocol_needs(tmp_path, monkeypatch):
    import scipy.io

    monkeypatch.setattr("hyperface.protocols._matfile.LARGEST_CELLS", 1000)
    many = np.empty((2000, 1), object)
    many[:] = [[1]]
    scipy.io.savemat(tmp_path / "a.mat", {"x": many}, do_compression=True)
    with cheap(), pytest.raises(InputError, match=r"2000 cells in .* of at most 1000 in all"):
        read_blufr(tmp_path / "a.mat")


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("TEMPLATE_ID,SUBJECT_ID,FILENAME,MEDIA_ID,SUBJECT_ID\n1,2,a.jpg,4,5\n")
    with pytest.raises(InputError, match=r"a.csv:1: expected each column once, found SUBJECT_ID"):
        read_ijb_templates(path)


# Prepared data sets


@pytest.mark.parametrize("key", ["pythonClassName", "python_class_name"])
def test_a_data_set_cannot_have_a_module_imported(tiny_data, tmp_path, monkeypatch, key):
    """TFDS imports the module of a feature's class, whichever it is."""
    folder = tmp_path / "tiny/1.0.0"
    shutil.copytree(tiny_data / "tiny/1.0.0", folder)
    (tmp_path / "evil.py").write_text("raise SystemExit('foreign code ran')")
    monkeypatch.syspath_prepend(tmp_path)
    text = (folder / "features.json").read_text()
    name = '"pythonClassName": "tensorflow_datasets.core.features.text_feature.Text"'
    assert name in text
    (folder / "features.json").write_text(text.replace(name, f'"{key}": "evil.Text"'))
    with pytest.raises(InputError, match=r"features of TFDS itself, found 'evil\.Text'"):
        open_split("tiny", "train", tmp_path)


def test_damaged_metadata_is_one_clear_error(tiny_data, tmp_path):
    folder = tmp_path / "tiny/1.0.0"
    shutil.copytree(tiny_data / "tiny/1.0.0", folder)
    for name in ("features.json", "dataset_info.json", "metadata.json"):
        whole = (folder / name).read_bytes()
        for damaged in (b"[1]", b"{", whole[: len(whole) // 2], b'{"a": ' * 5000, b"\xff"):
            (folder / name).write_bytes(damaged)
            with pytest.raises(InputError) as caught:
                open_split("tiny", "train", tmp_path)
            assert "\n" not in str(caught.value).strip()
        (folder / name).write_bytes(whole)
    manifest = json.loads((folder / "manifest.json").read_text())
    for name in manifest:
        for value in (None, 3, [[1]], {"train": [3]}):
            (folder / "manifest.json").write_text(json.dumps(manifest | {name: value}))
            with pytest.raises(InputError, match="manifest of a prepared data set"):
                Manifest.read(folder)
