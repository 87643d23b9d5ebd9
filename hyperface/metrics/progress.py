"""Reports the progress of a long computation, through functions of (finished, total) units."""

from collections.abc import Callable

Progress = Callable[[int, int], None]


def part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Returns a progress function for one part of a computation that has several parts.

    When it is called with (finished, total) units of the part, it calls `progress` with the
    finished and total units of the whole computation.

    Args:
      progress: function (finished, total) for the whole computation. If it is None, nothing is
        reported, and the result is None too.
      number: number of the part, from 0.
      parts: number of parts, all with the same total.

    Example:
      >>> second = part(lambda done, total: print(done, "of", total), 1, 2)
      >>> second(3, 10)
      13 of 20
    """
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, parts * total)
