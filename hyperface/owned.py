"""Decides which files this program may remove, rename or overwrite, and does so safely.

These rules hold for every command:

1. A folder is ours if it contains a marker, `hyperface-files.jsonl`, which this module wrote. Each
   line of it has a digest. The first one states the format, its version and the kind of the folder;
   each further line records one file before it is written.
2. A file is ours if the marker of its folder records its name. The name counts, whatever the file
   contains now. Nothing else is removed, renamed or overwritten: no pattern, no list of usual
   names, no suffix makes a file ours.
3. If somebody else's file already has a name that we need, the command stops with an error. It does
   so before it computes anything, if the name is known by then.
4. A symbolic link is never written through, and a linked folder inside a folder of ours is never
   entered. The folder that the user names may be a link.
5. A folder is removed only if it is empty. A file that a user put there keeps the folder.
6. A scratch folder gets a new name when it is created, and the same command removes it.
7. A checkpoint is a folder that Orbax fills. It is recorded as a whole before Orbax creates it, and
   only the files that Orbax writes there are removed.

A run, a folder of checkpoints and a prepared data set must start in an empty folder, and a folder
never changes its kind. Results (lists, pictures, exports) may be written into any folder, beside
the files of others.

The marker is only appended to, in whole lines, so a killed process cannot leave a half-written new
version of it. A lock on the marker also keeps other processes out of the folder.
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
"""Name and version of the format, which the first line of a marker states."""
RUN, CHECKPOINTS, DATA, RESULTS = "run", "folder of checkpoints", "data set", "results"
"""The kinds of folders."""
PARTIAL = ".partial"
"""Suffix of a file while it is being written. The marker records this name too."""


class Record(NamedTuple):
    """The content of a folder's marker, the file that lists what this program wrote there."""

    kind: str
    """The kind of folder: RUN (a training run), CHECKPOINTS, DATA (a prepared data set) or RESULTS
    (such as lists and pictures, in a folder that may contain files of others too)."""
    files: frozenset[str]
    """Names of the files in the folder that this program wrote, or is about to write. It may
    overwrite and remove these."""
    trees: frozenset[str]
    """Names of the checkpoints in the folder. Each is a folder whose files Orbax (JAX's checkpoint
    library) writes, so it is recorded as a whole."""
    folders: frozenset[str]
    """Paths, relative to this folder, of the folders below it that have a marker of their own."""
    holder: str
    """The process that locked the folder last, as "process 12 on HOST" for messages; "" if it was
    never locked."""


def read(folder: Path) -> Record | None:
    """Returns the content of a folder's marker, the file that lists what this program wrote there.

    The result is None if there is no marker, if it cannot be read, if its first line is damaged, or
    if it has another version of the format. Other damaged lines are ignored.
    """
    path = folder / MARKER
    try:
        # lstat does not follow links: a marker that is a link may be somebody else's file.
        state = path.lstat()
        if not stat.S_ISREG(state.st_mode):
            return None
        # The state of the file is a part of the key, so that a changed marker is read again.
        return _read(path, state.st_ino, state.st_size, state.st_mtime_ns)
    except OSError:
        return None


# Cached, because a data set of many shards reads its marker once per shard.
@functools.lru_cache(maxsize=64)
def _read(path: Path, inode: int, size: int, changed: int) -> Record | None:
    """Returns the content of a marker. The other arguments only identify the state of the file."""
    lines = [_parsed(line) for line in path.read_bytes().split(b"\n")]
    head = lines[0] or {}
    # A marker of another version could have other rules, so its folder does not count as ours.
    if (head.get("format"), head.get("version")) != (FORMAT, VERSION):
        return None
    kept: dict[str, dict[str, None]] = {"file": {}, "tree": {}, "folder": {}}
    holder = ""
    # A damaged line is ignored. Its file then counts as somebody else's, and is not removed.
    for line in filter(None, lines[1:]):
        for what, names in kept.items():
            if what in line:
                names[line[what]] = None
            if "removed" in line:
                # We removed this file. A file that has the name now is somebody else's.
                names.pop(line["removed"], None)
        holder = line.get("held", holder)
    files, trees, folders = (frozenset(names) for names in kept.values())
    return Record(head["kind"], files, trees, folders, holder)


def adopt(folder: Path, kind: str = RESULTS) -> Record:
    """Creates a folder if it is absent, and marks it as a folder of this program.

    The marker is a file that lists what this program wrote into the folder. An existing marker is
    kept.

    Args:
      folder: the folder.
      kind: the kind of folder that it becomes: RUN (a training run), CHECKPOINTS, DATA (a prepared
        data set) or RESULTS (such as lists and pictures). A folder of RESULTS may contain files
        that this program did not write. For the other kinds the folder must be empty, or be marked
        already as a folder of the same kind.

    Returns:
      The content of the folder's marker.

    Raises:
      InputError: the path contains a symbolic link inside a marked folder. Or the kind is not
        RESULTS, and the folder contains other files or is marked as another kind.
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
    """Checks that a folder can be marked as a folder of this program, without writing anything.

    The marker is a file that lists what this program wrote into the folder; `adopt` writes it.

    Args:
      folder: the folder, which may be absent.
      kind: the kind of folder that it will become: RUN (a training run), CHECKPOINTS, DATA (a
        prepared data set) or RESULTS (such as lists and pictures). A folder of RESULTS may contain
        files that this program did not write; the other kinds may not.

    Returns:
      The content of the folder's marker, or None if it has no marker yet.

    Raises:
      InputError: a part of the path is a symbolic link that lies in a marked folder. Or the kind is
        not RESULTS, and the folder contains files that this program did not write, or is marked as
        another kind.
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
    """Marks a folder as a folder of this program, and locks it against other processes.

    This is a context manager, which yields the content of the folder's marker: the file that lists
    what this program wrote there. The lock ends with the block. If the process is killed, the
    operating system releases the lock.

    Args:
      folder: the folder, which may be absent.
      use: a description of the work in the folder, such as "being prepared". Another process that
        wants the lock shows it in its error: "FOLDER is USE by process 12 on HOST".
      kind: the kind of folder that it becomes: RUN (a training run), CHECKPOINTS, DATA (a prepared
        data set) or RESULTS (such as lists and pictures). A folder of RESULTS may contain files
        that this program did not write; the other kinds may not.

    Raises:
      InputError: another process has locked the folder. Or the folder cannot be marked: its path
        contains a symbolic link inside a marked folder; or the kind is not RESULTS, and the folder
        contains other files or is marked as another kind.
    """
    # Checked before the folder is created, so that an error leaves no empty folder behind.
    check(folder, kind)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(_Open(folder / MARKER)) as marker:
        try:
            # A lock file would stay if the process is killed, and a lock of the system does not.
            fcntl.flock(marker.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            found = read(folder)
            holder = (found and found.holder) or "another process"
            raise InputError(
                f"{folder} is {use} by {holder}. Wait for it or end it, or take another folder."
            ) from None
        # Only under the lock, since otherwise two processes could both find the folder unmarked.
        record = adopt(folder, kind)
        _append(folder, {"held": f"process {os.getpid()} on {platform.node()}"})
        yield record


def claim(*paths: Path) -> None:
    """Records the names of files before they are written.

    Each name is recorded in the marker of the file's folder: a file that lists what this program
    wrote there. A missing marker is created. From then on this program may overwrite and remove the
    named files.

    Raises:
      InputError: one of the paths is already a symbolic link, a folder, or a file that this program
        did not record. In that case none of the names is recorded.
    """
    # All names are checked first, so that an error for one of them leaves none recorded.
    check_free(*paths)
    for folder in dict.fromkeys(path.parent for path in paths):
        known = adopt(folder).files
        names = dict.fromkeys(path.name for path in paths if path.parent == folder)
        _append(folder, *({"file": name} for name in names if name not in known))


def check_free(*paths: Path) -> None:
    """Checks that files with these paths may be written, without writing anything.

    Commands call it before a long computation. A path is free if nothing has the name, or if it is
    a file that this program recorded as its own by `claim`.

    Raises:
      InputError: one of the paths is a symbolic link, a folder, or a file that this program did not
        record.
    """
    for folder in dict.fromkeys(path.parent for path in paths):
        found = check(folder)
        for path in paths:
            if path.parent == folder:
                _check_name(path, found.files if found else (), folder=False)


@contextlib.contextmanager
def recording(folder: Path) -> Iterator[None]:
    """A context manager that records the files which a library creates in and below a folder.

    Use it if the library chooses the file names, as a profiler does. At the end of the block, also
    if the block raises an error, each new file is recorded in the marker of its folder: the file
    that lists what this program wrote there. From then on this program may remove the new files.
    """
    # The library chooses the names, so the new files are found by comparing before and after.
    before = set(_files_below(folder))
    try:
        yield
    finally:
        for path in _files_below(folder):
            if path not in before and path.name != MARKER and _is_file(path):
                adopt(path.parent)
                _append(path.parent, {"file": path.name})


def claim_tree(path: Path) -> None:
    """Records the name of a checkpoint before Orbax, JAX's checkpoint library, writes it.

    A checkpoint is a folder, a tree of files. Its name is recorded in the marker of the parent
    folder: the file that lists what this program wrote there. If the parent folder has no marker,
    it is marked as a folder of checkpoints. From then on this program may remove the files that
    Orbax writes into the checkpoint.

    Args:
      path: the folder of the checkpoint.

    Raises:
      InputError: the path is already a symbolic link, a file, or a folder that is not recorded. Or
        the parent folder is marked as another kind of folder, or has no marker but contains files.
    """
    found = adopt(path.parent, CHECKPOINTS)
    _check_name(path, found.trees, folder=True)
    if path.name not in found.trees:
        _append(path.parent, {"tree": path.name})


def take_in_tree(path: Path) -> None:
    """Records a checkpoint that the user copied into a folder of checkpoints.

    A checkpoint is a folder, a tree of files. From then on this program may rename it, and remove
    its files, except for files that Orbax (JAX's checkpoint library) did not write.

    Args:
      path: the folder of the checkpoint.
    """
    _append(path.parent, {"tree": path.name})


def write_text(path: Path, text: str) -> None:
    """Writes a text file in UTF-8, and records it as a file of this program.

    The file's name is first recorded in the folder's marker (the file that lists what this program
    wrote there), so that this program may overwrite and remove the file later. The new text
    replaces an older file in one step. If the process is killed or the disk is full, the old file
    stays as it was.

    Raises:
      InputError: something that this program did not record already has the path: a file, a folder
        or a symbolic link. Nothing was written.
      OSError: the file cannot be written.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, data: bytes) -> None:
    """Writes a file of bytes, and records it as a file of this program.

    An older file that this program recorded is replaced in one step. If the process is killed or
    the disk is full, the old file stays as it was.

    Raises:
      InputError: something that this program did not record already has the path.
      OSError: the file cannot be written.
    """
    partial = _claim_with_partial(path)
    # On the disk before the rename, since a power cut could otherwise leave an empty file.
    sync_to(partial, data)
    _take_place(partial, path)


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Writes arrays into an .npz file, and records it as a file of this program.

    An older file that this program recorded is replaced in one step. If the process is killed or
    the disk is full, the old file stays as it was. The arrays are written directly to the disk,
    without a copy of the archive in memory.

    Args:
      path: the file.
      **arrays: the arrays by their names in the archive.

    Raises:
      InputError: something that this program did not record already has the path.
      OSError: the file cannot be written.
    """
    partial = _claim_with_partial(path)
    with partial.open("wb") as file:
        try:
            # pyright warns that an array could have the name `allow_pickle`; none of ours has it.
            np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
            file.flush()
            os.fsync(file.fileno())
        # BaseException, because a KeyboardInterrupt must not leave a half-written file either.
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    _take_place(partial, path)


def _claim_with_partial(path: Path) -> Path:
    """Records a file, and a second name that it has while it is being written.

    Returns:
      The second name, which no file of others has.
    """
    partial, number = path.with_name(path.name + PARTIAL), 1
    found = read(path.parent)
    while os.path.lexists(partial) and not (
        # A recorded partial file is ours. A killed process left it, and it is overwritten.
        found and partial.name in found.files and _is_file(partial)
    ):
        number += 1
        partial = path.with_name(f"{path.name}{PARTIAL}-{number}")
    claim(path, partial)
    return partial


def _take_place(partial: Path, path: Path) -> None:
    """Renames a file that is written to its end to its final name, and gives up the first name."""
    # A rename is one step: a reader sees either the old file or the new one.
    partial.replace(path)
    _append(path.parent, {"removed": partial.name})


def remove(path: Path) -> None:
    """Removes a file if this program wrote it; otherwise does nothing.

    This program wrote a file if the folder's marker, the file that lists what this program wrote
    there, contains the file's name. A symbolic link stays.
    """
    found = read(path.parent)
    # We never create links, so a link with a recorded name is somebody else's.
    if found is not None and path.name in found.files and _is_file(path):
        path.unlink()
        _append(path.parent, {"removed": path.name})


def remove_tree(path: Path) -> None:
    """Removes a checkpoint: the files that Orbax wrote, and the folders that are then empty.

    Orbax is JAX's checkpoint library, and its files are known by their names. If a folder contains
    a file that Orbax did not write, that file and the folder stay. Nothing is done if the path is a
    symbolic link, or if the checkpoint is not recorded in the marker of the parent folder (the file
    that lists what this program wrote there).

    Args:
      path: the folder of the checkpoint.
    """
    found = read(path.parent)
    if found is None or path.name not in found.trees or path.is_symlink():
        return
    # The names of Orbax's files are known, so a file of the user in a checkpoint stays.
    for file in _files_below(path):
        if is_of_orbax(file.relative_to(path)):
            with contextlib.suppress(FileNotFoundError):  # Orbax may remove it at the same time.
                file.unlink()
    _remove_empty(path)
    if not path.exists():
        _append(path.parent, {"removed": path.name})


def rename_tree(path: Path, name: str) -> Path:
    """Renames a checkpoint, such as a damaged one, and returns its new path.

    If another checkpoint has the new name already, it is removed first, except for files in it that
    Orbax (JAX's checkpoint library) did not write. If such files are left, the renamed checkpoint
    gets the next free name instead: NAME-2, NAME-3, ...

    Args:
      path: the folder of the checkpoint.
      name: the new name of that folder, in the same parent folder.

    Raises:
      InputError: the checkpoint at `path` contains a file that Orbax did not write, is a symbolic
        link, or is not recorded in the marker of the parent folder (the file that lists what this
        program wrote there).
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
    # The new name is recorded before the rename, and the old one is given up after it. If the
    # process is killed between the two, both names are recorded, and the folder stays ours.
    _append(path.parent, {"tree": new.name})
    path.rename(new)
    _append(path.parent, {"removed": path.name})
    return new


def rename_folder(folder: Path, new: Path) -> None:
    """Renames a folder of this program within its parent folder.

    Args:
      folder: the folder. It and its parent folder must both have a marker, the file that lists what
        this program wrote there.
      new: its new path, which must be free.

    Raises:
      InputError: a marker is missing, the folder is a symbolic link, or the new path exists.
    """
    found, above = read(folder), read(folder.parent)
    if found is None or above is None or folder.is_symlink() or os.path.lexists(new):
        raise InputError(f"{folder}: expected a folder of this program and the free name {new}.")
    # The order is the same as in `rename_tree`, for the same reason.
    _append(folder.parent, {"folder": new.name})
    folder.rename(new)
    _append(folder.parent, {"removed": folder.name})


def foreign_in_tree(path: Path) -> str:
    """Returns the first file in a checkpoint that Orbax did not write, or "" if there is none.

    Args:
      path: the folder of the checkpoint.

    Returns:
      The path of the file, relative to the folder. A file counts as written by Orbax if it has one
      of the names that Orbax uses, as `orbax_layout.is_of_orbax` tells.
    """
    names = (file.relative_to(path) for file in _files_below(path))
    return next((name.as_posix() for name in names if not is_of_orbax(name)), "")


def foreign(folder: Path) -> str:
    """Returns the first file in a folder that this program did not write, or "" if there is none.

    A file counts as written by this program if the folder's marker, the file that lists what this
    program wrote there, contains the file's name. A file in a subfolder always counts as not
    written by this program. The result is a path relative to the folder.
    """
    found = read(folder)
    known = {MARKER, *(found.files if found else ())}
    return next((name for name in _names(folder) if name not in known), "")


def clear(folder: Path, *, keep_marker: bool = False) -> None:
    """Removes every file that this program wrote into a folder and into marked folders below it.

    A folder's marker is the file that lists what this program wrote there. Folders that are empty
    afterwards are removed too. If the process is killed, the folder can be cleared again.

    Args:
      folder: a folder with a marker. In a folder without a marker, nothing is removed.
      keep_marker: True keeps the folder and its marker, to use the folder again. False removes
        them too, unless the folder contains a file that this program did not write.

    Raises:
      InputError: a checkpoint contains a file that Orbax did not write. Nothing was removed.
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
    # The marker is removed last, since without it no file here would count as ours.
    if not keep_marker and [path.name for path in folder.iterdir()] == [MARKER]:
        (folder / MARKER).unlink()
        folder.rmdir()


def _check_trees(folder: Path) -> None:
    """Raises InputError if a recorded checkpoint has a file that Orbax did not write.

    Checkpoints of the folders below that have a marker are checked too.
    """
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
    """Yields a new temporary folder inside a folder, and removes it at the end of the block.

    This is a context manager. The outer folder is created if it is absent. It also gets a marker,
    the file that lists what this program wrote there, if it has none.
    """
    adopt(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix="features-") as name:
        yield Path(name)


def free_name(path: Path) -> Path:
    """Returns a path at which nothing exists: the given one, or the first of PATH-2, PATH-3, ..."""
    number, free = 1, path
    while os.path.lexists(free):
        number += 1
        free = path.with_name(f"{path.name}-{number}")
    return free


@contextlib.contextmanager
def writing(
    folder: Path, advice: str = "Free some space or take another folder, and start again."
) -> Iterator[None]:
    """Turns a write error of the system, such as a full disk, into an InputError.

    This is a context manager around the code that writes.

    Args:
      folder: the folder that is being written.
      advice: the last sentence of the message, which says what to do.

    Raises:
      InputError: the operating system reported an error. A broken pipe is raised unchanged, because
        it concerns the program's own output. So is an OSError without an error number, which
        Pillow raises for an image that it cannot read.
    """
    try:
        yield
    except OSError as error:
        # A broken pipe concerns the program's output and not the disk. Pillow raises OSError
        # without a number for an image that it cannot read.
        if isinstance(error, BrokenPipeError) or error.errno is None:
            raise
        raise InputError(
            f"expected room and permission to write in {folder}, found: {said(error)}. {advice}"
        ) from error


def said(error: OSError) -> str:
    """Returns the message of an OSError, followed by the name of the file if that is known."""
    if error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    return error.strerror or str(error)


class _Open:
    """An open marker file, which can be locked and appended to. It is created if it is absent.

    Args:
      path: path of the marker.

    Raises:
      InputError: the path is a link, which is never opened.
    """

    def __init__(self, path: Path) -> None:
        # With O_APPEND each write goes to the end, also if several processes write.
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
    """Appends lines to a marker in one write, so that lines of several processes do not mix."""
    if not lines:
        return
    data = b"".join(json.dumps({**x, "digest": _digest(x)}).encode() + b"\n" for x in lines)
    with contextlib.closing(_Open(folder / MARKER)) as marker:
        size = os.fstat(marker.descriptor).st_size
        if size and "format" in lines[0]:
            return  # Another process has marked the folder meanwhile.
        if size and os.pread(marker.descriptor, 1, size - 1) != b"\n":
            # A kill or a full disk has truncated the last line. Ours begins on a new line.
            data = b"\n" + data
        # If the disk is nearly full, a write may be partial before the next one fails.
        while data:
            data = data[os.write(marker.descriptor, data) :]
        # Without it a power cut could leave a file without its record, which would not be ours.
        if "removed" not in lines[0]:
            os.fsync(marker.descriptor)


def _parsed(line: bytes) -> dict[str, str] | None:
    """Returns the content of a marker's line, or None if its digest shows that it is damaged."""
    try:
        found = json.loads(line)
        return found if found.pop("digest") == _digest(found) else None
    # A damaged line may contain any JSON value, and must not stop a command.
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return None


def _digest(line: Mapping[str, str | int]) -> str:
    # The digest finds damage and not forgery, so 48 bits are enough.
    return hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:12]


def _tell_folder_above(folder: Path) -> None:
    """Records a new folder in the nearest folder above it that has a marker.

    So `clear` of that folder finds the new one too.
    """
    # Path.resolve would follow links, which must stay visible as links.
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    for above in folder.parents:
        if read(above) is not None:
            _append(above, {"folder": folder.relative_to(above).as_posix()})
            return


def _check_links(folder: Path) -> None:
    """Raises InputError if a path contains a link below a folder that has a marker."""
    folder = Path(os.path.abspath(folder))  # noqa: PTH100
    for above in folder.parents:
        if read(above) is not None:
            for link in _links_between(above, folder):
                raise _is_link(link)
            return


def _links_between(above: Path, below: Path) -> list[Path]:
    """Returns the links on the path from a folder down to another one, including the latter."""
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
    # We did not write a folder that has the name of a recorded file, nor the reverse.
    ours = path.name in recorded and path.is_dir() == folder
    if os.path.lexists(path) and not ours:
        raise InputError(
            f"{path}: expected a free name or a file of this program, found something that it did "
            "not record. Move it elsewhere, or take another folder."
        )


def _others(folder: Path) -> list[str]:
    """Returns the names in a folder, except for an empty marker.

    A process that is killed at the very start leaves an empty marker.
    """
    if not folder.exists():
        return []
    names = {path.name for path in folder.iterdir()}
    marker = folder / MARKER
    if MARKER in names and _is_file(marker) and marker.stat().st_size == 0:
        names.remove(MARKER)
    return sorted(names)


def _shown(names: list[str]) -> str:
    """Returns the first name, shortened, and the number of the others, for a message."""
    shown = names[0] if len(names[0]) <= 60 else f"{names[0][:57]}..."
    return shown if len(names) == 1 else f"{shown} and {len(names) - 1} more"


def _names(folder: Path) -> Iterator[str]:
    """Yields the paths of the files and links in a folder and below it, relative to the folder."""
    yield from (path.relative_to(folder).as_posix() for path in _files_below(folder))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yields the paths of the files and links in a folder and below it."""
    # os.walk does not enter linked folders, but lists them among the folders.
    for above, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(above) / name).is_symlink()]
        yield from (Path(above) / name for name in sorted([*links, *files]))


def _is_file(path: Path) -> bool:
    """Returns whether a path is that of a regular file, and not of a link to one."""
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _remove_empty(folder: Path) -> None:
    """Removes a folder of ours and the folders in it, except for those that are not empty."""
    for above, _, _ in os.walk(folder, topdown=False):
        with contextlib.suppress(OSError):
            # rmdir fails for a folder that is not empty, so a user's file keeps its folder.
            Path(above).rmdir()


def _remove_empty_up_to(below: Path, folder: Path) -> None:
    """Removes a folder and those between it and `folder`, except for folders that are not empty."""
    while below != folder:
        with contextlib.suppress(OSError):
            below.rmdir()
        below = below.parent
