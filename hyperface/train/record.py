"""Checks and logs the metrics of each step of a run, and saves its checkpoints."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from hyperface.config.experiment import Experiment
from hyperface.config.records import describe
from hyperface.data.datasets import Split
from hyperface.devices import processes
from hyperface.train import divergence, parallel
from hyperface.train.checkpoint.manager import Checkpoints
from hyperface.train.divergence import Divergences
from hyperface.train.logs import MetricsLog, RunningMean, TrainingProgress
from hyperface.train.optim import learning_rate
from hyperface.train.state import TrainState

log = logging.getLogger("hyperface")


class Job(NamedTuple):
    """The settings of a run, which stay the same from the first step to the last."""

    experiment: Experiment
    """All settings of model, data, loss and optimiser."""
    split: Split
    """The training images."""
    workdir: Path
    """The folder of the run."""
    meta: dict[str, Any]
    """The record that identifies the run: "experiment", "data" and, for a fine-tuned run,
    "init_from" (`loop.run_meta`)."""
    workers: int
    """Number of processes that read images; 0 uses threads."""


class Record:
    """Checks and logs the metrics of a run's steps, and saves checkpoints.

    If several processes train together, one of them writes the log. All of them check the metrics,
    and each saves its part of the state.

    Args:
      job: the settings of the run.
      first_step: number of steps that are done. If it is above 0, the log continues from the
        checkpoint of this step.
      checkpoints: the checkpoints of the run.
      divergences: determines what happens after a step whose metrics are not finite.
      progress: shows the metrics of each step to the user.
    """

    def __init__(
        self,
        job: Job,
        first_step: int,
        checkpoints: Checkpoints,
        divergences: Divergences,
        progress: TrainingProgress,
    ) -> None:
        self._job, self._checkpoints, self._progress = job, checkpoints, progress
        self._divergences = divergences
        # Any, because optax's annotation allows complex numbers, which `float` refuses.
        self._rate: Callable[[int], Any] = learning_rate(
            job.experiment.optimizer, job.experiment.steps
        )
        saved: dict[str, Any] = checkpoints.meta(first_step) if first_step else {"log": None}
        self._position = saved["log"]
        self._mean_loss = RunningMean(saved.get("mean_loss"))
        # After a rollback this process has counted more than the checkpoint. A restarted process
        # has counted none.
        divergences.count = max(divergences.count, saved.get("divergences", 0))
        self._log = None
        if processes.is_writer():
            every = job.experiment.log_every
            self._log = MetricsLog(job.workdir, first_step, every, self._position)

    def finish(self, step: int, metrics: dict[str, jax.Array] | None) -> bool:
        """Checks and logs a step; returns False if it diverged and the run skips it.

        The call waits until the devices have computed the metrics. A step diverged if one of its
        metrics is NaN or infinite.

        Args:
          step: number of the step.
          metrics: the metrics that the step returned; None if its update was left out after a
            rollback, so that there is nothing to check.

        Raises:
          DivergenceError: the step diverged, and the run does not skip it.
        """
        last, sound, due = step == self._job.experiment.steps, True, False
        values: dict[str, float] = {}
        if metrics is not None:
            # Here the host waits for the device. The caller has started the next step before, so
            # that the device stays busy.
            nonfinite = divergence.nonfinite_names(int(metrics["nonfinite"]))
            values = {name: float(x) for name, x in metrics.items() if name != "nonfinite"}
            sound = self._divergences.passes(step, values, nonfinite)
        if metrics is not None and sound:
            self._progress.update(step, values)
            self._mean_loss.add(values["loss"])
            due = self._log is not None and self._log.add(step, values, last=last)
        elif self._log is not None:
            due = self._log.skip(step, last=last)
        if due and self._log is not None:
            # The schedule counts the steps before this one.
            line = self._log.write(step, learning_rate=float(self._rate(step - 1)))
            self._call_back(step, line)
        return sound

    def _call_back(self, step: int, line: dict[str, float]) -> None:
        """Passes a line of the log to the experiment's own function `on_metrics`, if it has one.

        An error in that function, such as a lost network connection, is only logged: it must not
        end the run, and metrics.jsonl has the line anyway.
        """
        function = self._job.experiment.on_metrics
        if function is None:
            return
        try:
            function(step, line)
        except Exception as error:
            log.warning(
                f"step {step}: on_metrics, {describe(function)}, raised {type(error).__name__}: "
                f"{error}. Training goes on."
            )

    def save(self, step: int, state: TrainState) -> None:
        """Flushes the log to the disk, and then saves the state after a step.

        Args:
          step: number of the step.
          state: the state after the step. Padding rows, which fill the last devices if classes
            are split over devices, are not saved.
        """
        if self._log is not None:
            self._log.flush()
            self._position = self._log.position()
        # The best checkpoint is the one with the lowest mean loss since the one before it. After a
        # signal that mean would be over few steps, and could be lowest by chance, so only
        # checkpoints at the regular interval get a score.
        due = step % self._job.experiment.checkpoint_every == 0
        score = self._mean_loss.take() if due else None
        facts = {
            "log": self._position,
            "divergences": self._divergences.count,
            "mean_loss": self._mean_loss.position(),
        }
        # Without padding, so that the checkpoint fits any number of devices.
        whole = parallel.whole_classes(state)
        self._checkpoints.save(step, whole, self._job.meta | facts, score)

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()
