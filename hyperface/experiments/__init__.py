"""Named experiments: one file each, its docstring the run card, its `EXPERIMENT` the settings.

`orl_normface.py` is the experiment "orl-normface".
"""

import importlib
import pkgutil
from types import ModuleType

from hyperface.config.experiment import Experiment, check
from hyperface.errors import unknown_name

DEFAULT = "orl-normface"


def names() -> list[str]:
    """Every experiment's name, sorted."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def load(name: str) -> Experiment:
    """The experiment of that name, checked.

    Raises:
      InputError: there is none; the message has the nearest name.
    """
    return check(_module(name).EXPERIMENT)


def run_card(name: str) -> str:
    """The experiment's docstring: source, command, data, time, published and measured figures."""
    return (_module(name).__doc__ or "").strip()


def _module(name: str) -> ModuleType:
    if name not in names():
        raise unknown_name("experiment", name, names())
    return importlib.import_module(f"{__name__}.{name.replace('-', '_')}")
