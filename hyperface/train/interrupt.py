"""Lets a signal stop a run in order: the run finishes its step and saves a checkpoint."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import jax
from jax.experimental import multihost_utils

from hyperface.devices.processes import AgreedStop

AGAIN = 1.0
"""A second signal within this number of seconds counts as a repetition of the first."""


class Interrupted(AgreedStop):
    """The exception of a run that a signal stopped. The state of the run is saved.

    Args:
      step: number of steps that are done and saved.
      name: name of the signal.
    """

    def __init__(self, step: int, name: str) -> None:
        super().__init__(f"{name}: step {step} is saved. The same command goes on from it.")
        self.by_user = name == signal.SIGINT.name


class StopRequest:
    """A request to stop the run after the current step; `listening` sets it when a signal arrives.

    `signal` is the name of the signal, such as "SIGTERM", or None if none has arrived.
    """

    def __init__(self) -> None:
        self.signal: str | None = None

    def reached(self, step: int) -> str | None:
        """Returns the name of the signal if the run has to stop after `step`; None if it continues.

        Call it once after each step. If several processes train together, all of them stop after
        the same step.
        """
        # JAX's handler lets all processes agree on one step. A process that stopped earlier than
        # the others would leave them waiting in a collective.
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            return signal.SIGTERM.name
        return self.signal


@contextmanager
def listening() -> Iterator[StopRequest]:
    """Turns the first SIGTERM or SIGINT into a request to stop; a context manager.

    It yields the `StopRequest`, whose `signal` is set when the first signal arrives. A second
    signal stops the process at once, as if this function were not used. Only a signal that comes
    within `AGAIN` (1) seconds after the first is ignored: a scheduler may signal a whole group of
    processes, and one of these may pass the signal on to another.

    No handler is installed if several processes train together, because JAX has its own handler
    then. None is installed outside of the main thread either, because only the main thread gets
    signals.
    """
    request = StopRequest()
    before, since = {}, 0.0

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def asked(number: int, frame: FrameType | None) -> None:
        nonlocal since
        if request.signal is None:
            request.signal, since = signal.Signals(number).name, time.monotonic()
            # Not print: the signal may have interrupted a print, whose lock is then held.
            os.write(2, b"\nStopping after this step; once more to stop at once, unsaved.\n")
        elif time.monotonic() - since > AGAIN:
            # The old handlers are restored first, so that the repeated signal does not come here.
            restore()
            signal.raise_signal(number)

    if jax.process_count() == 1 and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            before[number] = signal.signal(number, asked)
    try:
        yield request
    finally:
        restore()
