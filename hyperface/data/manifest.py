"""What a prepared data set says of itself."""

import json
from dataclasses import dataclass
from pathlib import Path

from hyperface.data.sources import Reject


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
    """Of each shard's file."""
    rejected: list[Reject]
    alignment: str = "of unknown alignment"
    """How the images were aligned when they were stored."""

    @classmethod
    def read(cls, folder: Path) -> "Manifest":
        """That of a prepared data set's folder."""
        record = json.loads((folder / "manifest.json").read_text("utf-8"))
        record["rejected"] = [Reject(*reject) for reject in record["rejected"]]
        record["image_shape"] = tuple(record["image_shape"])
        return cls(**record)

    @classmethod
    def source_of(cls, folder: Path) -> str | None:
        """The fingerprint of what a folder was made from; None where it has no manifest."""
        try:
            return cls.read(folder).source
        except (OSError, KeyError, TypeError, ValueError):
            return None
