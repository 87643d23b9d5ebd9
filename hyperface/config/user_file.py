"""Python files of the user's that define an experiment."""

import functools
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from hyperface.errors import InputError


def load(path: Path, *, title: str | None = None, imports_from: Path | None = None) -> ModuleType:
    """Runs a Python file that defines `EXPERIMENT`, and returns its module.

    The file may import what lies beside it, as a script may.

    Args:
      path: the file.
      title: the name by which its objects are recorded; the file's own by default.
      imports_from: the folder from which it imports; its own by default.

    Raises:
      InputError: the file is missing, is no Python, raises, or defines no `EXPERIMENT`. The message
        has the place.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path}: expected a Python file, found none: {error.strerror}.") from None
    key = (path.resolve(), state.st_mtime_ns, state.st_size)
    return _load(path, key, title or path.stem, imports_from or path.resolve().parent)


@functools.lru_cache(maxsize=16)  # So that the file runs once, though it is asked for twice.
def _load(path: Path, key: tuple, title: str, imports_from: Path) -> ModuleType:
    # Its own name could be that of a library, which it would then replace.
    name = f"experiment_file_{title}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: expected a Python file, found another kind of file.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    sys.path.insert(0, str(imports_from))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(
            f"{error.filename}:{error.lineno}: expected Python, found: {error.msg}."
        ) from error
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{_place(error, path)}: expected a file that runs to its end, found "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(imports_from))
    return module


def _place(error: BaseException, path: Path) -> str:
    """Returns the line of the file in which an error came up, or which led to it."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    return f"{path}:{lines[-1]}" if lines else str(path)
