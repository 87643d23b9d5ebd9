"""NormFace and Ring loss for face verification, in functional JAX.

The losses, their reference formulas, the normalisation and the theory depend on JAX only. Names are
imported on first use, so that a command line can be parsed and an experiment checked before JAX is
loaded.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyperface import losses, reference, theory
    from hyperface.normalize import cosine_similarity, l2_norm, l2_normalize

__version__ = "0.1.0"

__all__ = ["cosine_similarity", "l2_norm", "l2_normalize", "losses", "reference", "theory"]

_MODULES = ("losses", "reference", "theory")

# Without a handler Python prints a library's warnings on stderr, which is the program's choice.
logging.getLogger("hyperface").addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hyperface' has no attribute {name!r}")
    if name in _MODULES:
        return importlib.import_module(f"hyperface.{name}")
    return getattr(importlib.import_module("hyperface.normalize"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
