"""Writes the page and the results file of a run, the same for every kind of run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hyperface import owned
from hyperface.report.drafts import Draft, save_drafts
from hyperface.report.html import Page, Section, write_page
from hyperface.report.related import run_links
from hyperface.report.tables import Table

Scores = dict[str, float]
"""Scores by name, as shares in [0, 1]."""


class Report(NamedTuple):
    """The content of a run's page and of its `results.json`."""

    sections: list[Draft]
    """The sections of the page, whose figures are not saved yet."""
    scores: dict[str, Scores]
    """Name of a method -> its scores by name, as shares in [0, 1]. The methods are the experiment,
    the methods that it is compared with, and the baselines."""
    snapshots: dict[str, list[Scores]]
    """Name of a trained method -> its scores at each of the last checkpoints."""
    record: dict[str, Any]
    """Further entries of `results.json`, such as "training": the last logged metrics by method."""

    @property
    def tables(self) -> list[Table]:
        """The tables of all sections."""
        return [table for section in self.sections for table in section.tables]


def write_run_report(
    folder: Path,
    report: Report,
    *,
    name: str,
    summary: str,
    command: str,
    settings: Mapping[str, Any],
) -> None:
    """Writes `figures/*.png`, `results.json` and `report.html` into the run's folder.

    Args:
      folder: the run's folder.
      report: the content of the page and of the results file.
      name: name of the experiment.
      summary: a sentence about data and protocol.
      command: the command that started the run; "" if it was started from Python.
      settings: experiment and versions of libraries, which both files contain beside the scores.
    """
    record = {
        "experiment": name,
        "results": report.scores,
        "snapshots": report.snapshots,
        **report.record,
        "settings": settings,
    }
    sections = save_drafts(report.sections, folder / "figures")
    owned.write_text(folder / "results.json", json.dumps(record, indent=2) + "\n")
    text = json.dumps(settings, indent=2)
    sections.append(Section("Settings and versions", folded={"Settings and versions": text}))
    page = Page(f"hyperface: {name}", summary, sections, command, run_links(folder))
    write_page(folder / "report.html", page)
