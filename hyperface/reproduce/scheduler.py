"""Runs commands that train and score, one after another or several at the same time.

A task runner such as doit would replace `_next` and the loop of `run_all`, some 40 lines, and needs
about as many to describe the tasks. It would not replace the rest. Whether a run is up to date
depends on its recorded options and on the digests of its start, data and protocol files, not on
file times (`commands.py`). Each command needs its share of the cores and a log, a run that diverged
is no failure, and on SIGTERM each running command has to save before it ends.
"""

import contextlib
import logging
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from hyperface import owned
from hyperface.reproduce.commands import TRAINED, Command
from hyperface.reproduce.item import Context
from hyperface.runs.prepare import prepare_missing
from hyperface.runs.program import EXIT_DIVERGED

log = logging.getLogger("hyperface")

POLL = 0.1
"""Seconds between two checks whether a process has ended."""


class Running(NamedTuple):
    """A command whose process was running at the last check."""

    command: Command
    process: subprocess.Popen
    began: float


Slots = list[Running | None]
"""One slot per command that may run at the same time; None for a free slot."""


def run_all(commands: Sequence[Command], context: Context) -> list[str]:
    """Runs the commands that are not done yet, each in its own process.

    With `context.jobs` above 1, that many run at the same time. Each then gets its share of the
    cores, and its output goes to `context.out / "logs"`. A command waits for the run that it starts
    from. If that run diverges or fails, the command is left out and the others go on.

    Returns:
      A sentence for each command that failed. A run that diverged is no failure: its folder records
      the divergence.

    Raises:
      KeyboardInterrupt: after Ctrl-C or SIGTERM, when the running commands have saved and ended.
    """
    waiting = [command for command in commands if not command.is_done(context.data_dir)]
    _prepare(waiting, context)
    total, failed, lost = len(waiting), [], set()
    slots: Slots = [None] * context.jobs

    with _signals_passed_on(slots) as is_stopped:
        while any(slots) or (waiting and not is_stopped()):
            for slot, running in enumerate(slots):
                if running and (status := running.process.poll()) is not None:
                    slots[slot] = None
                    seconds = time.monotonic() - running.began
                    log.info(f"took {seconds:.0f} s: {running.command}")
                    if status or not running.command.is_done(context.data_dir):
                        lost.add(running.command.makes)
                        failed += _failure(running.command, status)
                elif not running and not is_stopped() and (command := _next(waiting, slots)):
                    waiting.remove(command)
                    needed = command.start and command.start / TRAINED
                    if needed and (needed in lost or not needed.exists()):
                        lost.add(command.makes)
                        log.info(
                            f"No trained run in {command.start}: left out {command}.",
                        )
                        continue
                    log.info(f"[{total - len(waiting)}/{total}] {command}")
                    process = _start(command, slot, context)
                    slots[slot] = Running(command, process, time.monotonic())
                    if is_stopped():  # The signal came before there was a process to receive it.
                        process.terminate()
            if any(slots):
                time.sleep(POLL)
    if is_stopped():
        raise KeyboardInterrupt
    return failed


def _prepare(commands: Sequence[Command], context: Context) -> None:
    """Prepares data sets that need nothing from the user, before several commands would do so."""
    names = {c.experiment().data.name for c in commands if c.program == "train"}
    for name in sorted(names):
        prepare_missing(name, context.data_dir)


def _failure(command: Command, status: int) -> list[str]:
    if status == EXIT_DIVERGED:
        return []
    if status:
        return [f"{command} ended with status {status}."]
    return [f"{command} ended well, but what it left is of other options or of another start."]


def _next(waiting: Sequence[Command], slots: Slots) -> Command | None:
    """Returns the first command whose start is not still to be trained; None if there is none."""
    unmade = {one.command.makes for one in slots if one}
    for command in waiting:
        if command.start is None or command.start / TRAINED not in unmade:
            return command
        unmade.add(command.makes)
    return None


def _arguments(command: Command, context: Context) -> list[str]:
    options = [*shlex.split(command.options), "--data-dir", str(context.data_dir)]
    return [sys.executable, "-m", "hyperface", command.program, *options]


def _start(command: Command, slot: int, context: Context) -> subprocess.Popen:
    """Starts a command in its own process group, which a terminal's Ctrl-C does not reach.

    With several jobs, each command gets a log, a share of the cores, and a share of the
    accelerator's memory.
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
    # Before the runtime of the process counts its cores, so that it starts as many threads. Only
    # Linux has the call.
    with contextlib.suppress(AttributeError, ProcessLookupError):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, cores[slot % len(cores) :: context.jobs])
    return process


@contextlib.contextmanager
def _signals_passed_on(slots: Slots) -> Iterator[Callable[[], bool]]:
    """Passes SIGTERM and Ctrl-C on to running commands; yields a check whether one has come."""
    stopped = False

    def end(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        for one in filter(None, slots):
            one.process.send_signal(number)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in filter(None, slots):  # Processes are left only if an error ended the loop.
            one.process.terminate()
            one.process.wait()
