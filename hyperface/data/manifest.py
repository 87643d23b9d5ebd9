"""Defines the manifest of a prepared data set: what it contains, and what was left out."""

from dataclasses import dataclass, field
from pathlib import Path

from hyperface.data.sources import Reject
from hyperface.errors import InputError
from hyperface.files import read_json

LOST_PAIR = "a pair without one of its images"
"""The reason for rejecting a pair."""


@dataclass(frozen=True)
class Manifest:
    """The record of what a prepared data set contains and what was left out.

    It is stored as manifest.json in the folder of the data set.
    """

    source: str
    """Fingerprint (a digest) of the original images and of the options with which the data set was
    prepared from them. Equal fingerprints mean equal data sets."""
    kind: str
    """The format that the original images came in, such as "folder" or "zip"."""
    image_shape: tuple[int, int, int]
    """[height, width, channels] of each image; all images have this shape."""
    images: dict[str, int]
    """Split -> number of images."""
    people: dict[str, list[str]]
    """Split -> names of its people; the place of a name in the list is the person's label."""
    images_per_identity: dict[str, list[int]]
    """Split -> number of stored images of each person, in the order of `people`; 0 if all images of
    the person were rejected."""
    sha256: dict[str, str]
    """Name of each file with images (shard) -> its SHA-256."""
    rejected: list[Reject]
    """Images that could not be used, and verification pairs that contain such an image, each as
    (name, reason)."""
    alignment: str = "of unknown alignment"
    """How the images were aligned when they were stored, as a text."""
    ignored: list[Reject] = field(default_factory=list)
    """Files that are no images, and hidden folders, each as (name, reason)."""

    @property
    def lost_pairs(self) -> list[str]:
        """Verification pairs that were left out because one of their images could not be used.

        Each pair is given by the names of its two images, as "first,second".
        """
        return [name for name, reason in self.rejected if reason == LOST_PAIR]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads and checks manifest.json in the folder of a version of a prepared data set.

        Raises:
          InputError: there is no manifest, it is damaged, or it is a file of another program.
        """
        path = folder / "manifest.json"
        record = read_json(path)
        try:
            for name in ("rejected", "ignored"):
                record[name] = [Reject(*reject) for reject in record.get(name, [])]
            record["image_shape"] = tuple(record["image_shape"])
            manifest = cls(**record)
            manifest._check()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise InputError(
                f"{path}: expected the manifest of a prepared data set, found another file or a "
                f"damaged one ({type(error).__name__} {str(error)[:100]}). Prepare it again."
            ) from None
        return manifest

    def _check(self) -> None:
        """Raises ValueError or TypeError if fields have a wrong type or contradict each other."""
        # A damaged file can still be valid JSON.
        height, width, channels = self.image_shape
        texts = [self.source, self.kind, self.alignment, *self.sha256, *self.sha256.values()]
        texts += [name for names in self.people.values() for name in names]
        texts += [text for reject in (*self.rejected, *self.ignored) for text in reject]
        numbers = [height, width, channels, *self.images.values()]
        numbers += [n for counts in self.images_per_identity.values() for n in counts]
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a name that is no text")
        if not all(isinstance(number, int) and number >= 0 for number in numbers):
            raise TypeError("a count that is no whole number from 0")
        people = {split: len(names) for split, names in self.people.items()}
        counted = {split: len(counts) for split, counts in self.images_per_identity.items()}
        if people != counted or self.images.keys() != people.keys():
            raise ValueError("splits that differ")

    @classmethod
    def source_of(cls, folder: Path) -> str | None:
        """Returns the field `source` of the manifest in a folder.

        It is the fingerprint, a digest, of the images and options from which the data set was
        prepared. The result is None if the folder has no manifest, or a damaged one.

        Args:
          folder: the folder of a version of a data set, which contains manifest.json.
        """
        try:
            return cls.read(folder).source
        except InputError:
            return None
