"""Writes and reads the calibration of a network, a small JSON file of thresholds.

Other programs can use the file as well. The file has two parts:

- one threshold per false-accept rate: a pair of images is accepted as the same person if the cosine
  of their features is at least the threshold;
- slope and offset: the log-likelihood ratio of "same person" is slope * cosine + offset.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperface.errors import InputError
from hyperface.evaluate.embed import MIRROR_STEPS
from hyperface.files import read_json
from hyperface.metrics.calibration import Calibration, Logistic
from hyperface.metrics.operating_points import OperatingPoint

NAME = "calibration.json"
FORMAT, VERSION = "hyperface-calibration", 1
LARGEST = 2**20
"""Largest size of the file in bytes."""
_OPTIONAL = ("measured_far", "measured_tar", "measured_frr")
"""Keys of a threshold whose value may be null."""
_LIMITS = ("measured_far_low", "measured_far_high")
"""Keys of a threshold that are missing if the file was written without intervals."""


@dataclass(frozen=True)
class StoredCalibration:
    """The calibration of a network, with a description of the pairs that it was fitted on.

    A calibration turns the cosine of two features into a decision (by thresholds) and into a
    probability that both images show one person. This is the content of the file calibration.json.
    """

    model: str
    """Digest of the network's weights. It shows which network the thresholds belong to."""
    mirror: str
    """How the features of image and mirror image were merged: "none", "sum", "max" or "concat"."""
    protocol: str
    """Title of the protocol whose pairs the calibration was fitted on."""
    num_same: int
    """Number of pairs of one person that the calibration was fitted on."""
    num_different: int
    """Number of pairs of two people that the calibration was fitted on."""
    points: tuple[OperatingPoint, ...]
    """One operating point (the thresholds and measured rates) per requested false-accept rate, the
    highest rate first."""
    logistic: Logistic
    """Slope and offset of the log-likelihood ratio of "same person", slope * cosine + offset."""

    def point(self, far: float) -> OperatingPoint:
        """Returns the stored operating point (thresholds) for a false-accept rate.

        Args:
          far: the false-accept rate that is wanted. If it is not stored, the point of the next
            lower stored rate is returned, which is stricter.

        Raises:
          InputError: all stored rates are above `far`.
        """
        # The tolerance accepts a rate that differs from the stored one by rounding.
        found = [point for point in self.points if point.far <= far * (1 + 1e-9)]
        if not found:
            rates = ", ".join(f"{point.far:g}" for point in self.points)
            raise InputError(
                f"--far: expected a rate that the calibration has ({rates}) or a higher one, found "
                f"{far:g}."
            )
        return max(found, key=lambda point: point.far)

    def to_dict(self) -> dict[str, Any]:
        """Returns the content of a calibration file (calibration.json) as a dictionary.

        The keys are "format", "version", "model", "mirror", "protocol", "same pairs", "different
        pairs", "thresholds" (a list of dicts with the fields of `OperatingPoint`) and "logistic" (a
        dict with the fields of `Logistic`).
        """
        return {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "mirror": self.mirror,
            "protocol": self.protocol,
            "same pairs": self.num_same,
            "different pairs": self.num_different,
            "thresholds": [point._asdict() for point in self.points],
            "logistic": self.logistic._asdict(),
        }

    def to_text(self) -> str:
        """Returns the content of a calibration file (calibration.json) as JSON text."""
        # Other programs read the file, and NaN and Infinity are no JSON.
        return json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n"


def store(found: Calibration, *, model: str, mirror: str, protocol: str) -> StoredCalibration:
    """Returns the content of a calibration file for a fitted calibration; it writes no file.

    The content has the thresholds and the logistic calibration. The isotonic calibration and the
    measured quality of the probabilities are left out.

    Args:
      found: the fitted calibration, as `calibrate` returns it.
      model: digest of the network's weights.
      mirror: how features of image and mirror image were merged: "none", "sum", "max" or "concat".
      protocol: title of the protocol whose pairs the calibration was fitted on.
    """
    return StoredCalibration(
        model=model,
        mirror=mirror,
        protocol=protocol,
        num_same=found.num_same,
        num_different=found.num_different,
        points=found.points,
        logistic=found.logistic,
    )


def read_calibration(path: Path) -> StoredCalibration:
    """Reads a calibration file, the JSON text of `StoredCalibration.to_text`.

    Raises:
      InputError: the file is missing or damaged, has more than `LARGEST` bytes (1 MiB), or is not a
        calibration.
    """
    return from_dict(read_json(path, LARGEST), str(path))


def from_dict(record: dict[str, Any], origin: str) -> StoredCalibration:
    """Checks a dictionary as `StoredCalibration.to_dict` returns it, and restores the calibration.

    Args:
      record: the content of the file, which may be damaged or come from another program.
      origin: name of the file, for error messages.

    Raises:
      InputError: the record has another format or version, has no threshold, or has a value that is
        missing, not finite or of another type.
    """
    kind = record.get("format"), record.get("version")
    if kind != (FORMAT, VERSION):
        raise InputError(
            f"{origin}: expected a calibration by hyperface evaluate --protocol folder "
            f"({FORMAT} {VERSION}), found another file: {str(kind)[:80]}."
        )
    try:
        points = tuple(_point(point) for point in record["thresholds"])
        found = StoredCalibration(
            model=_text(record["model"]),
            mirror=_text(record["mirror"]),
            protocol=_text(record["protocol"]),
            num_same=int(_number(record["same pairs"])),
            num_different=int(_number(record["different pairs"])),
            points=points,
            logistic=Logistic(*(_number(record["logistic"][n]) for n in Logistic._fields)),
        )
        if not points:
            raise ValueError("no threshold")
        # Features that are merged in another way would not fit the thresholds.
        if found.mirror not in MIRROR_STEPS:
            raise ValueError(f"mirror {found.mirror!r}")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{origin}: expected a whole calibration, found a damaged one ({type(error).__name__} "
            f"{str(error)[:100]}). Evaluate again by --protocol folder."
        ) from None
    return found


def _point(record: dict[str, Any]) -> OperatingPoint:
    rates = {n: None if record[n] is None else _number(record[n]) for n in _OPTIONAL}
    rates |= {n: _number(record[n]) for n in _LIMITS if record.get(n) is not None}
    # Any other value would count as true or false without notice.
    if not isinstance(record["supported"], bool):
        raise TypeError("supported is neither true nor false")
    return OperatingPoint(
        far=_number(record["far"]),
        threshold=_number(record["threshold"]),
        reject_threshold=_number(record["reject_threshold"]),
        supported=record["supported"],
        **rates,
    )


def _number(value: object) -> float:
    # A bool is an int in Python, and JSON readers accept NaN and Infinity.
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"expected a number, found {str(value)[:40]}")
    return float(value)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a text, found {str(value)[:40]}")
    return value
