"""The evaluation by published protocols: images or features in, figures and a report out."""

import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rich.console import Console

from hyperface import owned
from hyperface.console import make_console, say
from hyperface.data.datasets import data_directory
from hyperface.devices import mesh, processes
from hyperface.errors import InputError, unknown_name
from hyperface.files import digest
from hyperface.protocols import registry
from hyperface.protocols.features import NamedFeatures
from hyperface.protocols.readers import read_pairs
from hyperface.protocols.result import Figure, Scored, over_snapshots
from hyperface.report.evaluation import protocol_tables, write_evaluation
from hyperface.report.tables import as_text
from hyperface.runs import choices, program, provenance
from hyperface.runs.choices import FULL, MEGAFACE, OTHERS, PAIRS
from hyperface.runs.evaluate_options import recorded
from hyperface.runs.features import Features
from hyperface.train.logs import run_digest

if TYPE_CHECKING:
    from hyperface.runs.evaluate_options import Evaluate


class _Work(NamedTuple):
    """One protocol to run."""

    name: str
    """With the resolution, where there are several."""
    protocol: str
    dataset: str
    factor: float


def evaluate(options: "Evaluate") -> None:
    """Scores by every protocol asked for, prints the tables and writes the report."""
    protocols = [name.strip() for name in options.protocol.split(",") if name.strip()]
    for name in protocols:
        if name not in (*registry.SUITE, *OTHERS):
            raise unknown_name("protocol", name, [*registry.SUITE, *OTHERS])
    if not protocols:
        raise InputError("--protocol: expected names of protocols, found none.")
    settings = choices.settings(options)
    choices.check_used(protocols, options)
    writes = processes.is_writer()
    console, data_dir = make_console(quiet=not writes), data_directory(options.data_dir)
    choices.check_present(protocols, options, data_dir)
    out = options.out or _default_out(options.source)
    if writes:
        owned.check_free(out / "evaluation.json", out / "evaluation.html")
    work = [
        _Work(name if factor == FULL else f"{name}-area{factor:g}", name, dataset, factor)
        for name in protocols
        for factor in options.resolution or (FULL,)
        for dataset in [choices.dataset(name, options)]
    ]
    with contextlib.ExitStack() as stack:
        stack.enter_context(owned.writing(out))
        scratch = owned.scratch(out) if writes else tempfile.TemporaryDirectory()
        features = Features(options, data_dir, Path(stack.enter_context(scratch)), console)
        shots: list[dict[str, Scored]] = []
        for step in options.step or (None,):
            shots.append({})
            for one in work:
                named = features.of(one.dataset, step, one.factor)
                megaface = one.protocol == MEGAFACE
                distractors = features.distractors(step, one.factor) if megaface else None
                if not writes:
                    continue
                if megaface:
                    found = _megaface(named, distractors, options, console)
                else:
                    found = _scored(one, named, options, settings, data_dir, console)
                shots[-1][one.name] = found
        if not writes:
            return
        scored = shots[0]
        if len(shots) > 1:
            scored = {n: over_snapshots([shot[n] for shot in shots]) for n in shots[0]}
        titles = {one.name: _title(one) for one in work}
        for table in protocol_tables(titles, scored):  # First: a full disk costs no result.
            say(console, f"\n{as_text(table)}")
        write_evaluation(
            out,
            source=str(options.source),
            scored=scored,
            titles=titles,
            pixels={one.name: p for one in work if (p := features.pixels(one.dataset))},
            sweeps=_sweeps(work, scored),
            settings={
                "options": recorded(options),
                "data": features.digests,
                "run": run_digest(options.source) or digest(options.source),
                "files": provenance.digests(
                    (path for name in protocols for path in choices.files(name, options, data_dir)),
                    choices.protocol_dir(options, data_dir),
                ),
                **provenance.environment(),
            },
        )
    say(console, f"\nReport: {out / 'evaluation.html'}")


def _scored(
    one: _Work,
    named: NamedFeatures,
    options: "Evaluate",
    settings: registry.Settings,
    data_dir: Path,
    console: Console,
) -> Scored:
    with program.progress(console, f"scoring {one.name}", "parts") as advance:
        settings = replace(settings, progress=advance)
        if one.protocol == PAIRS:
            pairs = read_pairs(choices.pair_list(options, data_dir), folds=10, repeats=True)
            named = named._replace(steps=(*named.steps, *choices.lost_pairs(options, data_dir)))
            try:
                return registry.score_pairs(one.name, named, pairs, settings)
            except InputError:
                raise
            except ValueError as error:
                raise InputError(f"{PAIRS}: {error}.") from error
        folder = choices.protocol_dir(options, data_dir)
        found = registry.score(one.protocol, named, folder, settings)
    curves = {one.name if n == one.protocol else n: c for n, c in found.curves.items()}
    return replace(found, protocol=one.name, curves=curves)


def _sweeps(work: list[_Work], scored: Mapping[str, Scored]) -> dict[str, dict[float, Figure]]:
    """The first figure of each protocol by area factor, where there are several."""
    sweeps: dict[str, dict[float, Figure]] = {}
    for one in work:
        name, figure = next(iter(scored[one.name].figures.items()))
        sweeps.setdefault(f"{one.protocol}: {name}", {})[one.factor] = figure
    return {label: values for label, values in sweeps.items() if len(values) > 1}


def _megaface(
    probes: NamedFeatures,
    distractors: tuple[np.ndarray, list[str] | None],
    options: "Evaluate",
    console: Console,
) -> Scored:
    features, names = distractors
    probe_list, distractor_list, noise = choices.megaface_lists(options)
    with program.progress(console, "searching", "distractors") as advance:
        try:
            return registry.score_megaface(
                probes,
                features,
                distractor_names=names,
                probe_list=probe_list,
                distractor_list=distractor_list,
                noise=noise,
                noises=[path.name for path in options.noises],
                place=mesh.split_rows,
                progress=advance,
            )
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"{MEGAFACE}: {error}.") from error


def _title(one: _Work) -> str:
    if one.protocol == PAIRS:
        title = f"Pairs of {one.dataset}" if one.dataset else "Pairs"
    elif one.protocol == MEGAFACE:
        title = "MegaFace"
    else:
        title = registry.SUITE[one.protocol].title
    return title if one.factor == FULL else f"{title}, area / {one.factor:g}"


def _default_out(source: Path) -> Path:
    if source.is_dir():
        return source / "evaluation"
    return Path("evaluation") / source.stem
