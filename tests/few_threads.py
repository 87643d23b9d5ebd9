"""Runs a command in a process that may start only some threads: LIMIT COMMAND ARGUMENTS."""

import sys
import threading

from hyperface import cli

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
cli.run(name, sys.argv[1:])
