"""Describes an item of a paper, the result of measuring it, and the file that stores the result."""

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
"""The result of an item's measuring function: the outcome, and caption -> figure."""
RESULT = "result.json"
"""Name of the file with the result of an item."""
HOLDS = "holds"
"""The unit of a statement: its values are 1 (it holds) or 0 (it does not)."""
RUNS = "runs"
"""The `measure` of an item whose scores are read from trained runs."""
OTHER_WORK = "other work"
"""The reason why a row of a table has no measured value: it is a method of other authors."""


class Item(NamedTuple):
    """A proposition, equation, figure or table of a paper."""

    name: str
    """Name of the item on the command line, such as "figure-5"."""
    place: str
    """Place in the paper: "Figure 5", or "3.3" for a section."""
    title: str
    measure: str
    """The function that measures the item, as MODULE.FUNCTION of this package. It is "runs" for a
    table whose scores are read from trained runs."""
    needs: tuple[str, ...] = ()
    """Names of the prepared data sets that the measurement needs."""
    gives: tuple[str, ...] = ("table",)
    """The kinds of results that the measurement returns: "table", "figure" or both."""
    runs: tuple[str, ...] = ()
    """Names of the methods whose trained runs the measurement needs. A method is a named set of
    training options in `published.toml`."""
    uses: tuple[str, ...] = ()
    """Names of further data sets, which the measurement uses if they were prepared."""
    other_data: bool = False
    """Whether our measurement differs in kind from the paper's: on other data, or with small heads
    on fixed features instead of whole networks."""
    statements: Callable[[Scores], Statements] | None = None
    """Function for a table of trained runs. It gets the scores in one column, and returns for each
    sentence of the paper about the table the comparisons of scores that test the sentence. None if
    there is no such sentence."""


@dataclass(frozen=True)
class Entry:
    """The measured value of one cell of an item's table: a single number, or one per seed.

    An entry can also be a statement: a sentence such as "A verifies better than B", and whether it
    is true.
    """

    row: str
    """Name of the row; for a statement, its sentence."""
    values: tuple[float, ...]
    """The number, or one number per seed. For a statement, 1 where it holds and 0 where not."""
    column: str = ""
    """Name of the column; "" in a table of one column."""
    unit: str = ""
    """Unit of the values; "holds" marks a statement."""
    digits: int = 2
    """Number of decimals that are shown."""
    spread: float | None = None
    """The standard deviation of a single number, if its protocol reports one; else None."""
    parts: tuple[Difference, ...] = ()
    """For a statement that compares scores: one difference of scores per comparison in it, each of
    which must be above zero. Empty for other entries."""
    judged: bool = True
    """Whether this entry decides if the statement is true. If False, it is only shown."""
    note: str = ""
    """A remark, shown in brackets after the value. For a statement that compares scores, the unit
    of `parts`."""

    @classmethod
    def of(
        cls,
        row: str,
        value: SupportsFloat | Sequence[SupportsFloat],
        unit: str = "",
        digits: int = 2,
        column: str = "",
    ) -> "Entry":
        """Returns an entry with one number, or with one number per seed.

        Args:
          row: name of the row.
          value: the number, or the sequence of one number per seed.
          unit: unit of the numbers.
          digits: number of decimals that are shown.
          column: name of the column; "" in a table of one column.
        """
        values = value if isinstance(value, Sequence) else [value]
        return cls(row, tuple(float(v) for v in values), column, unit, digits)

    @classmethod
    def claim(cls, row: str, holds: SupportsFloat | Sequence[SupportsFloat]) -> "Entry":
        """Returns the entry of a statement that is true or false, without a difference of scores.

        Args:
          row: the statement as a sentence, which is the name of the row.
          holds: whether it holds, as a single bool, or as one bool per seed.
        """
        return cls.of(row, holds, HOLDS)


@dataclass
class Outcome:
    """The result of measuring an item."""

    entries: list[Entry]
    """The cells of the item's table that have a value."""
    scale: str
    """A description of the measurement's sizes and settings for the report, such as the numbers of
    images and steps."""
    pictures: dict[str, str] = field(default_factory=dict)
    """Caption -> name of a PNG file in the folder of the result."""
    missing: dict[str, str] = field(default_factory=dict)
    """Name of a row without a value -> the reason."""
    unjudged: dict[str, str] = field(default_factory=dict)
    """Sentence of the paper that gets no verdict here -> the reason."""
    notes: dict[str, str] = field(default_factory=dict)
    """Name of a row -> the runs from which its values at small scale (on smaller data) come, such
    as "faces-normface, 3 seeds"."""
    methods: dict[str, str] = field(default_factory=dict)
    """Method (a named set of training options) -> its options, its data and its number of steps, in
    words."""


@dataclass(frozen=True)
class Context:
    """The folders and settings of a command, which every measurement gets."""

    out: Path
    """Folder for results, reports, MNIST runs and stored features."""
    data_dir: Path
    """Folder of prepared data sets."""
    quick: bool = False
    """Whether training uses few steps and images, to test that everything works. The scores are
    then not valid."""
    steps: int | None = None
    """Number of steps of every training; None for those of the experiments, or of `quick`."""
    seeds: int = 1
    """Number of training runs per experiment, with the seeds 0, 1, ..."""
    runs: Path = Path("runs")
    """Folder of the trained runs of faces."""
    jobs: int = 1
    """Number of runs that are trained at the same time."""


PACKAGE = Path(hyperface.__file__).parent
CODE = ("**/*.py", "reproduce/published.toml")
"""Patterns of the source files on which all results depend."""
OF_FEATURES = (
    *("models/*.py", "weights/*.py", "data/*.py"),
    *("evaluate/embed.py", "runs/embedding.py", "normalize.py"),
)
"""Patterns of the source files on which the features of a trained run depend."""


@cache  # The code of a process does not change.
def code_digest(patterns: tuple[str, ...] = CODE, folder: Path = PACKAGE) -> str:
    """Returns a digest of the names and contents of source files, which changes with the code.

    Args:
      patterns: patterns of the files, relative to the folder, such as "models/*.py". By default
        they are all Python files of the package, and `published.toml`.
      folder: the folder that is searched; by default that of the package.
    """
    paths = sorted({path for pattern in patterns for path in folder.glob(pattern)})
    lines = [f"{path.relative_to(folder).as_posix()} {digest(path)}\n" for path in paths]
    return text_digest("".join(lines))


def write_result(
    folder: Path, key: dict[str, Any], outcome: Outcome, figures: dict[str, "Figure"]
) -> Outcome:
    """Writes the pictures and `result.json` of an item into its folder.

    Args:
      folder: folder of the item.
      key: the settings, code and data on which the result depends, as `commands.result_key` returns
        them. `read_result` compares them.
      outcome: the result of the measurement.
      figures: caption -> figure. They are written as `figure-1.png`, `figure-2.png`, ...

    Returns:
      The outcome, whose `pictures` now contain the names of these files.
    """
    from hyperface.report.canvas import write_picture

    # The result is removed first and written last: a kill in between leaves none, which is measured
    # again, and never an old result beside new pictures.
    owned.remove(folder / RESULT)
    for number, (caption, figure) in enumerate(figures.items(), 1):
        outcome.pictures[caption] = f"figure-{number}.png"
        write_picture(folder / outcome.pictures[caption], figure)
    record = {"key": key, **to_record(outcome)}
    owned.write_text(folder / RESULT, json.dumps(record, indent=2) + "\n")
    return outcome


def read_result(folder: Path, key: dict[str, Any] | None = None) -> Outcome | None:
    """Reads the result of an item; returns None if there is none, or if it has another key.

    Args:
      folder: folder of the item.
      key: the settings, code and data on which the result depends, as `commands.result_key` returns
        them. A stored result with another key is out of date. None accepts a result with any key.
    """
    path = folder / RESULT
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    if key is not None and record["key"] != key:
        return None
    return from_record(record)


def to_record(outcome: Outcome) -> dict[str, Any]:
    """Converts an outcome to dictionaries and lists for JSON; default values are left out."""
    # The entries are added even if there are none, because `from_record` requires them.
    return _set_fields(outcome) | {"entries": [_entry_record(one) for one in outcome.entries]}


def from_record(record: Mapping[str, Any]) -> Outcome:
    """Converts a dictionary that `to_record` returned back to an outcome; ignores unknown keys."""
    known = {f.name for f in dataclasses.fields(Outcome)}
    fields: dict[str, Any] = {name: value for name, value in record.items() if name in known}
    fields["entries"] = [_entry(entry) for entry in record["entries"]]
    return Outcome(**fields)


def _set_fields(thing: Entry | Outcome) -> dict[str, Any]:
    """Returns the fields of a dataclass whose values are neither empty nor the default."""
    fields = {f.name: f.default for f in dataclasses.fields(thing)}
    values = {name: getattr(thing, name) for name in fields}
    return {n: v for n, v in values.items() if v != fields[n] and v not in ({}, ())}


def _entry_record(entry: Entry) -> dict[str, Any]:
    """Converts an entry to a dictionary for JSON."""
    # JSON has no NaN. A sign test has no interval: its ends are NaN, and are stored as null.
    parts = [
        {name: v if math.isfinite(v) else None for name, v in part._asdict().items()}
        for part in entry.parts
    ]
    return _set_fields(entry) | ({"parts": parts} if parts else {})


def _entry(record: Mapping[str, Any]) -> Entry:
    """Converts the record of `_entry_record` back to an entry."""
    # JSON has lists where an entry has tuples.
    fields = dict(record)
    fields["values"] = tuple(record["values"])
    fields["parts"] = tuple(_difference(part) for part in record.get("parts", ()))
    return Entry(**fields)


def _difference(record: Mapping[str, Any]) -> Difference:
    """Converts the record of a comparison's part back; null becomes NaN again."""
    fields: dict[str, Any] = {name: math.nan if v is None else v for name, v in record.items()}
    return Difference(**fields)
