"""Writes a source as a TFDS data set of ArrayRecord shards, without TensorFlow.

The images are first divided into shards. The shards are written one by one into a work folder,
which no reader takes for a data set. Beside each shard a journal file records its content, so that
a killed `prepare` continues after the last complete shard. At the end the metadata are written, and
one rename gives the folder its final name.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds

from hyperface import owned
from hyperface.data import shards
from hyperface.data.datasets import find
from hyperface.data.manifest import LOST_PAIR, Manifest
from hyperface.data.planning import Options, Shard, alignment, fingerprint, plan_shards
from hyperface.data.sources import Reject, Source
from hyperface.data.sources.verification import folds
from hyperface.errors import InputError
from hyperface.files import read_json

Progress = Callable[[int, int], None]
"""A function that is called with (number of finished images, number of all images)."""
METADATA = ("manifest.json", "pairs.csv", "dataset_info.json", "features.json", "metadata.json")
"""The files that are written beside the shards; TFDS writes the last three."""
_FILES = "{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def prepare(
    source: Source,
    folder: Path,
    options: Options = Options(),  # noqa: B008  Frozen.
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a source as a data set, unless the same data set is there already.

    A killed call can be repeated: it continues after the last complete file. Readers see either the
    complete data set or none.

    Args:
      source: the images.
      folder: the folder of the data set. Its name is the name of the data set, and it contains one
        folder per version, such as 1.0.0.
      options: which images are stored, how, and who the test people are.
      replace: True prepares an existing data set again, as a new version. The old version is
        removed only after the new one is complete. With False, an existing data set of the same
        source and options is returned, and one of another source or other options raises
        InputError.
      progress: called, in the thread of the caller, with (number of finished images, number of all
        images).

    Returns:
      The folder of the version that has the images.

    Raises:
      InputError: `replace` is False, and the folder has a data set of other files or options; the
        folder cannot be written, or is in use by another process; the options do not fit the
        source; the images have many sizes; no image of a split is readable; or an image was
        rejected and `options.strict` is True.
    """
    plan, people = plan_shards(source, options)
    key = fingerprint(source, options)
    shape = None
    # The journals of a killed command already tell the shape.
    begun = (folder / _unfinished(key)).exists()
    if not begun and (replace or find(folder.name, folder.parent) is None):
        # Before the folder is created, so that photos of mixed sizes leave no folder behind.
        shape = shards.majority_shape(source, plan, options)
    try:
        with owned.locked(folder, "being prepared"):
            old = find(folder.name, folder.parent)
            if old is not None and Manifest.source_of(old) is None:
                raise InputError(
                    f"expected no data set in {old}, or one that this command prepared, found "
                    "another one. Take another --out."
                )
            if old is not None and not replace:
                if Manifest.source_of(old) == key:
                    return old
                raise InputError(
                    f"expected the data set of this source in {old}, found one from other files or "
                    "options. Take another --out, or pass --replace."
                )
            if old is not None:
                _check_replaceable(old)
            work = _work_folder(folder, key)
            # TFDS and ArrayRecord write these files themselves, so they are recorded as ours first.
            owned.claim(*(work / name for name in _names(plan)))
            records = _write(source, plan, options, shape, work, progress)
            manifest = _summarise(source, plan, people, records, key, alignment(options))
            _add_pairs(source, manifest, work)
            _add_metadata(manifest, plan, records, work, folder.name)
            whole = _next_version(folder, old)
            # The rename is atomic: a reader sees either the complete data set or none.
            owned.rename_folder(work, whole)
            if old is not None:
                # Removed last: a kill before this line leaves the old version complete.
                owned.clear(old)
            return whole
    except OSError as error:
        raise InputError(
            f"expected room and permission to write in {folder}, found: {error}. Correct that, or "
            "choose another folder by HYPERFACE_DATA_DIR or --data-dir. The same command continues "
            "with the finished shards."
        ) from error


def _write(
    source: Source,
    plan: list[Shard],
    options: Options,
    shape: shards.Shape | None,
    work: Path,
    progress: Progress | None,
) -> list[dict]:
    """Writes the shards that have no journal yet, and returns the journals of all shards.

    Args:
      source: the images.
      plan: the shards.
      options: how images are stored.
      shape: the shape that all images must have; None lets a journal or a majority decide.
      work: the work folder.
      progress: called with (number of finished images, number of all images).

    Raises:
      InputError: an image was rejected and `strict` is on, or no image is readable.
    """
    rejected = list(source.rejected)
    total = sum(shard.indices.size for shard in plan)
    records, done = [], 0
    for shard in plan:
        if options.strict and rejected:
            raise shards.refused(rejected)

        def report(more: int, done: int = done) -> None:
            if progress is not None:
                progress(done + more, total)

        journal = work / f"{shard.file}.json"
        if _journal(journal) is None:
            # The vote decodes a sample of images, so it is taken only if no journal has the shape.
            shape = shape or shards.majority_shape(source, plan, options)
            record = shards.write(source, shard, options, shape, work, report)
            # Written after the shard is on the disk: a journal means that its shard is complete.
            owned.write_text(journal, json.dumps(record))
        # A new journal is read back too: JSON turns tuples into lists and numbers into text keys,
        # and new and old journals must look the same.
        records.append(_journal(journal))
        shape = tuple(records[-1]["shape"])
        rejected += [Reject(*reject) for reject in records[-1]["rejected"]]
        done += shard.indices.size
        report(0, done)
    if options.strict and rejected:
        raise shards.refused(rejected)
    return records


def _journal(path: Path) -> dict | None:
    """Returns the journal of a shard, the JSON values that `shards.write` returned.

    It returns None if the file is missing or damaged.
    """
    try:
        return read_json(path)
    except InputError:
        return None


def _summarise(
    source: Source,
    plan: list[Shard],
    people: dict[str, list[str]],
    records: list[dict],
    key: str,
    aligned: str,
) -> Manifest:
    """Builds the manifest of the data set from the journals of its shards.

    Args:
      source: the images.
      plan: the shards.
      people: split -> names of its people, in the order of their labels.
      records: the journal of each shard.
      key: fingerprint of source and options.
      aligned: how the images are aligned, in words.

    Raises:
      InputError: a split has no image.
    """
    manifest = Manifest(
        source=key,
        kind=source.kind,
        image_shape=tuple(records[0]["shape"]),
        images=dict.fromkeys(people, 0),
        people=people,
        images_per_identity={split: [0] * len(names) for split, names in people.items()},
        sha256={shard.file: record["sha256"] for shard, record in zip(plan, records, strict=True)},
        rejected=[*source.rejected],
        alignment=aligned,
        ignored=[*source.ignored],
    )
    for shard, record in zip(plan, records, strict=True):
        manifest.images[shard.split] += record["images"]
        manifest.rejected.extend(Reject(*reject) for reject in record["rejected"])
        for label, count in record["labels"].items():
            manifest.images_per_identity[shard.split][int(label)] += count
    for split, count in manifest.images.items():
        if not count:
            raise shards.refused(manifest.rejected, f"none in the split {split!r}")
    return manifest


def _add_metadata(
    manifest: Manifest, plan: list[Shard], records: list[dict], work: Path, name: str
) -> None:
    """Writes the manifest and TFDS's metadata, and removes the journals.

    Args:
      manifest: the manifest.
      plan: the shards.
      records: the journal of each shard.
      work: the work folder.
      name: name of the data set.
    """
    journals = list(zip(plan, records, strict=True))
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[record["images"] for shard, record in journals if shard.split == split],
            num_bytes=sum(path.stat().st_size for path in work.glob(f"{split}.array_record*")),
            filename_template=tfds.core.ShardedFileTemplate(
                # TFDS declares a path type of its own here, and accepts any path.
                data_dir=work,  # pyright: ignore[reportArgumentType]
                dataset_name=name,
                split=split,
                filetype_suffix="array_record",
                template=_FILES,
            ),
        )
        for split in manifest.people
    ]
    # Written before the journals are removed, since it contains what they record.
    owned.write_text(work / "manifest.json", json.dumps(asdict(manifest), indent=1) + "\n")
    for shard in plan:
        owned.remove(work / f"{shard.file}.json")
    counts = {split: len(names) for split, names in manifest.people.items()}
    tfds.folder_dataset.write_metadata(
        data_dir=work,
        features=shards.features(manifest.image_shape, max(counts.values())),
        split_infos=splits,
        version="1.0.0",
        filename_template=_FILES,
        # Each shard was checked when it was written; TFDS would read all of them again.
        check_data=False,
        description=f"Images of a {manifest.kind} source.",
        metadata=tfds.core.MetadataDict(
            people=counts, source=manifest.source, alignment=manifest.alignment
        ),
    )


def _add_pairs(source: Source, manifest: Manifest, work: Path) -> None:
    """Writes the pairs of a source to `pairs.csv`, with the names of their images and their folds.

    A pair with a rejected image is rejected too. The other pairs stay in their folds.

    Args:
      source: the images, and the pairs if it has some.
      manifest: the manifest, which lists the rejected images and receives the rejected pairs.
      work: the work folder.
    """
    if source.pairs is None:
        return
    rejected = {name for name, _ in manifest.rejected}
    kept = []
    for a, b, same, fold in zip(*source.pairs, strict=True):
        first, second = source.names[a], source.names[b]
        if rejected & {first, second}:
            manifest.rejected.append(Reject(f"{first},{second}", LOST_PAIR))
        else:
            kept.append((first, second, int(same), int(fold)))
    if len({(same, fold) for _, _, same, fold in kept}) < 2 * len({row[3] for row in kept}):
        # In a short list, a fold can lose its only pair of one kind. It could not be scored then,
        # so all pairs are divided into folds again.
        again = folds(np.array([row[2] for row in kept], bool))
        kept = [(*row[:3], int(fold)) for row, fold in zip(kept, again, strict=True)]
    lines = [",".join(map(str, row)) + "\n" for row in kept]
    owned.write_text(work / "pairs.csv", "first,second,same,fold\n" + "".join(lines))


def _names(plan: list[Shard]) -> list[str]:
    """Returns the names of the files of a data set, without the journals."""
    return [*(shard.file for shard in plan), *METADATA]


def _check_replaceable(old: Path) -> None:
    """Refuses a version that `--replace` could not remove completely.

    It is called before anything is written.
    """
    found = owned.read(old)
    if found is None or found.kind != owned.DATA:
        raise InputError(
            f"--replace: expected a version that this program recorded in {old}, found one of an "
            "earlier program version or of another program. Move it elsewhere, or take another "
            "--out."
        )
    if other := owned.foreign(old):
        raise InputError(
            f"--replace: expected only files of this program in {old}, found {other}. Move it "
            "elsewhere, or take another --out."
        )


def _unfinished(key: str) -> str:
    """Returns the name of the work folder of a source with these options."""
    return f"unfinished-{key}"


def _work_folder(folder: Path, key: str) -> Path:
    """Returns the work folder of this source, and removes the work folders of other sources."""
    work = folder / _unfinished(key)
    marked = owned.read(folder)
    assert marked is not None  # `prepare` has locked the folder, which gives it a marker.
    for name in sorted(marked.folders):
        other = owned.read(folder / name)
        is_unfinished = name.startswith("unfinished-") and other and other.kind == owned.DATA
        # Only folders that are recorded and have the right kind are removed, and no linked folder.
        if is_unfinished and name != work.name and not (folder / name).is_symlink():
            owned.clear(folder / name)
    owned.adopt(work, owned.DATA)
    return work


def _next_version(folder: Path, old: Path | None) -> Path:
    """Returns the folder of the next version, under a name that nothing has yet."""
    number = 0 if old is None else int(old.name.split(".")[2]) + 1
    # lexists, since a broken link occupies a name too.
    while os.path.lexists(folder / f"1.0.{number}"):
        number += 1
    return folder / f"1.0.{number}"
