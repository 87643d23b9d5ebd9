"""Opens prepared data sets by name. All data sets are in one data folder."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import tensorflow_datasets as tfds

from hyperface.config.experiment import Data
from hyperface.errors import InputError, unknown_name
from hyperface.files import digest, read_json

FEATURES = "tensorflow_datasets.core.features."
"""The module whose classes a `features.json` may name. TFDS imports the named class, so any other
module could run foreign code."""
_METADATA = {"people": dict, "source": str, "alignment": str}
"""The fields of the metadata that are read here, with their types."""


def data_directory(given: Path | None = None) -> Path:
    """Returns the folder of prepared data sets: the first of these that is set.

    - `given`
    - the environment variable HYPERFACE_DATA_DIR
    - the folder "hyperface" in the user's cache (XDG_CACHE_HOME, or ~/.cache)

    A "~" at the start is replaced by the home folder. The folder need not exist.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    # A shell does not expand "~" inside quotes or in a file of environment variables.
    found = given or os.environ.get("HYPERFACE_DATA_DIR") or cache / "hyperface"
    return Path(os.path.expanduser(found))  # noqa: PTH111  Path.expanduser fails on unknown users.


class Records(Protocol):
    """A sequence of records that are read by index, in any order.

    A record is a dictionary with the keys "image" (bytes of a JPEG or PNG), "label" (int) and, for
    faces, "name" (bytes). `len(records)` is the number of records.
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def __getitem__(self, index: int, /) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Split:
    """One split of a prepared data set, such as its training images, opened for reading.

    Images are stored encoded. `hyperface.data.pipeline` decodes them, applies `shrink` and `crop`,
    and yields batches.
    """

    dataset: str
    """Name and version, such as "faces/1.0.0"."""
    name: str
    """Name of the split, such as "train"."""
    records: Records
    """The records, in stored order: dictionaries with "image" (bytes of a JPEG or PNG), "label"
    (int) and, for faces, "name" (bytes)."""
    num_classes: int
    """Number of people; labels are in [0, num_classes)."""
    image_shape: tuple[int, int, int]
    """[height, width, channels] of the images that are fed to the network, after `shrink` and
    `crop`."""
    source: str | None = None
    """Fingerprint of the images and options from which the data set was prepared; None for a data
    set that another program has prepared."""
    crop: tuple[int, int] | None = None
    """Height and width of the part that is cut out of an image, at a random place for training and
    at the centre for evaluation; None takes the whole image."""
    shrink: int = 1
    """Factor by which the stored image is reduced per side, before the crop; 1 changes nothing."""
    group: str = ""
    """Which people the records show, as a text such as "group 1 of 4 of the people"; "" if they
    show all people of the split."""
    alignment: str = "of unknown alignment"
    """How the images were aligned when they were stored, as a text."""

    @property
    def step(self) -> str:
        """The data's step in a report of an evaluation, which lists what was done step by step.

        It is a text with the number of images, their data set, alignment and crop, for example
        "500 images of faces/1.0.0, as they came".
        """
        small = f", {self.shrink} times smaller per side" if self.shrink > 1 else ""
        cut = f", the middle {self.crop[0]} x {self.crop[1]} of each" if self.crop else ""
        group = f", {self.group}" if self.group else ""
        return (
            f"{len(self.records):,} images of {self.dataset}{group}, {self.alignment}{small}{cut}"
        )

    def facts(self) -> dict[str, Any]:
        """Returns what a training run stores about its data.

        A run that is resumed compares these facts, to notice that the data have changed.

        Returns:
          A dict with the keys "dataset" (name and version), "split" (name), "examples" (number of
          images), "classes" (number of people), "image_shape" ([height, width, channels]), and
          "source" (the field `source`: the fingerprint, or None).
        """
        return {
            "dataset": self.dataset,
            "split": self.name,
            "examples": len(self.records),
            "classes": self.num_classes,
            "image_shape": list(self.image_shape),
            "source": self.source,
        }


def find(name: str, data_dir: Path) -> Path | None:
    """Returns the folder of the newest complete version of a data set; None if there is none.

    Args:
      name: name of the data set.
      data_dir: the folder of prepared data sets, which has a folder NAME/VERSION for each version.
    """
    # Compared as numbers: as text, 1.0.10 would come before 1.0.9.
    versions = {
        info.parent: tuple(map(int, info.parent.name.split(".")))
        for info in (data_dir / name).glob("*.*.*/dataset_info.json")
        if info.parent.name.replace(".", "").isdigit()
    }
    return max(versions, key=versions.__getitem__, default=None)


def fingerprint(name: str, data_dir: Path) -> str:
    """Returns an id of the newest version of a prepared data set, or "" if there is none.

    The id is computed from the metadata files, not from the images. It changes when the data set is
    prepared again from other files or options.
    """
    folder = find(name, data_dir)
    # The first file has the counts and sizes, the second the fingerprint of the source.
    files = ("dataset_info.json", "metadata.json")
    return "-".join(digest(folder / file) for file in files) if folder else ""


def made_of(name: str, data_dir: Path) -> dict[str, Any]:
    """Returns which version of a data set is the newest, and from which files it was prepared.

    A run stores this description, to notice that the data have changed. The data set is not opened.

    Args:
      name: name of the data set.
      data_dir: the folder of prepared data sets.

    Returns:
      A dict with two keys. "dataset" is the text NAME/VERSION. "source" is the fingerprint of the
      files that the data set was prepared from, or None if another program prepared it. The dict is
      empty if there is no such data set.
    """
    folder = find(name, data_dir)
    if folder is None:
        return {}
    path = folder / "metadata.json"
    metadata = read_json(path) if path.exists() else {}
    return {"dataset": f"{name}/{folder.name}", "source": metadata.get("source")}


def open_split(
    name: str,
    split: str,
    data_dir: Path,
    *,
    crop: tuple[int, int] | None = None,
    shrink: int = 1,
) -> Split:
    """Opens a split for reading. Its images are decoded later, by `hyperface.data.pipeline`.

    Args:
      name: name of the prepared data set; the newest version is opened.
      split: name of the split, such as "train".
      data_dir: the folder of prepared data sets.
      crop: height and width of the part to cut out of the images; None takes the whole images.
      shrink: factor by which the stored images are reduced per side, before the crop.

    Raises:
      InputError: the data set is not prepared or is damaged, it has no such split, the split is
        empty, an image is smaller than the crop, or `shrink` does not divide both of its sides.
    """
    folder = find(name, data_dir)
    if folder is None:
        state = "an empty folder" if (data_dir / name).is_dir() else "nothing"
        raise InputError(
            f"expected the prepared data set {name!r} in {data_dir}, found {state}. Prepare it "
            "with hyperface prepare (see its --help), or point HYPERFACE_DATA_DIR at it."
        )
    builder = _builder(folder)
    if split not in builder.info.splits:
        raise unknown_name(f"split of {name}", split, builder.info.splits)
    files, missing, records = _records(builder, split, folder)
    if not files:
        raise InputError(f"expected images in split {split!r} of {name}, found none in {folder}.")
    if missing:
        raise InputError(
            f"expected every file of {name}, found {missing[0]} missing ({len(missing)} in total): "
            "delete the data set's folder and prepare it again."
        )
    (height, width, channels), classes = _described(builder, folder)
    metadata = builder.info.metadata or {}
    if height % shrink or width % shrink:
        raise InputError(
            f"data.shrink: expected a factor of both sides of {name}'s {height} x {width}, found "
            f"{shrink}."
        )
    height, width = height // shrink, width // shrink
    if crop is not None and not (crop[0] <= height and crop[1] <= width):
        raise InputError(
            f"data.crop: expected at most the {height} x {width} of {name}, found "
            f"{crop[0]} x {crop[1]}."
        )
    return Split(
        dataset=f"{name}/{folder.name}",
        name=split,
        records=records(),
        num_classes=metadata.get("people", {}).get(split, classes),
        image_shape=(*(crop or (height, width)), channels),
        source=metadata.get("source"),
        crop=crop,
        shrink=shrink,
        alignment=metadata.get("alignment", Split.alignment),
    )


def open_experiment_split(data: Data, part: Literal["train", "test"], data_dir: Path) -> Split:
    """Opens the images on which an experiment trains, or those on which it is scored.

    By default an experiment trains on the split `data.train_split` and is scored on the split
    `data.test_split`. If `data.people_fold` is (k, n), the people of both splits together are
    divided into n groups. Group k, counted from 1, is then the test part, and all other groups
    together are the training part. In each part the people get new labels from 0.

    Args:
      data: the data settings of the experiment: the data set, its splits, the crop, and
        `people_fold`.
      part: "train" or "test".
      data_dir: the folder of prepared data sets.

    Raises:
      InputError: the data set or a split is missing or damaged; the images are smaller than
        `data.crop`, or `data.shrink` does not divide their sides; or there are fewer than two
        people per group.
    """

    def opened(split: str) -> Split:
        return open_split(data.name, split, data_dir, crop=data.crop, shrink=data.shrink)

    if data.people_fold is None:
        return opened(data.train_split if part == "train" else data.test_split)
    splits = [opened(data.train_split), opened(data.test_split)]
    group, groups = data.people_fold
    people = sum(split.num_classes for split in splits)
    if people < 2 * groups:
        raise InputError(
            f"data.people-fold: expected at least {2 * groups} people in {data.name} for {groups} "
            f"groups, found {people}."
        )
    # People are dealt to groups in turn, so that group sizes differ by at most one.
    in_group = np.arange(people) % groups == group - 1
    chosen = in_group if part == "test" else ~in_group
    rest = "" if part == "test" else "all but "
    chosen_people = f"{rest}group {group} of {groups} of the people"
    return dataclasses.replace(
        splits[0],
        name=chosen_people,
        group=chosen_people,
        records=_ChosenPeople(splits, chosen),
        num_classes=int(chosen.sum()),
    )


class _ChosenPeople:
    """The records of some people from several splits, with new labels from 0 without gaps.

    Args:
      splits: the splits; the people of the second follow those of the first.
      chosen: [people of all splits] bool, True for the people whose records are kept.
    """

    def __init__(self, splits: Sequence[Split], chosen: np.ndarray) -> None:
        self._splits, self._records = splits, []
        # The losses need the labels of the chosen people to run from 0 without gaps.
        label_of, first = np.cumsum(chosen) - 1, 0
        for number, split in enumerate(splits):
            for index, record in enumerate(split.records):
                person = first + int(record["label"])
                if chosen[person]:
                    self._records.append((number, index, int(label_of[person])))
            first += split.num_classes

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, index: int, /) -> dict[str, Any]:
        split, index_in_split, label = self._records[index]
        return {**self._splits[split].records[index_in_split], "label": label}


def _builder(folder: Path) -> Any:
    """Returns the TFDS builder of a prepared data set, after its metadata has been checked.

    Raises:
      InputError: the metadata is damaged, or names a class that is not TFDS's own.
    """
    check_features(folder / "features.json")
    stored = read_json(folder / "dataset_info.json").get("fileFormat")
    if stored != "array_record":  # TFDS needs TensorFlow to read any other format.
        raise _damaged(folder, ValueError(f"the file format {str(stored)[:40]!r}"))
    try:
        # TFDS prints a banner if damaged metadata make it look for TensorFlow.
        with contextlib.redirect_stdout(None):
            builder = tfds.builder_from_directory(folder)
        metadata = builder.info.metadata or {}
        sound = all(isinstance(metadata.get(n), kind | None) for n, kind in _METADATA.items())
        counts = (metadata.get("people") or {}).values() if sound else [None]
    except Exception as error:  # Damaged metadata fails in TFDS, protobuf or JSON.
        raise _damaged(folder, error) from None
    if not all(isinstance(count, int) and count > 0 for count in counts):
        raise _damaged(folder, ValueError("metadata.json has values of other types"))
    return builder


def check_features(path: Path) -> None:
    """Raises an error for a `features.json` that would make TFDS import a foreign module.

    TFDS imports every class that this file names, so that a hostile file could run code.

    Args:
      path: the file in the folder of a TFDS data set.

    Raises:
      InputError: the file is missing or damaged, or names a class that is not TFDS's own.
    """
    named = list(_class_names(read_json(path)))
    foreign = [name for name in named if not str(name).startswith(FEATURES)]
    if foreign or not named:
        found = repr(str(foreign[0])[:80]) if foreign else "none"
        raise InputError(f"{path}: expected features of TFDS itself, found {found}.")


def _class_names(record: Any) -> Iterator[Any]:
    """Yields the class names in the content of a features.json, at any depth."""
    # A loop and not a recursion: a hostile file can be nested deeper than Python's stack.
    waiting = [record]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for key, named in value.items():
                # TFDS accepts these three spellings; the last one is in older files.
                if key in ("pythonClassName", "python_class_name", "type"):
                    yield named
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _records(
    builder: Any, split: str, folder: Path
) -> tuple[list[str], list[str], Callable[[], Records]]:
    """Returns (files, missing, opened) of a split.

    `files` are the paths of its files, none for an empty split. `missing` are those of them that do
    not exist. `opened()` opens the records.

    Raises:
      InputError: the metadata is damaged; `opened` raises it too, if a file is damaged.
    """
    try:
        info = builder.info.splits[split]
        files = [str(file) for file in info.filepaths] if info.num_examples else []
        missing = [file for file in files if not Path(file).is_file()]
    except Exception as error:  # TFDS fails in many ways on damaged metadata.
        raise _damaged(folder, error) from None

    def opened() -> Records:
        try:
            with contextlib.redirect_stdout(None):  # As in `_builder`.
                return builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()})
        except Exception as error:  # As above; or a file is not an ArrayRecord.
            raise _damaged(folder, error) from None

    return files, missing, opened


def _described(builder: Any, folder: Path) -> tuple[tuple[int, int, int], int]:
    """Returns ((height, width, channels), number of classes) of a data set."""
    try:
        features = builder.info.features
        height, width, channels = features["image"].shape
        sides = int(height), int(width), int(channels)
        return sides, int(features["label"].num_classes)
    except Exception as error:  # A data set of other features has no image or no label.
        raise _damaged(folder, error) from None


def _damaged(folder: Path, error: Exception) -> InputError:
    """Returns the error for a data set that cannot be read."""
    reason = str(error).strip().partition("\n")[0][:150] or type(error).__name__
    return InputError(
        f"expected a whole data set of images with labels in {folder}, found: {reason}. Prepare "
        "it again."
    )
