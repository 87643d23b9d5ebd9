"""Reports the progress of a long computation, through functions of (finished, total) units."""

from collections.abc import Callable

Progress = Callable[[int, int], None]


def part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Returns a function that reports the progress of one part as progress of the whole.

    Args:
      progress: the progress function of the whole computation; None returns None.
      number: number of the part, from 0.
      parts: number of parts, which are equally long.

    Example:
      >>> second = part(lambda done, total: print(done, "of", total), 1, 2)
      >>> second(3, 10)
      13 of 20
    """
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, parts * total)
