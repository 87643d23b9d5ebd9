"""Writes a source as a TFDS data set of ArrayRecord shards, without TensorFlow.

The images are planned into shards first. Shards are written one by one into a folder that no reader
takes for a data set, each with a journal of what went in; a killed `prepare` goes on after its last
whole shard. At the end the folder gets its metadata and, in one step, its name.
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
from hyperface.data.planning import Options, Shard, alignment, fingerprint, planned
from hyperface.data.sources import Reject, Source
from hyperface.data.sources.verification import folds
from hyperface.errors import InputError
from hyperface.files import read_json

Progress = Callable[[int, int], None]
"""Called with (images done, images in all)."""
METADATA = ("manifest.json", "pairs.csv", "dataset_info.json", "features.json", "metadata.json")
"""What is written beside the shards, the last three by TFDS."""
_FILES = "{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"


def prepare(
    source: Source,
    folder: Path,
    options: Options = Options(),  # noqa: B008  Frozen.
    *,
    replace: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Writes a data set, unless it is there already.

    Args:
      source: the images.
      folder: the data set's, whose last part is its name; the version is a folder in it.
      options: what becomes of the images.
      replace: make it anew, and take the place of the one that is there once the new one is whole.
      progress: called now and then, from this thread.

    Returns:
      The folder of the version.

    Raises:
      InputError: the folder holds a data set of other files or options, or cannot be written, or is
        in use; the options do not fit the source; no image of a split is readable, or one was
        rejected and `strict` is on.
    """
    plan, people = planned(source, options)
    key = fingerprint(source, options)
    shape = None
    # What a killed command began has its shape in its journals.
    begun = (folder / _unfinished(key)).exists()
    if not begun and (replace or find(folder.name, folder.parent) is None):
        # Before the folder is made: photos of mixed sizes leave nothing behind.
        shape = shards.majority_shape(source, plan, options)
    try:
        with owned.locked(folder, "being prepared"):
            old = find(folder.name, folder.parent)
            if old is not None and Manifest.source_of(old) is None:
                raise InputError(
                    f"expected no data set, or one that this command made, in {old}, found another "
                    "one. Take another --out."
                )
            if old is not None and not replace:
                if Manifest.source_of(old) == key:
                    return old
                raise InputError(
                    f"expected the data set of this source in {old}, found one made from other "
                    "files or options. Take another --out, or pass --replace."
                )
            if old is not None:
                _check_replaceable(old)
            work = _work_folder(folder, key)
            # Recorded before TFDS and ArrayRecord write them under these names.
            owned.claim(*(work / name for name in _names(plan)))
            records = _write(source, plan, options, shape, work, progress)
            manifest = _summed(source, plan, people, records, key, alignment(options))
            _add_pairs(source, manifest, work)
            _add_metadata(manifest, plan, records, work, folder.name)
            whole = _next_version(folder, old)
            # The rename is one step: a reader sees the whole data set or none.
            owned.rename_folder(work, whole)
            if old is not None:
                # Last: until here a kill leaves the old version as it was.
                owned.clear(old)
            return whole
    except OSError as error:
        raise InputError(
            f"expected room and permission to write in {folder}, found: {error}. Mend that, or "
            "choose another place by HYPERFACE_DATA_DIR or --data-dir; the same command goes on "
            "from what is done."
        ) from error


def _write(
    source: Source,
    plan: list[Shard],
    options: Options,
    shape: shards.Shape | None,
    work: Path,
    progress: Progress | None,
) -> list[dict]:
    """Writes the shards that are missing, and returns the journals of all."""
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
            # Only where no journal tells it: it decodes a sample of the images.
            shape = shape or shards.majority_shape(source, plan, options)
            record = shards.write(source, shard, options, shape, work, report)
            # After the shard, which is on the disk by then: a journal vouches for a whole file.
            owned.write_text(journal, json.dumps(record))
        # Read back also when it is new, so that both ways give what JSON makes of it.
        records.append(_journal(journal))
        shape = tuple(records[-1]["shape"])
        rejected += [Reject(*reject) for reject in records[-1]["rejected"]]
        done += shard.indices.size
        report(0, done)
    if options.strict and rejected:
        raise shards.refused(rejected)
    return records


def _journal(path: Path) -> dict | None:
    """Returns what is known of a shard; None where it has to be written, again perhaps."""
    try:
        return read_json(path)
    except InputError:
        return None


def _summed(
    source: Source,
    plan: list[Shard],
    people: dict[str, list[str]],
    records: list[dict],
    key: str,
    aligned: str,
) -> Manifest:
    """Returns the manifest, from the journals."""
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
    """Writes TFDS's metadata and ours, and takes the journals away."""
    journals = list(zip(plan, records, strict=True))
    splits = [
        tfds.core.SplitInfo(
            name=split,
            shard_lengths=[record["images"] for shard, record in journals if shard.split == split],
            num_bytes=sum(path.stat().st_size for path in work.glob(f"{split}.array_record*")),
            filename_template=tfds.core.ShardedFileTemplate(
                # TFDS asks for a path of its own kind, and takes any.
                data_dir=work,  # pyright: ignore[reportArgumentType]
                dataset_name=name,
                split=split,
                filetype_suffix="array_record",
                template=_FILES,
            ),
        )
        for split in manifest.people
    ]
    # Before the journals go: what they say is in the manifest.
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
        # Each shard was checked when it was written.
        check_data=False,
        description=f"Images of a {manifest.kind} source.",
        metadata=tfds.core.MetadataDict(
            people=counts, source=manifest.source, alignment=manifest.alignment
        ),
    )


def _add_pairs(source: Source, manifest: Manifest, work: Path) -> None:
    """Writes a verification file's pairs, by image names and with their folds, to `pairs.csv`.

    Pairs of a rejected image are rejected too; the other pairs stay in their folds.
    """
    if source.pairs is None:
        return
    gone = {name for name, _ in manifest.rejected}
    kept = []
    for a, b, same, fold in zip(*source.pairs, strict=True):
        first, second = source.names[a], source.names[b]
        if gone & {first, second}:
            manifest.rejected.append(Reject(f"{first},{second}", LOST_PAIR))
        else:
            kept.append((first, second, int(same), int(fold)))
    if len({(same, fold) for _, _, same, fold in kept}) < 2 * len({row[3] for row in kept}):
        # A fold of a short list has lost its only pair of a kind, and could not be scored.
        again = folds(np.array([row[2] for row in kept], bool))
        kept = [(*row[:3], int(fold)) for row, fold in zip(kept, again, strict=True)]
    lines = [",".join(map(str, row)) + "\n" for row in kept]
    owned.write_text(work / "pairs.csv", "first,second,same,fold\n" + "".join(lines))


def _names(plan: list[Shard]) -> list[str]:
    """Returns the files of a data set, beside its journals."""
    return [*(shard.file for shard in plan), *METADATA]


def _check_replaceable(old: Path) -> None:
    """Refuses, before anything is made, a version that `--replace` could not remove whole."""
    found = owned.read(old)
    if found is None or found.kind != owned.DATA:
        raise InputError(
            f"--replace: expected a version that this program recorded in {old}, found one of an "
            "earlier version or of somebody else. Move it elsewhere, or take another --out."
        )
    if other := owned.foreign(old):
        raise InputError(
            f"--replace: expected only files of this program in {old}, found {other}. Move it "
            "elsewhere, or take another --out."
        )


def _unfinished(key: str) -> str:
    return f"unfinished-{key}"


def _work_folder(folder: Path, key: str) -> Path:
    """Returns the folder of this source's unfinished data set, and removes those of others."""
    work = folder / _unfinished(key)
    marked = owned.read(folder)
    assert marked is not None  # The folder is being written, and so has a marker.
    for name in sorted(marked.folders):
        other = owned.read(folder / name)
        is_unfinished = name.startswith("unfinished-") and other and other.kind == owned.DATA
        # Only recorded folders of the right kind are removed, and never through a link.
        if is_unfinished and name != work.name and not (folder / name).is_symlink():
            owned.clear(folder / name)
    owned.adopt(work, owned.DATA)
    return work


def _next_version(folder: Path, old: Path | None) -> Path:
    """Returns the folder of the next version, whose name nothing has."""
    number = 0 if old is None else int(old.name.split(".")[2]) + 1
    # lexists, as a broken link takes a name too.
    while os.path.lexists(folder / f"1.0.{number}"):
        number += 1
    return folder / f"1.0.{number}"
