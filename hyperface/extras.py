"""Checks that the optional dependencies of a part of the package are installed."""

import importlib.util

from hyperface.errors import MissingExtra


def require(extra: str, *modules: str) -> None:
    """Checks that modules of an optional dependency are installed, without importing them.

    Args:
      extra: name of the group of optional dependencies ("extra") that contains the modules, such as
        "train" in `pip install 'hyperface[train]'`.
      modules: top-level modules that the caller needs.

    Raises:
      MissingExtra: a module is not installed. The message names the extra.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"expected the package {missing[0]}, which is not installed. Run: pip install "
            f"'hyperface[{extra}]'",
            name=missing[0],
        )
