"""Weights in and out: released files and earlier runs into a backbone, a trained one out of a run.

`load_backbone` fills a fresh backbone. `read_backbone` also finds out which network a file is of.
`read` opens a file as it is. `export` writes an embedder.
"""

from hyperface.extras import require

require("train", "flax", "safetensors")

from hyperface.weights.files import read
from hyperface.weights.load import Report, load_backbone
from hyperface.weights.recognise import read_backbone
from hyperface.weights.runs import read_run

__all__ = ["Report", "load_backbone", "read", "read_backbone", "read_run"]
