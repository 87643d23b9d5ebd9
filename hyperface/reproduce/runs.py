"""Reads the tables of faces from the scores of trained runs.

A row of a table is a loss. It has the scores of a run at the paper's scale, if there is one. It has
also the scores of runs with the same loss at small scale (on smaller data), one per seed.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hyperface.metrics.bootstrap import Difference
from hyperface.protocols.features import people_of
from hyperface.report.evaluation import pairs_file
from hyperface.report.run import snapshot_means
from hyperface.reproduce import comparisons, statements
from hyperface.reproduce.commands import (
    OWN_TEST,
    SCORED,
    TRAINED,
    SmallScale,
    diverged,
    evaluation,
    evaluation_of,
    folder,
    is_of_one_start,
    seeds,
)
from hyperface.reproduce.comparisons import Decisions
from hyperface.reproduce.item import HOLDS, OTHER_WORK, Context, Entry, Item, Outcome
from hyperface.reproduce.papers import published
from hyperface.reproduce.statements import Part, Scores
from hyperface.train.logs import read_metrics, run_digest

ACCURACY = "accuracy"
"""Name of the verification accuracy in the results of a protocol."""


class Score(NamedTuple):
    """A score of one run, in percent."""

    value: float
    spread: float | None = None
    """Standard deviation or standard error of the score in percent; None if the protocol reports
    neither."""
    over: str = ""
    """The name of the things over which the spread is computed, such as "folds"; "" without a
    spread."""


Cell = tuple[str, str]
"""Row and column of a table."""


def read(item: Item, printed: Mapping[str, Any], context: Context) -> Outcome:
    """Reads the scores of a table from the folder of runs, and tests the table's statements.

    A statement is a sentence of the paper about the table, such as that one loss beats another. It
    is tested on the runs at small scale (on smaller data), which have several seeds. Nothing is
    trained here.

    Args:
      item: the table. The function in its field `statements` returns for each statement the
        comparisons of scores that test it.
      printed: the table as in `published.toml`.
      context: contains the folder of runs.

    Returns:
      An `Outcome`, with the scores, the tested statements, and the reason for each row without a
      score.
    """
    runs = context.runs
    full, small = full_scores(printed, runs), small_scores(printed, runs)
    # A row with neither a run nor a method at small scale is a method of other authors.
    missing = {
        row["row"]: OTHER_WORK
        for row in printed["rows"]
        if not {"run", "small"} & row.keys() and row.get("unit") != HOLDS
    }
    for row, column, protocol, _ in _full_cells(printed):
        if (row["row"], column) not in full:
            missing[row["row"]] = f"no {protocol} in {folder(runs, row['run'])}"
    methods = {row["row"]: row["small"] for row in printed["rows"] if "small" in row}
    entries = [
        Entry(row, (score.value,), column, "%", 2, score.spread)
        for (row, column), score in full.items()
    ]
    entries += [
        _entry(cell, by_seed, len(seeds(runs, methods[cell[0]]))) for cell, by_seed in small.items()
    ]
    entries += _statements(item, printed, small, methods, runs)
    notes = {row: _seeds_of(runs, method) for row, method in methods.items()}
    about = {method: _about(runs, method) for method in dict.fromkeys(methods.values())}
    return Outcome(entries, "", missing=missing, notes=notes, methods=about)


def _full_cells(printed: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], str, str, str]]:
    """Yields (row, column, protocol, name of the score) for each cell at the paper's scale."""
    for row in printed["rows"]:
        if "run" in row:
            names = (row.get(key, printed[key]) for key in ("protocols", "figures"))
            for column, protocol, name in zip(printed.get("columns", [""]), *names, strict=True):
                # An empty name marks a column of the paper that no protocol here can score.
                if protocol:
                    yield row, column, protocol, name


def full_scores(printed: Mapping[str, Any], runs: Path) -> dict[Cell, Score]:
    """Reads the scores of a table's runs at the paper's scale, with its data and networks.

    Runs at small scale, on smaller data, are not read. Each row of the table names its run.

    Args:
      printed: the table as in `published.toml`.
      runs: folder that contains the runs.

    Returns:
      (row, column) -> score. Cells without a scored run are left out.
    """
    scores = {}
    for row, column, protocol, name in _full_cells(printed):
        score = read_score(folder(runs, row["run"]), evaluation(printed, row), protocol, name)
        scores |= {} if score is None else {(row["row"], column): score}
    return scores


def small_scores(printed: Mapping[str, Any], runs: Path) -> dict[Cell, dict[int, Score]]:
    """Reads the scores of a table's runs at small scale, on smaller data than the paper's.

    Args:
      printed: the table as in `published.toml`.
      runs: folder that contains the runs.

    Returns:
      (row, column) -> seed -> score. Cells and seeds without a scored run are left out.
    """
    small, scores = SmallScale.of(printed), {}
    for row in printed["rows"]:
        if "small" not in row:
            continue
        names = row.get("figures", small.figures)
        for column, protocol, name in zip(small.columns, small.protocols, names, strict=True):
            for seed in seeds(runs, row["small"]):
                run = folder(runs, row["small"], seed)
                score = read_score(run, *evaluation_of(protocol), name)
                if score is not None:
                    scores.setdefault((row["row"], column), {})[seed] = score
    return scores


def read_score(run: Path, where: str, protocol: str, name: str) -> Score | None:
    """Reads a score of a run, with its standard deviation or standard error if it has one.

    Args:
      run: folder of the run.
      where: name of the folder with evaluation.json, inside the run's folder, such as
        "evaluation".
      protocol: name of the protocol, such as "lfw". "test" reads the score on the run's own test
        people from results.json.
      name: name of the score, such as "accuracy".

    Returns:
      The score in percent; None if there is none, or if the run was trained again since it was
      evaluated.
    """
    if protocol == OWN_TEST:
        return _own_score(run, name)
    path = run / where / SCORED
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    scored = record["protocols"].get(protocol, {"figures": {}})
    # Scores of an earlier run in the same folder are not those of the run that is there now.
    if name not in scored["figures"] or record["settings"]["run"] != run_digest(run):
        return None
    spread = scored["spreads"].get(name)
    # The description is a phrase such as "standard error over folds".
    over = scored.get("spread", "").rpartition(" over ")[2]
    # Evaluations store shares from 0 to 1, and tables have percent.
    return Score(100 * scored["figures"][name], None if spread is None else 100 * spread, over)


def _own_score(run: Path, name: str) -> Score | None:
    """Reads a score from the run's own results, averaged over its snapshots.

    NormFace reports such means over snapshots (section 5.1).
    """
    path = run / TRAINED
    return (
        Score(100 * snapshot_means(json.loads(path.read_text()))[name]) if path.exists() else None
    )


def _statements(
    item: Item,
    printed: Mapping[str, Any],
    small: Mapping[Cell, Mapping[int, Score]],
    methods: Mapping[str, str],
    runs: Path,
) -> list[Entry]:
    """Returns the entries of the table's statements, tested on the scores at small scale.

    A run that diverged counts as lower than all others. The score of a `shared` run counts for
    every seed.

    Args:
      item: gives the tests of the statements.
      printed: the table as in `published.toml`.
      small: (row, column) -> seed -> score.
      methods: row -> method.
      runs: folder of runs.
    """
    if item.statements is None or not small:
        return []
    known, columns = published()["methods"], SmallScale.of(printed).columns
    all_seeds = {seed for by_seed in small.values() for seed in by_seed}
    failures = {row: _failures(runs, method) for row, method in methods.items()}
    tested: dict[Cell, list[Part]] = {}
    for column in columns:
        rows = {}
        for row, method in methods.items():
            lost = dict.fromkeys(diverged(runs, method), statements.LOWEST)
            scores = {seed: score.value for seed, score in small.get((row, column), {}).items()}
            # A shared method has only seed 0: its score is compared with every seed of the others.
            if known[method].get("shared") and scores:
                scores = dict.fromkeys(all_seeds, next(iter(scores.values())))
            rows[row] = lost | scores
        # Whether a network failed does not depend on the protocol: it is tested in one column.
        of_column = item.statements(Scores(rows, failures if column == columns[0] else {}))
        tested |= {(sentence, column): parts for sentence, parts in of_column.items()}
    # One method with a single start makes all differences to it dependent.
    starts = 1 if any(map(is_of_one_start, methods.values())) else None
    small_scale = SmallScale.of(printed)
    # Decisions about pairs tell an accuracy, and no other score.
    lists = {
        column: protocol
        for column, protocol, name in zip(columns, *small_scale[1:], strict=True)
        if name == ACCURACY
    }
    entries = []
    for row in printed["rows"]:
        primary = row.get("primary", columns[:1])
        if row.get("unit") != HOLDS or not primary:
            continue
        # A statement that is judged by several columns must be true in each of them.
        if len(primary) > 1:
            parts = [part.margins for column in primary for part in tested[row["row"], column]]
            entries += comparisons.entry(row["row"], parts, starts=starts)
        for column in columns:
            parts = tested[row["row"], column]
            entries += comparisons.entry(
                row["row"],
                [part.margins for part in parts],
                column,
                starts=starts,
                judged=primary == [column],
                over_people=[
                    _over_people(part, methods, lists.get(column), runs, starts) for part in parts
                ],
            )
    return entries


def _over_people(
    part: Part, methods: Mapping[str, str], protocol: str | None, runs: Path, starts: int | None
) -> Difference | None:
    """Returns the difference of a part by a bootstrap that also resamples people.

    Args:
      part: the part of a statement.
      methods: row -> method.
      protocol: the protocol that decided the pairs; None if its score is no accuracy.
      runs: folder of runs.
      starts: number of independently trained networks; None for that of the seeds.

    Returns:
      The difference; None if the part compares anything but two rows, or if the decisions about
      single pairs of a run were not stored.
    """
    # A statement with limits ("0.2 to 0.4 points") is tested over seeds: the bootstrap tests zero.
    if protocol is None or part.rows is None or part.least or math.isfinite(part.most):
        return None
    if not all(row in methods for row in part.rows):
        return None
    better, than = (
        [_decisions(folder(runs, methods[row], seed), protocol) for seed in part.margins]
        for row in part.rows
    )
    if not better or None in better or None in than:
        return None
    return comparisons.difference(
        [found for found in better if found], [found for found in than if found], starts=starts
    )


def _decisions(run: Path, protocol: str) -> Decisions | None:
    """Reads which pairs of images a run decides correctly by a protocol.

    The result is None if the scores of the run as it is now have no such file.
    """
    where, name = evaluation_of(protocol)
    path = pairs_file(run / where, name)
    if read_score(run, where, name, ACCURACY) is None or not path.exists():
        return None
    with np.load(path) as pairs:
        people = [people_of(pairs[side].tolist(), protocol) for side in ("first", "second")]
        return Decisions(pairs["right"], *people)


def _failures(runs: Path, method: str) -> dict[int, float]:
    """Returns seed -> `statements.failure_margin`, which is infinity for a run that diverged."""
    margins = dict.fromkeys(diverged(runs, method), -statements.LOWEST)
    for seed in seeds(runs, method):
        run = folder(runs, method, seed)
        norms = [line["feature_norm"] for line in read_metrics(run / "metrics.jsonl")]
        score = _own_score(run, ACCURACY)
        if norms and score is not None:
            margins[seed] = statements.failure_margin(score.value, norms)
    return margins


def _entry(cell: Cell, by_seed: Mapping[int, Score], trained: int) -> Entry:
    """Returns the entry of a cell at small scale, with a note if a trained seed has no score."""
    scores = list(by_seed.values())
    notes = [f"{len(scores)} of {trained} seeds"] if len(scores) < trained else []
    if len(scores) == 1 and scores[0].spread is not None:
        notes.append(f"± {scores[0].spread:.2f} over {scores[0].over}")
    values = tuple(score.value for score in scores)
    return Entry(cell[0], values, cell[1], "%", 2, note=", ".join(notes))


def _seeds_of(runs: Path, method: str) -> str:
    """Describes a method and its seeds in words, such as "faces-normface, 3 seeds"."""
    count = len(seeds(runs, method))
    parts = [method] + ([f"{count} {'seed' if count == 1 else 'seeds'}"] if count else [])
    return ", ".join([*parts, *(f"seed {seed} diverged" for seed in diverged(runs, method))])


def _about(runs: Path, method: str) -> str:
    """Describes the options, the data and the number of steps of a method's runs in words."""
    train, trained = published()["methods"][method]["train"], seeds(runs, method)
    if not trained:
        return train
    # All seeds have the same data, but a folder may mix runs of different lengths.
    configs = [json.loads((folder(runs, method, n) / "config.json").read_text()) for n in trained]
    data = configs[0]["data"]
    steps = " and ".join(sorted({f"{config['experiment']['steps']:,}" for config in configs}))
    return f"{train}: {data['examples']:,} images of {data['classes']:,} people, {steps} steps"
