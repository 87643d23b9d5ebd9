"""Describes one item of a paper: its place, its needs, and the result of its measurement."""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsFloat, TypeAlias

import hyperface
from hyperface import owned
from hyperface.files import digest, text_digest
from hyperface.metrics.bootstrap import Difference
from hyperface.reproduce.statements import Scores, Statements

if TYPE_CHECKING:  # Items are listed before NumPy and matplotlib are loaded.
    from matplotlib.figure import Figure

Measured: TypeAlias = "tuple[Outcome, dict[str, Figure]]"
"""What the measurement of an item returns: the outcome, and its figures by caption."""
RESULT = "result.json"
HOLDS = "holds"
"""The unit of a statement, which holds (1) or does not hold (0)."""
RUNS = "runs"
"""The `measure` of an item whose scores are read from trained runs."""
OTHER_WORK = "other work"
"""The reason why a row of a table is never run: other authors' method."""


class Item(NamedTuple):
    """A proposition, equation, figure or table of a paper."""

    name: str
    place: str
    """Place in the paper: "Figure 5", "3.3"."""
    title: str
    measure: str
    """Module of this package and function, such as "propositions.bound", or RUNS."""
    needs: tuple[str, ...] = ()
    """Names of the prepared data sets that the measurement needs."""
    gives: tuple[str, ...] = ("table",)
    """What the measurement returns: "table", "figure"."""
    runs: tuple[str, ...] = ()
    """Methods whose trained runs the measurement needs."""
    uses: tuple[str, ...] = ()
    """Names of further data sets, which are used if they are there."""
    other_data: bool = False
    """Whether the paper measures it on other data, or on whole networks instead of heads."""
    statements: Callable[[Scores], Statements] | None = None
    """Tests of the statements about a table whose scores are read from trained runs."""


@dataclass(frozen=True)
class Entry:
    """A measured value: a single number, or one number per seed."""

    row: str
    values: tuple[float, ...]
    column: str = ""
    unit: str = ""
    digits: int = 2
    spread: float | None = None
    """The standard deviation of a single number, if its protocol reports one."""
    parts: tuple[Difference, ...] = ()
    """Of a statement that compares scores: how far each of its parts is above zero."""
    judged: bool = True
    """False for a comparison that is shown, but is not the one that its statement is judged by."""
    note: str = ""
    """A remark, shown in brackets after the value; of a comparison, the unit of its parts."""

    @classmethod
    def of(
        cls,
        row: str,
        value: SupportsFloat | Sequence[SupportsFloat],
        unit: str = "",
        digits: int = 2,
        column: str = "",
    ) -> "Entry":
        """Returns an entry of one number, or of a sequence with one number per seed."""
        values = value if isinstance(value, Sequence) else [value]
        return cls(row, tuple(float(v) for v in values), column, unit, digits)

    @classmethod
    def claim(cls, row: str, holds: SupportsFloat | Sequence[SupportsFloat]) -> "Entry":
        """Returns an entry that states whether something holds, one value (1 or 0) per seed."""
        return cls.of(row, holds, HOLDS)


@dataclass
class Outcome:
    """The result of measuring an item."""

    entries: list[Entry]
    scale: str
    """Sizes and settings of the measurement, in words."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Caption -> name of a PNG file in the folder of the result."""
    missing: dict[str, str] = field(default_factory=dict)
    """Row -> reason why it has no value."""
    unjudged: dict[str, str] = field(default_factory=dict)
    """Row of a statement -> reason why the other measurements cannot decide it."""
    notes: dict[str, str] = field(default_factory=dict)
    """Row -> the method and seeds behind its values at small scale."""
    methods: dict[str, str] = field(default_factory=dict)
    """Method -> its options, its data and its number of steps."""


@dataclass(frozen=True)
class Context:
    """The folders and settings with which items are measured."""

    out: Path
    data_dir: Path
    quick: bool = False
    steps: int | None = None
    seeds: int = 1
    runs: Path = Path("runs")
    jobs: int = 1
    """Number of runs that are trained at the same time."""


PACKAGE = Path(hyperface.__file__).parent
CODE = ("**/*.py", "reproduce/published.toml")
"""Patterns of the source files that all results depend on."""
OF_FEATURES = (
    *("models/*.py", "weights/*.py", "data/*.py"),
    *("evaluate/embed.py", "runs/embedding.py", "normalize.py"),
)
"""Patterns of the source files that the features of a trained run depend on."""


@cache  # The code of a process does not change.
def code_digest(patterns: tuple[str, ...] = CODE, folder: Path = PACKAGE) -> str:
    """Returns the digest of the names and contents of source files."""
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    lines = [f"{path.relative_to(folder).as_posix()} {digest(path)}\n" for path in paths]
    return text_digest("".join(lines))


def write_result(
    folder: Path, key: dict[str, Any], outcome: Outcome, figures: dict[str, "Figure"]
) -> Outcome:
    """Writes the pictures and `result.json`; returns the outcome with the pictures' names.

    Args:
      folder: of the item.
      key: the settings, code and data that the result depends on.
      outcome: what was measured.
      figures: caption -> figure, written as `figure-1.png` and so on.
    """
    from hyperface.report.canvas import write_picture

    # A kill must not leave the old result beside new pictures.
    owned.remove(folder / RESULT)
    for number, (caption, figure) in enumerate(figures.items(), 1):
        outcome.pictures[caption] = f"figure-{number}.png"
        write_picture(folder / outcome.pictures[caption], figure)
    record = {"key": key, **to_record(outcome)}
    owned.write_text(folder / RESULT, json.dumps(record, indent=2) + "\n")
    return outcome


def read_result(folder: Path, key: dict[str, Any] | None = None) -> Outcome | None:
    """Reads a kept result; returns None if there is none or if its key differs."""
    path = folder / RESULT
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if key is not None and record["key"] != key:
        return None
    return from_record(record)


def to_record(outcome: Outcome) -> dict[str, Any]:
    """Converts an outcome to dictionaries and lists for JSON, without fields at their defaults."""
    return _set_fields(outcome) | {"entries": [_entry_record(one) for one in outcome.entries]}


def from_record(record: Mapping[str, Any]) -> Outcome:
    """Reads the outcome from a record, which may contain further keys."""
    known = {f.name for f in dataclasses.fields(Outcome)}
    fields: dict[str, Any] = {name: value for name, value in record.items() if name in known}
    fields["entries"] = [_entry(entry) for entry in record["entries"]]
    return Outcome(**fields)


def _set_fields(thing: Entry | Outcome) -> dict[str, Any]:
    """Returns the fields of a dataclass whose values are not empty or the default."""
    fields = {f.name: f.default for f in dataclasses.fields(thing)}
    values = {name: getattr(thing, name) for name in fields}
    return {n: v for n, v in values.items() if v != fields[n] and v not in ({}, ())}


def _entry_record(entry: Entry) -> dict[str, Any]:
    # JSON has no NaN, which stands for the interval of a comparison by signs.
    parts = [
        {name: v if math.isfinite(v) else None for name, v in part._asdict().items()}
        for part in entry.parts
    ]
    return _set_fields(entry) | ({"parts": parts} if parts else {})


def _entry(record: Mapping[str, Any]) -> Entry:
    fields = dict(record)
    fields["values"] = tuple(record["values"])
    fields["parts"] = tuple(_difference(part) for part in record.get("parts", ()))
    return Entry(**fields)


def _difference(record: Mapping[str, Any]) -> Difference:
    fields: dict[str, Any] = {name: math.nan if v is None else v for name, v in record.items()}
    return Difference(**fields)
