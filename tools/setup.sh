#!/usr/bin/env bash
# Sets up .venv in steps; the Makefile runs each one only when what it depends on has changed.
#
#   tools/setup.sh check      python, its venv module and a C++ compiler are there
#   tools/setup.sh venv       an empty virtual environment
#   tools/setup.sh packages   everything that pyproject.toml names, at the versions of pinned.txt
#   tools/setup.sh native     the package itself, editable, with its C++ core
#
# PYTHON picks the interpreter, CXX the compiler, VENV the folder, PINS the constraints file,
# EXTRAS the extras. Indexes, proxies and certificates are pip's own settings (PIP_INDEX_URL ...).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VENV=${VENV:-.venv}
PINS=${PINS:-requirements/pinned.txt}
EXTRAS=${EXTRAS:-dev,torch,plot,onnx,arviz,serve}
LOG=$VENV/setup.log

fail() {
  printf '\ncrossfm setup: %s\n' "$1" >&2
  shift
  for line in "$@"; do printf '  %s\n' "$line" >&2; done
  exit 1
}

say() { printf 'crossfm setup: %s\n' "$*"; }

is_new_enough() {
  "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  if [ -n "${PYTHON:-}" ]; then
    command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not there"
    is_new_enough "$PYTHON" || fail "PYTHON=$PYTHON is too old ($("$PYTHON" --version 2>&1)); 3.11 or newer is needed"
    return
  fi
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && is_new_enough "$name"; then
      PYTHON=$name
      return
    fi
  done
  fail "no Python 3.11 or newer found (python3 is: $(python3 --version 2>&1 || echo absent))" \
    "Debian, Ubuntu: sudo apt install python3 python3-venv      macOS: brew install python" \
    "Or name one: make setup PYTHON=/path/to/python3.12"
}

find_compiler() {
  for name in ${CXX:-} c++ g++ clang++; do
    if command -v "$name" >/dev/null; then return; fi
  done
  fail "no C++ compiler found; the core is C++20 (GCC 10, Clang 12 or newer)" \
    "Debian, Ubuntu: sudo apt install g++      Fedora: sudo dnf install gcc-c++" \
    "macOS: xcode-select --install             Or name one: make setup CXX=/path/to/c++"
}

# Runs pip quietly; on failure shows the end of its output and what to look at.
pip_install() {
  if ! "$VENV/bin/python" -m pip --disable-pip-version-check install \
    --progress-bar off --retries 2 -c "$PINS" "$@" >>"$LOG" 2>&1; then
    tail -n 25 "$LOG" >&2
    if grep -qE 'Could not find a version|No matching distribution|Failed to establish|NameResolution|Max retries|ConnectTimeout|ReadTimeout|ProxyError' "$LOG"; then
      fail "pip could not get a package (its whole output: $LOG)" \
        "Is the package index reachable? A mirror or proxy: PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, HTTPS_PROXY." \
        "Is there a wheel for this Python ($("$VENV/bin/python" --version)) and platform?"
    fi
    fail "this step failed (whole output: $LOG)"
  fi
}

case "${1:-}" in
  check)
    find_python
    find_compiler
    ;;
  venv)
    find_python
    find_compiler
    "$PYTHON" -c 'import venv, ensurepip' 2>/dev/null || fail "$PYTHON has no venv module" \
      "Debian, Ubuntu: sudo apt install python3-venv"
    if ! { [ -x "$VENV/bin/python" ] && is_new_enough "$VENV/bin/python" &&
      "$VENV/bin/python" -m pip --version >/dev/null 2>&1; }; then
      say "virtual environment in $VENV with $("$PYTHON" --version)"
      "$PYTHON" -m venv --clear "$VENV" || fail "could not create $VENV"
    fi
    : >"$LOG"
    ;;
  packages)
    say "installing packages at the versions of $PINS (PyTorch included: minutes the first time)"
    : >"$LOG"
    read -ra build <<<"$("$VENV/bin/python" tools/requirements.py --build)"
    read -ra wanted <<<"$("$VENV/bin/python" tools/requirements.py --extras "$EXTRAS")"
    pip_install "${build[@]}" "${wanted[@]}"
    if [ "$(uname -sm)" = "Linux x86_64" ] && ! "$VENV/bin/python" -c 'import triton' 2>/dev/null; then
      pip_install --no-deps -r requirements/triton.txt
    fi
    ;;
  native)
    find_compiler
    say "building the C++ core"
    : >"$LOG"
    # Build tools come from the environment itself, so that a rebuild is incremental.
    PATH="$PWD/$VENV/bin:$PATH" pip_install --no-build-isolation --no-deps --editable .
    ;;
  *)
    fail "unknown step '${1:-}'" "usage: tools/setup.sh check|venv|packages|native"
    ;;
esac
