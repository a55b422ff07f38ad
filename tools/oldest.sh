#!/usr/bin/env bash
# Runs the tests at the oldest versions that pyproject.toml allows, without PyTorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-oldest
"${PYTHON:-python3.11}" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install -q --progress-bar off)
read -ra wanted <<<"$("$venv/bin/python" tools/requirements.py --build) $(
  "$venv/bin/python" tools/requirements.py --oldest --extras dev)"
"${pip[@]}" "${wanted[@]}"
PATH="$PWD/$venv/bin:$PATH" "${pip[@]}" --no-build-isolation --no-deps --editable .
# The pages of docs/ show what today's versions print.
"$venv/bin/python" -m pytest -q -m "not slow" --ignore=tests/test_docs.py \
  --ignore=src/crossfm/nn --ignore-glob='tests/test_nn*.py' \
  --deselect="tests/test_import.py::test_every_public_name_is_there[nn]" "$@"
