"""Runs the commands that train and score, one after another or several at the same time.

A task runner such as doit would replace only `_next` and the loop of `run_all`, about 40 lines, and
needs as many lines to describe the tasks. The rest is particular to this project:

- Whether a run is up to date depends on its recorded options and on digests of its start, its data
  and its protocol files, not on file times (`commands.py`).
- Each command gets its share of the cores and its own log.
- A run that diverged does not count as a failure.
- On SIGTERM each running command saves a checkpoint before it ends.
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
from hyperface.reproduce.commands import Command
from hyperface.reproduce.item import Context
from hyperface.runs.prepare import prepare_missing
from hyperface.runs.program import EXIT_DIVERGED

log = logging.getLogger("hyperface")

POLL = 0.1
"""Seconds between two checks whether a process has ended."""


class Running(NamedTuple):
    """A command and its process, which was running at the last check."""

    command: Command
    process: subprocess.Popen
    began: float
    """Time at which the process started, in seconds of `time.monotonic`."""


Slots = list[Running | None]
"""One slot per command that may run at the same time; a free slot is None."""


def run_all(commands: Sequence[Command], context: Context) -> list[str]:
    """Runs the commands that are not done yet, each in its own process.

    `context.jobs` is the number of commands that run at the same time. Each of them gets its share
    of the cores, and writes its output to a file in `context.out / "logs"`. A command waits until
    the run from which it starts is trained. If that run diverges or fails, the command is left out,
    and the other commands continue.

    Args:
      commands: the commands, in the order in which they should run.
      context: contains the folders and the number of jobs.

    Returns:
      One sentence per command that failed. A run that diverged does not count as failed; its folder
      records the divergence.

    Raises:
      KeyboardInterrupt: after Ctrl-C or SIGTERM, once the running commands have saved and ended.
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
                    # Status 0 alone is not enough: later commands rely on the files.
                    if status or not running.command.is_done(context.data_dir):
                        lost.add(running.command.makes)
                        failed += _failure(running.command, status)
                elif not running and not is_stopped() and (command := _next(waiting, slots)):
                    waiting.remove(command)
                    needed = command.needs
                    if needed and (needed in lost or not needed.exists()):
                        lost.add(command.makes)
                        log.info(f"No trained run in {command.start}: {command} is left out.")
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
    """Prepares the data sets that are downloaded or built automatically."""
    # Before any command starts, or several would prepare one data set at the same time.
    names = {c.experiment().data.name for c in commands if c.program == "train"}
    for name in sorted(names):
        prepare_missing(name, context.data_dir)


def _failure(command: Command, status: int) -> list[str]:
    """Returns a sentence about a command that did not succeed, or [] if its training diverged."""
    if status == EXIT_DIVERGED:
        return []
    if status:
        return [f"{command} ended with status {status}."]
    return [f"{command} succeeded, but the files have other options or another start."]


def _next(waiting: Sequence[Command], slots: Slots) -> Command | None:
    """Returns the first waiting command that can start now, or None if there is none.

    A command cannot start while the run that it starts from is being trained or is waiting.
    """
    unfinished = {one.command.makes for one in slots if one}
    for command in waiting:
        if command.needs not in unfinished:
            return command
        unfinished.add(command.makes)
    return None


def _arguments(command: Command, context: Context) -> list[str]:
    """Returns the arguments of a command's process."""
    # The interpreter itself: a `hyperface` on the path may belong to another installation.
    options = [*shlex.split(command.options), "--data-dir", str(context.data_dir)]
    return [sys.executable, "-m", "hyperface", command.program, *options]


def _start(command: Command, slot: int, context: Context) -> subprocess.Popen:
    """Starts a command in a process of its own.

    With several jobs, each command gets a log, a share of the cores, and a share of the
    accelerator's memory.
    """
    # In a process group of its own, which a terminal's Ctrl-C does not reach: the signal is passed
    # on once, and not received twice.
    arguments = _arguments(command, context)
    if context.jobs == 1:
        return subprocess.Popen(arguments, process_group=0)
    name = command.makes.relative_to(context.runs).parts[0]
    path = context.out / "logs" / f"{name}.txt"
    owned.claim(path)
    # By default JAX reserves 75 % of the memory, and a second process would find too little.
    memory = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / context.jobs:.3f}"}
    with path.open("ab") as log:
        process = subprocess.Popen(
            arguments,
            stdout=log,
            stderr=subprocess.STDOUT,
            process_group=0,
            # The user's own setting wins.
            env=memory | dict(os.environ),
        )
    # Set at once, before the process' runtime counts its cores: it starts that many threads. Only
    # Linux has this call.
    with contextlib.suppress(AttributeError, ProcessLookupError):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, cores[slot % len(cores) :: context.jobs])
    return process


@contextlib.contextmanager
def _signals_passed_on(slots: Slots) -> Iterator[Callable[[], bool]]:
    """Passes SIGTERM and Ctrl-C on to the running commands.

    It yields a function that returns whether such a signal has been received.
    """
    stopped = False

    def end(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True
        # The same signal, so that each command ends as it would if it had got the signal itself.
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
