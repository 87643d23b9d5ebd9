"""Data sets that are tables: parquet in Hugging Face's layout, and any TFDS data set."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hyperface.data.sources.source import Source, by_identity, check_size
from hyperface.errors import InputError


def parquet(path: Path, *, image: str = "image", label: str = "label") -> Source:
    """Images of a parquet file, or of all those in a folder, by sorted name.

    Args:
      path: the file or folder.
      image: the column of images, bytes or a struct with `bytes` (and `path`).
      label: the column of identities, whole numbers or text. Class names of Hugging Face's metadata
        are used where there are some.

    Raises:
      InputError: a file is not parquet, lacks a column, or there are no images.
    """
    import pyarrow
    import pyarrow.parquet

    paths = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    members, places = [], []
    files = []
    for number, one in enumerate(paths):
        try:
            file = pyarrow.parquet.ParquetFile(one)
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"expected a whole parquet file at {one}, found: {error}.") from None
        files.append(file)
        missing = {image, label} - set(file.schema_arrow.names)
        if missing:
            raise InputError(
                f"{one}: expected columns {image!r} and {label!r}, found "
                f"{', '.join(file.schema_arrow.names)}."
            )
        names = _class_names(file.schema_arrow.metadata, label)
        for group in range(file.num_row_groups):
            try:
                labels = file.read_row_group(group, columns=[label]).column(0).to_pylist()
            except (OSError, pyarrow.ArrowException) as error:
                raise InputError(f"{one}: expected readable labels, found: {error}.") from None
            # Other images nearly always take another number of bytes.
            size = file.metadata.row_group(group).total_byte_size
            for row, found in enumerate(labels):
                identity = _identity(one, row, found, names)
                name = f"{identity}/{one.stem}-{group}-{row}"
                members.append((identity, name, f"{size}/{image}"))
                places.append((number, group, row))
    held: dict[tuple[int, int], Sequence[Any]] = {}

    def read(index: int) -> bytes:
        number, group, row = places[index]
        if (number, group) not in held:  # One row group is held, since rows come in order.
            held.clear()
            table = files[number].read_row_group(group, columns=[image])
            held[number, group] = table.column(0).to_pylist()
        value = held[number, group][row]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError(f"expected the bytes of an image, found {type(data).__name__}")
        check_size(len(data))
        return data

    return by_identity("parquet", members, read)


def tfds_dataset(name: str, data_dir: Path) -> Source:
    """Any TFDS data set with an image and a label, by name; its splits are kept.

    Args:
      name: as TFDS has it, with config and version where needed.
      data_dir: where it is, or is downloaded to.

    Raises:
      InputError: TFDS does not know or cannot make it, or it has no image and label.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
        builder.download_and_prepare()
        features = builder.info.features
    # TFDS runs the data set's own code here, which can raise anything.
    except Exception as error:
        raise InputError(
            f"expected a TFDS data set {name!r} that needs no TensorFlow to be made, found: {error}"
        ) from None
    if not {"image", "label"} <= set(features):
        raise InputError(f"{name}: expected image and label, found {', '.join(features)}.")
    decoders = {"image": tfds.decode.SkipDecoding()}
    sources = {
        split: builder.as_data_source(split, decoders=decoders) for split in builder.info.splits
    }
    members, places, splits = [], [], []
    sizes = {split: info.num_bytes for split, info in builder.info.splits.items()}
    for split, records in sources.items():
        for index in range(len(records)):
            identity = features["label"].int2str(int(records[index]["label"]))
            members.append((identity, f"{identity}/{split}-{index}", sizes[split]))
            places.append((split, index))
            splits.append(split)

    def read(index: int) -> bytes:
        split, row = places[index]
        data = bytes(sources[split][row]["image"])
        check_size(len(data))
        return data

    own = np.array(splits) if len(sources) > 1 else None
    return by_identity("tfds", members, read, splits=own)


def _identity(path: Path, row: int, label: Any, names: list[str] | None) -> str:
    if label is None or label == -1:  # -1 is Hugging Face's word for none.
        raise InputError(f"{path}: expected a label in every row, found none in {row}.")
    if names is None:
        return str(label)
    if not isinstance(label, int) or not 0 <= label < len(names):
        raise InputError(
            f"{path}: expected labels from 0 to {len(names) - 1}, whose names the file has, found "
            f"{label!r} in row {row}."
        )
    return str(names[label])


def _class_names(metadata: dict[bytes, bytes] | None, label: str) -> list[str] | None:
    """Names of a ClassLabel column, from the metadata that Hugging Face writes."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError):
        return None
    return names if isinstance(names, list) else None
