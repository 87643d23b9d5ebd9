"""Commands that train and score, run one after another or side by side."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hyperface import owned
from hyperface.console import say
from hyperface.reproduce.item import Context
from hyperface.reproduce.methods import TRAINED, Command
from hyperface.runs.prepare import prepare_missing
from hyperface.runs.program import EXIT_DIVERGED

POLL = 0.1
"""Seconds between looks at what is under way."""


class UnderWay(NamedTuple):
    """A command whose process has not ended, as far as is known."""

    command: Command
    process: subprocess.Popen
    began: float


Places = list[UnderWay | None]
"""As many as commands may run at once."""


def make(commands: Sequence[Command], context: Context) -> list[str]:
    """Runs those commands that are not done yet, each in a process.

    With several jobs as many run at once, each on its share of the cores, and what they print is in
    `context.out / "logs"`. One waits until what it starts from is made. Where one diverges or
    fails, what starts from it is left out and the others go on.

    Returns:
      A sentence for each that failed; what it said is above, or in its log. A run that diverged is
      no failure: its folder says so.

    Raises:
      KeyboardInterrupt: Ctrl-C or SIGTERM came, and the commands under way have ended, saved.
    """
    waiting = [command for command in commands if not command.is_done(context.data_dir)]
    _prepare(waiting, context)
    total, failed, lost = len(waiting), [], set()
    places: Places = [None] * context.jobs

    with _listening(places) as is_told:
        while any(places) or (waiting and not is_told()):
            for place, one in enumerate(places):
                if one and (status := one.process.poll()) is not None:
                    places[place] = None
                    say(
                        context.console, f"took {time.monotonic() - one.began:.0f} s: {one.command}"
                    )
                    if status or not one.command.is_done(context.data_dir):
                        lost.add(one.command.makes)
                        failed += _failure(one.command, status)
                elif not one and not is_told() and (command := _next(waiting, places)):
                    waiting.remove(command)
                    needed = command.start and command.start / TRAINED
                    if needed and (needed in lost or not needed.exists()):
                        lost.add(command.makes)
                        say(
                            context.console,
                            f"No trained run in {command.start}: left out {command}.",
                        )
                        continue
                    say(context.console, f"[{total - len(waiting)}/{total}] {command}")
                    process = _start(command, place, context)
                    places[place] = UnderWay(command, process, time.monotonic())
                    if is_told():  # Before there was a process to pass it on to.
                        process.terminate()
            if any(places):
                time.sleep(POLL)
    if is_told():
        raise KeyboardInterrupt
    return failed


def _prepare(commands: Sequence[Command], context: Context) -> None:
    """Makes the data sets that need nothing from the user, which commands would make at once."""
    names = {c.experiment().data.name for c in commands if c.program == "train"}
    for name in sorted(names):
        prepare_missing(name, context.data_dir, context.console)


def _failure(command: Command, status: int) -> list[str]:
    if status == EXIT_DIVERGED:
        return []
    if status:
        return [f"{command} ended with status {status}."]
    return [f"{command} ended well, but what it left is of other options or of another start."]


def _next(waiting: Sequence[Command], places: Places) -> Command | None:
    """The first command of which nothing that it needs is still to be made."""
    unmade = {one.command.makes for one in places if one}
    for command in waiting:
        if command.start is None or command.start / TRAINED not in unmade:
            return command
        unmade.add(command.makes)
    return None


def _arguments(command: Command, context: Context) -> list[str]:
    options = [*shlex.split(command.options), "--data-dir", str(context.data_dir)]
    return [sys.executable, "-m", "hyperface", command.program, *options]


def _start(command: Command, place: int, context: Context) -> subprocess.Popen:
    """Starts a program in a process group of its own, which a terminal's Ctrl-C does not reach.

    Of several at once each has a log, its share of the cores, and of an accelerator's memory.
    """
    arguments = _arguments(command, context)
    if context.jobs == 1:
        return subprocess.Popen(arguments, process_group=0)
    name = command.makes.relative_to(context.runs).parts[0]
    path = context.out / "logs" / f"{name}.txt"
    owned.claim(path)
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / context.jobs:.3f}"}
    with path.open("ab") as log:
        process = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            env=memory | dict(os.environ),
        )
    # Before its runtime counts cores: it then starts as many threads as it may use.
    with contextlib.suppress(AttributeError, ProcessLookupError):  # Linux has it.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, cores[place % len(cores) :: context.jobs])
    return process


@contextlib.contextmanager
def _listening(places: Places) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or Ctrl-C came, which is passed on to what is under way."""
    told = False

    def end(number: int, frame: object) -> None:
        nonlocal told
        told = True
        for one in filter(None, places):
            one.process.send_signal(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in filter(None, places):  # After an error here; else all have ended.
            one.process.terminate()
            one.process.wait()
