"""Items of worker processes come in order; killed workers, parents and signals leave nothing."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import islice

import numpy as np
import pytest

from hyperface.data.workers import in_workers
from hyperface.errors import InputError


class Items:
    """Large arrays; every fourth takes longer, and one cannot be computed."""

    def __init__(self, size=1, broken=None):
        self._size, self._broken = size, broken

    def __getitem__(self, index):
        if index == self._broken:
            raise InputError(f"record {index}: expected a whole image, found none.")
        if index % 4 == 0:
            time.sleep(0.05)
        return np.full(self._size, index, np.int64)


def test_items_come_in_order_whichever_worker_is_faster():
    items = in_workers(Items, 3)
    assert [int(item[0]) for item in islice(items, 20)] == list(range(20))
    items.close()
    assert not multiprocessing.active_children()


def test_the_error_of_an_item_is_raised_with_its_place():
    items = in_workers(partial(Items, broken=5), 2)
    with pytest.raises(InputError, match="record 5: expected a whole image") as error:
        list(items)
    assert "in __getitem__" in error.value.__notes__[0]
    assert not multiprocessing.active_children()


def missing():
    raise FileNotFoundError("no data set")


def test_the_error_of_the_sequence_is_raised():
    with pytest.raises(FileNotFoundError, match="no data set"):
        next(in_workers(missing, 2))
    assert not multiprocessing.active_children()


@pytest.mark.parametrize("size", [1, 2_000_000])
def test_a_killed_worker_is_noticed_between_items_and_within_one(size):
    items = in_workers(partial(Items, size), 2)
    next(items)
    # Each worker now waits: for the next index, or for its large item to be read.
    time.sleep(0.5)
    os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
    with pytest.raises(InputError, match=r"workers: .* ended with code -9; .* memory was short"):
        list(islice(items, 100))
    assert not multiprocessing.active_children()


def test_signals_to_all_processes_of_a_run_leave_the_workers_at_work():
    items = in_workers(Items, 2)
    next(items)  # The second worker may still be starting.
    for process in multiprocessing.active_children():
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
    assert [int(item[0]) for item in islice(items, 9)] == list(range(1, 10))
    items.close()


def running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("ends_by", ["exit", "kill -9"])
def test_no_worker_outlives_its_program(ends_by):
    code = (
        "import multiprocessing, sys\n"
        "from test_workers import Items, in_workers\n"
        "if __name__ == '__main__':\n"
        "    items = in_workers(Items, 2)\n"
        "    next(items)\n"
        "    print(*(p.pid for p in multiprocessing.active_children()), flush=True)\n"
        "    sys.stdin.read()\n"
    )
    program = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    workers = list(map(int, program.stdout.readline().split()))
    assert len(workers) == 2
    if ends_by == "exit":
        program.communicate("", timeout=60)
        assert program.returncode == 0
    else:
        program.kill()
        program.communicate(timeout=60)
    until = time.monotonic() + 60
    while any(map(running, workers)):
        assert time.monotonic() < until, "a worker is still there"
        time.sleep(0.05)
