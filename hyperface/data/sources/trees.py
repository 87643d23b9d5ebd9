"""Opens images in one folder per person: on disk, or in a zip or tar archive that is read in place.

This is the layout of LFW and ImageFolder. There may be folders around the people, such as one per
split in VGGFace2, and folders below each person, as in CFP. Archives are never extracted to disk.
"""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from zipfile import ZipFile, ZipInfo

from hyperface.archives import open_zip, read_head, read_member
from hyperface.data.sources import identities
from hyperface.data.sources.members import Member, Selected, select
from hyperface.data.sources.source import IMAGE_SUFFIXES, Reject, Source, by_identity, check_size
from hyperface.data.sources.tars import tar_members
from hyperface.data.sources.walk import walk
from hyperface.errors import InputError


def folder(
    root: Path,
    *,
    follow_links: bool = False,
    distinct_case: bool = False,
    identity_level: int | None = None,
) -> Source:
    """Opens the images below a folder that has one folder per person as a source.

    The person's folder may be at any depth, such as in train/ID/1.jpg or ID/frontal/1.jpg.

    Args:
      root: the folder.
      follow_links: True follows links to files and folders outside of root; False rejects them.
      distinct_case: True treats two folders whose names differ only in case as two people; False
        raises an error for them.
      identity_level: the depth of the folders that are people: 1 for the folders directly in root,
        2 for the folders in these. None finds it by the names and numbers of the folders.

    Raises:
      InputError: root is not a folder, no person's folder contains an image, or the folders of two
        levels could be the people. Also if two identities differ only in Unicode form or, unless
        `distinct_case` is True, only in case.
    """
    if not root.is_dir():
        raise InputError(f"expected a folder with one folder per person, found none at {root}.")
    return _tree("folder", walk(root, follow_links), root, distinct_case, identity_level)


def zipped(path: Path, *, distinct_case: bool = False, identity_level: int | None = None) -> Source:
    """Opens the images in a zip archive that has one folder per person as a source.

    Args:
      path: the archive.
      distinct_case: True treats two folders whose names differ only in case as two people; False
        raises an error for them.
      identity_level: the depth of the folders that are people: 1 for the folders at the top of the
        archive, 2 for the folders in these. None finds it by the names and numbers of the folders.

    Raises:
      InputError: the archive is missing or damaged, no person's folder contains an image, or the
        folders of two levels could be the people. Also if two identities differ only in Unicode
        form or, unless `distinct_case` is True, only in case.
    """
    return _tree("zip", _zip_members(path), path, distinct_case, identity_level)


def tarred(path: Path, *, distinct_case: bool = False, identity_level: int | None = None) -> Source:
    """Opens the images in a tar archive that has one folder per person as a source.

    Args:
      path: the archive, plain or compressed.
      distinct_case: True treats two folders whose names differ only in case as two people; False
        raises an error for them.
      identity_level: the depth of the folders that are people: 1 for the folders at the top of the
        archive, 2 for the folders in these. None finds it by the names and numbers of the folders.

    Raises:
      InputError: the archive is missing or damaged, no person's folder contains an image, or the
        folders of two levels could be the people. Also if two identities differ only in Unicode
        form or, unless `distinct_case` is True, only in case.
    """
    return _tree("tar", tar_members(path), path, distinct_case, identity_level)


def _zip_members(path: Path) -> Iterator[Member]:
    """Yields the files in a zip archive."""
    archive = open_zip(path)
    for info in archive.infolist():
        # .NET wrote zip archives with backslashes; Python translates them only on Windows.
        name = info.filename.replace("\\", "/")
        if not name.endswith("/"):
            yield Member(
                name,
                info.file_size,
                partial(_read_zipped, archive, info),
            )


def _read_zipped(archive: ZipFile, info: ZipInfo, limit: int = -1) -> bytes:
    """Returns the bytes of a file in a zip archive, all or at most `limit`."""
    if limit < 0:
        return read_member(archive, info, info.file_size)
    return read_head(archive, info, limit)


def _tree(
    kind: str,
    members: Iterable[Member],
    root: Path,
    distinct_case: bool,
    level: int | None,
) -> Source:
    """Returns the source of the images among the files of a folder or an archive.

    Args:
      kind: the kind of the source, "folder", "zip" or "tar".
      members: the files.
      root: the folder or archive, for messages and for its name.
      distinct_case: as in `folder`.
      level: as `identity_level` in `folder`.
    """
    selected = select(members)
    # Split once per folder and not once per image, of which there may be millions.
    paths: dict[str, tuple[str, ...]] = {}
    for name in selected.images:
        parent = name.rpartition("/")[0]
        paths.setdefault(parent, tuple(parent.split("/")) if parent else ())
    folders = Counter(paths[name.rpartition("/")[0]] for name in selected.images)
    if not any(folders):
        raise _none_found(root, selected, folders[()])
    choice = identities.choose(folders, _origin(root), level)
    # An image directly in a folder around the people belongs to nobody.
    kept, rejected = [], selected.rejected
    for name in selected.images:
        if name.count("/") >= choice.level:
            kept.append(name)
        else:
            rejected.append(Reject(name, "not below an identity's folder"))
    files = [selected.images[name] for name in kept]
    found = (
        (paths[name.rpartition("/")[0]][choice.level - 1], short, file.size)
        for name, short, file in zip(kept, _names(kept, choice.level), files, strict=True)
    )

    def read(index: int) -> bytes:
        check_size(files[index].size)
        return files[index].read()

    return by_identity(
        kind,
        found,
        read,
        sorted(rejected),
        distinct_case=distinct_case,
        ignored=tuple(sorted(selected.ignored)),
        doubt=choice.doubt,
    )


def _names(paths: list[str], level: int) -> list[str]:
    """Returns the name of each image: its path from the person's folder on.

    If two images then have one name, the folders above the person are inserted after the person.
    The person comes first in both cases, because protocols read it there.
    """
    short = [path.split("/", level - 1)[-1] for path in paths]
    if len(set(short)) == len(short):
        return short
    parts = [path.split("/") for path in paths]
    return ["/".join((p[level - 1], *p[: level - 1], *p[level:])) for p in parts]


def _origin(root: Path) -> str:
    """Returns the name of a folder, or the name of an archive without its suffixes."""
    name = os.path.basename(os.path.abspath(root))  # noqa: PTH100, PTH119  Links stay links.
    return name if root.is_dir() else re.split(r"\.(?:zip|t[a-z]z\w*|tar)\b", name, flags=re.I)[0]


def _none_found(root: Path, selected: Selected, loose: int) -> InputError:
    """Returns the error for a source that has no image in a folder.

    Args:
      root: the folder or archive.
      selected: its files, by what was done with them.
      loose: number of images that are in no folder.
    """
    left_out = [*selected.rejected, *selected.ignored]
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
    beside = (
        f" {loose:,} images are outside of any folder: move those of each person into a folder, or "
        "give a list file with one line 'path label' per image."
        if loose
        else ""
    )
    return InputError(
        f"expected folders of images below {root}, one per person "
        f"({', '.join(sorted(IMAGE_SUFFIXES))}), found none.{beside} {reasons}".rstrip()
    )
