"""Finds and loads experiments, each of which is one Python file.

The file's docstring is the run card, and its variable `EXPERIMENT` has the settings. For example
`orl_normface.py` in this folder is the experiment "orl-normface". A name that ends in ".py" is the
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
"""Name of the experiment that `hyperface train` runs if no name is given."""
RUN_CODE = "HYPERFACE_RUN_CODE"
"""Environment variable that allows the copy of an experiment file in a run to be executed."""


def names() -> list[str]:
    """Returns the sorted names of the experiments that are part of this package."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def file_of(name: str) -> Path | None:
    """Returns a name that ends in ".py" as the path of a user's file; None for any other name."""
    return Path(name) if name.endswith(".py") else None


def load(name: str) -> Experiment:
    """Returns the experiment with a name, or that of a user's file, which is executed.

    All its values are checked.

    Args:
      name: name of one of our experiments, or path of a user's file, which ends in ".py".

    Raises:
      InputError: there is no such experiment, and the message suggests the nearest name; or the
        file does not define a valid experiment.
    """
    return _experiment(_module(name), name)


def run_card(name: str) -> str:
    """Returns the run card of an experiment, which is the docstring of its file.

    It states the source, the command, the data, the time, and the published and measured scores.
    """
    return (_module(name).__doc__ or "").strip()


def of_run(values: dict[str, Any], folder: Path) -> Experiment:
    """Returns the experiment that a run recorded, with the user's own network or losses.

    A user's own network or loss is an object, which a record cannot contain. The folder of such a
    run has a copy of the user's experiment file, and the copy must be executed to build the
    objects. This is allowed in two cases: the user's own file still exists with the same content,
    or the environment variable HYPERFACE_RUN_CODE is 1.

    Args:
      values: the record, as `Experiment.to_dict` returned it.
      folder: the folder of the run. It contains the copy, and `config.json` with the path of the
        user's file.

    Raises:
      InputError: the file does not build the recorded objects, or the copy may not be executed.
    """
    config = folder / "config.json"
    has_objects = "backbone" in values.get("model", {}) or "custom" in values.get("loss", {})
    file = read_json(config).get("file") if has_objects and config.is_file() else None
    if file is None:
        return Experiment.from_dict(values)
    path = Path(file["path"])
    # Only the name is used, so that a prepared record cannot point to a file outside of the run.
    copy = folder / Path(file["name"]).name
    # A run may come from a stranger, and evaluating it must not execute a stranger's code.
    known = path.is_file() and digest(path) == digest(copy)
    if not known and os.environ.get(RUN_CODE) != "1":
        raise InputError(
            f"{folder}: expected permission to execute {copy.name}, which builds its network or "
            f"losses, found no equal file at {path}. Read {copy}, and set {RUN_CODE}=1 if you "
            "trust it."
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
    # Checked here, since a dataclass takes any values.
    return check(found)


def _module(name: str) -> ModuleType:
    file = file_of(name)
    if file is not None:
        return user_file.load(file)
    # Before the import, so that a name can import nothing but an experiment.
    if name not in names():
        raise unknown_name("experiment", name, names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
