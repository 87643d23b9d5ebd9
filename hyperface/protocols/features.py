"""Defines features with the names of their images, and reads them from files of any program."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.arrays import npz_names, open_npy, read_npz
from hyperface.errors import InputError
from hyperface.files import read_bytes
from hyperface.metrics._checks import BLOCK, check_directions

LONGEST_NAME = 4096
"""Most bytes of an image's name, which is a path."""


class NamedFeatures(NamedTuple):
    """Features of images, one per image, with the names of the images."""

    names: Sequence[str]
    """[images] names of the images; each occurs once."""
    features: np.ndarray
    """[images, dim], not necessarily scaled to unit length. They may be merged from the features of
    an image and of its mirror image."""
    steps: tuple[str, ...] = ()
    """Sentences that describe how the features were computed; results repeat them."""
    norms: np.ndarray | None = None
    """[images] length of the feature of the image itself, without its mirror image, which indicates
    the image's quality. None if only `features` are known."""

    def image_norms(self) -> np.ndarray:
        """Returns [images] feature norms: `norms`, or the lengths of `features` if it is None."""
        if self.norms is not None:
            return self.norms
        # In blocks, as the features may be mapped from a file that is larger than memory.
        starts = range(0, len(self.features), BLOCK)
        parts = [np.asarray(self.features[n : n + BLOCK], np.float64) for n in starts]
        return np.concatenate([np.linalg.norm(part, axis=1) for part in parts])

    def take(self, rows: np.ndarray) -> "NamedFeatures":
        """Returns the names, features and norms of some of the images, with the same `steps`.

        Args:
          rows: [selected images] int64 positions of the images, from 0, in any order. The result
            has the order of `rows`.
        """
        return self._replace(
            names=[self.names[row] for row in rows.tolist()],
            features=self.features[rows],
            norms=None if self.norms is None else self.norms[rows],
        )

    def rows(self, wanted: Sequence[str], source: str) -> np.ndarray:
        """Returns [wanted] int64, the position in `names` of each image of a list.

        Args:
          wanted: names of images, which may be repeated.
          source: the file or protocol that lists these names, for the error message.

        Raises:
          InputError: a name is not in `names`. The message suggests the nearest known name.
        """
        places = {name: place for place, name in enumerate(self.names)}
        missing = sorted(set(wanted) - places.keys())
        if missing:
            raise InputError(
                f"expected a feature of every image of {source}, found none of {missing[0]!r} "
                f"({len(missing)} of {len(set(wanted))} images are missing)"
                f"{nearest_hint(missing[0], self.names)}."
            )
        # The type is named, since an empty list would give floats.
        return np.array([places[name] for name in wanted], np.int64)

    def digest(self) -> str:
        """Returns the first sixteen hexadecimal digits of SHA-256 over names and features.

        Files of results store it, so that a reader can tell which features were scored.
        """
        return array_digest(self.features, "\n".join(self.names))


def nearest_hint(name: str, known: Sequence[str]) -> str:
    """Returns text for the end of an error message: "; the nearest name is 'NAME'", or "".

    The result is "" if no known name is similar. Only the first 20,000 known names are compared.

    Args:
      name: the unknown name.
      known: the known names.
    """
    # Only some names, since the search compares each of them letter by letter.
    near = difflib.get_close_matches(name, known[:20_000], n=1, cutoff=0.6)
    return f"; the nearest name is {near[0]!r}" if near else ""


def person_of(name: str) -> str:
    """Returns the person in an image's name: the part before the first slash, or the whole name."""
    return name.partition("/")[0]


def people_of(names: Sequence[str], source: str) -> np.ndarray:
    """Returns [images] the person of each image: the part of its name before the first slash.

    Args:
      names: names of images, in the form person/file.
      source: the protocol or command that needs the people, for the error message.

    Raises:
      InputError: a name has no slash.

    Example:
      >>> print(people_of(["ada/1.jpg", "ada/b/2.jpg"], "folder"))
      ['ada' 'ada']
    """
    without = next((name for name in names if "/" not in name), None)
    if without is not None:
        raise InputError(
            f"{source}: expected names person/file, which say whose each image is, found "
            f"{without!r}."
        )
    return np.array([person_of(name) for name in names])


def array_digest(features: np.ndarray, text: str = "") -> str:
    """Returns the first sixteen hexadecimal digits of SHA-256 over a text and an array.

    Args:
      features: [rows, dim] array, whose bytes are hashed in row order after those of the text.
      text: text that belongs to the array, such as names; it is hashed in UTF-8.
    """
    total = hashlib.sha256(text.encode())
    for start in range(0, len(features), BLOCK):
        # In blocks, so that no second copy of the features is made.
        total.update(np.ascontiguousarray(features[start : start + BLOCK]).data)
    return total.hexdigest()[:16]


def check(named: NamedFeatures, origin: str) -> NamedFeatures:
    """Checks that features have a form that protocols can score.

    Args:
      named: the features.
      origin: the file or network that the features come from, for the error message.

    Returns:
      The same names and features, with the features converted to floats of at least 32 bits.

    Raises:
      InputError: names and features differ in number, a name is repeated, a feature is zero or not
        finite, or all features have the same direction.
    """
    names, features = list(named.names), np.asarray(named.features)
    if features.ndim != 2 or len(names) != len(features) or not names:
        raise InputError(
            f"{origin}: expected [images, dim] features and a name each, found features "
            f"{features.shape} and {len(names)} names."
        )
    if not np.issubdtype(features.dtype, np.floating):
        raise InputError(f"{origin}: expected floats, found {features.dtype}.")
    # float32 at least, in which the norm of half-precision features cannot overflow.
    features = features.astype(np.promote_types(features.dtype, np.float32), copy=False)
    if len(set(names)) != len(names):
        seen: set[str] = set()
        # `add` returns None, so that only a name that was seen is true.
        double = next(name for name in names if name in seen or seen.add(name))
        raise InputError(f"{origin}: expected every name once, found {double!r} again.")
    parts = [slice(start, start + BLOCK) for start in range(0, len(names), BLOCK)]
    norms = np.concatenate([np.linalg.norm(features[part], axis=1) for part in parts])
    # Norms tell both: they are NaN or infinite if a number of the feature is.
    bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
    if bad.size:
        raise InputError(
            f"{origin}: expected finite features above zero, found norm {norms[bad[0]]} of "
            f"{names[bad[0]]!r} ({bad.size} images in all)."
        )
    try:
        check_directions(features, norms[:, None])
    except ValueError as error:
        raise InputError(f"{origin}: {error}.") from None
    return named._replace(names=names, features=features)


def read_features(path: Path) -> NamedFeatures:
    """Reads a file of features that any program has written.

    Args:
      path: an .npz file with `features` [images, dim], `names` [images] and optionally `norms`
        [images], as hyperface embed writes it; or an .npy file of features, beside a .txt file of
        the same name with one image name per line.

    Returns:
      The features. The field `steps` of the result names the file, and `norms` is None if the file
      has no norms.

    Raises:
      InputError: the file has neither form, names and features differ in number, a name is
        repeated, a feature or norm is zero or not finite, or all features have the same direction.
    """
    suffix, norms = path.suffix.lower(), None
    if suffix == ".npz":
        features, stored = read_npz(path, ("features", "names"))
        names = _texts(path, stored)
        if "norms" in npz_names(path):
            norms = _norms(path, len(names))
    elif suffix == ".npy":
        features, listed = open_npy(path, mapped=False), path.with_suffix(".txt")
        if not listed.is_file():
            raise InputError(f"{path}: expected names in {listed} beside it, found no file.")
        names = read_names(listed, len(features) if features.ndim else 0)
    else:
        raise InputError(
            f"{path}: expected features as .npz with names, or .npy with names in a .txt beside it."
        )
    found = check(NamedFeatures(names, features, norms=norms), str(path))
    said = f"features of {len(names):,} images read from {path.name}"
    return found._replace(steps=(f"{said}, {found.features.shape[1]} dims",))


def _norms(path: Path, count: int) -> np.ndarray:
    """Returns the array `norms` of an .npz file, [count] float64.

    Raises:
      InputError: there are not `count` norms, or a norm is not finite and above zero.
    """
    (norms,) = read_npz(path, ("norms",))
    good = norms.dtype.kind in "fiu" and norms.shape == (count,)
    if not (good and np.all(np.isfinite(norms) & (norms > 0))):
        raise InputError(
            f"{path}: expected a finite norm above zero for each of {count:,} images in 'norms', "
            f"found {norms.dtype} {norms.shape}. Leave the array out if it is something else."
        )
    return norms.astype(np.float64)


def read_origin(path: Path) -> tuple[str, str]:
    """Returns (network, mirror): how the features of a file were computed.

    The first is the digest of the network's weights. The second states how the features of an image
    and of its mirror image were merged: "none", "sum", "max" or "concat". The command hyperface
    embed stores both in its .npz files, as the arrays `model` and `mirror`. For any other file the
    result is ("", "none"), where "" means that the network is unknown.
    """
    if path.suffix.lower() != ".npz":
        return "", "none"
    try:
        (model,), (mirror,) = (_texts(path, x) for x in read_npz(path, ("model", "mirror")))
    except (InputError, ValueError):  # Without them, or with several.
        return "", "none"
    return model, mirror


def read_names(path: Path, count: int) -> list[str]:
    """Reads the names of images from a UTF-8 file with one name per line.

    Args:
      path: the file, with or without a byte-order mark.
      count: number of names that the file must have.

    Raises:
      InputError: the file cannot be read, is not UTF-8, has another number of lines, or has more
        than 4,096 bytes per name on average.
    """
    try:
        # utf-8-sig drops a byte-order mark, which would become a part of the first name.
        text = read_bytes(path, (count + 1) * LONGEST_NAME).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected names in UTF-8, found: {error}.") from None
    text = text.replace("\r\n", "\n").removesuffix("\n")
    found = text.count("\n") + 1 if text else 0  # Counted first: lines take more than bytes.
    if found != count:
        raise InputError(
            f"{path}: expected a name for each of {count:,} features, one a line, found {found:,}."
        )
    return text.split("\n") if text else []


def _texts(path: Path, names: np.ndarray) -> list[str]:
    try:
        # A single name may be stored without an axis.
        values = np.atleast_1d(names).tolist()
        return [name.decode() if isinstance(name, bytes) else str(name) for name in values]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected names in UTF-8, found: {error}.") from None
