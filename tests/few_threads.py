"""Runs a command in a process that may start only some threads: LIMIT COMMAND ARGUMENTS."""

import sys
import threading

from hyperface import cli

begun, start = 0, threading._start_new_thread


def start_some(*args):
    global begun
    begun += 1
    if begun > int(sys.argv[1]):
        raise RuntimeError("can't start new thread")
    return start(*args)


if __name__ == "__main__":
    threading._start_new_thread = start_some
    cli.run(sys.argv[2], sys.argv[3:])
