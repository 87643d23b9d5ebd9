"""Opens collections of images: folders, archives, list files, RecordIO, parquet, TFDS and others.

`open_source` finds out the kind of a collection. Every kind becomes a `Source`: encoded images by
identity in a fixed order, read one at a time, and a list of the files that were left out and why.
"""

from hyperface.data.sources.kinds import KINDS, open_source
from hyperface.data.sources.source import Pairs, Reject, Source

__all__ = ["KINDS", "Pairs", "Reject", "Source", "open_source"]
