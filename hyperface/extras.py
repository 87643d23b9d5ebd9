"""Which optional dependencies a part of the package needs, and one clear error without them."""

import importlib.util

from hyperface.errors import MissingExtra


def require(extra: str, *modules: str) -> None:
    """Checks that the modules of an extra are installed; none of them is imported.

    Args:
      extra: name of the extra, as in `pip install 'hyperface[train]'`.
      modules: top-level modules that the importing package cannot do without.

    Raises:
      MissingExtra: one of them is not installed. It names the extra.
    """
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"expected the package {missing[0]}, which is not installed. Run: pip install "
            f"'hyperface[{extra}]'",
            name=missing[0],
        )
