"""What doctests leave out: modules of extras that are not installed here."""

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("triton") else ["crossfm/nn/ops/triton*.py"]
