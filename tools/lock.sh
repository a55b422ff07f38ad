#!/usr/bin/env bash
# Rewrites requirements/pinned.txt with the newest versions that pyproject.toml allows.
# PyTorch's version is chosen by hand: change TORCH here, then run `make lock` and `make test`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

TORCH=2.13.0
fresh=.venv-lock

rm -rf "$fresh"
"${PYTHON:-python3}" -m venv "$fresh"
pip=("$fresh/bin/python" -m pip --disable-pip-version-check)
read -ra wanted <<<"$("$fresh/bin/python" tools/requirements.py --build) $(
  "$fresh/bin/python" tools/requirements.py --extras "${EXTRAS:-dev,torch,plot,onnx,arviz,serve}")"
"${pip[@]}" install --progress-bar off -q "${wanted[@]}" "torch==$TORCH"

{
  sed -n '/^#/p' requirements/pinned.txt
  echo
  # A local version ("+cpu") names one build of a release; the release is what is pinned.
  "${pip[@]}" freeze --all --exclude pip --exclude crossfm | sed 's/+[a-z0-9.]*$//' | sort -f
} >"$fresh/pinned.txt"
mv "$fresh/pinned.txt" requirements/pinned.txt
rm -rf "$fresh"
git --no-pager diff --stat -- requirements/pinned.txt
