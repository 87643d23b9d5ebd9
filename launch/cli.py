"""What the commands share: options parsed before jax is loaded, one line for a user's mistake."""

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from hyperface.errors import InputError

T = TypeVar("T")

EXIT_INPUT = 2
EXIT_DIVERGED = 3


def parse(default: T, args: Sequence[str], *, prog: str, description: str) -> T:
    """Changes a dataclass by command-line options; wrong ones end the program with status 2."""
    return tyro.cli(type(default), default=default, args=args, prog=prog, description=description)


def run(command: Callable[[Sequence[str]], None]) -> None:
    """Runs a command on the program's arguments and ends the program.

    Status 0: done. 2: the input cannot be used. 3: training diverged. 130: interrupted.
    """
    try:
        command(sys.argv[1:])
    except InputError as error:
        sys.exit(_say(f"error: {error}", EXIT_INPUT))
    except BrokenPipeError:  # The reader of the output, a pager perhaps, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; the same command goes on from what is done.", 130))


def quiet_libraries() -> None:
    """Keeps libraries' remarks on their own settings off the terminal; errors still show."""
    from absl import logging

    logging.set_verbosity(logging.ERROR)


def _say(message: str, status: int) -> int:
    print(message, file=sys.stderr)
    return status
