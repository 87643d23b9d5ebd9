"""Computes the items of a sequence in worker processes.

Each worker has a pipe of its own, and no lock is shared. So a worker that is killed, for example
because memory is short, is noticed at once, by the end of its pipe. If workers shared a queue, one
that is killed while it holds the queue's lock would leave all others waiting for ever.
"""

import atexit
import contextlib
import itertools
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Generator, Sequence
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple, TypeVar

from hyperface.errors import InputError

AHEAD = 2
"""Number of items that each worker is asked for in advance."""
FOR_THE_RUN = (signal.SIGINT, signal.SIGTERM)
"""Signals that workers leave to the process that has started them."""
SECONDS_TO_END = 5.0
"""Time that a worker whose pipe has ended gets for its exit status to be known."""

T = TypeVar("T")


class _Worker(NamedTuple):
    process: BaseProcess
    connection: Connection
    """The end of the pipe on which indices are sent and items are received."""


def in_workers(make: Callable[[], Sequence[T]], workers: int) -> Generator[T]:
    """Yields the items 0, 1, 2, ... of an endless sequence, which worker processes compute.

    The items come in order, whichever worker is faster. The workers end with the iterator, and also
    if this process is killed.

    Args:
      make: function that returns the sequence. Each worker calls it once, so it must be picklable,
        such as a `functools.partial` of a function of a module.
      workers: number of worker processes, at least 1.

    Raises:
      InputError: a worker was killed.
      Exception: whatever the computation of an item raises.
    """
    # A forked copy of a process with JAX's threads could wait for ever for one of them.
    context = multiprocessing.get_context("spawn")
    # Python would otherwise start its resource tracker with the first worker, which unblocks the
    # signals that `_started` blocks.
    resource_tracker.ensure_running()
    started = [_started(context, make) for _ in range(workers)]
    # At its exit Python waits for processes that nobody has ended. A finally of a generator that is
    # still alive then would come too late.
    end = partial(_end, started)
    atexit.register(end)
    try:
        for index in range(AHEAD * workers):
            started[index % workers].connection.send(index)
        for index in itertools.count():
            process, connection = started[index % workers]
            try:
                item = connection.recv()
                # After an error of the whole sequence the worker ends, and takes no index.
                if not isinstance(item, _Failure):
                    connection.send(index + AHEAD * workers)
            # EOFError if the worker ended between two items, OSError if within one.
            except (EOFError, OSError):
                process.join(SECONDS_TO_END)
                raise _killed(process.exitcode) from None
            if isinstance(item, _Failure):
                raise item.error
            yield item
    finally:
        end()
        atexit.unregister(end)


class _Failure(NamedTuple):
    """The error that a worker met instead of the sequence or of an item."""

    error: Exception


def _started(context: Any, make: Callable[[], Sequence[Any]]) -> _Worker:
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, make), name="hyperface-reader")
    # Ctrl-C and schedulers signal all processes of a run. The run still needs the items of its last
    # step, and then ends its workers itself. A new process starts with the signals blocked that are
    # blocked here.
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_RUN)
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    # With a copy of the other end in this process, the pipe would not end with the worker.
    there.close()
    return _Worker(process, here)


def _serve(connection: Connection, make: Callable[[], Sequence[Any]]) -> None:
    """Sends the items whose indices arrive, until the pipe ends."""
    # The process that reads the items may end at any time, and needs nothing more then.
    with contextlib.suppress(EOFError, OSError):
        items = _tried(make)
        while not isinstance(items, _Failure):
            connection.send(_tried(items.__getitem__, connection.recv()))
        connection.send(items)


def _tried(function: Callable[..., Any], *arguments: Any) -> Any:
    """Returns the result of a function, or its error as a `_Failure`."""
    try:
        return function(*arguments)
    except Exception as error:
        # A traceback is not pickled with its error, but notes are.
        error.add_note(f"In a worker process:\n{traceback.format_exc()}")
        return _Failure(error)


def _end(workers: Sequence[_Worker]) -> None:
    """Ends the workers at once, whatever they are doing."""
    for worker in workers:
        worker.connection.close()
        worker.process.kill()
    for worker in workers:
        worker.process.join()


def _killed(code: int | None) -> InputError:
    """Returns the error for a worker that has ended, with its exit status."""
    return InputError(
        "workers: expected the processes that read images to stay alive, found one that ended with "
        f"code {code}; -9 means that it was killed, perhaps because memory was short. Use fewer "
        "--workers, or none. The same command continues from the last checkpoint."
    )
