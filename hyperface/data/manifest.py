"""What a prepared data set says of itself."""

from dataclasses import dataclass, field
from pathlib import Path

from hyperface.data.sources import Reject
from hyperface.errors import InputError
from hyperface.files import read_json

LOST_PAIR = "a pair without one of its images"
"""Why a pair is left out."""


@dataclass(frozen=True)
class Manifest:
    """What a prepared data set holds, and what it does not; stored as manifest.json."""

    source: str
    """Fingerprint of the source and the options."""
    kind: str
    image_shape: tuple[int, int, int]
    images: dict[str, int]
    """By split."""
    people: dict[str, list[str]]
    """Identities of each split, in the order of the labels."""
    images_per_identity: dict[str, list[int]]
    """In the same order; 0 where every image of a planned identity was rejected."""
    sha256: dict[str, str]
    """Digest of each shard's file."""
    rejected: list[Reject]
    alignment: str = "of unknown alignment"
    """How the images were aligned when they were stored."""
    ignored: list[Reject] = field(default_factory=list)
    """Files that are no images, and hidden folders."""

    @property
    def lost_pairs(self) -> list[str]:
        """The pairs that were left out, each as "first,second"."""
        return [name for name, reason in self.rejected if reason == LOST_PAIR]

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """Reads the manifest of a prepared data set's folder.

        Raises:
          InputError: it has none, or one that is damaged or of another program.
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
        """ValueError or TypeError where parts do not fit: a damaged file can still be JSON."""
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
        """Returns the fingerprint of what a folder was made from; None where it has no manifest."""
        try:
            return cls.read(folder).source
        except InputError:
            return None
