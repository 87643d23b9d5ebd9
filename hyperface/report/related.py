"""Builds the links of pages: from a run to its sweep and evaluations, and to files."""

from pathlib import Path

from hyperface import owned
from hyperface.report.html import Link, replace_links

REPORT, EVALUATION, SWEEP = "report.html", "evaluation.html", "sweep.html"
RUN_FILES = ("results.json", "evaluation.json", "metrics.jsonl", "config.json", "environment.json")
EVALUATION_FILES = ("evaluation.json", "calibration.json")


def run_links(folder: Path) -> list[Link]:
    """Returns the links of a run's page to its sweep, its evaluations, and its files.

    Only pages and files that exist are linked: the sweep's page in the folder above, evaluations in
    the run's folder and one level below, and the run's JSON files.

    Args:
      folder: folder of the run.
    """
    sweep = folder.parent / SWEEP
    # Only if the run is part of a sweep, whose page is in the folder above.
    pages = [Link("sweep", sweep)] if sweep.is_file() else []
    found = [folder / EVALUATION, *sorted(folder.glob(f"*/{EVALUATION}"))]
    for path in filter(Path.is_file, found):
        within = path.parent.relative_to(folder).as_posix()
        pages.append(Link("evaluation" if within == "." else within, path))
    return [*pages, *_files(folder, RUN_FILES)]


def evaluation_links(folder: Path, source: Path) -> list[Link]:
    """Returns the links of an evaluation's page: to the run's page, and to the JSON files.

    Only files that exist are linked.

    Args:
      folder: folder of the evaluation.
      source: the folder of the run, or the file of features, that was evaluated.
    """
    report = source / REPORT
    pages = [Link("run", report)] if report.is_file() else []
    return [*pages, *_files(folder, EVALUATION_FILES)]


def link_from_run(run: Path, folder: Path) -> None:
    """Updates the links of a run's page, so that it links to an evaluation in the run's folder.

    Nothing is changed if the evaluation is in another folder, if the run has no page, or if this
    program did not write the page.

    Args:
      run: folder of the run.
      folder: folder of the evaluation.
    """
    report, record = run / REPORT, owned.read(run)
    # Links are relative, and only hold if both folders are moved together.
    inside = folder.resolve().is_relative_to(run.resolve())
    if inside and record is not None and REPORT in record.files and report.is_file():
        replace_links(report, run_links(run))


def _files(folder: Path, names: tuple[str, ...]) -> list[Link]:
    return [Link(name, folder / name) for name in names if (folder / name).is_file()]
