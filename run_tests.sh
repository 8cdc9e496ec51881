#!/usr/bin/env bash
# Set up .venv if need be, then check style and run the tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
if [ "${1:-}" = --help ]; then sed -n '2p' "$0"; exit; fi
if [ ! -x .venv/bin/python ]; then
    "${PYTHON:-python3}" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt "pytest>=8" "ruff>=0.6"
.venv/bin/ruff check .
.venv/bin/python -m pytest "$@"
