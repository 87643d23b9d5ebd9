"""Writes what a comparison of photos found: a picture of the aligned faces, and a JSON file."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperface import owned
from hyperface.report.sheets import pair_sheet

COLUMNS = 4


class ShownPair(NamedTuple):
    """Two aligned faces, with the similarity, the norms and the decision."""

    images: tuple[np.ndarray, np.ndarray]
    """[height, width, 1 or 3] uint8 each."""
    names: tuple[str, str]
    norms: tuple[float, float]
    """Lengths of the features."""
    similarity: float
    decision: str | None
    """"same", "different" or "not sure"; None if the network is not calibrated."""

    @property
    def caption(self) -> str:
        """The lines below the two faces."""
        said = f"{self.decision}, " if self.decision else ""
        faces = zip(self.names, self.norms, strict=True)
        # The end of a path tells more than its start, which is often the same.
        lines = [f"{norm:.1f}: {name.rpartition('/')[2]}" for name, norm in faces]
        return "\n".join((f"{said}{self.similarity:.3f}; norms:", *lines))


def write_verification(
    picture: Path, record_path: Path, pairs: Sequence[ShownPair], record: Mapping[str, Any]
) -> None:
    """Writes the picture of some pairs, and the record of all.

    Args:
      picture: PNG file.
      record_path: JSON file.
      pairs: those that are drawn, in this order.
      record: what the JSON file contains.
    """
    data = io.BytesIO()
    sheet = pair_sheet(
        [pair.images for pair in pairs], [pair.caption for pair in pairs], columns=COLUMNS
    )
    sheet.save(data, "PNG")
    owned.write_bytes(picture, data.getvalue())
    owned.write_text(record_path, json.dumps(record, indent=2, allow_nan=False) + "\n")
