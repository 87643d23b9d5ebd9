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

from launch.cli import EXIT_DIVERGED
from launch.papers.item import Context
from launch.papers.methods import TRAINED, Command

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
    waiting = [command for command in commands if not command.is_done()]
    total, failed, say = len(waiting), [], context.console.print
    places: Places = [None] * context.jobs
    with _listening(places) as is_told:
        while any(places) or (waiting and not is_told()):
            for place, one in enumerate(places):
                if one and (status := one.process.poll()) is not None:
                    places[place] = None
                    say(f"took {time.monotonic() - one.began:.0f} s: {one.command}", markup=False,
                        soft_wrap=True)  # fmt: skip
                    if status != EXIT_DIVERGED and not (status == 0 and one.command.is_done()):
                        failed.append(f"{one.command} ended with status {status}.")
                elif not one and not is_told() and (command := _next(waiting, places)):
                    waiting.remove(command)
                    if command.start and not (command.start / TRAINED).exists():
                        left_out = f"No trained run in {command.start}: left out {command}."
                        say(left_out, markup=False, soft_wrap=True)
                        continue
                    number = total - len(waiting)
                    say(f"[{number}/{total}] {command}", markup=False, soft_wrap=True)
                    process = _start(command, place, context)
                    places[place] = UnderWay(command, process, time.monotonic())
                    if is_told():  # Before there was a process to pass it on to.
                        process.terminate()
            if any(places):
                time.sleep(POLL)
    if is_told():
        raise KeyboardInterrupt
    return failed


def _next(waiting: Sequence[Command], places: Places) -> Command | None:
    """The first command of which nothing that it needs is still to be made."""
    unmade = {one.command.makes for one in places if one}
    for command in waiting:
        if command.start is None or command.start / TRAINED not in unmade:
            return command
        unmade.add(command.makes)
    return None


def _start(command: Command, place: int, context: Context) -> subprocess.Popen:
    """Starts a program; of several at once each has a log and its share of the cores."""
    options = [*shlex.split(command.options), "--data-dir", str(context.data_dir)]
    arguments = [sys.executable, "-m", f"launch.{command.program}", *options]
    if context.jobs == 1:
        return subprocess.Popen(arguments)
    name = command.makes.relative_to(context.runs).parts[0]
    path = context.out / "logs" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as log:
        process = subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT)
    # Before its runtime counts cores: it then starts as many threads as it may use.
    with contextlib.suppress(AttributeError, ProcessLookupError):  # Linux has it.
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, cores[place % len(cores) :: context.jobs])
    return process


@contextlib.contextmanager
def _listening(places: Places) -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM came, which is passed on; before an end, what is under way is waited for."""
    told = False

    def end(number: int, frame: object) -> None:
        nonlocal told
        told = True
        for one in filter(None, places):
            one.process.terminate()

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield lambda: told
    except KeyboardInterrupt:
        for one in filter(None, places):
            one.process.wait()  # The terminal told it too: it saves what it has.
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
