"""Prepared data sets by name, below one data folder."""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from hyperface.errors import InputError, unknown_name
from hyperface.files import digest


def data_directory(given: Path | None = None) -> Path:
    """The data folder: the one given, else HYPERFACE_DATA_DIR, else one in the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given or os.environ.get("HYPERFACE_DATA_DIR") or cache / "hyperface")


@dataclass(frozen=True)
class Split:
    """One split of a prepared data set, read at random."""

    dataset: str
    name: str
    records: Sequence[dict[str, Any]]
    """Encoded: "image" bytes, "label" int, and for faces "name" bytes."""
    num_classes: int
    image_shape: tuple[int, int, int]
    """Of the images that are fed: cropped, where `crop` says so."""
    source: str | None = None
    """Fingerprint of the files it was made from, where the data set has one."""
    crop: tuple[int, int] | None = None
    """Height and width cut out of the stored image."""
    alignment: str = "of unknown alignment"
    """How the images were aligned when they were stored."""

    @property
    def step(self) -> str:
        """What is printed of it."""
        cut = f", the middle {self.crop[0]} x {self.crop[1]} of each" if self.crop else ""
        return f"{len(self.records):,} images of {self.dataset}, {self.alignment}{cut}"

    def facts(self) -> dict[str, Any]:
        """What a checkpoint keeps, to notice that the data changed under a run."""
        return {
            "dataset": self.dataset,
            "split": self.name,
            "examples": len(self.records),
            "classes": self.num_classes,
            "image_shape": list(self.image_shape),
            "source": self.source,
        }


def find(name: str, data_dir: Path) -> Path | None:
    """The folder of the newest whole version of a data set; None where there is none."""
    versions = {
        info.parent: tuple(map(int, info.parent.name.split(".")))
        for info in (data_dir / name).glob("*.*.*/dataset_info.json")
        if info.parent.name.replace(".", "").isdigit()
    }
    return max(versions, key=versions.get, default=None)


def fingerprint(name: str, data_dir: Path) -> str:
    """Of a data set's newest version: another one once it was prepared anew; "" without one."""
    folder = find(name, data_dir)
    # Counts and sizes are in the one, what the images were made from in the other.
    files = ("dataset_info.json", "metadata.json")
    return "-".join(digest(folder / file) for file in files) if folder else ""


def made_of(name: str, data_dir: Path) -> dict[str, Any]:
    """Those of `Split.facts` that change once a data set is prepared anew; {} without one."""
    folder = find(name, data_dir)
    if folder is None:
        return {}
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {"dataset": f"{name}/{folder.name}", "source": metadata.get("source")}


def open_split(
    name: str, split: str, data_dir: Path, *, crop: tuple[int, int] | None = None
) -> Split:
    """Opens a split for reading; image bytes stay encoded.

    Args:
      name: of the prepared data set.
      split: of its splits.
      data_dir: the data folder.
      crop: height and width to be cut out of the stored images; None feeds them whole.

    Raises:
      InputError: the data set is not prepared, has no such split, the split is empty, or its images
        are smaller than the crop.
    """
    folder = find(name, data_dir)
    if folder is None:
        state = "an empty folder" if (data_dir / name).is_dir() else "nothing"
        raise InputError(
            f"expected the prepared data set {name!r} in {data_dir}, found {state}. Prepare it "
            "with python -m launch.prepare (see its --help), or point HYPERFACE_DATA_DIR at it."
        )
    builder = tfds.builder_from_directory(folder)
    if split not in builder.info.splits:
        raise unknown_name(f"split of {name}", split, builder.info.splits)
    if not builder.info.splits[split].num_examples:
        raise InputError(f"expected images in split {split!r} of {name}, found none in {folder}.")
    missing = [f for f in builder.info.splits[split].filepaths if not Path(f).is_file()]
    if missing:
        raise InputError(
            f"expected every file of {name}, found {missing[0]} missing ({len(missing)} in all): "
            "delete the data set's folder and prepare it again."
        )
    features = builder.info.features
    metadata = builder.info.metadata or {}
    height, width, channels = features["image"].shape
    if crop is not None and not (crop[0] <= height and crop[1] <= width):
        raise InputError(
            f"data.crop: expected at most the {height} x {width} of {name}, found "
            f"{crop[0]} x {crop[1]}."
        )
    return Split(
        dataset=f"{name}/{folder.name}",
        name=split,
        records=builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}),
        num_classes=metadata.get("people", {}).get(split, features["label"].num_classes),
        image_shape=(*(crop or (height, width)), channels),
        source=metadata.get("source"),
        crop=crop,
        alignment=metadata.get("alignment", Split.alignment),
    )
