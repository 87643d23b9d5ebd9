"""Reads text files line by line, so that every error names file and line."""

import codecs
import csv
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hyperface.errors import InputError
from hyperface.files import read_bytes

LARGEST_FILE = 2**28
"""Most bytes of a list that is read line by line; the largest, IJB-C's landmarks, has 60 MB."""
LARGEST = 10**9 - 1
"""Largest number that a protocol file may contain; images and templates are counted in millions."""

BLANK = ("no blank line before the last line", "one")
"""What is expected and what is found where a file has a blank line between others."""

# All control characters but tab and line feed.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]*)?([eE][-+]?[0-9]+)?")
_BLANKS = re.compile(r"[ \t]+")


class Line(NamedTuple):
    """One line of a file, with its place in the file for error messages."""

    file: str
    """Name of the file as messages show it. For an entry of a list inside the file, the name of the
    list is added, such as "file.json:path"."""
    number: int
    """Number of the line, counted from 1, or position of the entry."""
    text: str
    """Text of the line, without blanks at its start and end."""

    def fault(self, expected: str, found: str | None = None) -> InputError:
        """Returns an error for this line: "file:number: expected ..., found ...".

        Args:
          expected: what is expected in this line.
          found: what the line has; None quotes the text of the line.
        """
        found = shown(self.text) if found is None else found
        return InputError(f"{self.file}:{self.number}: expected {expected}, found {found}.")

    def fields(self, separator: str | None = None) -> list[str]:
        """Splits the line into fields, and returns them without the blanks around each field.

        Args:
          separator: the text between two fields, such as ",". None splits the line at runs of
            spaces and tabs.
        """
        if separator is None:
            return _BLANKS.split(self.text)
        return [field.strip(" \t") for field in self.text.split(separator)]

    def csv_fields(self) -> list[str]:
        """Returns the fields of a CSV line, without the quotation marks and blanks around fields.

        Raises:
          InputError: a quotation mark is misplaced, or is not closed in this line.
        """
        try:
            # Line by line, so that an open quotation mark cannot swallow the lines after it.
            (fields,) = csv.reader([self.text], strict=True, skipinitialspace=True)
        except csv.Error as error:
            raise self.fault("a CSV line", str(error)) from None
        return [field.strip(" \t") for field in fields]

    def whole(self, token: str, what: str, *, least: int = 0, most: int = LARGEST) -> int:
        """Returns a field of the line as a whole number.

        Args:
          token: the text of the field.
          what: what the number means, such as "the fold", for the error message.
          least: the smallest number that is allowed.
          most: the largest number that is allowed, by default 10^9 - 1.

        Raises:
          InputError: the field does not consist of ASCII digits, or the number is out of range.
            The message names file and line.
        """
        # `int` also takes digits of other scripts, underscores and signs, which are mistakes here.
        # The length is checked first, since `int` raises its own error above 4,300 digits.
        plain = token.isascii() and token.isdigit() and len(token) <= len(str(LARGEST))
        if not plain or not least <= int(token) <= most:
            limits = f"{least} to {most}" if most < LARGEST else f"{least} or more"
            raise self.fault(f"{what}, {limits}", shown(token))
        return int(token)

    def decimal(self, token: str, what: str) -> float:
        """Returns a field of the line as a float.

        Args:
          token: the text of the field, such as "-0.5" or "1e-3".
          what: what the number means, for the error message.

        Raises:
          InputError: the field is not a finite decimal number. The message names file and line.
        """
        # The pattern leaves "nan", "inf" and underscores out, but "1e999" is infinite.
        if not _DECIMAL.fullmatch(token) or not math.isfinite(float(token)):
            raise self.fault(what, shown(token))
        return float(token)

    def image(self, name: str) -> str:
        """Returns `name` unchanged, after a check that it is a path below the data set's folder.

        Args:
          name: name of an image from this line, with "/" between folders.

        Raises:
          InputError: the name has empty, "." or ".." parts, a backslash or a drive letter. The
            message names file and line.
        """
        parts = name.split("/")
        # Such a name could lead out of the data set's folder; "C:x" names a drive of Windows.
        if {"", ".", ".."} & set(parts) or "\\" in name or name[1:2] == ":":
            raise self.fault("an image's path below the data set's folder", shown(name))
        return name


def shown(text: str) -> str:
    """Returns a text in quotes for an error message; a text above 60 characters is cut there."""
    return repr(text if len(text) <= 60 else text[:60] + "...")


def read_lines(path: Path | str) -> list[Line]:
    """Returns the lines of a UTF-8 file. Windows line ends and blank lines at the end are accepted.

    Raises:
      InputError: the file is missing, cannot be read, is empty, has more than 256 MiB, or is not
        UTF-8; or it has a blank line between others, a control character or a byte-order mark.
    """
    return split_lines(read_bytes(path, LARGEST_FILE), str(path))


def decoded(data: bytes, file: str, start: int = 1) -> str:
    """Decodes UTF-8 data, and returns the text.

    Args:
      data: the content of a file, or a part of it that begins at the start of a line.
      file: name of the file, for messages.
      start: number that the first line of `data` has in the file, from 1, for messages.

    Raises:
      InputError: a line is not UTF-8, and the message names the line; or the text begins with a
        byte-order mark.
    """
    # The mark would become a part of the first name.
    if data.startswith(codecs.BOM_UTF8):
        raise Line(file, start, "").fault("text without a byte-order mark", "one")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = Line(file, start + data.count(b"\n", 0, error.start), "")
        raise line.fault("UTF-8 text", f"the byte 0x{data[error.start]:02x}") from None


def split_lines(data: bytes, file: str, start: int = 1) -> list[Line]:
    """Returns the lines of UTF-8 text; Windows line ends and blank lines at the end are accepted.

    Args:
      data: the content of a file, or a part of it that begins at the start of a line.
      file: name of the file, for messages.
      start: number that the first line of `data` has in the file, from 1.

    Raises:
      InputError: the text is empty, has a blank line between others, contains a control character
        or a byte-order mark, or is not UTF-8. The message names the line.
    """
    text = decoded(data, file, start).replace("\r\n", "\n").rstrip(" \t\n")
    # Found before the text is split: a line takes far more memory than its bytes.
    if (blank := text.find("\n\n")) >= 0:
        raise Line(file, start + text.count("\n", 0, blank) + 1, "").fault(*BLANK)
    texts = text.split("\n")
    lines = [Line(file, number, text.strip(" \t")) for number, text in enumerate(texts, start)]
    if texts == [""]:
        raise lines[0].fault("lines of text", "an empty file")
    for line in lines:
        if not line.text:
            raise line.fault(*BLANK)
        if control := _CONTROL.search(line.text):
            raise line.fault("text", f"the control character {control[0]!r}")
    return lines


def after(lines: Sequence[Line]) -> Line:
    """Returns an empty `Line` that stands for the missing line after the last line.

    The method `fault` of the returned line builds the error about a file that ends too early.

    Args:
      lines: all lines of the file, at least one.
    """
    return lines[-1]._replace(number=lines[-1].number + 1, text="")


def expect_count(lines: Sequence[Line], skip: int, count: int, what: str) -> None:
    """Checks that a file has exactly `count` lines after its first `skip` lines.

    Args:
      lines: all lines of the file.
      skip: number of header lines.
      count: expected number of other lines.
      what: what these lines contain, for the message.

    Raises:
      InputError: there are more or fewer lines. The message names the first additional or the first
        missing line.
    """
    found = len(lines) - skip
    if found > count:
        raise lines[skip + count].fault(f"the end of the file after {count} {what}")
    if found < count:
        raise after(lines).fault(f"{count} {what}", f"the end of the file after {found}")
