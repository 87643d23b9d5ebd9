"""Scores a run's checkpoint, an exported network, or features that any program wrote.

    hyperface evaluate runs/orl-normface                      by the run's own protocol
    hyperface evaluate runs/casia --protocol lfw,blufr        by published protocols
    hyperface evaluate exported/ --protocol cfp-fp            a network of hyperface export
    hyperface evaluate net.onnx --protocol lfw,blufr          released weights
    hyperface evaluate features.npz --protocol lfw            `features` and their `names`
    hyperface evaluate runs/mine --protocol folder --dataset mine     people of your own
    hyperface evaluate runs/mine --protocol pairs --dataset mine --pairs pairs.csv
    hyperface evaluate pixels --protocol lfw --preset plain   what any network has to beat
    hyperface evaluate runs/casia --protocol lfw --resolution 1 4 16 25 36 64

Protocols: folder (all pairs of your own people, with thresholds and calibration), pairs (any list),
lfw, lfw-view1, blufr, cfp-ff, cfp-fp, ytf, halves, agedb, calfw, cplfw, xqlfw, ijba, ijba-search,
cs3, cs3-search, ijbb, ijbb-search, ijbc, ijbc-search, megaface, tinyface.

The procedure is printed: each step that was taken, in words. evaluation.json contains the procedure
and all scores, and evaluation.html the curves and the hardest pairs. Protocols of image pairs also
report how well the feature norm indicates image quality. With --group-by they report their scores
for each age, pose or origin. The protocol folder also writes calibration.json, which hyperface
verify reads. This is an example of a list of pairs:

    first,second,same
    ada/1.jpg,ada/2.jpg,1
    ada/1.jpg,bob/1.jpg,0

In Python, `plan` turns the same options into tasks and `run` scores them.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperface.runs import program
from hyperface.runs.evaluate_options import MAIN_OPTIONS, Evaluate, default_out, recorded

if TYPE_CHECKING:  # jax is loaded after the options are parsed.
    from hyperface.protocols.result import Result
    from hyperface.runs.evaluate_plan import Task

__all__ = ["MAIN_OPTIONS", "Evaluate", "main", "plan", "recorded", "run"]


def main(args: Sequence[str]) -> None:
    """Parses the options, then loads JAX and evaluates the network or the features."""
    options = program.parse(
        Evaluate,
        args,
        prog="hyperface evaluate",
        description=__doc__ or "",
        main_options=MAIN_OPTIONS,
    )
    program.join(options)
    program.quiet_libraries()
    if not options.protocol:
        from hyperface.runs.evaluate_own import score_own_test

        score_own_test(options)
        return
    run(plan(options), options.out or default_out(options.source), recorded(options))


def plan(options: Evaluate) -> "list[Task]":
    """Returns the tasks of an evaluation: one per protocol, checkpoint and resolution.

    A protocol is a benchmark, such as "lfw", with its rules of comparing and scoring. All errors in
    options, files and data sets are found here, before any feature is computed.

    Raises:
      InputError: an option has a wrong value, an option is set that none of the chosen protocols
        uses, or a protocol, a file or a data set is missing.

    Example:
      >>> from hyperface.runs import evaluate
      >>> options = evaluate.Evaluate(Path("features.npz"), protocol="halves", preset="plain")
      >>> [task.name for task in evaluate.plan(options)]
      ['halves']
    """
    from hyperface.runs import evaluate_plan

    return evaluate_plan.plan(options)


def run(
    tasks: "Sequence[Task]", out: Path | None = None, request: Mapping[str, str] | None = None
) -> "dict[str, Result]":
    """Computes the scores of tasks, logs them as tables, and writes a report if a folder is given.

    Args:
      tasks: the tasks that `plan` returned.
      out: folder of evaluation.json, evaluation.html and their plots; None writes nothing.
      request: name of an option -> its value as text, as `recorded` returns. It is written into
        evaluation.json; None writes no options.

    Returns:
      Task name -> `Result`, whose field `figures` contains the scores by name. The task's name is
      that of the protocol, such as "lfw". For images whose area is reduced by a factor, it ends
      with the factor: "lfw-area4". If several checkpoints are scored, the scores are their mean. If
      several processes run, only the first one returns results; the others return {}.

    Raises:
      InputError: there is no such network, the images have another size than the network's, or a
        feature is zero or not finite.

    Example:
      >>> tasks = plan(Evaluate(Path("runs/x"), protocol="lfw"))  # doctest: +SKIP
      >>> run(tasks)["lfw"].figures["accuracy"].value  # doctest: +SKIP
    """
    from hyperface.runs import evaluate_run

    return evaluate_run.run(tasks, out, request)
