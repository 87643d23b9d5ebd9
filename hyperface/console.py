"""What the commands print: text as it is, in which no name of a file or a person is interpreted.

The library writes to one logger, "hyperface", and prints nothing by itself. `show_log` prints that
log on standard output, with progress bars, as the commands do:

    from hyperface.console import show_log
    show_log()

Rich takes "[red]" in a string for markup and ":smile:" for a picture. The log is printed by `say`,
and every title of a progress bar goes through `plain`.
"""

import logging

from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text

LOGGER = logging.getLogger("hyperface")
STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}
"""Colours of messages by level; others have none."""


class ConsoleHandler(logging.Handler):
    """Prints the message of each record on a console, without time, level or place.

    Args:
      console: where to.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record; a closed pipe or a full disk is an error, as with `print`."""
        say(self.console, record.getMessage(), STYLES.get(record.levelno, ""))


def show_log() -> Console:
    """Prints the library's log and its progress bars on standard output from now on.

    A second call changes nothing.

    Returns:
      The console on which they appear.
    """
    shown = _shown_on()
    if shown is None:
        shown = make_console()
        LOGGER.addHandler(ConsoleHandler(shown))
        LOGGER.setLevel(logging.INFO)
        # Libraries give the root logger a handler, which would print every line a second time.
        LOGGER.propagate = False
    return shown


def log_console() -> Console:
    """Returns the console of `show_log`, for progress bars; without it, one that prints nothing."""
    return _shown_on() or make_console(quiet=True)


def _shown_on() -> Console | None:
    shown = (h.console for h in LOGGER.handlers if isinstance(h, ConsoleHandler))
    return next(shown, None)


def make_console(*, quiet: bool = False) -> Console:
    """Returns a console on standard output that prints texts as they are, or nothing if quiet."""
    return Console(quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(console: Console, text: str, style: str = "") -> None:
    """Prints a text as it is, whatever console it is; long lines are not broken.

    Args:
      console: where to.
      text: one or more lines.
      style: colour of all of it, such as "red".
    """
    console.print(plain(text, style), soft_wrap=True)


def plain(text: str, style: str = "") -> Text:
    """Returns a text that is shown as it is.

    Characters that would steer the terminal, and bytes of file names that are no UTF-8, are shown
    as escapes.

    Example:
      >>> plain("a[/x] \\x1b[31m").plain
      'a[/x] \\\\x1b[31m'
    """
    shown = (c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return Text("".join(shown), style)


def plain_column(text_format: str) -> TextColumn:
    """Returns a column of a progress bar, whose fields are shown as they are."""
    return TextColumn(text_format, markup=False)
