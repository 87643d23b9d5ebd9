"""One folder an identity: on disk, or in a zip or tar archive that is read in place.

LFW's layout, ImageFolder's, VGGFace2's with a folder around the people of each split, and CFP's
with folders below the identity. Nothing is ever extracted.
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
    """Returns the images below a folder that has one folder per person.

    Args:
      root: the folder.
      follow_links: whether links to files and folders outside of root are followed.
      distinct_case: two identities whose names differ in case only are two people.
      identity_level: the level of folders that names the people: 1 for the folders directly in
        root. None finds the level.

    Raises:
      InputError: root is not a folder, no identity's folder contains an image, two levels could
        name the people, or identities differ in case or Unicode form only.
    """
    if not root.is_dir():
        raise InputError(f"expected a folder with one folder a person, found none at {root}.")
    return _tree("folder", walk(root, follow_links), root, distinct_case, identity_level)


def zipped(path: Path, *, distinct_case: bool = False, identity_level: int | None = None) -> Source:
    """Returns the images in a zip archive that has one folder per person.

    Raises:
      InputError: as `folder`, or the archive is damaged.
    """
    return _tree("zip", _zip_members(path), path, distinct_case, identity_level)


def tarred(path: Path, *, distinct_case: bool = False, identity_level: int | None = None) -> Source:
    """Returns the images in a tar archive, plain or compressed, that has one folder per person.

    Raises:
      InputError: as `folder`, or the archive is damaged.
    """
    return _tree("tar", tar_members(path), path, distinct_case, identity_level)


def _zip_members(path: Path) -> Iterator[Member]:
    archive = open_zip(path)
    for info in archive.infolist():
        # .NET's zips have backslashes; Python translates them on Windows alone.
        name = info.filename.replace("\\", "/")
        if not name.endswith("/"):
            yield Member(
                name,
                info.file_size,
                partial(_read_zipped, archive, info),
            )


def _read_zipped(archive: ZipFile, info: ZipInfo, limit: int = -1) -> bytes:
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
    selected = select(members)
    paths: dict[str, tuple[str, ...]] = {}  # Of folders, of which there are fewer than images.
    for name in selected.images:
        parent = name.rpartition("/")[0]
        paths.setdefault(parent, tuple(parent.split("/")) if parent else ())
    folders = Counter(paths[name.rpartition("/")[0]] for name in selected.images)
    if not any(folders):
        raise _none_found(root, selected, folders[()])
    choice = identities.choose(folders, _origin(root), level)
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
    """Returns the name of each image: its path from the identity on, or a longer one if needed.

    The identity comes first in any case: protocols take it from there.
    """
    short = [path.split("/", level - 1)[-1] for path in paths]
    # Names without the folders above are shorter; they are taken only where they tell images apart.
    if len(set(short)) == len(short):
        return short
    parts = [path.split("/") for path in paths]
    return ["/".join((p[level - 1], *p[: level - 1], *p[level:])) for p in parts]


def _origin(root: Path) -> str:
    """Returns the name of a folder or an archive, without its endings."""
    name = os.path.basename(os.path.abspath(root))  # noqa: PTH100, PTH119  Links stay links.
    return name if root.is_dir() else re.split(r"\.(?:zip|t[a-z]z\w*|tar)\b", name, flags=re.I)[0]


def _none_found(root: Path, selected: Selected, loose: int) -> InputError:
    """Returns the error of a tree without an image below a folder."""
    left_out = [*selected.rejected, *selected.ignored]
    reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out[:3])
    beside = (
        f" {loose:,} images lie in no folder: move those of each person into a folder, or give a "
        "list file with a line 'path label' for each."
        if loose
        else ""
    )
    return InputError(
        f"expected folders of images below {root}, one a person "
        f"({', '.join(sorted(IMAGE_SUFFIXES))}), found none.{beside} {reasons}".rstrip()
    )
