"""Runs a command in a process that may start only some threads: LIMIT COMMAND ARGUMENTS."""

import importlib
import sys
import threading

from hyperface.runs import program

limit, name = int(sys.argv[1]), sys.argv[2]
begun, start = 0, threading._start_new_thread


def start_some(*args):
    global begun
    begun += 1
    if begun > limit:
        raise RuntimeError("can't start new thread")
    return start(*args)


threading._start_new_thread = start_some
sys.argv = sys.argv[2:]
program.run(importlib.import_module(f"launch.{name}").main)
