"""Lists the files below a folder on disk, in a fixed order, and the links that are not followed."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hyperface.data.sources.members import Member, is_service
from hyperface.errors import InputError

# Paths are text here: of millions of files, `Path` objects would take gigabytes.
# ruff: noqa: PTH114, PTH115, PTH116, PTH118, PTH123

_OUTSIDE = "a link out of the folder; pass --follow-links to read it"
_AGAIN = "a link to a folder that was read already"


def walk(root: Path, follow_links: bool) -> Iterator[Member]:
    """Yields all files below a folder, in a fixed order.

    Each file is a `Member`: its name, its size, a function that reads it, and `problem`, which is
    None or the reason why the file cannot be used.

    Files in hidden folders, and in folders that operating systems create, are yielded too, with a
    `problem`, so that they can be counted. A link to a folder that was entered before is not
    followed.

    Args:
      root: the folder.
      follow_links: True follows links to files and folders outside of root. False yields such a
        link as a member whose `problem` says so.

    Raises:
      InputError: a folder cannot be read; it is raised after all other files were yielded.
    """
    inside = _target(str(root))
    closed: list[OSError] = []
    walked: set[str] = set()
    for parent, folders, files in os.walk(root, followlinks=True, onerror=closed.append):
        # Sorted in place: os.walk enters the folders in the order of this list, and file systems
        # list them in different orders.
        folders.sort()
        # The real path, since links give one folder many names.
        walked.add(_target(parent))
        below = os.path.relpath(parent, root)
        prefix = "" if below == "." else f"{below}/"
        for name in list(filter(is_service, folders)):
            folders.remove(name)
            yield from _unread(os.path.join(parent, name), prefix + name)
        # Following a link back to a folder that was read, such as its own parent, would never end.
        for name in [f for f in folders if os.path.islink(os.path.join(parent, f))]:
            target = _target(os.path.join(parent, name))
            again = target in walked
            if again or not (follow_links or _is_within(target, inside)):
                folders.remove(name)
                yield _unusable(f"{prefix}{name}/", _AGAIN if again else _OUTSIDE)
        for name in sorted(files):
            yield _file(os.path.join(parent, name), prefix + name, inside, follow_links)
    for error in closed:
        raise InputError(f"expected readable folders below {root}, found: {error}.")


def _target(path: str) -> str:
    """Returns the path without links."""
    # Not `Path.resolve`, which raises an error for links that lead to each other.
    return os.path.realpath(path)


def _is_within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _unread(folder: str, name: str) -> Iterator[Member]:
    """Yields the files of a hidden folder as unusable, so that they are counted."""
    for parent, _, files in os.walk(folder):
        for file in files:
            path = os.path.relpath(os.path.join(parent, file), folder)
            yield _unusable(f"{name}/{path}", "in a hidden folder")


def _unusable(name: str, problem: str) -> Member:
    return Member(name, 0, _Content(""), problem)


class _Content:
    """Reads a file; a `Reader` that is small, since there is one per image."""

    __slots__ = ("_path",)

    def __init__(self, path: str) -> None:
        self._path = path

    def __call__(self, limit: int = -1) -> bytes:
        try:
            with open(self._path, "rb") as file:
                return file.read(limit)
        except OSError as error:
            raise ValueError(_unreadable(error)) from None


def _file(path: str, name: str, inside: str, follow_links: bool) -> Member:
    """Returns a file of the folder, with the reason if it cannot be used.

    Args:
      path: path of the file.
      name: its path below the root, with slashes.
      inside: path of the root, without links.
      follow_links: whether a link may lead out of the root.
    """
    problem = None
    try:
        # lstat first, since stat follows a link and does not show that it is one.
        status = os.lstat(path)
        if stat.S_ISLNK(status.st_mode):
            status = os.stat(path)
            if not (follow_links or _is_within(_target(path), inside)):
                problem = _OUTSIDE
    except FileNotFoundError as error:
        is_link = os.path.islink(path)
        return _unusable(
            name, f"a link to nothing: {os.readlink(path)}" if is_link else _unreadable(error)
        )
    except OSError as error:
        return _unusable(name, _unreadable(error))
    if not stat.S_ISREG(status.st_mode):
        problem = problem or "not a regular file"
    return Member(name, status.st_size, _Content(path), problem)


def _unreadable(error: OSError) -> str:
    return f"expected a readable file, found: {error.strerror}"
