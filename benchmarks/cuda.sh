#!/bin/sh
# From a fresh clone on a machine with an NVIDIA card: installs into .venv-cuda, runs the tests that need a card, then
# the benchmark, which writes docs/evidence/cuda.json. CUDA_PYTHON names a Python that has all of it: nothing is installed.
set -eu
cd "$(dirname "$0")/.."
python=${CUDA_PYTHON:-.venv-cuda/bin/python}
if [ -z "${CUDA_PYTHON:-}" ]; then
    [ -x "$python" ] || "${PYTHON:-python3}" -m venv .venv-cuda
    "$python" -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cuda,peft]' hypothesis pytest
fi
"$python" -c 'import sys, torch; sys.exit(None if torch.cuda.is_available() else "torch sees no CUDA card here")'
HF_HUB_OFFLINE=1 "$python" -m pytest -rs -m '' tests/engines/test_cuda*.py
PYTHONPATH=. "$python" benchmarks/cuda.py --write
