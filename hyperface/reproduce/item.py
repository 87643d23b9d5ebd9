"""One item of a paper: where it stands, what it needs, and what was measured of it."""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat, TypeAlias

import hyperface
from hyperface import owned
from hyperface.files import digest

if TYPE_CHECKING:  # Items are listed before NumPy and matplotlib are loaded.
    import numpy as np
    from matplotlib.figure import Figure
    from rich.console import Console

Measured: TypeAlias = "tuple[Outcome, dict[str, Figure]]"
"""What the measurement of an item returns: the outcome, and its figures by caption."""
RESULT = "result.json"
HOLDS = "holds"
"""The unit of a statement, which holds (1) or does not (0)."""


RUNS = "runs"
OTHER_WORK = "other work"
"""Why a row of a table is never run."""


class Item(NamedTuple):
    """A proposition, equation, figure or table of a paper."""

    name: str
    place: str
    """In the paper: "Figure 5", "3.3"."""
    title: str
    measure: str
    """Module of this package and function, "propositions.bound"; RUNS where figures of trained runs
    are read."""
    needs: tuple[str, ...] = ()
    """Prepared data sets."""
    gives: tuple[str, ...] = ("table",)
    """What it returns: "table", "figure"."""
    runs: tuple[str, ...] = ()
    """Methods whose trained runs it starts from."""
    uses: tuple[str, ...] = ()
    """Further ones, which it does without where they are not there."""
    other_data: bool = False
    """Whether the paper has it on other data, or of whole nets."""


@dataclass(frozen=True)
class Entry:
    """A measured figure: one number, or one a seed."""

    row: str
    values: tuple[float, ...]
    column: str = ""
    unit: str = ""
    digits: int = 2
    spread: float | None = None
    """Of a single number that has one of its own."""
    compares: bool = False
    """Whether it is a statement that compares figures, and needs more than one seed."""
    by: tuple[float, ...] = ()
    """How far it holds, in points, one a seed in which neither side diverged."""
    note: str = ""
    """What is said beside it."""

    @classmethod
    def of(
        cls,
        row: str,
        value: SupportsFloat | Sequence[SupportsFloat],
        unit: str = "",
        digits: int = 2,
        column: str = "",
    ) -> "Entry":
        """An entry of one number, or of a sequence with one a seed."""
        values = value if isinstance(value, Sequence) else [value]
        return cls(row, tuple(float(v) for v in values), column, unit, digits)

    @classmethod
    def claim(
        cls,
        row: str,
        holds: SupportsFloat | Sequence[SupportsFloat],
        *,
        compares: bool = False,
    ) -> "Entry":
        """A statement of the paper, and whether what was measured bears it out, one a seed."""
        return replace(cls.of(row, holds, HOLDS), compares=compares)

    @classmethod
    def above(cls, row: str, by: "Sequence[float] | np.ndarray", column: str = "") -> "Entry":
        """A statement that a figure is above another, by so many points, one a seed.

        Infinite is a side that diverged: it is below.
        """
        held = tuple(float(difference > 0) for difference in by)
        finite = tuple(float(difference) for difference in by if math.isfinite(difference))
        return cls(row, held, column, HOLDS, compares=True, by=finite)


@dataclass
class Outcome:
    """What measuring an item gives."""

    entries: list[Entry]
    scale: str
    """At which size and with which settings it ran."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Caption -> PNG file beside the result."""
    missing: dict[str, str] = field(default_factory=dict)
    """Row -> why it has no figure."""
    unjudged: dict[str, str] = field(default_factory=dict)
    """Row of a statement -> why what was measured beside it cannot tell."""
    notes: dict[str, str] = field(default_factory=dict)
    """Row -> the method and seeds behind its figures at small scale."""
    methods: dict[str, str] = field(default_factory=dict)
    """Method -> its options and size."""


@dataclass(frozen=True)
class Context:
    """Where and how items are measured."""

    out: Path
    data_dir: Path
    console: "Console"
    quick: bool = False
    steps: int | None = None
    seeds: int = 1
    runs: Path = Path("runs")
    jobs: int = 1
    """Runs that are trained at once."""


CODE = {
    Path(hyperface.__file__).parent: ("**/*.py", "reproduce/published.toml"),
}
"""What results depend on: folders, and patterns of files below."""


OF_FEATURES = {
    Path(hyperface.__file__).parent: (
        *("models/*.py", "weights/*.py", "data/*.py"),
        *("evaluate/embed.py", "runs/embedding.py", "normalize.py"),
    ),
}
"""What features of a trained run depend on, as `CODE` has it."""


@cache
def code_digest() -> str:
    """Of all code that results depend on, which is read once a process."""
    return digest_of(CODE)


@cache
def features_digest() -> str:
    """Of the code that features depend on."""
    return digest_of(OF_FEATURES)


def digest_of(code: Mapping[Path, Sequence[str]]) -> str:
    """Twelve hexadecimal digits of SHA-256 over names and contents of files."""
    total = hashlib.sha256()
    for folder, patterns in code.items():
        for path in sorted({path for pattern in patterns for path in folder.glob(pattern)}):
            total.update(f"{path.relative_to(folder).as_posix()} {digest(path)}\n".encode())
    return total.hexdigest()[:12]


def write_result(
    folder: Path, key: dict[str, Any], outcome: Outcome, figures: dict[str, "Figure"]
) -> Outcome:
    """Writes the pictures, then `result.json`, and returns the outcome as it is read back.

    Args:
      folder: of the item.
      key: settings that the result depends on.
      outcome: what was measured.
      figures: by caption; they become `figure-1.png` and so on.
    """
    from hyperface.report.figures import write_picture

    owned.remove(folder / RESULT)  # It is of the pictures that were there.
    for number, (caption, figure) in enumerate(figures.items(), 1):
        outcome.pictures[caption] = f"figure-{number}.png"
        write_picture(folder / outcome.pictures[caption], figure, dpi=110)
    record = {"key": key, **to_record(outcome)}
    owned.write_text(folder / RESULT, json.dumps(record, indent=2) + "\n")
    return outcome


def read_result(folder: Path, key: dict[str, Any] | None = None) -> Outcome | None:
    """The kept result; None where there is none, or it was made with other settings."""
    path = folder / RESULT
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if key is not None and record["key"] != key:
        return None
    return from_record(record)


def to_record(outcome: Outcome) -> dict[str, Any]:
    """An outcome as JSON has it."""
    return dataclasses.asdict(outcome)


def from_record(record: Mapping[str, Any]) -> Outcome:
    """The outcome in a record, which may hold more."""
    fields = {f.name: record[f.name] for f in dataclasses.fields(Outcome) if f.name in record}
    fields["entries"] = [_entry(entry) for entry in record["entries"]]
    return Outcome(**fields)


def _entry(record: Mapping[str, Any]) -> Entry:
    # JSON turns tuples into lists.
    fields: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in record.items()}
    return Entry(**fields)
