"""Where images come from: folders, archives, list files, RecordIO, parquet, TFDS and a few more.

`open_source` finds out which. Every kind gives the same `Source`: encoded images by identity in a
fixed order, read one at a time, with all that was left out and why.
"""

from hyperface.data.sources.kinds import KINDS, open_source
from hyperface.data.sources.source import Pairs, Reject, Source

__all__ = ["KINDS", "Pairs", "Reject", "Source", "open_source"]
