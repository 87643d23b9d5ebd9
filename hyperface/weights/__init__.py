"""Reads backbone weights from files and runs, and exports trained embedders.

- `load_backbone` fills a fresh backbone with the weights of a file or of an earlier run.
- `read_backbone` reads a weight file of an unknown network, and detects which network it is.
- `read` returns the arrays of a weight file under the file's own names.
- `weights.export` writes a trained embedder as safetensors, StableHLO or ONNX.
"""

from hyperface.extras import require

require("train", "flax", "safetensors")

from hyperface.weights.files import read
from hyperface.weights.load import Report, load_backbone
from hyperface.weights.recognise import read_backbone
from hyperface.weights.runs import read_run

__all__ = ["Report", "load_backbone", "read", "read_backbone", "read_run"]
