"""Opens data sets that are tables: parquet files in Hugging Face's layout, and TFDS data sets."""

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
"""Smallest size of an image with its label in bytes, which limits the number of rows of a file."""
LABELS = 2**16
"""Number of labels that are read at a time."""
LONGEST_LABEL = 4096
"""Largest size of a label in bytes."""


def parquet(
    path: Path, *, image: str = "image", label: str = "label", distinct_case: bool = False
) -> Source:
    """Opens the images in a parquet file as a source; each row has an image and its person.

    Args:
      path: the file; or a folder, whose parquet files are read together in the order of names.
      image: name of the column of images. Its values are bytes, or structs with a field `bytes`.
      label: name of the column of identities, whole numbers or text. If the file has class names
        (in Hugging Face's metadata), they replace the whole numbers.
      distinct_case: True treats two identities that differ only in case as two people; False raises
        an error for them.

    Raises:
      InputError: a file is not parquet or is damaged, announces impossible sizes, or lacks a
        column; a column has another type; there are no images; or two identities differ only in
        Unicode form or, unless `distinct_case` is True, only in case.
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
    """A parquet file whose images are read one by one."""

    def __init__(self, path: Path, image: str, label: str) -> None:
        import pyarrow.parquet

        self.path, self._label = path, label
        if not path.is_file():
            raise InputError(f"expected a parquet file at {path}, found no file.")
        try:
            schema = pyarrow.parquet.read_schema(path)
            names, metadata = schema.names, schema.metadata
        # Arrow raises errors of many types; a text that is not UTF-8 raises UnicodeDecodeError.
        except Exception as error:
            raise InputError(
                f"expected a whole parquet file at {path}, found: {_reason(error)}."
            ) from None
        if {image, label} - set(names):
            raise InputError(
                f"{path}: expected columns {image!r} and {label!r}, found "
                f"{', '.join(map(repr, names))[:200]}. Name the columns by --image and --label."
            )
        # Labels are read as indices into a dictionary, so that each text is in memory only once.
        self._file = pyarrow.parquet.ParquetFile(path, read_dictionary=[label])
        self._image = _leaf(path, schema, image, label)
        self._names = _class_names(metadata, label)
        self._held: tuple[int, int, Iterator[Any]] | None = None
        self._check()

    def _check(self) -> None:
        """Refuses a file that announces a number of rows or a size that cannot be true."""
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
        """Yields, per row group, its size in bytes and the identities of its rows."""
        for group in range(self._file.num_row_groups):
            try:
                # The size is part of the source's fingerprint: other images of the same names
                # nearly always have another size, and reading all images would take too long.
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
        """Returns the encoded image of a row; reading rows in rising order is fastest.

        Raises:
          ValueError: the row is damaged, or has no bytes.
        """
        if self._held is None or self._held[0] != group or self._held[1] > row:
            # A row group can only be read forward; for an earlier row it starts again.
            self._held = (group, 0, self._batches(group, self._image, 1))
        _, place, batches = self._held
        value = None
        try:
            for _ in range(row - place + 1):
                (value,) = next(batches).to_pylist()
        except Exception as error:  # As above. The next row then starts the row group again.
            self._held = None
            raise ValueError(f"expected a readable row, found: {_reason(error)}") from None
        self._held = (group, row + 1, batches)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise ValueError(f"expected the bytes of an image, found {type(data).__name__}")
        return data

    def _batches(self, group: int, column: str, rows: int) -> Iterator[Any]:
        """Yields the values of a column in a row group, as Arrow arrays of so many rows."""
        batches = self._file.iter_batches(rows, [group], [column], use_threads=False)
        return (batch.column(0) for batch in batches)


def _leaf(path: Path, schema: "pyarrow.Schema", image: str, label: str) -> str:
    """Returns the path, such as "image.bytes", of the column that contains the images' bytes.

    Args:
      path: the parquet file, for messages.
      schema: the schema of the file.
      image: name of the column of images.
      label: name of the column of labels.

    Raises:
      InputError: one of the two columns has another type.
    """
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
    """Returns the labels of a batch as Python values."""
    import pyarrow.compute

    compute: Any = pyarrow.compute  # Its functions exist only at run time: type checkers see none.
    if not hasattr(labels, "dictionary"):
        return labels.to_pylist()
    # Measured in Arrow's memory, before a hostile text of any length is copied.
    longest = compute.max(compute.binary_length(labels.dictionary)).as_py() or 0
    if longest > LONGEST_LABEL:
        raise ValueError(f"a label of {longest:,} bytes, above {LONGEST_LABEL:,}")
    values = labels.dictionary.to_pylist()
    return [None if place is None else values[place] for place in labels.indices.to_pylist()]


def _reason(error: Exception) -> str:
    """Returns the first line of an error, or the name of its type if it has no text."""
    return str(error).strip().partition("\n")[0].rstrip(".")[:200] or type(error).__name__


def tfds_dataset(name: str, data_dir: Path) -> Source:
    """Opens the images of a data set of TensorFlow Datasets (TFDS) as a source.

    The data set's own splits are kept as `Source.splits`. If it is not in the folder yet, TFDS
    downloads it.

    Args:
      name: TFDS's name of the data set, with config and version if needed, such as "mnist:3.0.1".
      data_dir: folder that contains the data set, or to which it is downloaded.

    Raises:
      InputError: TFDS does not know the data set or cannot build it, or its records have no image
        or no label.
    """
    import tensorflow_datasets as tfds

    # Before TFDS opens them: it imports the classes that these files name.
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
            f"expected a TFDS data set {name!r} that can be built without TensorFlow, found: "
            f"{error}"
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
        except Exception as error:  # ArrayRecord, protobuf and TFDS raise errors of many types.
            raise ValueError(f"expected a readable record, found: {_reason(error)}") from None
        check_size(len(data))
        return data

    own = np.array(splits) if len(sources) > 1 else None
    return by_identity("tfds", members, read, splits=own)


def _identity(path: Path, row: int, label: Any, names: list[str] | None) -> str:
    """Returns the identity of a row: the class name of its label, or the label as text.

    Args:
      path: the parquet file, for messages.
      row: number of the row, for messages.
      label: the label of the row.
      names: the class names; None if the file has none.

    Raises:
      InputError: the row has no label, or its label has no name.
    """
    if label is None or label == -1:  # Hugging Face writes -1 for a missing label.
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
    """Returns the class names of a column from Hugging Face's metadata; None if it has none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        names = features[label]["names"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return None
    return names if isinstance(names, list) else None
