"""Data sets that are tables: parquet in Hugging Face's layout, and any TFDS data set."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperface.data.datasets import check_features
from hyperface.data.sources.pages import check_pages
from hyperface.data.sources.source import Source, by_identity, check_size, files_ending
from hyperface.errors import InputError

if TYPE_CHECKING:
    import pyarrow

SMALLEST_ROW = 16
"""Bytes that an image and its label take at least; so a few bytes cannot announce any number."""
LABELS = 2**16
"""Labels that are read at once."""
LONGEST_LABEL = 4096


def parquet(
    path: Path, *, image: str = "image", label: str = "label", distinct_case: bool = False
) -> Source:
    """Returns the images of a parquet file, or of all parquet files in a folder, by sorted name.

    Args:
      path: the file or folder.
      image: the column of images, bytes or a struct with `bytes` (and `path`).
      label: the column of identities, whole numbers or text. Class names of Hugging Face's metadata
        are used where there are some.
      distinct_case: two identities whose names differ in case only are two people.

    Raises:
      InputError: a file is not parquet, lacks a column, or there are no images.
    """
    paths = files_ending(path, ".parquet") if path.is_dir() else [path]
    files = [_Table(one, image, label) for one in paths]
    members, places = [], []
    for number, table in enumerate(files):
        for group, (size, identities) in enumerate(table.identities()):
            for row, identity in enumerate(identities):
                name = f"{identity}/{table.path.stem}-{group}-{row}"
                members.append((identity, name, f"{size}/{image}"))
                places.append((number, group, row))

    def read(index: int) -> bytes:
        number, group, row = places[index]
        data = files[number].image(group, row)
        check_size(len(data))
        return data

    return by_identity("parquet", members, read, distinct_case=distinct_case)


class _Table:
    """A parquet file whose rows are read one by one."""

    def __init__(self, path: Path, image: str, label: str) -> None:
        import pyarrow.parquet

        self.path, self._label = path, label
        if not path.is_file():
            raise InputError(f"expected a parquet file at {path}, found no file.")
        try:
            schema = pyarrow.parquet.read_schema(path)
            names, metadata = schema.names, schema.metadata
        # Arrow refuses most damage itself; its text can be anything but UTF-8.
        except Exception as error:
            raise InputError(
                f"expected a whole parquet file at {path}, found: {_reason(error)}."
            ) from None
        if {image, label} - set(names):
            raise InputError(
                f"{path}: expected columns {image!r} and {label!r}, found "
                f"{', '.join(map(repr, names))[:200]}. Say which by --image and --label."
            )
        # Labels stay the numbers of a dictionary's entries: a text is in memory once.
        self._file = pyarrow.parquet.ParquetFile(path, read_dictionary=[label])
        self._image = _leaf(path, schema, image, label)
        self._names = _class_names(metadata, label)
        self._held: tuple[int, int, Iterator[Any]] | None = None
        self._check()

    def _check(self) -> None:
        """Refuses what the file says of itself where that cannot be true."""
        try:
            metadata, size = self._file.metadata, self.path.stat().st_size
            if not 0 <= metadata.num_rows <= size // SMALLEST_ROW:
                raise ValueError(f"{metadata.num_rows:,} rows in {size:,} bytes")
            check_pages(self.path, (self._image, self._label))
        except Exception as error:  # As above.
            raise InputError(
                f"expected a whole parquet file at {self.path}, found: {_reason(error)}."
            ) from None

    def identities(self) -> Iterator[tuple[int, list[str]]]:
        """For each row group a number that tells its content, and the identities of its rows."""
        for group in range(self._file.num_row_groups):
            try:
                # Other images nearly always take another number of bytes.
                size = self._file.metadata.row_group(group).total_byte_size
                labels = []
                for batch in self._batches(group, self._label, LABELS):
                    labels += _texts(batch)
            except Exception as error:  # As above.
                raise InputError(
                    f"{self.path}: expected readable labels, found: {_reason(error)}."
                ) from None
            found = enumerate(labels)
            yield size, [_identity(self.path, row, one, self._names) for row, one in found]

    def image(self, group: int, row: int) -> bytes:
        """Returns the bytes of an image; cheapest in rising order."""
        if self._held is None or self._held[0] != group or self._held[1] > row:
            # A row group is read forward only, so that an earlier row starts it again.
            self._held = (group, 0, self._batches(group, self._image, 1))
        _, place, batches = self._held
        value = None
        try:
            for _ in range(row - place + 1):
                (value,) = next(batches).to_pylist()
        except Exception as error:  # As above; the rows after it may be read from the start.
            self._held = None
            raise ValueError(f"expected a readable row, found: {_reason(error)}") from None
        self._held = (group, row + 1, batches)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError(f"expected the bytes of an image, found {type(data).__name__}")
        return data

    def _batches(self, group: int, column: str, rows: int) -> Iterator[Any]:
        batches = self._file.iter_batches(rows, [group], [column], use_threads=False)
        return (batch.column(0) for batch in batches)


def _leaf(path: Path, schema: "pyarrow.Schema", image: str, label: str) -> str:
    """Returns the path of the column of bytes; InputError for columns of other types."""
    from pyarrow import types

    kind = schema.field(label).type
    text = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_integer(kind) or types.is_string(text) or types.is_large_string(text)):
        raise InputError(f"{path}: expected whole numbers or text in {label!r}, found {kind}.")
    kind = schema.field(image).type
    nested = types.is_struct(kind) and kind.get_field_index("bytes") >= 0
    data = kind.field("bytes").type if nested else kind
    if not (types.is_binary(data) or types.is_large_binary(data)):
        raise InputError(f"{path}: expected bytes of images in {image!r}, found {str(kind)[:80]}.")
    return f"{image}.bytes" if nested else image


def _texts(labels: Any) -> list[Any]:
    """Returns the labels of a batch."""
    import pyarrow.compute

    compute: Any = pyarrow.compute  # Its functions are made when it is imported.
    if not hasattr(labels, "dictionary"):
        return labels.to_pylist()
    # Measured before the texts are made.
    longest = compute.max(compute.binary_length(labels.dictionary)).as_py() or 0
    if longest > LONGEST_LABEL:
        raise ValueError(f"a label of {longest:,} bytes, above {LONGEST_LABEL:,}")
    values = labels.dictionary.to_pylist()
    return [None if place is None else values[place] for place in labels.indices.to_pylist()]


def _reason(error: Exception) -> str:
    """Returns the first line of an error."""
    return str(error).strip().partition("\n")[0].rstrip(".")[:200] or type(error).__name__


def tfds_dataset(name: str, data_dir: Path) -> Source:
    """Returns a TFDS data set with an image and a label, by name; its splits are kept.

    Args:
      name: TFDS's name of the data set, with config and version if needed.
      data_dir: folder that contains the data set, or to which it is downloaded.

    Raises:
      InputError: TFDS does not know or cannot build the data set, or it has no image and label.
    """
    import tensorflow_datasets as tfds

    for file in (data_dir / name.split("/")[0].split(":")[0]).rglob("features.json"):
        check_features(file)
    try:
        # TFDS' decorators hide the parameters of its methods, and its features may be of any type.
        builder: Any = tfds.builder(name, data_dir=data_dir, file_format="array_record")
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
        try:
            data = bytes(sources[split][row]["image"])
        except Exception as error:  # Of ArrayRecord, protobuf or TFDS, by what is damaged.
            raise ValueError(f"expected a readable record, found: {_reason(error)}") from None
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
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) else None
