"""Prints the library's log and progress bars on the terminal.

The library logs to the logger "hyperface" and prints nothing by itself. The commands call
`show_log`, which prints that log and the progress bars on standard output. A program can do so too:

    from hyperface.console import show_log
    show_log()

All text is printed unchanged. Rich would take "[red]" in a file's name for markup, and ":smile:"
for an emoji. Therefore `say` prints the log, and `plain` converts the titles of progress bars.
"""

import logging

from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text

LOGGER = logging.getLogger("hyperface")
STYLES = {logging.WARNING: "yellow", logging.ERROR: "red"}
"""Colour of a message by its level; other levels have no colour."""


class ConsoleHandler(logging.Handler):
    """Prints the message of each log record on a console, without time, level or source line.

    Args:
      console: the console to print on.
    """

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        """Prints a record. Unlike other log handlers it raises errors, such as a closed pipe."""
        say(self.console, record.getMessage(), STYLES.get(record.levelno, ""))


def show_log() -> Console:
    """Starts to print the library's log and its progress bars on standard output.

    The log is that of the logger "hyperface", from level INFO on. A second call changes nothing.

    Returns:
      The console that prints them.
    """
    shown = _shown_on()
    if shown is None:
        shown = make_console()
        LOGGER.addHandler(ConsoleHandler(shown))
        LOGGER.setLevel(logging.INFO)
        # Some libraries add a handler to the root logger, which would print every line again.
        LOGGER.propagate = False
    return shown


def log_console() -> Console:
    """Returns the console that `show_log` prints on.

    If `show_log` was not called, the returned console prints nothing.
    """
    return _shown_on() or make_console(quiet=True)


def _shown_on() -> Console | None:
    """Returns the console on which the log is printed, or None."""
    shown = (h.console for h in LOGGER.handlers if isinstance(h, ConsoleHandler))
    return next(shown, None)


def make_console(*, quiet: bool = False) -> Console:
    """Returns a rich console on standard output that prints text unchanged.

    Args:
      quiet: whether it prints nothing at all.
    """
    return Console(quiet=quiet, markup=False, emoji=False, highlight=False, soft_wrap=True)


def say(console: Console, text: str, style: str = "") -> None:
    """Prints a text unchanged on any console of rich, without breaking long lines.

    Args:
      console: the console to print on.
      text: one or more lines.
      style: colour of the whole text, such as "red".
    """
    console.print(plain(text, style), soft_wrap=True)


def plain(text: str, style: str = "") -> Text:
    """Returns a rich text that is shown unchanged, without markup.

    Control characters, which could change the terminal's state, are shown as escapes. Bytes of file
    names that are not UTF-8 are shown as escapes too.

    Args:
      text: one or more lines.
      style: colour of the whole text, such as "red"; "" for none.

    Example:
      >>> plain("a[/x] \\x1b[31m").plain
      'a[/x] \\\\x1b[31m'
    """
    shown = (c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return Text("".join(shown), style)


def plain_column(text_format: str) -> TextColumn:
    """Returns a text column for rich's progress bar that shows its values without markup.

    Args:
      text_format: the format string of rich's `TextColumn`, such as "{task.description}".
    """
    return TextColumn(text_format, markup=False)
