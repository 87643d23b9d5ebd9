"""What the commands print: text as it is, in which no name of a file or a person is interpreted.

Rich takes "[red]" in a string for markup and ":smile:" for a picture. Every line that the commands
print goes through `say`, and every title of a progress bar through `plain`.
"""

from rich.console import Console
from rich.progress import TextColumn
from rich.text import Text


def make_console(*, quiet: bool = False) -> Console:
    """A console on standard output that prints texts as they are; a quiet one prints nothing."""
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
    """A text that is shown as it is.

    Characters that would steer the terminal, and bytes of file names that are no UTF-8, are shown
    as escapes.

    Example:
      >>> plain("a[/x] \\x1b[31m").plain
      'a[/x] \\\\x1b[31m'
    """
    shown = (c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)
    return Text("".join(shown), style)


def plain_column(text_format: str) -> TextColumn:
    """A column of a progress bar, whose fields are shown as they are."""
    return TextColumn(text_format, markup=False)
