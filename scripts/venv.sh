# Sourced by run_demo.sh and run_tests.sh: makes .venv unless it is there, and installs requirements.txt into it.
if [ ! -x .venv/bin/pip ]; then
    python="${PYTHON:-python3}"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
        { echo "error: Python 3.10 or newer is needed; name one: PYTHON=/path/to/python3 bash $0" >&2; exit 2; }
    "$python" -m venv .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
