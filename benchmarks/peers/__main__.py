"""``python -m benchmarks.peers install`` builds .venv-peers; ``list`` shows what works."""

from __future__ import annotations

import argparse
import sys

from benchmarks.peers import PEERS, install, problem


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("action", choices=("install", "list"))
    action = parser.parse_args(argv).action
    found = install() if action == "install" else {name: problem(name) for name in PEERS}
    for name, reason in found.items():
        print(f"{name:13s} {PEERS[name].version:8s} {reason or 'works'}")
    return 1 if any(found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
