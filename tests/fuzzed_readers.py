"""Reads damaged files of every kind in this process, and measures what each costs.

    python tests/fuzzed_readers.py FOLDER COUNT FIRST READER [READER ...]

Prints the first file that a reader neither reads nor refuses by an InputError, or for which it
needs more than 30 seconds or 256 MiB above the file's size. On an idle core each takes less than 2
seconds.
"""

import faulthandler
import gzip
import hashlib
import io
import json
import lzma
import pickle
import random
import resource
import shutil
import struct
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mutations import mutated
from PIL import ExifTags, Image

from hyperface.errors import InputError

SECONDS, MEMORY = 30.0, 256 * 2**20
MOST = 4 * 2**30
"""Bytes of data that the process may have: a fault ends it, and not the machine."""

Files = dict[str, bytes]


class Reader(NamedTuple):
    """A reader, and good files for it."""

    files: Callable[[], Files]
    read: Callable[[Path], Any]
    wrap: Callable[[bytes], bytes] = bytes
    """What is done to a file after it was damaged: compression, a digest."""
    damage: str | None = None
    """Which of the files is damaged; by default any."""


def picture(kind: str = "PNG", mode: str = "RGB", **options: Any) -> bytes:
    """A small encoded image."""
    pixels = np.random.default_rng(len(kind)).integers(0, 256, (16, 14, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind, **options)
    return out.getvalue()


def turned() -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation], exif[ExifTags.Base.Make] = 6, "camera"
    return exif


def conformed(path: Path) -> None:
    from hyperface.data.images import conform

    read_image(conform, path.read_bytes())


def read_image(conform: Callable, data: bytes) -> None:
    try:
        conform(data, 3)
    except ValueError:  # Such an image is listed as left out.
        return


def opened(kind: str, name: str, **options: Any) -> Callable[[Path], None]:
    """Reads all images of a source."""

    def read(folder: Path) -> None:
        from hyperface.data.images import conform
        from hyperface.data.sources import open_source

        source = open_source(str(folder / name), folder, kind=kind, **options)
        for index, shown in enumerate(source.names):
            try:
                data = source.read(index)
            except ValueError:
                continue
            assert isinstance(data, bytes), shown
            read_image(conform, data)

    return read


TREE = {f"{person}/{i}.png": picture() for person in "ab" for i in range(2)}


def zip_of(files: Files) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


def tar_of(files: Files, kind: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=kind) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def long_tar(kind: int) -> bytes:
    return tar_of({f"{'x' * 150}/{name}": data for name, data in TREE.items()} | TREE, kind)


def records() -> Files:
    data, index = b"", ""
    for number, image in enumerate(TREE.values()):
        record = struct.pack("<IfQQ", 0, number // 2, number, 0) + image
        index += f"{number}\t{len(data)}\n"
        data += struct.pack("<II", 0xCED7230A, len(record)) + record + bytes(-len(record) % 4)
    return {"a.rec": data, "a.idx": index.encode(), "property": b"2,16,14"}


def pickled(protocol: int, arrays: bool) -> Files:
    images = [picture() for _ in range(4)]
    if arrays:
        images = [np.frombuffer(image, np.uint8) for image in images]
    flags = list(np.array([True, False])) if arrays else [True, False]
    return {"a.bin": pickle.dumps((images, flags), protocol)}


def table(**options: Any) -> Files:
    import pyarrow.parquet

    names = {"info": {"features": {"label": {"names": ["ann", "bob"]}}}}
    rows = {"image": [{"bytes": data, "path": "x"} for data in TREE.values()]}
    labels = {"label": ["ann", "bob", "ann", "bob"] if options else [0, 1, 0, 1]}
    out = io.BytesIO()
    made = pyarrow.table(rows | labels)
    if not options:
        made = made.replace_schema_metadata({"huggingface": json.dumps(names)})
    pyarrow.parquet.write_table(made, out, row_group_size=2, **options)
    return {"a.parquet": out.getvalue()}


def idx(packed: bool) -> Files:
    files = {}
    for part in ("train", "t10k"):
        header = b"\0\0\x08\x03" + struct.pack(">3I", 10, 28, 28)
        files[f"{part}-images-idx3-ubyte"] = header + bytes(range(196)) * 40
        files[f"{part}-labels-idx1-ubyte"] = b"\0\0\x08\x01" + struct.pack(">I", 10) + bytes(10)
    return {f"{n}.gz": gzip.compress(d) for n, d in files.items()} if packed else files


def npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


FEATURES = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
NAMES = np.array([f"p{n}/1.jpg" for n in range(20)])


def npz(data: bytes) -> bytes:
    return zip_of({"features.npy": data, "names.npy": npy(NAMES)})


def features(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from hyperface.protocols.features import read_features

        return read_features(folder / name)

    return read


def weights(name: str) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        from hyperface import weights

        return weights.read(folder / name)

    return read


def safetensors() -> Files:
    from safetensors.numpy import save

    from hyperface.weights.files import sealed

    arrays = {name: np.ones((3, 4), kind) for name, kind in (("a", "f4"), ("b", "f2"))}
    return {
        "a.safetensors": save(arrays),
        "own.safetensors": sealed(save(arrays, {"format": "hyperface"})),
    }


def both_safetensors(folder: Path) -> None:
    from hyperface import weights

    for name in ("own.safetensors", "a.safetensors"):
        weights.read(folder / name)


def caffe() -> Files:
    import caffe_nets

    net = caffe_nets.sphereface(np.random.default_rng(0), (20, 14, 3), (2, 3), (1, 1), 2, 15, 0.0)
    return {"a.caffemodel": caffe_nets.caffemodel(net.layers)}


def onnx() -> Files:
    import onnx_nets
    from named_backbones import register

    from hyperface import models

    sizes = {"stem": 8, "stages": ((4, 8, 8, 2),), "last": 16}
    register("fuzzed", partial(models.MobileFaceNet, folded=True, **sizes), (20, 26, 3), 6)
    settings = {"image_shape": (20, 26, 3), "feature_dim": 6, "folded": True}
    net = onnx_nets.mobilefacenet(np.random.default_rng(0), **sizes, **settings)
    return {"a.onnx": net.data()}


def recognised(folder: Path) -> None:
    from hyperface import weights

    weights.read_backbone(folder / "a.onnx")


def mat(compress: bool, agedb: bool) -> Files:
    import scipy.io

    def cells(values: list) -> np.ndarray:
        array = np.empty((len(values), 1), object)
        array[:, 0] = values
        return array

    image = {"name": "A_1", "age": 30}
    variables = {
        "splits": cells([{"pairs": cells([image, image]), "labels": [[1, -1]]}] * 2),
        "imageList": cells(["Ann_0001.jpg", "Ann_0002.jpg", "Bob_0001.jpg"]),
        "labels": np.array([[1], [1], [2]], np.uint16),
        "testIndex": cells([np.array([[1], [2]], np.uint32)]),
    }
    out = io.BytesIO()
    scipy.io.savemat(out, variables, do_compression=compress)
    return {"a.mat": out.getvalue()}


def mats(folder: Path) -> None:
    from hyperface.protocols._agedb import read_agedb
    from hyperface.protocols._blufr import read_blufr
    from hyperface.protocols._matfile import read_mat

    read_mat(folder / "a.mat")
    for read in (read_agedb, read_blufr):
        refused(read, folder / "a.mat")


def refused(read: Callable, path: Path) -> None:
    try:
        read(path)
    except InputError:
        return


TEXTS = {
    "lfw.read_lfw_pairs": "1\t1\nAnn\t1\t2\nAnn\t1\tBob\t1\n",
    "pairs.read_pairs": "first,second,same,fold\na/1.jpg,a/2.jpg,1,0\na/1.jpg,b/1.jpg,0,1\n",
    "video.read_ytf_splits": (
        "split, number, first, second, same\n1, 1, A/0, A/1, 1\n1, 2, A/0, B/1, 0\n"
    ),
    "ijb.read_ijb_templates": "TEMPLATE_ID,SUBJECT_ID,FILENAME,MEDIA_ID\n1,2,img/3.jpg,4\n",
    "ijb.read_ijb_faces": "1.jpg 1 69544\n2.jpg 2 69545\n",
    "ijb.read_ijb_landmarks": "1.jpg 1 2 3 4 5 6 7 8 9 10 0.5\n",
    "ijb.read_ijb_pairs": "1 2 1\n1 3 0\n",
    "megaface.read_megaface_list": '{"path": ["a/1.jpg", "b/2.jpg"], "id": ["a", "b"]}',
    "megaface.read_megaface_noises": "# noises\n1\ta/1.jpg\nb/2.jpg\n",
}


def text_reader(name: str) -> Callable[[Path], Any]:
    module, function = name.split(".")

    def read(folder: Path) -> Any:
        few = {"folds": 1, "size": 1} if function == "read_ytf_splits" else {}
        reader = getattr(import_module(f"hyperface.protocols.{module}"), function)
        return reader(folder / "a.txt", **few)

    return read


def devkit_feature(folder: Path) -> Any:
    from hyperface.protocols.megaface import read_devkit_feature

    return read_devkit_feature(folder / "a.bin")


def cfp(folder: Path) -> Any:
    from hyperface.protocols.cfp import read_cfp

    return read_cfp(folder / "a.zip", folds=1, size=1)


def cfp_files() -> Files:
    files = {}
    for letter, pose in (("F", "frontal"), ("P", "profile")):
        lines = [f"{n} ../Data/Images/00{(n + 1) // 2}/{pose}/0{n}.jpg\n" for n in range(1, 5)]
        files[f"Protocol/Pair_list_{letter}.txt"] = "".join(lines).encode()
    for kind, same, diff in (("FF", b"1,2\n", b"2,3\n"), ("FP", b"1,2\n", b"4,1\n")):
        files |= {f"Protocol/Split/{kind}/01/same.txt": same}
        files |= {f"Protocol/Split/{kind}/01/diff.txt": diff}
    return {"a.zip": zip_of(files)}


def landmarks(folder: Path) -> None:
    from hyperface.data.landmarks import read_landmarks

    read_landmarks(folder / "a.csv")


def keep_list(folder: Path) -> None:
    from hyperface.files import read_names

    read_names(folder / "a.txt")


def prepared() -> Files:
    """A prepared data set."""
    from hyperface.data import store
    from hyperface.data.sources import open_source

    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "a.zip").write_bytes(zip_of(TREE))
        source = open_source(f"{scratch}/a.zip", Path(scratch))
        folder = store.prepare(source, Path(scratch) / "data/set")
        return {f"set/1.0.0/{path.name}": path.read_bytes() for path in folder.iterdir()}


def data_set(folder: Path) -> None:
    from hyperface.data import pipeline
    from hyperface.data.datasets import fingerprint, made_of, open_split
    from hyperface.data.manifest import Manifest

    refused(Manifest.read, folder / "set/1.0.0")
    fingerprint("set", folder)
    made_of("set", folder)
    split = open_split("set", "train", folder)
    for batch in pipeline.evaluation_batches(split, batch_size=2):
        assert np.isfinite(batch["images"]).all()


def exported() -> Files:
    import jax

    from hyperface.weights import export, exported

    files = {
        "embedder.stablehlo": export.export_stablehlo(
            lambda images: images.reshape(-1, 24) * 2, (4, 2, 3)
        )
    }
    jax.clear_caches()
    record = {
        "model": "flat", "step": 1, "input": ["batch", 4, 2, 3], "pixels": "", "crop": [4, 2],
        "shrink": 1, "mirror": "none", "normalize": True, "files": {},
    }  # fmt: skip
    for name, data in files.items():
        record["files"][name] = {"sha256": hashlib.sha256(data).hexdigest()}
    return files | {"embedder.json": exported.seal(record).encode()}


def network(folder: Path) -> None:
    from hyperface.runs.embedding import open_network

    found = open_network(folder)
    found.apply(np.zeros((1, *found.image_shape), np.float32))


def resealed(data: bytes) -> bytes:
    """A record whose digest is right, whatever it says."""
    from hyperface.weights import exported

    try:
        return exported.seal({k: v for k, v in json.loads(data).items() if k != "digest"}).encode()
    except (ValueError, AttributeError, RecursionError):
        return data


PAX, GNU, USTAR = tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT
CSV = "file,lex,ley,rex,rey,nx,ny,lmx,lmy,rmx,rmy\na/1.jpg,1,1,5,1,3,3,1,5,5,5\n"

READERS: dict[str, Reader] = {
    **{
        f"image {kind}": Reader(
            lambda kind=kind, options=options: {"image": picture(kind, **options)},
            lambda folder: conformed(folder / "image"),
        )
        for kind, options in {
            "PNG": {"exif": turned()}, "JPEG": {"exif": turned(), "progressive": True},
            "BMP": {}, "PPM": {}, "TIFF": {"compression": "tiff_lzw"}, "WEBP": {}, "GIF": {},
        }.items()
    },
    "zip": Reader(lambda: {"a.zip": zip_of(TREE)}, opened("zip", "a.zip")),
    "tar": Reader(lambda: {"a.tar": tar_of(TREE, USTAR)}, opened("tar", "a.tar")),
    "tar gnu": Reader(lambda: {"a.tar": long_tar(GNU)}, opened("tar", "a.tar")),
    "tar.gz": Reader(lambda: {"a.tgz": long_tar(PAX)}, opened("tar", "a.tgz"), gzip.compress),
    "tar.xz": Reader(
        lambda: {"a.txz": lzma.compress(tar_of(TREE, PAX), preset=0)}, opened("tar", "a.txz")
    ),
    "list": Reader(
        lambda: {"a.lst": b"0\t1\ta/1.png\n1\t0\tb/1.png\n2\t1\tb/0.png\n", **TREE},
        opened("list", "a.lst"), damage="a.lst",
    ),
    "recordio": Reader(records, opened("recordio", "a.rec")),
    **{
        f"bin {protocol} {arrays}": Reader(
            lambda p=protocol, a=arrays: pickled(p, a), opened("verification", "a.bin")
        )
        for protocol, arrays in ((0, True), (1, False), (2, True), (4, False), (5, True))
    },
    "parquet": Reader(table, opened("parquet", "a.parquet")),
    "parquet plain": Reader(
        lambda: table(use_dictionary=False, compression="none", data_page_version="2.0"),
        opened("parquet", "a.parquet"),
    ),
    "idx": Reader(lambda: idx(False), opened("digits", ".")),
    "idx gz": Reader(lambda: idx(True), opened("digits", ".")),
    "npz": Reader(lambda: {"a.npz": npz(npy(FEATURES))}, features("a.npz")),
    "npz inside": Reader(lambda: {"a.npz": npy(FEATURES)}, features("a.npz"), npz),
    "npy": Reader(
        lambda: {"a.npy": npy(FEATURES), "a.txt": "\n".join(NAMES).encode()}, features("a.npy")
    ),
    "safetensors": Reader(safetensors, both_safetensors),
    "caffemodel": Reader(caffe, weights("a.caffemodel")),
    "onnx": Reader(onnx, recognised),
    **{
        f"mat {compress}": Reader(lambda c=compress: mat(c, True), mats)
        for compress in (False, True)
    },
    **{
        name: Reader(lambda text=text: {"a.txt": text.encode()}, text_reader(name))
        for name, text in TEXTS.items()
    },
    "devkit feature": Reader(
        lambda: {"a.bin": struct.pack("<4i", 8, 1, 4, 5) + bytes(32)}, devkit_feature
    ),
    "cfp": Reader(cfp_files, cfp),
    "landmarks": Reader(lambda: {"a.csv": CSV.encode()}, landmarks),
    "keep list": Reader(lambda: {"a.txt": b"a/1.jpg\nb/2.jpg\n"}, keep_list),
    "data set": Reader(prepared, data_set),
    "export": Reader(exported, network),
    "export record": Reader(exported, network, resealed, "embedder.json"),
}  # fmt: skip


def once(reader: Reader, files: Files, folder: Path, seed: str) -> str | None:
    """Damages a file and reads it; what was wrong with that."""
    rng = random.Random(seed)
    name = reader.damage or rng.choice(sorted(files))
    data = reader.wrap(mutated(files[name], rng))
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    before, start = peak(), time.process_time()
    try:
        reader.read(folder)
    except InputError as error:
        if "\n" in str(error).strip():
            return f"more than one line: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        path.write_bytes(reader.wrap(files[name]))
    spent, grown = time.process_time() - start, peak() - before
    if spent > SECONDS:
        return f"{spent:.1f} seconds"
    if grown > MEMORY + len(data):
        return f"{grown / 2**20:.0f} MiB for a file of {len(data)} bytes"
    return None


def peak() -> int:
    """The most bytes that were in memory at any time."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(scratch: str, count: str, first: str, *names: str) -> None:
    """Runs all readers that are named."""
    warnings.simplefilter("ignore")  # Pillow and TFDS warn of what is damaged.
    for name in names:
        reader, folder = READERS[name], Path(scratch) / name
        files = reader.files()
        for file, data in files.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_bytes(reader.wrap(data))
        reader.read(folder)  # The good one; all modules are loaded now.
        resource.setrlimit(resource.RLIMIT_DATA, (MOST, resource.RLIM_INFINITY))
        for number in range(int(first), int(first) + int(count)):
            # Names the file on the way out where a reader never comes back.
            faulthandler.dump_traceback_later(60, exit=True)
            print(f"{name} {number}", file=sys.stderr, flush=True)
            if problem := once(reader, files, folder, f"{name} {number}"):
                print(f"{name}, damage {number}: {problem}")
                if int(count) < 1000:
                    sys.exit(1)
        shutil.rmtree(folder)
    faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    main(*sys.argv[1:])
