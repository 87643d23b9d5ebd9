"""Reads the lists of BLUFR, the benchmark of large-scale unconstrained face recognition on LFW."""

import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.protocols._lines import Line
from hyperface.protocols._matfile import read_mat
from hyperface.protocols.lfw import IMAGE_NAME, check_template, image_name

_TRIALS = {"train": "trainIndex", "test": "testIndex", "gallery": "galIndex", "probe": "probIndex"}
_SINGLE = ("imageList", "labels")


class Trial(NamedTuple):
    """One trial of BLUFR (a benchmark on LFW): which images are for training, which are compared.

    Each array is one-dimensional and contains int64 positions in `BlufrLists.images`, from 0.
    """

    train: np.ndarray
    """Images for training, for example to fit a PCA of the features."""
    test: np.ndarray
    """Test images. Verification compares all pairs of them. None of their people is in `train`."""
    gallery: np.ndarray
    """One image per person, for some of the people in `test`."""
    probe: np.ndarray
    """The other images of `test`, each of which is searched in the gallery. A probe has a mate if
    its person is in the gallery; a probe without a mate is an impostor."""


class BlufrLists(NamedTuple):
    """The images of LFW and ten trials, each with its own training people and test people."""

    images: list[str]
    """Names of the images."""
    labels: np.ndarray
    """[images] int64, the number of the person, from 1."""
    trials: list[Trial]
    """The ten trials, whose arrays are positions in `images`."""


def read_blufr(path: Path | str, template: str = IMAGE_NAME) -> BlufrLists:
    """Reads `blufr_lfw_config.mat`, the lists of the benchmark BLUFR on the images of LFW.

    A trial has images for training, and images of other people for the test. The test images are
    also divided into gallery images and probes, which are searched in the gallery.

    Args:
      path: the file.
      template: `str.format` text for the image names that are returned, with the fields `name` (the
        person's name) and `number` (number of the person's image, from 1). The default gives
        `Ann_Lee/Ann_Lee_0001.jpg`. In the file itself names have the form `{name}_{number:04}.jpg`.

    Returns:
      The images and the ten trials. The file's set for development is not read.

    Raises:
      InputError: the template is not valid; the file is damaged; an index is out of range or
        repeated; a person is in the training set and in the test set; gallery and probes together
        are not the test set; or a person has several gallery images. The message names the
        variable.

    References:
      Liao, Lei, Yi, Li: A benchmark study of large-scale unconstrained face recognition, IJCB 2014.
    """
    check_template(template)
    variables = read_mat(path)
    missing = {*_SINGLE, *_TRIALS.values()} - set(variables)
    if missing:
        raise InputError(f"{path}: expected the variable {min(missing)}, found none.")
    images = _images(variables["imageList"], template, str(path))
    labels = _numbers(variables["labels"], "labels", path)
    if labels.size != len(images):
        raise InputError(f"{path}: expected {len(images)} labels, found {labels.size}.")
    columns = {
        field: _columns(variables[name], name, len(images), path) for field, name in _TRIALS.items()
    }
    if len({len(column) for column in columns.values()}) > 1:
        counts = [len(column) for column in columns.values()]
        raise InputError(f"{path}: expected as many sets of each kind, found {counts}.")
    # `_TRIALS` has its entries in the order of the fields of `Trial`.
    trials = [Trial(*sets) for sets in zip(*columns.values(), strict=True)]
    for number, trial in enumerate(trials, 1):
        _check(trial, labels, f"{path}: trial {number}")
    return BlufrLists(images, labels, trials)


def _images(cells: Any, template: str, file: str) -> list[str]:
    if not isinstance(cells, np.ndarray) or cells.dtype != object or not cells.size:
        raise InputError(f"{file}: expected cells of names in imageList, found none.")
    images = []
    for row, cell in enumerate(cells.ravel(), 1):
        # The error names the row of the variable in place of a line.
        line = Line(f"{file}:imageList", row, cell if isinstance(cell, str) else "")
        # The first part is greedy, since names of people contain underscores too.
        match = re.fullmatch(r"(.+)_(\d{4})\.jpg", line.text)
        if not match:
            raise line.fault("a name as Aaron_Eckhart_0001.jpg")
        images.append(image_name(line, match[1], match[2], template))
    if len(set(images)) < len(images):
        raise InputError(f"{file}: expected distinct names in imageList, found one twice.")
    return images


def _columns(cells: Any, name: str, images: int, path: Path | str) -> list[np.ndarray]:
    if not isinstance(cells, np.ndarray) or cells.dtype != object or not cells.size:
        raise InputError(f"{path}: expected a cell for each trial in {name}, found none.")
    return [
        _indices(cell, f"{name}{{{trial}}}", images, path)
        for trial, cell in enumerate(cells.ravel(), 1)
    ]


def _indices(value: Any, name: str, images: int, path: Path | str) -> np.ndarray:
    # MATLAB counts from 1.
    rows = _numbers(value, name, path) - 1
    outside = rows[rows >= images]
    if outside.size:
        raise InputError(f"{path}: expected 1 to {images} in {name}, found {outside[0] + 1}.")
    if np.unique(rows).size < rows.size:
        raise InputError(f"{path}: expected distinct indices in {name}, found one twice.")
    return rows


def _numbers(value: Any, name: str, path: Path | str) -> np.ndarray:
    """Returns a variable's values as an int64 vector; InputError unless all are whole numbers >= 1.

    `name` is the name of the variable, for the message.
    """
    # MATLAB usually stores whole numbers as doubles.
    good = isinstance(value, np.ndarray) and value.dtype.kind in "iuf" and value.size
    if not good or not np.all((value >= 1) & (value < 2**31) & (value == np.floor(value))):
        raise InputError(f"{path}: expected whole numbers from 1 in {name}, found others.")
    return value.ravel().astype(np.int64)


def _check(trial: Trial, labels: np.ndarray, place: str) -> None:
    # Features may be fitted on `train`: a shared person would make the test easier.
    shared = np.intersect1d(labels[trial.train], labels[trial.test])
    if shared.size:
        raise InputError(
            f"{place}: expected other people in train than in test, found {shared.size} in both."
        )
    both = np.concatenate([trial.gallery, trial.probe])
    if not np.array_equal(np.sort(both), np.sort(trial.test)):
        raise InputError(
            f"{place}: expected gallery and probes to be the {trial.test.size} test images, "
            f"found {both.size} images, {np.setdiff1d(both, trial.test).size} of them others."
        )
    if np.unique(labels[trial.gallery]).size < trial.gallery.size:
        raise InputError(f"{place}: expected one gallery image a person, found more.")
