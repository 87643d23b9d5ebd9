#!/bin/bash
# Measures hyperface on the accelerator of this machine in at most 8 minutes:
#   bash benchmarks/accelerator.sh
# `--tiny` tries every part at small sizes, on a CPU too. Needs the extras demo and test, and torch for
# the comparisons. benchmarks/accelerator.py describes the parts.
set -euo pipefail

cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD
# Each measurement is a process of its own. Several test processes share the accelerator, and none
# of them may take all its memory at its start.
export XLA_PYTHON_CLIENT_PREALLOCATE=false
# Each measurement sets its own precision, and takes the accelerator where there is one.
unset JAX_DEFAULT_MATMUL_PRECISION NVIDIA_TF32_OVERRIDE JAX_PLATFORMS
exec python benchmarks/accelerator.py "$@"
