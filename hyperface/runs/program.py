"""Parts that the commands share: parsing before jax is loaded, statuses, and errors in one line."""

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
EXIT_INTERRUPTED = 130
OF_THE_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the system that the user mends, wherever they come up."""
NO_THREADS = (
    "error: expected that the system lets this process start threads, found that it does not. "
    "Raise the limit of processes (ulimit -u, or the container's), or end other programs."
)
SECONDS_BETWEEN_LINES = 10.0
_COMMAND: ContextVar[str] = ContextVar("command", default="")


def with_home(options: T) -> T:
    """Returns the options with the user's home in place of "~" at the start of a path.

    A shell leaves "~" alone in quotes, behind "=", and in files of variables.
    """

    def expanded(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(expanded, value))
        if isinstance(value, str | Path):
            return type(value)(os.path.expanduser(value))  # noqa: PTH111  A text stays a text.
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
    """Reads command-line options into a dataclass; wrong ones end the program with status 2.

    Fields that hold an object, such as a backbone, are no options and stay as they are.

    Args:
      kind: the dataclass.
      args: the command line's words.
      prog: the command, for messages.
      description: what it does, for the help.
      default: values that the options change; those of the dataclass by default.
      main_options: names of the options that --help shows, for a command with many; --help-all
        always shows all.
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
            config=(tyro.conf.SuppressFixed,),
        )
    )


def command_line() -> str:
    """Returns the command that this process carries out, for its pages; "" in Python code."""
    return _COMMAND.get()


def run(
    command: Callable[[Sequence[str]], None],
    args: Sequence[str] | None = None,
    *,
    name: str = "",
) -> None:
    """Runs a command on arguments, by default the program's, and ends the program.

    Status 0: done, or stopped by SIGTERM while training, and saved (another where
    --exit-on-preemption says so). 2: the input cannot be used, or nothing can be written. 3:
    training diverged. 130: interrupted. The first of several processes that fails ends the others,
    which have a status of their own.

    Args:
      command: takes the arguments.
      args: the words behind the command.
      name: the subcommand of `hyperface` that this is.
    """
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
    except BrokenPipeError:  # The reader of the output, a pager perhaps, has closed it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        _end("interrupted; the same command goes on from what is done.", EXIT_INTERRUPTED)
    except Exception as error:
        if _is_interrupted(error):
            print(f"stopped by {error}", file=sys.stderr)
            sys.exit(_status(error, 0))
        if _lacks_threads(error):
            _end(NO_THREADS, EXIT_INPUT, at_once=True)
        if isinstance(error, OSError) and error.errno in OF_THE_DISK:
            _end(
                f"error: expected room and permission to read and write, found: "
                f"{owned.said(error)}. Mend that, and give the same command again.",
                EXIT_INPUT,
            )
        if not _is_joined():
            raise
        _end(traceback.format_exc(), EXIT_BUG)


def join(options: Any) -> None:
    """Joins the processes that the options coordinator, processes and process name, or a launcher.

    Of all processes only the writer shows its log from then on.
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
    """SIGTERM came. It is not an Exception, which running code could take for its own failure."""


@contextlib.contextmanager
def ending_in_order(status: int) -> Iterator[None]:
    """Ends the program with this status if SIGTERM stops a training, which reports it itself.

    Training finishes its step first, and on several processes jax waits for the next one. Between
    steps the program ends with one line. Outside the main thread, which gets no signals, nothing
    is done.

    Args:
      status: --exit-on-preemption.

    Raises:
      InputError: that is no status.
    """
    expect(0 <= status <= 255, "exit-on-preemption", "a status from 0 to 255", status)
    is_main = threading.current_thread() is threading.main_thread()

    def ended(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # One to a whole group may come twice.
        raise Terminated

    before = signal.signal(signal.SIGTERM, ended) if is_main else None
    try:
        yield
    except Terminated:
        _end(
            "SIGTERM: stopped between two steps. The same command goes on from what is done.",
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
    """Yields a function of (done, all) that shows rate and time left.

    On a terminal this is a bar. Elsewhere a line is logged every ten seconds.

    Args:
      title: what is done, for the bar and the lines.
      unit: of the numbers, such as "images".
      console: where the bar is shown; by default where the log is.
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
            speed = done / max(now - began, 1e-9)
            rate = f"{speed:,.{0 if speed >= 10 else 1}f} {unit}/s"
            bar.update(task, completed=done, total=total, rate=rate)
            if not is_bar and now - last > SECONDS_BETWEEN_LINES:
                last = now
                left = f"{(total - done) / speed:,.0f} s left" if done else ""
                log.info(f"{title} {done:,}/{total:,} {rate} {left}")

        yield advance


def quiet_libraries() -> None:
    """Keeps libraries' logs off the terminal; their errors still come as exceptions."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    shown = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # TensorStore's, once for each array of a checkpoint that could not be read or written.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook


def _lacks_threads(error: BaseException | None) -> bool:
    """Returns whether an error, or what caused it, is that the system gave no thread."""
    while error is not None:
        if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _end(message: str, status: int, *, at_once: bool = False) -> NoReturn:
    print(message, file=sys.stderr)
    if at_once:  # An orderly end would wait for threads that never began.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    if _is_joined():
        from hyperface.devices import processes

        processes.exit_now(status)
    sys.exit(status)


def _is_interrupted(error: Exception) -> "TypeGuard[Interrupted]":
    """Returns whether it is training's `Interrupted`, raised by code that has loaded jax."""
    interrupt = sys.modules.get("hyperface.train.interrupt")
    return interrupt is not None and isinstance(error, interrupt.Interrupted)


def _status(stop: "Interrupted", preempted: int) -> int:
    return EXIT_INTERRUPTED if stop.by_user else preempted


def _is_joined() -> bool:
    if "jax" not in sys.modules:  # What fails before it is loaded fails at once.
        return False
    from hyperface.devices import processes

    return processes.is_joined()
