"""Reads the lists of template pairs that are compared; IJB-C has 16 million pairs."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.files import read_bytes
from hyperface.protocols._ijb import Templates
from hyperface.protocols._lines import BLANK, LARGEST, Line, split_lines

LARGEST_FILE = 2**31
"""Size limit in bytes; IJB-C's 47 million covariate pairs have about 700 MB."""
BLOCK_BYTES = 2**24
"""Bytes of text that are parsed at once."""
_BLANK_LINE = re.compile(rb"^[ \t]*$", re.MULTILINE)


class TemplatePairs(NamedTuple):
    """Pairs of templates that are compared. A template is a set of images, and has an id."""

    first: np.ndarray
    """[pairs] int64, id of one template."""
    second: np.ndarray
    """[pairs] int64, id of the other template."""
    same: np.ndarray | None
    """[pairs] bool, True if both templates show one person. None if this is not known: the list of
    pairs has no labels, and no templates with people were given to the reader."""


def read_ijb_pairs(
    path: Path | str, templates: Templates | None = None, *, repeats: bool = False
) -> TemplatePairs:
    """Reads a list of template pairs. A template is a set of images of one person.

    The file has one of two forms:

    - IJB-A's `verify_comparisons_1.csv` and the list of compared pairs of Janus CS3 have lines such
      as "10,24", which are the ids of two templates. They may have a header.
    - `ijbb_template_pair_label.txt` and `ijbc_template_pair_label.txt` have lines such as
      "10 24 1". The third number is the label: 1 means one person, and 0 means two people.

    Args:
      path: the file.
      templates: the templates that the file may name; None allows all ids. If the file has no
        labels, the field `same` of the result is computed from the people of these templates.
        `same` is None if neither the labels nor the people are known.
      repeats: True allows a pair to be listed more than once; all of its copies are returned. False
        raises an error for a repeated pair.

    Returns:
      The pairs in the file's order.

    Raises:
      InputError: the file has more than 2 GiB; or a line is malformed, names an unknown template or
        one template twice, has a label that contradicts an earlier line or the people of the
        templates, or repeats a pair in either order although `repeats` is False. For a wrong line
        the message names the line.
    """
    file = str(path)
    data = read_bytes(path, LARGEST_FILE).replace(b"\r\n", b"\n").rstrip(b" \t\n")
    # Only the start is looked at, since the text may have 700 MB. `split_lines` refuses a first
    # line that is empty, and so it gets the text around it.
    start = split_lines(data[:1000].partition(b"\n")[0] or data[:1000], file)[0]
    separator = "," if "," in start.text else None
    header = separator is not None and not any(field.isdigit() for field in start.fields(","))
    data = data.partition(b"\n")[2] if header else data
    table = _table(data, 2 if separator else 3, separator, file, 1 + header)
    for bad, expected in _faults(table, templates, repeats):
        if bad.any():
            # argmax finds the first line that breaks the rule.
            row = int(np.argmax(bad))
            raise Line(file, row + 1 + header, " ".join(map(str, table[row]))).fault(expected)
    return TemplatePairs(table[:, 0], table[:, 1], _same(table, templates))


def _faults(
    table: np.ndarray, templates: Templates | None, repeats: bool
) -> Iterator[tuple[np.ndarray, str]]:
    """Yields, for each rule, ([lines] bool, True where a line breaks it; what the rule expects)."""
    yield table[:, 0] == table[:, 1], "two templates"
    yield np.any(table[:, 2:] > 1, axis=1), "0 or 1 for the person"
    if repeats:
        yield _repeated(table, relabelled=True), "the label that an earlier line gives this pair"
    else:
        yield _repeated(table), "a pair that no earlier line has, in either order"
    if templates is not None:
        yield ~np.all(np.isin(table[:, :2], templates.template), axis=1), "templates that are known"
        if templates.subject is not None:
            people = _same_subject(table, templates.template, templates.subject)
            yield _same(table, templates) != people, "the label that the templates' people have"


def _same(table: np.ndarray, templates: Templates | None) -> np.ndarray | None:
    if table.shape[1] == 3:
        return table[:, 2] == 1
    if templates is None or templates.subject is None:
        return None
    return _same_subject(table, templates.template, templates.subject)


def _same_subject(table: np.ndarray, template: np.ndarray, subject: np.ndarray) -> np.ndarray:
    # All images of a template show one person, so that its first row is enough.
    ids, rows = np.unique(template, return_index=True)
    first, second = subject[rows][np.searchsorted(ids, table[:, :2].T)]
    return first == second


def _repeated(table: np.ndarray, *, relabelled: bool = False) -> np.ndarray:
    """Returns [pairs] bool: True where an earlier pair has the same two templates.

    With `relabelled` only those pairs are True whose label differs from that of the line before
    with these templates. A table without labels has none.
    """
    first, second = table[:, 0], table[:, 1]
    # One number per pair, smaller id first, so that either order is the same pair. Ids are below
    # 10^9, so that two of them fit into 64 bits.
    keys = np.minimum(first, second) << 32 | np.maximum(first, second)
    # Stable, so that the first of equal pairs in the file is not the one that is marked.
    order = np.argsort(keys, kind="stable")
    again = np.diff(keys[order]) == 0
    if relabelled:
        again &= np.any(np.diff(table[order, 2:], axis=0) != 0, axis=1)
    repeated = np.zeros(keys.size, bool)
    repeated[order[1:]] = again
    return repeated


def _table(data: bytes, columns: int, separator: str | None, file: str, line: int) -> np.ndarray:
    """Returns the whole numbers of the lines, [lines, columns] int64.

    Args:
      data: the text, without a header.
      columns: number of fields per line.
      separator: what separates the fields; None for blanks.
      file: name of the file, for messages.
      line: number of the first line, for messages.

    Raises:
      InputError: there is no line, or a line is malformed. The message names the line.
    """
    blocks, start = [], 0
    while start < len(data):
        # Cut at the end of a line; `find` gives -1 in the last block, and the sum is then 0.
        end = data.find(b"\n", start + BLOCK_BYTES) + 1 or len(data)
        block = data[start:end]
        table = _digits(block.rstrip(b"\n"), columns, ord(separator or " "))
        blocks.append(_checked(block, columns, separator, file, line) if table is None else table)
        start, line = end, line + len(blocks[-1])
    if not blocks:
        raise Line(file, line, "").fault("pairs of templates", "the end of the file")
    return np.concatenate(blocks)


def _digits(block: bytes, columns: int, separator: int) -> np.ndarray | None:
    """Returns the numbers [lines, columns], or None unless the text is digits and separators only.

    Args:
      block: lines without the line end of the last one.
      columns: number of fields per line.
      separator: code of the character that must stand once between fields.
    """
    # The last line gets an end, so that every field has a mark behind it.
    text = np.frombuffer(block + b"\n", np.uint8)
    marks = np.flatnonzero((text < ord("0")) | (text > ord("9")))
    lengths = np.diff(marks, prepend=-1) - 1
    # Only blocks that are plainly right are read fast; the slow reader names what is wrong.
    if marks.size % columns or lengths.min() < 1 or lengths.max() > len(str(LARGEST)):
        return None
    pattern = [separator] * (columns - 1) + [ord("\n")]
    if np.any(text[marks].reshape(-1, columns) != pattern):
        return None
    # Far faster than to split lines: IJB-C has 16 million of them.
    return np.fromstring(block.replace(b",", b" "), np.int64, sep=" ").reshape(-1, columns)


def _checked(
    block: bytes, columns: int, separator: str | None, file: str, start: int
) -> np.ndarray:
    """Returns what `_table` does, but reads line by line, so that an error names the line."""
    # Before the text is split, which drops blank lines at its end: here only a block ends there.
    if blank := _BLANK_LINE.search(block.removesuffix(b"\n")):
        found = Line(file, start + block.count(b"\n", 0, blank.start()), "")
        raise found.fault(*BLANK)
    rows = []
    for line in split_lines(block, file, start):
        fields = line.fields(separator)
        if len(fields) != columns:
            raise line.fault("two templates" + " and 0 or 1" * (columns == 3))
        rows.append([line.whole(field, "an id") for field in fields])
    return np.array(rows, np.int64)
