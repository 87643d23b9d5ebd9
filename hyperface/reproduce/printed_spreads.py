"""Checks a claim of Ring loss on its own printed tables.

The claim is that scores vary less over lambda, the weight of Ring loss, than over alpha, the norm
of l2-constrained softmax. A spread is the standard deviation over the printed values.
"""

import numpy as np

from hyperface.reproduce.item import Entry
from hyperface.reproduce.papers import published

TABLES = {
    "LFW": "table-1",
    "MegaFace": "table-2",
    "CFP": "table-2",
    "IJB-A": "table-3",
    "Janus CS3": "table-4",
}
"""Data set -> the table of Ring loss that reports it."""
VARIED = {
    "lambda, softmax": [f"SM + R ({w})" for w in ("0.01", "0.001", "0.0001")],
    "lambda, SphereFace": [f"SF + R ({w})" for w in ("0.03", "0.01", "0.001", "0.0001")],
    "alpha": [f"l2-Cons SM ({a})" for a in (30, 20, 10)],
}
"""Hyper-parameter -> the rows of the tables in which it varies."""


def entries() -> list[Entry]:
    """Tests a sentence of the Ring loss paper on the scores that the paper itself prints.

    The sentence is that scores vary less over lambda, the weight of Ring loss, than over alpha, the
    feature norm of l2-constrained softmax. The variation is the standard deviation over the values.

    Returns:
      One entry per data set, whose value is 1 if the sentence is true and else 0. They are followed
      by one entry per standard deviation that was compared, in percentage points.
    """
    claims, spreads = [], []
    for name, table in TABLES.items():
        printed = published()["ringloss"][table]
        columns = printed.get("columns", [""])
        rows = {row["row"]: row["values"] for row in printed["rows"]}
        holds = []
        for place, column in enumerate(columns):
            # Table 2 has two data sets side by side; a column's title begins with its data set.
            if table == "table-2" and name not in column:
                continue
            found = {
                over: np.std([float(rows[row][place]) for row in some], ddof=1)
                for over, some in VARIED.items()
            }
            # Both softmax and SphereFace, with which Ring loss was combined, must vary less.
            holds.append(
                max(found["lambda, softmax"], found["lambda, SphereFace"]) < found["alpha"]
            )
            row = f"published, {column if name in column else f'{name} {column}'.strip()}"
            spreads += [
                Entry.of(row, value, "points", 3, f"deviation over {over}")
                for over, value in found.items()
            ]
        row = f"published, {name}: varies less over lambda than over alpha"
        claims.append(Entry.claim(row, all(holds)))
    return [*claims, *spreads]
