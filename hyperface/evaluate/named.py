"""Features with the names of their images, from this library or any other."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.evaluate._checks import BLOCK, check_directions


class NamedFeatures(NamedTuple):
    """One feature an image."""

    names: Sequence[str]
    """[images] unique."""
    features: np.ndarray
    """[images, dim] of any length."""
    steps: tuple[str, ...] = ()
    """How they were made, a sentence each."""

    def rows(self, wanted: Sequence[str], source: str) -> np.ndarray:
        """Indices of images by name.

        Args:
          wanted: names of images, repeats allowed.
          source: what names them, for the message.

        Raises:
          InputError: an image is not there; the message has the nearest name that is.
        """
        places = {name: place for place, name in enumerate(self.names)}
        missing = sorted(set(wanted) - places.keys())
        if missing:
            near = difflib.get_close_matches(missing[0], self.names[:20_000], n=1, cutoff=0.6)
            hint = f"; the nearest name there is {near[0]!r}" if near else ""
            raise InputError(
                f"expected a feature of every image of {source}, found none of {missing[0]!r} "
                f"({len(missing)} of {len(set(wanted))} images are missing){hint}."
            )
        return np.array([places[name] for name in wanted], np.int64)

    def digest(self) -> str:
        """Sixteen hexadecimal digits of SHA-256 over names and features."""
        return array_digest(self.features, "\n".join(self.names))


def array_digest(features: np.ndarray, text: str = "") -> str:
    """Sixteen hexadecimal digits of SHA-256 over a text and the numbers [rows, dim]."""
    total = hashlib.sha256(text.encode())
    for start in range(0, len(features), BLOCK):
        total.update(np.ascontiguousarray(features[start : start + BLOCK]).data)
    return total.hexdigest()[:16]


def check(named: NamedFeatures, origin: str) -> NamedFeatures:
    """Refuses features that no protocol could score, or only into nonsense.

    Args:
      named: the features.
      origin: what they come from, for the message.

    Returns:
      The same, as floats of at least 32 bits.

    Raises:
      InputError: names and features differ in number, a name is there twice, a feature is zero or
        not finite, or all features point one way.
    """
    names, features = list(named.names), np.asarray(named.features)
    if features.ndim != 2 or len(names) != len(features) or not names:
        raise InputError(
            f"{origin}: expected [images, dim] features and a name each, found features "
            f"{features.shape} and {len(names)} names."
        )
    if not np.issubdtype(features.dtype, np.floating):
        raise InputError(f"{origin}: expected floats, found {features.dtype}.")
    features = features.astype(np.promote_types(features.dtype, np.float32), copy=False)
    if len(set(names)) != len(names):
        seen: set[str] = set()
        double = next(name for name in names if name in seen or seen.add(name))
        raise InputError(f"{origin}: expected every name once, found {double!r} again.")
    parts = [slice(start, start + BLOCK) for start in range(0, len(names), BLOCK)]
    norms = np.concatenate([np.linalg.norm(features[part], axis=1) for part in parts])
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
    """Features that any program has written.

    Args:
      path: an .npz with `features` [images, dim] and `names` [images], or an .npy of features with
        a text file of names, one a line, of the same name ending in .txt.

    Raises:
      InputError: the file is not one of these, or its features cannot be scored.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            absent = {"features", "names"} - set(loaded.files)
            if absent:
                raise InputError(
                    f"{path}: expected arrays 'features' and 'names', found "
                    f"{', '.join(loaded.files) or 'none'}."
                )
            features, names = loaded["features"], np.atleast_1d(loaded["names"])
            names = [n.decode() if isinstance(n, bytes) else str(n) for n in names.tolist()]
        else:
            listed = path.with_suffix(".txt")
            features, names = loaded, listed.read_text("utf-8").splitlines()
    except InputError:
        raise
    except Exception as error:  # A damaged archive fails in zipfile, zlib or NumPy's own parser.
        raise InputError(
            f"{path}: expected features as .npz with names, or .npy with names in a .txt beside "
            f"it, found: {error}."
        ) from None
    found = check(NamedFeatures(names, features), str(path))
    said = f"features of {len(names):,} images read from {path.name}"
    return found._replace(steps=(f"{said}, {found.features.shape[1]} dims",))
