"""Records a profile of some steps, for TensorBoard or Perfetto."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from hyperface import owned


class Profile:
    """Records a profile of devices and host over a range of steps.

    Args:
      steps: the first and the last step, counted from 1; None records nothing.
      folder: the folder that receives the trace.
    """

    def __init__(self, steps: tuple[int, int] | None, folder: Path) -> None:
        self._first, self._last = steps or (0, 0)
        self._folder = folder
        self._recording = False

    def before(self, step: int) -> None:
        """Starts the recording, if `step` is in the range and nothing is recorded yet."""
        if not self._recording and self._first <= step <= self._last:
            owned.adopt(self._folder)
            jax.profiler.start_trace(str(self._folder))
            self._recording = True

    def after(self, step: int, result: jax.Array) -> None:
        """Ends the recording after the last step of the range.

        Args:
          step: the step that was started.
          result: an array that the step computes. JAX computes asynchronously, so the recording
            ends only when this array has been computed.
        """
        if self._recording and step >= self._last:
            # A call only starts a step on the devices. Without waiting, the trace would lack the
            # end of the last steps.
            jax.block_until_ready(result)
            self._stop()

    def _stop(self) -> None:
        if self._recording:
            with owned.recording(self._folder):
                jax.profiler.stop_trace()
            self._recording = False

    @contextlib.contextmanager
    def recording(self) -> Iterator["Profile"]:
        """Ends the recording at the end of the `with` block, if it has not ended before."""
        try:
            yield self
        finally:
            self._stop()
