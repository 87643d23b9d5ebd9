"""Experiments: each is one file, its docstring the run card, its `EXPERIMENT` the settings.

`orl_normface.py` of this folder is the experiment "orl-normface". A name that ends in ".py" is the
path of a user's file:

    import hyperface.experiments
    EXPERIMENT = hyperface.experiments.load("my_experiment.py")
"""

import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

from hyperface.config import user_file
from hyperface.config.experiment import Experiment, check
from hyperface.errors import InputError, unknown_name
from hyperface.files import digest, read_json

DEFAULT = "orl40-normface"
RUN_CODE = "HYPERFACE_RUN_CODE"
"""Environment variable that allows the experiment files that runs keep to be executed."""


def names() -> list[str]:
    """Returns the names of the experiments that we ship, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def file_of(name: str) -> Path | None:
    """Returns the path of a user's experiment file; None for the name of an experiment of ours."""
    return Path(name) if name.endswith(".py") else None


def load(name: str) -> Experiment:
    """Returns the experiment of that name, or of a user's file, checked.

    Raises:
      InputError: there is none, and the message has the nearest name; or the file cannot be used.
    """
    return _experiment(_module(name), name)


def run_card(name: str) -> str:
    """Returns the experiment's docstring: source, command, data, time, published and measured."""
    return (_module(name).__doc__ or "").strip()


def of_run(values: dict[str, Any], folder: Path) -> Experiment:
    """Returns the experiment that a run recorded, with its objects.

    A run of an experiment file keeps a copy of the file, and the copy is executed where the
    experiment has objects: without asking where the user still has the same file at its place, and
    elsewhere only if the environment says HYPERFACE_RUN_CODE=1.

    Args:
      values: what `Experiment.to_dict` recorded.
      folder: the run's.

    Raises:
      InputError: the objects of the experiment cannot be found, or the copy may not be executed.
    """
    config = folder / "config.json"
    has_objects = "backbone" in values.get("model", {}) or "custom" in values.get("loss", {})
    file = read_json(config).get("file") if has_objects and config.is_file() else None
    if file is None:
        return Experiment.from_dict(values)
    path = Path(file["path"])
    copy = folder / Path(file["name"]).name  # Nothing outside the run is executed.
    # A run may come from a stranger, and evaluating it must not start a stranger's program.
    known = path.is_file() and digest(path) == digest(copy)
    if not known and os.environ.get(RUN_CODE) != "1":
        raise InputError(
            f"{folder}: expected leave to execute {copy.name}, which makes its network or losses, "
            f"found no equal file at {path}. Read it, then set {RUN_CODE}=1."
        )
    module = user_file.load(copy, title=path.stem, imports_from=path.parent)
    return Experiment.from_dict(values, _experiment(module, str(copy)))


def _experiment(module: ModuleType, name: str) -> Experiment:
    found = getattr(module, "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        kind = "none" if found is None else type(found).__name__
        raise InputError(
            f"{name}: expected EXPERIMENT = hyperface.config.experiment.Experiment(...), found "
            f"{kind}."
        )
    return check(found)


def _module(name: str) -> ModuleType:
    file = file_of(name)
    if file is not None:
        return user_file.load(file)
    if name not in names():
        raise unknown_name("experiment", name, names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
