#!/usr/bin/env bash
# Runs the tests at the oldest versions that pyproject.toml allows, without PyTorch.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv-oldest
"${PYTHON:-python3.11}" -m venv "$venv"
pip=("$venv/bin/python" -m pip --disable-pip-version-check install -q --progress-bar off)
read -ra wanted <<<"$("$venv/bin/python" tools/requirements.py --build) $(
  "$venv/bin/python" tools/requirements.py --oldest --extras dev,plot,serve)"
"${pip[@]}" "${wanted[@]}"
PATH="$PWD/$venv/bin:$PATH" "${pip[@]}" --no-build-isolation --no-deps --editable .
# The pages of docs/ show what today's versions print; what needs PyTorch steps aside.
without_torch=(--ignore=src/crossfm/nn --ignore-glob='src/crossfm/estimators/*deep*'
  --ignore-glob='tests/test_nn*.py' --ignore-glob='tests/nn_*.py' --ignore=tests/triton_without_gpu.py)
for name in nn DeepClassifier DeepRegressor; do
  without_torch+=(--deselect="tests/test_import.py::test_every_public_name_is_there[$name]")
done
"$venv/bin/python" -m pytest -q -m "not slow" --ignore=tests/test_docs.py "${without_torch[@]}" "$@"
