"""Parts that the commands share: options are parsed before jax is loaded, mistakes are a line."""

import contextlib
import ctypes
import dataclasses
import errno
import importlib.util
import os
import platform
import signal
import sys
import threading
import time
import traceback
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeGuard, TypeVar

import tyro

from hyperface import owned
from hyperface.errors import InputError, expect
from hyperface.runs.short_help import print_short_help

if TYPE_CHECKING:
    from _typeshed import DataclassInstance
    from rich.console import Console

    from hyperface.train.interrupt import Interrupted

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
CACHE_BYTES = 4 * 2**30
"""Of compiled programs; the ones longest unused go first."""
MALLOC = {
    "M_ARENA_MAX": (-8, 1),
    "M_MMAP_MAX": (-4, 0),
    "M_TRIM_THRESHOLD": (-1, 2**31 - 1),
}
"""Parameters of glibc's mallopt, each with its number and a value."""


def with_home(options: T) -> T:
    """The options with "~" at the start of a path as the user's home.

    A shell leaves it alone in quotes, behind "=", and in files of variables.
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
      main_options: names of the options that --help shows, where there are many; --help-all then
        shows all.
    """
    if main_options and {"-h", "--help"} & set(args):
        print_short_help(kind, default, main_options, prog=prog, description=description)
        sys.exit(0)
    if main_options:
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


def run(command: Callable[[Sequence[str]], None], args: Sequence[str] | None = None) -> None:
    """Runs a command on arguments, by default the program's, and ends the program.

    Status 0: done, or stopped by SIGTERM while training, and saved (another where
    --exit-on-preemption says so). 2: the input cannot be used, or nothing can be written. 3:
    training diverged. 130: interrupted. Of several processes the first that fails ends the others,
    which have a status of their own.
    """
    keep_memory()
    keep_compiled()
    try:
        command(sys.argv[1:] if args is None else args)
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
    """Joins the processes that its coordinator, processes and process, or a launcher, tell of."""
    from hyperface.devices import launchers, processes

    processes.initialize(
        launchers.cluster_of(
            os.environ,
            coordinator=options.coordinator,
            processes=options.processes,
            process=options.process,
        )
    )


class Terminated(BaseException):
    """SIGTERM came; no Exception, which something under way could take for a failure of its own."""


@contextlib.contextmanager
def ending_in_order(status: int) -> Iterator[None]:
    """Ends the program with this status where SIGTERM stops a training, which says so itself.

    Where no step is to be finished it ends with a line: training's own steps are, and on several
    processes jax waits for the next one. Outside the main thread, which gets no signals, there is
    no such line.

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


def keep_memory() -> None:
    """Has glibc keep what a step frees for the next one, where jax has the CPU alone.

    XLA takes the workspace of a program anew each time it runs. Blocks of that size are mapped and
    unmapped by default, and the kernel clears every page: a tenth of a small net's step. One
    heap that is not trimmed keeps them; threads that came before would have heaps of their own. An
    environment that tunes malloc, or has another, is left alone.
    """
    tuned = {"GLIBC_TUNABLES", "LD_PRELOAD"} & os.environ.keys()
    if tuned or any(name.startswith("MALLOC_") for name in os.environ) or not _has_cpu_alone():
        return
    if platform.libc_ver()[0] == "glibc":
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in MALLOC.values():
            mallopt(parameter, value)


def _has_cpu_alone() -> bool:
    """Whether jax has no other backend, before it is loaded: by what is installed or asked for."""
    asked = os.environ.get("JAX_PLATFORMS")
    plugins = ("jax_plugins", "libtpu")
    return asked == "cpu" if asked else not any(map(importlib.util.find_spec, plugins))


def keep_compiled() -> None:
    """Has jax keep what it compiles in the user's cache, before jax is loaded.

    JAX_COMPILATION_CACHE_DIR names another folder, and JAX_ENABLE_COMPILATION_CACHE=0 keeps
    nothing. Each kind of processor has a folder of its own, since a program compiled for one may
    not run on another that shares the cache.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # With no place to keep it, or no home, it is compiled anew each time.
    with contextlib.suppress(OSError, RuntimeError):
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = cache / "hyperface-compiled" / f"{platform.machine()}-{_processor():08x}"
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(CACHE_BYTES))


def _processor() -> int:
    """A number for what the processor can do."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else [platform.processor()]
    features = {line for line in lines if line.startswith(("flags", "Features", "model name"))}
    return zlib.crc32("".join(sorted(features or lines[:1])).encode())


@contextlib.contextmanager
def progress(console: "Console", title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Gives a function of (done, all) that shows rate and time left.

    A live bar on a terminal; elsewhere a line every ten seconds.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    from hyperface.console import plain_column, say

    began = last = time.monotonic()
    columns = plain_column("{task.description}"), BarColumn(), MofNCompleteColumn()
    rate_column = plain_column("{task.fields[rate]}")
    with Progress(
        *columns,
        rate_column,
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task(title, total=None, rate="")

        def advance(done: int, total: int) -> None:
            nonlocal last
            now = time.monotonic()
            speed = done / max(now - began, 1e-9)
            rate = f"{speed:,.{0 if speed >= 10 else 1}f} {unit}/s"
            bar.update(task, completed=done, total=total, rate=rate)
            if not console.is_terminal and now - last > SECONDS_BETWEEN_LINES:
                last = now
                left = f"{(total - done) / speed:,.0f} s left" if done else ""
                say(console, f"{title} {done:,}/{total:,} {rate} {left}")

        yield advance


def quiet_libraries() -> None:
    """Keeps libraries' logs off the terminal; their errors come as exceptions, said once."""
    from absl import logging

    logging.set_verbosity(logging.FATAL)
    shown = sys.unraisablehook

    def hook(unraisable: "sys.UnraisableHookArgs") -> None:
        # TensorStore's, once for each array of a checkpoint that could not be read or written.
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook


def _lacks_threads(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, is that the system gave no thread."""
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
    """Whether it is training's `Interrupted`, which only what has loaded jax can have raised."""
    interrupt = sys.modules.get("hyperface.train.interrupt")
    return interrupt is not None and isinstance(error, interrupt.Interrupted)


def _status(stop: "Interrupted", preempted: int) -> int:
    return EXIT_INTERRUPTED if stop.by_user else preempted


def _is_joined() -> bool:
    if "jax" not in sys.modules:  # What fails before it is loaded fails at once.
        return False
    from hyperface.devices import processes

    return processes.is_joined()
