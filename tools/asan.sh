#!/usr/bin/env bash
# Builds the core with address and undefined-behaviour sanitizers and runs tests on it.
# By default those that feed it damaged input; name others: make asan ARGS="tests/test_rows.py"
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=${VENV:-.venv}
build=build/asan
"$venv/bin/cmake" -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DCROSSFM_SANITIZE=ON \
  -DCMAKE_MAKE_PROGRAM="$PWD/$venv/bin/ninja" -DPython_EXECUTABLE="$PWD/$venv/bin/python" >"$build.log" 2>&1 ||
  { tail -n 30 "$build.log" >&2; exit 1; }
"$venv/bin/cmake" --build "$build" || exit 1

# The Python sources beside this core, first on the path; the editable install steps aside.
tree=$build/tree
rm -rf "$tree" && mkdir -p "$tree"
cp -r src/crossfm "$tree/"
cp "$build"/_native*.so "$tree/crossfm/"

runtime=$("${CXX:-c++}" -print-file-name=libasan.so)
tests=("$@")
if [ ${#tests[@]} -eq 0 ]; then tests=(-m "fuzz and not slow" tests); fi
# Python itself never frees some of what it allocates, hence no leak check.
LD_PRELOAD="$runtime:$("${CXX:-c++}" -print-file-name=libstdc++.so)" \
  ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1:halt_on_error=1 \
  UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 PYTHONPATH="$PWD/$tree" \
  "$venv/bin/python" -c "
import sys, importlib.metadata
sys.meta_path[:] = [f for f in sys.meta_path if type(f).__name__ != 'ScikitBuildRedirectingFinder']
import crossfm._native as n
assert 'asan' in n.__file__, n.__file__
import pytest
sys.exit(pytest.main(sys.argv[1:]))" -q -p no:cacheprovider "${tests[@]}"
