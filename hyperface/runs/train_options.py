"""Options of the command that trains."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from hyperface.config.experiment import Experiment


@dataclasses.dataclass(frozen=True)
class Train:
    """Options of `hyperface train`."""

    experiment: Annotated[Experiment, tyro.conf.arg(name="")]
    workdir: Path | None = None
    """Folder of the run; runs/NAME by default."""
    data_dir: Path | None = None
    """Folder of prepared data sets; HYPERFACE_DATA_DIR, or the user's cache, by default."""
    init_from: Path | None = None
    """Backbone to fine-tune: an earlier run's folder, or a .safetensors, .pth or .caffemodel file
    of the experiment's model."""
    fresh: bool = False
    """Delete the files that an earlier run recorded in the folder, instead of going on with it.
    Other files stay, and a folder that is no run of ours is refused."""
    workers: int = 0
    """Number of processes that read and decode images; 0 uses threads. The run is the same for any
    number."""
    on_nan: Literal["stop", "skip", "rollback"] = "stop"
    """How a run handles a loss that is not finite; such a step never updates the parameters. stop:
    save the state before the step and end with status 3. skip: continue with the next step.
    rollback: return to the last checkpoint, and leave out all updates from there to that step."""
    profile_steps: tuple[int, int] | None = None
    """First and last step of a profile in the run's folder, for TensorBoard or Perfetto."""
    exit_on_preemption: int = 0
    """Exit status of a run that was saved and stopped at SIGTERM. Give another one than 0 where a
    scheduler takes 0 for the end of the run."""
    coordinator: str | None = None
    """host:port of process 0, where several processes train together. Under SLURM, Open MPI and
    Kubernetes it is found automatically; `hyperface cluster` prints launchers."""
    processes: int | None = None
    """Number of processes that train together."""
    process: int | None = None
    """Number of this process, from 0."""
    list: bool = False
    """Show the experiments and stop."""
    list_models: bool = False
    """Show the backbones, their size and their cost, and stop."""
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
"""What --help shows."""
