"""What this program may remove, rename or overwrite, and how it knows that a file is its own.

The rule, for every command:

1. A folder is ours if it contains a marker, `hyperface-files.jsonl`, which this module wrote. Each
   line of it has a digest. The first one states the format, its version and the kind of the folder;
   each further line records one file before it is written.
2. A file is ours if the marker of its folder records its name. The name counts, whatever the file
   contains now. Nothing else is removed, renamed or overwritten: no pattern, no list of usual
   names, no suffix makes a file ours.
3. A name that is taken by a file of somebody else is refused, before anything is computed where
   that can be known.
4. A link is never written through, and a linked folder inside a folder of ours is never entered.
   The folder that the user names may be a link.
5. A folder is removed only once it is empty. What a user put there keeps it.
6. A scratch folder gets a new name when it is made, and the same command removes it.
7. A checkpoint is a folder that Orbax fills. It is recorded as a whole before Orbax makes it, and
   only the files that Orbax writes there are removed.

A run, a folder of checkpoints and a prepared data set start in an empty folder and stay of their
kind. Results (lists, pictures, exports) may go into any folder, beside the files of others.

The marker only grows, by whole lines, so that a kill leaves no second version of it. It is also
what keeps a second process out of a folder.
"""

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import platform
import stat
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from hyperface.errors import InputError
from hyperface.files import sync_to
from hyperface.orbax_layout import is_of_orbax

MARKER = "hyperface-files.jsonl"
"""Name of the file that marks a folder as ours and records what was written there."""
FORMAT, VERSION = "hyperface-folder", 1
RUN, CHECKPOINTS, DATA, RESULTS = "run", "folder of checkpoints", "data set", "results"
"""The kinds of folders."""
PARTIAL = ".partial"
"""Suffix of a file that is being written; its name is recorded with the file's."""


class Record(NamedTuple):
    """The content of a folder's marker: its kind, and the names that we wrote into it."""

    kind: str
    files: frozenset[str]
    """Names of the files that we wrote into the folder."""
    trees: frozenset[str]
    """Names of the folders that Orbax fills."""
    folders: frozenset[str]
    """Paths of the folders below that have a marker of their own."""
    holder: str
    """The process that locked the folder last."""


def read(folder: Path) -> Record | None:
    """Returns what a folder's marker states; None if the folder is not ours."""
    path = folder / MARKER
    try:
        # Not stat: a marker that is a link may be anybody's.
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            return None
        # The state of the file is a part of the key, so that a changed marker is read again.
        return _read(path, state.st_ino, state.st_size, state.st_mtime_ns)
    except OSError:
        return None


@functools.lru_cache(maxsize=64)  # Of a data set of many shards it is asked for at each one.
def _read(path: Path, inode: int, size: int, changed: int) -> Record | None:
    """Returns what a marker states; the other arguments tell one state of the file from another."""
    lines = [_parsed(line) for line in path.read_bytes().split(b"\n")]
    head = lines[0] or {}
    # Only a folder that we certainly understand is ours.
    if (head.get("format"), head.get("version")) != (FORMAT, VERSION):
        return None
    kept: dict[str, dict[str, None]] = {"file": {}, "tree": {}, "folder": {}}
    holder = ""
    # A damaged line counts for nothing, so that its file is somebody else's and stays.
    for line in filter(None, lines[1:]):
        for what, names in kept.items():
            if what in line:
                names[line[what]] = None
            if "removed" in line:
                # A name that was given up may be somebody else's now.
                names.pop(line["removed"], None)
        holder = line.get("held", holder)
    files, trees, folders = (frozenset(names) for names in kept.values())
    return Record(head["kind"], files, trees, folders, holder)


def adopt(folder: Path, kind: str = RESULTS) -> Record:
    """Makes the folder if it is absent, and marks it as ours if it is not yet.

    Raises:
      InputError: the folder is reached through a link inside a folder of ours; or it is to be a
        run, checkpoints or a data set and contains something else.
    """
    found = check(folder, kind)
    if found is not None:
        return found
    folder.mkdir(parents=True, exist_ok=True)
    _append(folder, {"format": FORMAT, "version": VERSION, "kind": kind})
    _tell_folder_above(folder)
    found = read(folder)
    if found is None:
        raise InputError(
            f"{folder / MARKER}: expected no file or one of this program, found another one. Move "
            "it elsewhere, or take another folder."
        )
    return found


def check(folder: Path, kind: str = RESULTS) -> Record | None:
    """Refuses a folder that cannot be used as this kind; returns its record, None if it is new.

    Nothing is written.

    Raises:
      InputError: as of `adopt`.
    """
    _check_links(folder)
    found = read(folder)
    if kind == RESULTS:
        return found
    if found is None:
        other = _others(folder)
        if other:
            raise InputError(
                f"expected an empty folder or a {kind} of this version in {folder}, found "
                f"{_shown(other)}, not recorded by this program. Take another folder; a {kind} of "
                "an earlier version needs that version."
            )
    elif found.kind != kind:
        raise InputError(f"expected a {kind} in {folder}, found {found.kind}. Take another folder.")
    return found


@contextlib.contextmanager
def locked(folder: Path, use: str, kind: str = RESULTS) -> Iterator[Record]:
    """Adopts a folder and keeps other processes out; the system frees it when this one dies.

    Args:
      folder: the folder, which may be absent.
      use: what is done there, such as "being prepared".
      kind: as in `adopt`.

    Raises:
      InputError: another process has it, which the message names; or as of `adopt`.
    """
    # Before the folder is made, so that a refusal leaves nothing behind.
    check(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(_Open(folder / MARKER)) as marker:
        try:
            # A lock of the system and not a file: it ends with its process, killed or not.
            fcntl.flock(marker.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = read(folder)
            holder = (found and found.holder) or "another process"
            raise InputError(
                f"{folder} is {use} by {holder}. Wait for it or end it, or take another folder."
            ) from None
        # Under the lock: two processes must not both find the folder unmarked.
        record = adopt(folder, kind)
        _append(folder, {"held": f"process {os.getpid()} on {platform.node()}"})
        yield record


def claim(*paths: Path) -> None:
    """Records files before they are written, each in the marker of its folder.

    Raises:
      InputError: a name is taken by a file that is not ours, or by a link.
    """
    # All names first: where one is refused, none is recorded.
    check_free(*paths)
    for folder in dict.fromkeys(path.parent for path in paths):
        known = adopt(folder).files
        names = dict.fromkeys(path.name for path in paths if path.parent == folder)
        _append(folder, *({"file": name} for name in names if name not in known))


def check_free(*paths: Path) -> None:
    """Refuses names that `claim` would refuse; nothing is written.

    Raises:
      InputError: as of `claim`.
    """
    for folder in dict.fromkeys(path.parent for path in paths):
        found = check(folder)
        for path in paths:
            if path.parent == folder:
                _check_name(path, found.files if found else (), folder=False)


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[None]:
    """Records the files that a library makes in a folder of ours, under names of its choice."""
    # By what was there before, since the library chooses its names.
    before = set(_files_below(folder))
    yield
    for path in _files_below(folder):
        if path not in before and path.name != MARKER and _is_file(path):
            adopt(path.parent)
            _append(path.parent, {"file": path.name})


def claim_tree(path: Path) -> None:
    """Records a folder that Orbax is about to make and fill.

    Raises:
      InputError: the name is taken by something that is not ours.
    """
    found = adopt(path.parent, CHECKPOINTS)
    _check_name(path, found.trees, folder=True)
    if path.name not in found.trees:
        _append(path.parent, {"tree": path.name})


def take_in_tree(path: Path) -> None:
    """Records a checkpoint that the user put into our folder as a copy of one of ours."""
    _append(path.parent, {"tree": path.name})


def write_text(path: Path, text: str) -> None:
    """Writes a file of ours as UTF-8; a kill or a full disk leaves the old one or the new one.

    Raises:
      InputError: as of `claim`.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """As `write_text`, for bytes."""
    partial = _claim_with_partial(path)
    # On the disk before it takes the name, or a power cut could leave an empty file.
    sync_to(partial, data)
    _take_place(partial, path)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes an .npz file as `write_bytes` does, without a copy of it in memory."""
    partial = _claim_with_partial(path)
    with partial.open("wb") as file:
        try:
            # pyright fears an array of the name `allow_pickle`, which none of ours has.
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        # A KeyboardInterrupt too must leave no half of a file.
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    _take_place(partial, path)


def _claim_with_partial(path: Path) -> Path:
    """Records a file and the name that it has while it is written, which nobody else's has."""
    partial, number = path.with_name(path.name + PARTIAL), 1
    found = read(path.parent)
    while os.path.lexists(partial) and not (
        found and partial.name in found.files and _is_file(partial)  # A kill left it.
    ):
        number += 1
        partial = path.with_name(f"{path.name}{PARTIAL}-{number}")
    claim(path, partial)
    return partial


def _take_place(partial: Path, path: Path) -> None:
    """Gives a file that is written whole its name; the other name may be somebody's from now on."""
    # One step: a reader sees the old file or the new one, and never a part.
    partial.replace(path)
    _append(path.parent, {"removed": partial.name})


def remove(path: Path) -> None:
    """Removes a file if it is ours; a link or a file of somebody else stays."""
    found = read(path.parent)
    # A link of a recorded name was put there by somebody else.
    if found is not None and path.name in found.files and _is_file(path):
        path.unlink()
        _append(path.parent, {"removed": path.name})


def remove_tree(path: Path) -> None:
    """Removes what Orbax wrote into a recorded folder, and the folder if nothing is left in it."""
    found = read(path.parent)
    if found is None or path.name not in found.trees or path.is_symlink():
        return
    for file in _files_below(path):
        if is_of_orbax(file.relative_to(path)):
            with contextlib.suppress(FileNotFoundError):  # Orbax may be removing it too.
                file.unlink()
    _remove_empty(path)
    if not path.exists():
        _append(path.parent, {"removed": path.name})


def rename_tree(path: Path, name: str) -> Path:
    """Renames a recorded folder of Orbax's within its folder and returns the new path.

    An earlier folder of that name is removed as far as it is ours. If anything is left of it, the
    next free name is taken.

    Raises:
      InputError: the folder is not ours, or contains a file of somebody else.
    """
    found = read(path.parent)
    other = foreign_in_tree(path)
    if found is None or path.name not in found.trees or path.is_symlink() or other:
        raise InputError(
            f"expected only files of this program in {path}, which is damaged and would be "
            f"renamed, found {other or 'a folder of somebody else'}. Move it elsewhere."
        )
    remove_tree(path.with_name(name))
    new = free_name(path.with_name(name))
    # The new name before the rename, the old one after it: a kill leaves both recorded.
    _append(path.parent, {"tree": new.name})
    path.rename(new)
    _append(path.parent, {"removed": path.name})
    return new


def rename_folder(folder: Path, new: Path) -> None:
    """Gives a folder of ours another name in the same folder; the name is free.

    Raises:
      InputError: the folder is not ours.
    """
    found, above = read(folder), read(folder.parent)
    if found is None or above is None or folder.is_symlink() or os.path.lexists(new):
        raise InputError(f"{folder}: expected a folder of this program and the free name {new}.")
    # In the same order as in `rename_tree`.
    _append(folder.parent, {"folder": new.name})
    folder.rename(new)
    _append(folder.parent, {"removed": folder.name})


def foreign_in_tree(path: Path) -> str:
    """Returns a file in a checkpoint's folder that Orbax did not write; "" if there is none."""
    names = (file.relative_to(path) for file in _files_below(path))
    return next((name.as_posix() for name in names if not is_of_orbax(name)), "")


def foreign(folder: Path) -> str:
    """Returns a path in a folder of ours that is not recorded; "" if there is none."""
    found = read(folder)
    known = {MARKER, *(found.files if found else ())}
    return next((name for name in _names(folder) if name not in known), "")


def clear(folder: Path, *, keep_marker: bool = False) -> None:
    """Removes every recorded file of a folder of ours, and of those below it, one by one.

    Folders that are then empty go too. A kill leaves a folder that can be cleared again.

    Args:
      folder: a folder that bears our marker; another one is left alone.
      keep_marker: the folder stays ours, to be used again. It does, too, if a file of somebody
        else is left in it.

    Raises:
      InputError: a checkpoint contains a file of somebody else; nothing was removed.
    """
    # Everything is checked before the first file is removed.
    _check_trees(folder)
    found = read(folder)
    if found is None:
        return
    for name in sorted(found.folders):
        below = folder / name
        if not _links_between(folder, below):
            clear(below)
            _remove_empty_up_to(below, folder)
    for name in sorted(found.trees):
        remove_tree(folder / name)
    for name in sorted(found.files):
        remove(folder / name)
    # The marker goes last, since without it nothing here is ours.
    if not keep_marker and [path.name for path in folder.iterdir()] == [MARKER]:
        (folder / MARKER).unlink()
        folder.rmdir()


def _check_trees(folder: Path) -> None:
    """Refuses a checkpoint, here or below, that could be removed in part only."""
    found = read(folder)
    for name in found.trees if found else ():
        other = foreign_in_tree(folder / name)
        if other:
            raise InputError(
                f"expected only files of this program in {folder / name}, found {other}. Nothing "
                "was removed. Move it elsewhere."
            )
    for name in found.folders if found else ():
        if not _links_between(folder, folder / name):
            _check_trees(folder / name)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """Yields a new folder inside one of ours, for files that nobody needs afterwards."""
    adopt(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="features-") as name:
        yield Path(name)


def free_name(path: Path) -> Path:
    """Returns the path, or the first of PATH-2, PATH-3, ... that nothing has."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


@contextlib.contextmanager
def writing(
    folder: Path, advice: str = "Free some space or take another folder, and start again."
) -> Iterator[None]:
    """Turns a full disk, or a folder that cannot be written, into one line.

    Args:
      folder: what is being written.
      advice: what to do, the last sentence of the message.

    Raises:
      InputError: for an error of the system other than of the program's own output.
    """
    try:
        yield
    except OSError as error:
        # Output that nobody reads, and what Pillow says of an image, are no matter of the disk.
        if isinstance(error, BrokenPipeError) or error.errno is None:
            raise
        raise InputError(
            f"expected room and permission to write in {folder}, found: {said(error)}. {advice}"
        ) from error


def said(error: OSError) -> str:
    """Returns what an error of the system says, without its number."""
    if error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return error.strerror or str(error)


class _Open:
    """A marker, opened to be locked or to get more lines; never through a link."""

    def __init__(self, path: Path) -> None:
        # O_APPEND places each write at the end, also where several processes write.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        try:
            self.descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise _is_link(path) from None
            raise

    def close(self) -> None:
        os.close(self.descriptor)


def _append(folder: Path, *lines: Mapping[str, str | int]) -> None:
    """Adds lines in one write, so that those of several processes do not mix."""
    if not lines:
        return
    data = b"".join(json.dumps({**x, "digest": _digest(x)}).encode() + b"\n" for x in lines)
    with contextlib.closing(_Open(folder / MARKER)) as marker:
        size = os.fstat(marker.descriptor).st_size
        if size and "format" in lines[0]:
            return  # Another process was first.
        if size and os.pread(marker.descriptor, 1, size - 1) != b"\n":
            data = b"\n" + data  # The line before was cut short by a kill or a full disk.
        while data:  # A full disk cuts a write short before it fails.
            data = data[os.write(marker.descriptor, data) :]
        if "removed" not in lines[0]:
            os.fsync(marker.descriptor)  # Or a power cut could leave a file without its record.


def _parsed(line: bytes) -> dict[str, str] | None:
    """Returns a line of a marker; None if it is damaged, or of another program."""
    try:
        found = json.loads(line)
        return found if found.pop("digest") == _digest(found) else None
    # Whatever a strange line contains, it must not stop a command.
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _digest(line: Mapping[str, str | int]) -> str:
    # Against damage and not against forgery, so that 48 bits are enough.
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:12]


def _tell_folder_above(folder: Path) -> None:
    """Records a new folder in the nearest marked one above it, which then removes it too."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100  Links stay links.
    for above in folder.parents:
        if read(above) is not None:
            _append(above, {"folder": folder.relative_to(above).as_posix()})
            return


def _check_links(folder: Path) -> None:
    """Refuses a folder that is reached through a link inside a folder of ours."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    for above in folder.parents:
        if read(above) is not None:
            for link in _links_between(above, folder):
                raise _is_link(link)
            return


def _links_between(above: Path, below: Path) -> list[Path]:
    """Returns the links on the way from a folder down to another one, that one included."""
    parts = below.relative_to(above).parts
    paths = [above.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    return [path for path in paths if path.is_symlink()]


def _is_link(path: Path) -> InputError:
    return InputError(
        f"{path}: expected a file or a folder, found a link, which is not followed out of a folder "
        "of this program. Remove the link, or take another folder."
    )


def _check_name(path: Path, recorded: Iterable[str], *, folder: bool) -> None:
    if path.is_symlink():
        raise _is_link(path)
    # A recorded file that is now a folder, or the reverse, is not what we wrote.
    ours = path.name in recorded and path.is_dir() == folder
    if os.path.lexists(path) and not ours:
        raise InputError(
            f"{path}: expected a free name or a file of this program, found something that it did "
            "not record. Move it elsewhere, or take another folder."
        )


def _others(folder: Path) -> list[str]:
    """Names in a folder beside an empty marker, which a kill at the very start leaves."""
    if not folder.exists():
        return []
    names = {path.name for path in folder.iterdir()}
    marker = folder / MARKER
    if MARKER in names and _is_file(marker) and marker.stat().st_size == 0:
        names.remove(MARKER)
    return sorted(names)


def _shown(names: list[str]) -> str:
    shown = names[0] if len(names[0]) <= 60 else f"{names[0][:57]}..."
    return shown if len(names) == 1 else f"{shown} and {len(names) - 1} more"


def _names(folder: Path) -> Iterator[str]:
    """Paths of the files and links in a folder and below it."""
    yield from (path.relative_to(folder).as_posix() for path in _files_below(folder))


def _files_below(folder: Path) -> Iterator[Path]:
    # os.walk enters no links, but lists those to folders among the folders.
    for above, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(above) / name).is_symlink()]
        yield from (Path(above) / name for name in sorted([*links, *files]))


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _remove_empty(folder: Path) -> None:
    """Removes a folder of ours and those in it, as far as they are empty."""
    for above, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            # rmdir refuses a folder that is not empty: what a user put there keeps it.
            Path(above).rmdir()


def _remove_empty_up_to(below: Path, folder: Path) -> None:
    while below != folder:
        with contextlib.suppress(OSError):
            below.rmdir()
        below = below.parent
