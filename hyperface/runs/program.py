"""Runs the commands: parses their options, reports errors in one line, and sets exit statuses.

Options are parsed before JAX is loaded, which takes seconds.
"""

import contextlib
import dataclasses
import errno
import logging
import os
import shlex
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, TypeVar

import tyro

from hyperface import owned
from hyperface.console import log_console, plain_column, show_log
from hyperface.errors import InputError, expect
from hyperface.runs import process_settings
from hyperface.runs.short_help import print_short_help

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console

    from hyperface.train.interrupt import Interrupted

log = logging.getLogger("hyperface")

T = TypeVar("T", bound="DataclassInstance")

EXIT_BUG = 1
EXIT_INPUT = 2
EXIT_DIVERGED = 3
# 128 + SIGINT, the status that a shell gives to a program that Ctrl-C ended.
EXIT_INTERRUPTED = 130
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the system about space and permissions, which the user and not the program can fix."""
NO_THREADS = (
    "error: expected that the system lets this process start threads, found that it does not. "
    "Raise the limit of processes (ulimit -u, or the container's), or end other programs."
)
SECONDS_BETWEEN_LINES = 10.0
"""Time between two lines of progress in a log that is not a terminal."""
_COMMAND: ContextVar[str] = ContextVar("command", default="")


def with_home(options: T) -> T:
    """Returns the options with "~" at the start of a value replaced by the user's home folder.

    A shell does not replace "~" if it is in quotes, after "=", or in a file of environment
    variables. Texts, paths and tuples of them are changed; other values stay as they are.

    Args:
      options: a dataclass of a command's options.
    """

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(expanded, value))
        if isinstance(value, str | Path):
            # Path.expanduser would turn a text into a path.
            return type(value)(os.path.expanduser(value))  # noqa: PTH111
        return value

    changes = {name: expanded(value) for name, value in vars(options).items()}
    return dataclasses.replace(options, **changes)


def parse(
    kind: type[T],
    args: Sequence[str],
    *,
    prog: str,
    description: str,
    default: T | None = None,
    main_options: Collection[str] = (),
) -> T:
    """Parses command-line options into a dataclass. Wrong options end the program with status 2.

    Fields that contain an object, such as a backbone, cannot be set by options.

    Args:
      kind: the dataclass.
      args: the words of the command line.
      prog: name of the command, for messages.
      description: description of the command, for the help.
      default: an instance with the default values; by default those of the dataclass.
      main_options: names of the options that --help shows, for a command with many options;
        --help-all then shows all. If it is empty, --help shows all.
    """
    if main_options and {"-h", "--help"} & set(args):
        print_short_help(kind, default, main_options, prog=prog, description=description)
        sys.exit(0)
    args = ["--help" if arg == "--help-all" else arg for arg in args]
    return with_home(
        tyro.cli(
            kind,
            default=tyro.MISSING_NONPROP if default is None else default,
            args=args,
            prog=prog,
            description=description,
            # Without it the help would list fields that no option can set.
            config=(tyro.conf.SuppressFixed,),
        )
    )


def command_line() -> str:
    """Returns the command line of this process, such as "hyperface train orl-ring".

    Reports show it. It is "" if the library is used from Python code and not by a command.
    """
    return _COMMAND.get()


def run(
    command: Callable[[Sequence[str]], None],
    args: Sequence[str] | None = None,
    *,
    name: str = "",
) -> None:
    """Runs a command, and ends the program with one of these statuses:

    - 0: the command is done. Or SIGTERM stopped a training, which was saved; --exit-on-preemption
      sets another status for that.
    - 1: an unexpected error, which is a bug.
    - 2: the input cannot be used, or files cannot be written.
    - 3: the training diverged.
    - 130: the user interrupted the command.

    If several processes train together, the first process that fails ends the other processes. The
    statuses of those are not from this list.

    Args:
      command: the function that runs the command. Its argument is the words of the command line.
      args: the words of the command line; by default those of this program.
      name: name of the subcommand of `hyperface`, for the command line in reports; "" for another
        program.
    """
    # Both before JAX is loaded: its threads must share one heap, and it reads the folder once.
    process_settings.keep_memory()
    process_settings.keep_compiled()
    show_log()
    args = sys.argv[1:] if args is None else args
    if name:
        _COMMAND.set(shlex.join(["hyperface", name, *args]))
    try:
        command(args)
    except InputError as error:
        if _lacks_threads(error):
            _end(NO_THREADS, EXIT_INPUT, at_once=True)
        _end(f"error: {error}", EXIT_INPUT)
    # The program that reads the output, such as `head`, has ended. Python would flush the output at
    # exit and report the error again, so it goes to /dev/null.
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _end("interrupted. The same command continues the work.", EXIT_INTERRUPTED)
    except Exception as error:
        if _is_interrupted(error):
            print(f"stopped by {error}", file=sys.stderr)
            sys.exit(_status(error, 0))
        if _lacks_threads(error):
            _end(NO_THREADS, EXIT_INPUT, at_once=True)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            _end(
                f"error: expected room and permission to read and write, found: "
                f"{owned.said(error)}. Solve that, and give the same command again.",
                EXIT_INPUT,
            )
        if not _is_joined():
            raise
        # Python would print the traceback and exit in order. With other processes that is a
        # deadlock (see `processes.exit_now`), so both are done here.
        _end(traceback.format_exc(), EXIT_BUG)


def join(options: Any) -> None:
    """Connects this process with the others of the run, if there are several.

    The options name them, or a launcher such as SLURM does in the environment. Afterwards only the
    first process, which writes all files, prints the log.

    Args:
      options: options with the fields `coordinator` (host:port of process 0), `processes` (number
        of processes) and `process` (number of this process, from 0). None in a field means the
        launcher's value.
    """
    from hyperface.devices import launchers, processes

    processes.initialize(
        launchers.cluster_of(
            os.environ,
            coordinator=options.coordinator,
            processes=options.processes,
            process=options.process,
        )
    )
    log_console().quiet = not processes.is_writer()


class Terminated(BaseException):
    """The exception that SIGTERM raises inside of `ending_in_order`, which catches it.

    It is not a subclass of Exception, because code that catches any Exception would hide it.
    """


@contextlib.contextmanager
def ending_in_order(status: int) -> Iterator[None]:
    """Ends the program with a chosen exit status if SIGTERM arrives, as a context manager.

    During training the training loop first finishes the step and saves a checkpoint. At any other
    time the program ends at once and prints one line. In both cases the exit status is `status`.
    Outside of the main thread SIGTERM is not handled, because only the main thread gets signals.

    Args:
      status: exit status of the program after SIGTERM, from --exit-on-preemption.

    Raises:
      InputError: the status is not in 0 to 255.
    """
    expect(0 <= status <= 255, "exit-on-preemption", "a status from 0 to 255", status)
    is_main = threading.current_thread() is threading.main_thread()

    def ended(number: int, frame: FrameType | None) -> None:
        # A scheduler may send SIGTERM to the process and to its group. The second one must not
        # interrupt the orderly end.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise Terminated

    before = signal.signal(signal.SIGTERM, ended) if is_main else None
    try:
        yield
    except Terminated:
        _end(
            "SIGTERM: stopped between two steps. The same command continues the work.",
            status,
        )
    except Exception as error:
        if not _is_interrupted(error):
            raise
        sys.exit(_status(error, status))
    finally:
        if is_main and signal.getsignal(signal.SIGTERM) is ended:
            signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def progress(
    title: str, unit: str, *, console: "Console | None" = None
) -> Iterator[Callable[[int, int], None]]:
    """Shows the progress of a long computation, with rate and time left, as a context manager.

    It yields a function, to be called with (number done, total number). On a terminal it shows a
    bar. Elsewhere it logs a line every ten seconds.

    Args:
      title: description of the work, for the bar and the lines.
      unit: the name of the counted things, such as "images".
      console: console that shows the bar; by default that of the log.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = console or log_console()
    is_bar = console.is_terminal and not console.quiet
    began = last = time.monotonic()
    columns = plain_column("{task.description}"), BarColumn(), MofNCompleteColumn()
    rate_column = plain_column("{task.fields[rate]}")
    with Progress(
        *columns,
        rate_column,
        TimeRemainingColumn(),
        console=console,
        disable=not is_bar,
    ) as bar:
        task = bar.add_task(title, total=None, rate="")

        def advance(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            speed = done / max(now - began, 1e-9)  # The clock may not have advanced yet.
            rate = f"{speed:,.{0 if speed >= 10 else 1}f} {unit}/s"
            bar.update(task, completed=done, total=total, rate=rate)
            if not is_bar and now - last > SECONDS_BETWEEN_LINES:
                last = now
                left = f"{(total - done) / speed:,.0f} s left" if done else ""
                log.info(f"{title} {done:,}/{total:,} {rate} {left}")

        yield advance


def quiet_libraries() -> None:
    """Hides the log messages of absl and TensorStore, which mean nothing to the user.

    Errors are still raised as exceptions.
    """
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    shown = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # TensorStore causes this message once per array of a checkpoint that cannot be read or
        # written.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook


def _lacks_threads(error: BaseException | None) -> bool:
    """Returns whether an error, or one that caused it, says that no thread could be started."""
    while error is not None:
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _end(message: str, status: int, *, at_once: bool = False) -> NoReturn:
    """Prints a message on stderr and ends the program.

    Args:
      message: the message.
      status: the exit status.
      at_once: whether the process ends without waiting for its threads.
    """
    print(message, file=sys.stderr)
    # An orderly end would wait for threads that were never started.
    if at_once:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if _is_joined():
        from hyperface.devices import processes

        processes.exit_now(status)
    sys.exit(status)


def _is_interrupted(error: Exception) -> "TypeGuard[Interrupted]":
    """Returns whether an error is the training's `Interrupted`."""
    # Importing the module would load JAX. If it is not loaded yet, nothing can have raised it.
    interrupt = sys.modules.get("hyperface.train.interrupt")
    return interrupt is not None and isinstance(error, interrupt.Interrupted)


def _status(stop: "Interrupted", preempted: int) -> int:
    return EXIT_INTERRUPTED if stop.by_user else preempted


def _is_joined() -> bool:
    # Without JAX this process cannot have joined others, and importing it would take seconds.
    if "jax" not in sys.modules:
        return False
    from hyperface.devices import processes

    return processes.is_joined()
