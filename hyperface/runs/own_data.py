"""Finds experiments by name, and builds an experiment for the name of a prepared data set."""

from collections.abc import Sequence
from pathlib import Path

from hyperface import experiments
from hyperface.config.experiment import Experiment
from hyperface.config.own_data import Counts, experiment_for
from hyperface.errors import InputError, unknown_name

CARD = """NormFace's softmax on your data {name!r}: {people:,} people to train, {test:,} to verify.

Source: NormFace, Eq. 6: features and agents normalised, the scale learned, starting where
  Proposition 2's bound is 0.1. Batch, steps and schedule follow from the {images:,} images.
Command: hyperface train {name}
Data: what hyperface prepare stored as {name!r}, {shape}.
"""


def load(name: str, data_dir: Path | None = None) -> Experiment:
    """Returns the experiment that `hyperface train NAME` trains.

    It is one of these:

    - an experiment that comes with the library.
    - the experiment in a user's Python file.
    - an experiment that is built for a prepared data set: NormFace's softmax, with settings that
      follow from the numbers of images and people.

    Args:
      name: name of the experiment, path of a Python file, or name of a data set that `hyperface
        prepare` wrote.
      data_dir: folder of prepared data sets; by default HYPERFACE_DATA_DIR or the user's cache.

    Raises:
      InputError: there is no such experiment or data set, or the data set cannot be trained on.
    """
    if _is_experiment(name):
        return experiments.load(name)
    return experiment_for(name, _counts(name, data_dir))


def run_card(name: str, data_dir: Path | None = None) -> str:
    """Returns the description of an experiment, which the help of hyperface train shows.

    Args:
      name: name of the experiment, path of a Python file, or name of a prepared data set.
      data_dir: folder of prepared data sets; by default HYPERFACE_DATA_DIR or the user's cache.

    Raises:
      InputError: there is no such experiment or data set.
    """
    if _is_experiment(name):
        return experiments.run_card(name)
    counts = _counts(name, data_dir)
    return CARD.format(
        name=name,
        people=sum(n > 0 for n in counts.train),
        test=sum(n > 0 for n in counts.test),
        images=sum(counts.train),
        shape=" x ".join(map(str, counts.image_shape)),
    )


def data_dir_in(args: Sequence[str]) -> Path | None:
    """Returns the value of --data-dir among the words of a command line, or None without it.

    It is needed before the other options are parsed: their defaults depend on the data set, which
    is in that folder.
    """
    for place, word in enumerate(args):
        flag, equals, value = word.partition("=")
        # tyro accepts both --data-dir and --data_dir, and both "--data-dir X" and "--data-dir=X".
        if flag.replace("_", "-") == "--data-dir":
            following = args[place + 1] if place + 1 < len(args) else None
            found = value if equals else following
            return Path(found) if found else None
    return None


def _is_experiment(name: str) -> bool:
    return experiments.file_of(name) is not None or name in experiments.names()


def _counts(name: str, data_dir: Path | None) -> Counts:
    from hyperface.data.datasets import data_directory, find
    from hyperface.data.manifest import Manifest

    folder = data_directory(data_dir)
    # A name with a slash is a path, which must not lead out of the folder of data sets.
    found = find(name, folder) if "/" not in name else None
    if found is None:
        # The path is NAME/VERSION/manifest.json.
        prepared = {path.parts[-3] for path in folder.glob("*/*/manifest.json")}
        raise unknown_name("experiment", name, {*experiments.names(), *prepared})
    if Manifest.source_of(found) is None:
        raise InputError(
            f"{name}: expected a data set that hyperface prepare made, found none of its manifest "
            f"in {found}."
        )
    manifest = Manifest.read(found)
    images, people = manifest.images_per_identity, manifest.people
    train, test = images.get("train", []), images.get("test", [])
    # Digits have the same ten classes in both splits. Such data is classified and not verified.
    same_people = "train" in people and people["train"] == people.get("test")
    return Counts(manifest.image_shape, train, test, same_people)
