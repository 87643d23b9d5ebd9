"""Writes the results of a comparison of photos: a page, a picture of the faces, a JSON file."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperface import owned
from hyperface.report.html import FacePair, Link, Page, Section, write_page
from hyperface.report.sheets import pair_sheet
from hyperface.report.tables import Table, percent

PAGE, PICTURE, RECORD = "verification.html", "verification.png", "verification.json"
COLUMNS = 4
"""Number of pairs per row of the picture."""
ROWS = 500
"""Largest number of pairs in the table of a page; the JSON file may have more."""


class ShownPair(NamedTuple):
    """Two compared faces as a picture shows them, with similarity and decision."""

    images: tuple[np.ndarray, np.ndarray]
    """Pixels of the two aligned faces, [height, width, 1 or 3] uint8 each."""
    names: tuple[str, str]
    """Paths of the two photos."""
    norms: tuple[float, float]
    """Lengths of the two features, which indicate the quality of the photos."""
    similarity: float
    """Cosine of the two features."""
    decision: str | None
    """"same", "different" or "not sure"; None if the network has no calibrated thresholds."""

    @property
    def lines(self) -> list[str]:
        """The lines of text below the two faces: decision, similarity, norms and file names."""
        said = f"{self.decision}, " if self.decision else ""
        faces = zip(self.names, self.norms, strict=True)
        # The end of a path tells more than its start, which is often the same.
        names = [f"{norm:.1f}: {name.rpartition('/')[2]}" for name, norm in faces]
        return [f"{said}{self.similarity:.3f}; norms:", *names]


def write_verification(
    folder: Path,
    pairs: Sequence[ShownPair],
    record: Mapping[str, Any],
    *,
    summary: str,
    command: str,
) -> None:
    """Writes a page, a picture of some pairs, and a JSON record of all pairs.

    Args:
      folder: folder that receives `verification.html`, `verification.png` and `verification.json`.
      pairs: the pairs that page and picture show, the most similar first; at least one.
      record: the content of the JSON file. The page uses these entries: "pairs" (one dict per pair,
        the most similar pair first), "compared" (number of compared pairs), "prior" (assumed
        probability that a pair shows one person), "far" (a dict of thresholds and their measured
        rates, or None), "left out" (photos with a "name" and "reason"), "run" (the network) and
        "steps" (sentences that describe the computation).
      summary: sentence that states the thresholds, or why there are none.
      command: the command that compared the photos; "" if Python code did.
    """
    data = io.BytesIO()
    captions = ["\n".join(pair.lines) for pair in pairs]
    pair_sheet([pair.images for pair in pairs], captions, columns=COLUMNS).save(data, "PNG")
    owned.write_bytes(folder / PICTURE, data.getvalue())
    owned.write_text(folder / RECORD, json.dumps(record, indent=2, allow_nan=False) + "\n")
    title = "Aligned faces, the most similar pairs first"
    cards = [FacePair(pair.images, pair.lines) for pair in pairs]
    left_out = [(photo["name"], photo["reason"]) for photo in record["left out"]]
    sections = [
        Section("Faces", pairs={title: cards}),
        Section("Pairs", [_pairs_table(record)]),
        Section("Thresholds", [_threshold_table(record["far"])] if record["far"] else []),
        Section(
            "Photos that were left out",
            [Table("Photos that were left out", ("photo", "reason"), left_out)],
        ),
        Section("Network", folded={"Network": "\n".join([record["run"], *record["steps"]])}),
    ]
    links = [Link(name, folder / name) for name in (RECORD, PICTURE)]
    write_page(folder / PAGE, Page("hyperface: verification", summary, sections, command, links))


def _pairs_table(record: Mapping[str, Any]) -> Table:
    rows = [
        (
            pair["first"],
            pair["second"],
            f"{pair['similarity']:.4f}",
            *map("{:.2f}".format, pair["norms"]),
            *(() if pair["decision"] is None else (pair["decision"], f"{pair['probability']:.4f}")),
        )
        for pair in record["pairs"][:ROWS]
    ]
    # Without a calibration, pairs have no decision and no probability.
    decided = ("decision", "probability") if len(rows[0]) > 5 else ()
    header = ("first", "second", "similarity", "norm 1", "norm 2", *decided)
    note = "The norm is the length of the feature, which indicates the quality of the photo."
    if decided:
        note += f" The probability of one person is at a prior of {record['prior']:g}."
    if record["compared"] > len(rows):
        note += f" Of {record['compared']:,} pairs the {len(rows):,} most similar ones are shown."
    return Table("Pairs", header, rows, note, sortable=True)


def _threshold_table(point: Mapping[str, Any]) -> Table:
    measured = {
        "FAR on other people": point["measured_far"],
        "TAR on other people": point["measured_tar"],
        "one person called different": point["measured_frr"],
    }
    rows = [
        ("false accept rate asked for", f"{100 * point['far']:g} %"),
        ("same from a similarity of", f"{point['threshold']:.4f}"),
        ("different up to", f"{point['reject_threshold']:.4f}"),
        *((name, percent(rate)) for name, rate in measured.items() if rate is not None),
    ]
    return Table("Thresholds", ("threshold or rate", "value"), rows)
