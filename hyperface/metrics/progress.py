"""Progress of a long computation, reported through functions (done, all)."""

from collections.abc import Callable

Progress = Callable[[int, int], None]


def part(progress: Progress | None, number: int, parts: int) -> Progress | None:
    """Returns the progress function for one of several equal parts; None if `progress` is None.

    Example:
      >>> second = part(lambda done, total: print(done, "of", total), 1, 2)
      >>> second(3, 10)
      13 of 20
    """
    if progress is None:
        return None
    return lambda done, total: progress(number * total + done, parts * total)
