"""A profile of some steps, for TensorBoard or Perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from hyperface import owned


class Profile:
    """Records the devices and the host from the first to the last of some steps.

    Args:
      steps: the first and the last, from 1; None records nothing.
      folder: where the trace goes.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        self._first, self._last = steps or (0, 0)
        self._folder = folder
        self._recording = False

    def before(self, step: int) -> None:
        """Starts before the first step, where the run is between the two."""
        if not self._recording and self._first <= step <= self._last:
            owned.adopt(self._folder)
            jax.profiler.start_trace(str(self._folder))
            self._recording = True

    def after(self, step: int, result: jax.Array) -> None:
        """Ends once the last step is done.

        Args:
          step: that was started.
          result: of it.
        """
        if self._recording and step >= self._last:
            # Steps run after they were called: without waiting the trace would miss the last ones.
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._recording:
            with owned.recording(self._folder):
                jax.profiler.stop_trace()
            self._recording = False

    @contextlib.contextmanager
    def recording(self) -> Iterator["Profile"]:
        """Ends what is recorded when the run does."""
        try:
            yield self
        finally:
            self._stop()
