"""Runs a user's Python file that defines an experiment."""

import functools
import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from hyperface.errors import InputError


def load(path: Path, *, title: str | None = None, imports_from: Path | None = None) -> ModuleType:
    """Runs a Python file that defines `EXPERIMENT`, and returns its module.

    Like a script, the file may import modules from its own folder. A second call for an unchanged
    file returns the same module. The function does not check whether the module has `EXPERIMENT`.

    Args:
      path: the file.
      title: the module is named experiment_file_TITLE. A run's record contains this name if the
        file defines a network or a loss. None takes the file's name without ".py".
      imports_from: folder from which the file imports its modules; None takes the file's own.

    Raises:
      InputError: the file is missing, is not Python, or raises an error. The message states the
        line.
    """
    try:
        state = path.stat()
    except OSError as error:
        raise InputError(f"{path}: expected a Python file, found none: {error.strerror}.") from None
    # A file that was changed since the last call is run again.
    key = (path.resolve(), state.st_mtime_ns, state.st_size)
    return _load(path, key, title or path.stem, imports_from or path.resolve().parent)


# A command asks for the same file more than once. Running it twice would build its objects twice.
@functools.lru_cache(maxsize=16)
def _load(path: Path, key: tuple, title: str, imports_from: Path) -> ModuleType:
    """Runs a file for `load`; `key` identifies the content of the file for the cache."""
    # A file named like a library would otherwise replace the library in sys.modules.
    name = f"experiment_file_{title}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path}: expected a Python file, found another kind of file.")
    module = importlib.util.module_from_spec(spec)
    # Python looks up a class's module there, for example when it builds a dataclass.
    sys.modules[name] = module
    # First, as Python does for a script: the user's modules go before installed ones.
    sys.path.insert(0, str(imports_from))
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InputError(
            f"{error.filename}:{error.lineno}: expected Python, found: {error.msg}."
        ) from error
    # A script may call sys.exit, which must not end the command without a message.
    except (Exception, SystemExit) as error:
        raise InputError(
            f"{_place(error, path)}: expected a file that runs to its end, found "
            f"{type(error).__name__}: {error}"
        ) from error
    finally:
        sys.path.remove(str(imports_from))
    return module


def _place(error: BaseException, path: Path) -> str:
    """Returns the line of the file in which an error was raised, or which called the failed code.

    The result is the path alone if the error does not come from a line of the file.
    """
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path.absolute()]
    return f"{path}:{lines[-1]}" if lines else str(path)
