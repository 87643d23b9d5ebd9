"""Measures what a paper states, and writes a report with the published values beside the measured.

    hyperface reproduce normface                    all items, in the paper's order
    hyperface reproduce ringloss --quick            all items, with trainings of a few steps
    hyperface reproduce normface --only figure-5    the named items
    hyperface reproduce normface --list             a list of the items

An item is a proposition, equation, figure or table of the paper. The result of each item is written
to OUT/PAPER/ITEM/result.json, and OUT/PAPER/report.html shows all results. An item that was
measured with the same settings is not measured again, so after a kill the same command continues.

The tables of faces are read from runs of `hyperface train` and `hyperface evaluate` (--runs). Runs
of the same losses at small scale are trained first if their data sets are there. For the runs at
the paper's scale, the report lists the commands.
"""

import dataclasses
import logging
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from hyperface import owned
from hyperface.errors import InputError, expect
from hyperface.reproduce import papers
from hyperface.reproduce.item import OTHER_WORK, RESULT, RUNS, Context, Item, Outcome
from hyperface.runs import program

log = logging.getLogger("hyperface")

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.reproduce.page import Shown


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """The options of `hyperface reproduce`."""

    paper: tyro.conf.Positional[str]
    """The paper: normface or ringloss."""
    only: tuple[str, ...] = ()
    """Names of the items (figures, tables, propositions, ...) to measure, such as figure-5; all by
    default. The report shows the latest results of the other items."""
    list: bool = False
    """List the items and stop."""
    out: Path | None = None
    """Folder for results, runs and reports. It is `reproduction` by default, and
    `reproduction-quick` with --quick or --steps."""
    quick: bool = False
    """Train for few steps on few images. This tests that everything works; scores are not valid."""
    steps: int | None = None
    """Number of steps of every training run, instead of that of the experiment or of --quick."""
    seeds: int = 1
    """Number of training runs per experiment. The report has their mean and standard deviation."""
    runs: Path | None = None
    """Folder of trained runs with evaluation/evaluation.json, for the tables of faces. It is `runs`
    by default. With --quick or --steps it is a folder inside that of --out, one per number of
    steps, because such runs have no valid scores."""
    train: bool = True
    """First train and score the missing runs of the tables, on smaller data sets than the paper's.
    Each is trained with --seeds seeds: all runs of seed 0 come first, then all of seed 1. Existing
    runs are kept; --no-train trains none."""
    jobs: int = 1
    """Number of runs that are trained at the same time. The cores are divided among them."""
    fresh: bool = False
    """Measure items again although they have a result. Trained runs are kept."""
    page: Path | None = None
    """Markdown file in which the tables of the paper are replaced by the new ones. Their values are
    written to hyperface/reproduce/measured.json."""
    data_dir: Path | None = None
    """Folder of prepared data sets. By default it is HYPERFACE_DATA_DIR or, if that is not set, a
    folder in the user's cache."""


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads JAX, measures the items and writes the report."""
    options = program.with_home(
        tyro.cli(Reproduce, args=args, prog="hyperface reproduce", description=__doc__)
    )
    chosen = papers.items(options.paper, options.only)
    if options.list:
        for item in chosen:
            needs = f" (needs {', '.join(item.needs)})" if item.needs else ""
            gives = " and ".join(item.gives)
            print(f"{item.name:24}{item.place}: {item.title}; {gives}{needs}")
        return
    expect(options.seeds >= 1, "--seeds", "at least 1", options.seeds)
    expect(options.jobs >= 1, "--jobs", "at least 1", options.jobs)
    expect(options.steps is None or options.steps >= 1, "--steps", "at least 1", options.steps)
    whole = options.steps is None and not options.quick
    expect(whole or not options.page, "--page", "neither --quick nor --steps", "one of them")
    run(options)


def run(options: Reproduce) -> None:
    """Measures the requested items, and writes the report of all items of the paper.

    An item is a proposition, equation, figure or table of the paper.

    Raises:
      InputError: in one of two cases. Before anything is measured: the options or the data of an
        existing run differ from those that `published.toml`, the table of all runs, names for it.
        After the report of all other items was written: an item or a training failed.
    """
    from hyperface.data.datasets import data_directory
    from hyperface.report.html import Page, write_page
    from hyperface.reproduce import commands, page, results_page

    program.quiet_libraries()
    steps = commands.few_steps(options.steps, options.quick)
    out = options.out or Path("reproduction-quick" if steps else "reproduction")
    runs = options.runs or (out / f"runs-{steps}-steps" if steps else Path("runs"))
    options = dataclasses.replace(options, runs=runs)
    context = Context(
        out=out,
        data_dir=data_directory(options.data_dir),
        quick=options.quick,
        steps=options.steps,
        seeds=options.seeds,
        runs=runs,
        jobs=options.jobs,
    )
    chosen = papers.items(options.paper, options.only)
    wanted = {item.name for item in chosen}
    printed = papers.published()[options.paper]
    tables = [printed[item.name] for item in papers.items(options.paper) if item.measure == RUNS]
    # Before hours of training: a table must not show the scores of runs with other options.
    if mismatched := commands.mismatched_runs(tables, context):
        raise InputError(
            "expected every trained run to have the options and the data that its table names, "
            "found other runs. Move these away, or pass another folder by --runs.\n"
            + "\n".join(mismatched)
        )
    report = context.out / options.paper / "report.html"
    # Also before the training: a foreign file of this name would stop the command at its end.
    owned.check_free(report)
    # Runs come first, since items early in the paper's order use runs that later items need too.
    failed = _trained(chosen, printed, context) if options.train else []
    shown = []
    for item in papers.items(options.paper):
        try:
            shown.append(_shown(item, options, context, measure=item.name in wanted))
        except InputError as error:
            # One item that fails must not cost the results of the others.
            failed.append(f"{item.name}: {error}")
            shown.append(page.Shown(item, None, out, _command(item, options), str(error)))
        if item.name in wanted:
            state = page.state(shown[-1].outcome)
            log.info(f"{item.name:24}{state}")
    verdicts = page.judge({one.item.name: one.outcome for one in shown})
    summary = page.summary(shown, printed, verdicts, shortened=steps is not None)
    with owned.writing(report.parent):
        sections = [page.section(one, printed.get(one.item.name, {}), verdicts) for one in shown]
        text, title = f"{summary}\n{page.READING}", papers.TITLES[options.paper]
        write_page(report, Page(title, text, sections, program.command_line()))
    if options.page:
        results_page.keep(options.paper, [one for one in shown if one.item.name in wanted])
        results_page.write(options.paper, options.page)
    log.info(f"{summary}\nReport: {report}")
    if failed:
        raise InputError(
            "expected every training and every item to succeed, found the failures below. Correct "
            "them and run the same command again; it keeps all finished results.\n"
            + "\n".join(dict.fromkeys(failed))
        )


def _trained(items: Sequence[Item], printed: Mapping[str, Any], context: Context) -> list[str]:
    """Trains and scores the missing runs at small scale: on smaller data sets than the paper's.

    Args:
      items: the items whose runs are trained.
      printed: the tables of the paper, as in `published.toml`.
      context: the folders and settings.

    Returns:
      One sentence per failure.
    """
    from hyperface.reproduce import commands, scheduler

    wanted = commands.item_commands(items, printed, context)
    if not wanted:
        return []
    # Both papers use some of the same runs, so two commands must not train them at once.
    with owned.writing(context.runs), owned.locked(context.runs, "being trained in"):
        return scheduler.run_all(wanted, context)


def _shown(item: Item, options: Reproduce, context: Context, *, measure: bool) -> "Shown":
    """Returns an item with its outcome, or with the reason why it has none.

    Args:
      item: the item.
      options: the options of the command.
      context: the folders and settings.
      measure: whether the item is measured if it has no result with these settings. If not, its
        latest result is read, whatever its settings were.
    """
    from hyperface.reproduce import commands, pictures, runs
    from hyperface.reproduce.item import read_result, write_result
    from hyperface.reproduce.page import Shown
    from hyperface.train.divergence import DivergenceError

    folder = context.out / options.paper / item.name
    command = _command(item, options)
    key = commands.result_key(context, item)
    absent = _absent(item, options.paper, context)
    if item.measure == RUNS:
        # Scores are read again each time: this is quick, and new runs may be there.
        printed = papers.published()[options.paper][item.name]
        drawn = pictures.draw(printed, context)
        with owned.writing(folder):
            outcome = write_result(folder, key, runs.read(item, printed, context), drawn)
        lines = commands.full_commands(printed, outcome.missing, context)
        at_scale = any("run" in row for row in printed["rows"])
        reason = (
            " ".join(filter(None, [_unread(outcome), *absent])) if lines or not at_scale else ""
        )
        command = "\n".join([command, *map(str, lines)])
        return Shown(item, outcome, folder, command, reason)
    kept = read_result(folder, key if measure else None)
    if not measure or (kept and not options.fresh):
        reason = "" if kept else "not asked for."
        return Shown(item, kept, folder, command, reason)
    if absent:
        return Shown(item, None, folder, command, " ".join(absent))
    log.info(f"{item.name}: {item.title}")
    owned.check_free(folder / RESULT)
    try:
        found, figures = papers.measurement(item)(context)
    except DivergenceError as error:
        return Shown(item, None, folder, command, f"training diverged: {error}")
    try:
        with owned.writing(folder):
            return Shown(item, write_result(folder, key, found, figures), folder, command)
    except InputError:
        for entry in found.entries:  # Values that took hours to measure are at least printed.
            values = ", ".join(f"{value:.{entry.digits}f}" for value in entry.values)
            log.info(f"  {entry.row} {entry.column}: {values} {entry.unit}")
        raise


def _command(item: Item, options: Reproduce) -> str:
    """Returns the command line that measures one item with the options that concern it."""
    parts = ["python", "-m", "hyperface", "reproduce", options.paper, "--only", item.name]
    parts += ["--out", str(options.out)] if options.out else []
    parts += ["--runs", str(options.runs)] if item.measure == RUNS else []
    if item.needs:
        parts += ["--quick"] if options.quick else []
        parts += ["--steps", str(options.steps)] if options.steps else []
        parts += ["--seeds", str(options.seeds)] if options.seeds > 1 else []
    parts += ["--runs", str(options.runs)] if item.runs and options.runs != Path("runs") else []
    return shlex.join(parts)


def _absent(item: Item, paper: str, context: Context) -> list[str]:
    """Returns one sentence per data set, network, protocol file and run that the item lacks."""
    from hyperface.reproduce import commands

    described, sentences = papers.published()["data"], []
    for name in commands.absent_data([*item.needs, *commands.small_data(item, paper)], context):
        about = described[name]
        how = f" To prepare it: {about['prepare']}." if about["prepare"] else ""
        kind = "Released network" if "file" in about else "Data set"
        where = context.data_dir / about.get("file", name)
        sentences.append(f"{kind} {name!r} is not at {where}: {about['what']}.{how}")
    # Files that `small_faces` writes; others come from the authors of a protocol.
    ours = {about.get("file") for about in papers.published()["small"].values()}
    for path in commands.absent_files(item, paper, context):
        how = " It is written with the data set faces." if Path(path).name in ours else ""
        sentences.append(f"Protocol file {path} does not exist.{how}")
    for name in item.runs:
        run = context.runs / name
        if not (run / commands.TRAINED).exists():
            how = ", then ".join(map(str, commands.training(name, context)))
            sentences.append(f"Run {name!r} is not at {run}. To train it: {how}.")
    return sentences


def _unread(outcome: Outcome) -> str:
    """Describes how many rows at the paper's scale have no scores; "" if all have some."""
    count = sum(reason != OTHER_WORK for reason in outcome.missing.values())
    return f"{count} {'row' if count == 1 else 'rows'} at the paper's scale." if count else ""
