"""The options of `hyperface train`."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hyperface.config.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Train:
    """Options of `hyperface train`. The experiment's fields are options too, such as --steps."""

    # An empty name, so that fields are options such as --steps and not --experiment.steps.
    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """Folder of the run; by default runs/NAME."""
    data_dir: Path | None = None
    """Folder of prepared data sets; by default HYPERFACE_DATA_DIR or the user's cache."""
    init_from: Path | None = None
    """Backbone to fine-tune: the folder of an earlier run, or a .safetensors, .onnx, .pth or
    .caffemodel file of the experiment's model."""
    fresh: bool = False
    """Delete the files of an earlier run in the folder, instead of continuing it. Files that the
    run did not record stay. It is an error if the folder is not a run of this program."""
    workers: int = 0
    """Number of processes that read and decode images; 0 uses threads. It does not change the
    results of the run."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """Reaction to a loss that is not finite. Such a step never updates the parameters. stop: save
    the state before the step, and end with status 3. skip: continue with the next step. rollback:
    return to the newest checkpoint, and repeat the steps from there to that step without updates.
    """
    profile_steps: tuple[int, int] | None = None
    """First and last step to profile. The profile is written into the run's folder, for TensorBoard
    or Perfetto."""
    exit_on_preemption: int = 0
    """Exit status of a run that SIGTERM stopped after it was saved. Choose another status than 0 if
    your scheduler takes 0 for a finished run."""
    coordinator: str | None = None
    """host:port of process 0, if several processes train together. Under SLURM, Open MPI and
    Kubernetes it is found automatically; `hyperface cluster` prints launch scripts."""
    processes: int | None = None
    """Number of processes that train together."""
    process: int | None = None
    """Number of this process, from 0."""
    list: bool = False
    """List the experiments and stop."""
    list_models: bool = False
    """List the backbones with their sizes and costs, and stop."""
    file: tyro.conf.Suppress[Path | None] = None
    """The user's Python file that defines the experiment."""


MAIN_OPTIONS = (
    "list",
    "list_models",
    "workdir",
    "data_dir",
    "init_from",
    "fresh",
    "steps",
    "seed",
    "data.name",
    "data.batch_size",
    "model.name",
    "loss.softmax.scale",
    "loss.ring.weight",
    "optimizer.learning_rate",
)
"""Names of the options that --help shows; --help-all shows all."""
