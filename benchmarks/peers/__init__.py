"""The peers: other people's factorization machines, in a virtual environment of their own.

They live apart from crossfm's environment because they bind older or heavier packages. One
that does not install is named with the reason, and the others still run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).with_name("requirements.txt")
VERSION = "installed-version"


@dataclass(frozen=True)
class Peer:
    """A package that trains factorization machines.

    Attributes:
        name: as `benchmarks.workers` knows it.
        module: what is imported.
        distribution: name on the package index.
        version: pinned.
        from_source: installed by itself, from its source distribution.
        note: what its build needs.
    """

    name: str
    module: str
    distribution: str
    version: str
    from_source: bool = False
    note: str = ""


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "xlearn", "xlearn", "xlearn", "0.40a1", from_source=True,
            note="C++ source: needs a compiler, make and two minutes; its build files date from"
            " before CMake 3.5, and its log names a file after $USER",
        ),
        Peer("modern-fm", "modern_fm", "modern-fm", "1.1.2"),
        Peer(
            "libffm", "pylibffm", "pylibffm", "0.4.1",
            note="compiled modules for Python 3.7 to 3.11 on Linux",
        ),
        Peer("myfm", "myfm", "myfm", "0.4.0", note="imports pkg_resources: setuptools < 81"),
        Peer("torchfm", "torchfm", "torchfm", "0.7.0", note="torch pinned to the CPU build"),
        Peer("river", "river", "river", "0.26.1"),
        Peer("faiss", "faiss", "faiss-cpu", "1.15.1"),
        Peer("implicit", "implicit", "implicit", "0.7.3"),
        Peer(
            "deepctr-torch", "deepctr_torch", "deepctr-torch", "0.3.0",
            note="imports requests without naming it",
        ),
    )
}  # fmt: skip


class PeerError(Exception):
    """A peer that is missing or does not work, with the reason and the remedy."""


def interpreter() -> Path:
    """Python of the peers' environment (it may not exist yet)."""
    if os.name == "nt":
        return VENV / "Scripts" / "python.exe"
    return VENV / "bin" / "python"


def environment() -> dict[str, str]:
    """Environment variables for the peers: xlearn stops without USER."""
    found = dict(os.environ)
    found.setdefault("USER", "benchmark")
    found["PYTHONPATH"] = str(ROOT)
    found["PYTHONWARNINGS"] = "ignore"
    return found


def problem(name: str) -> str | None:
    """Why a peer cannot be used, or None where it can."""
    peer = PEERS[name]
    if not interpreter().exists():
        return "not installed: run python -m benchmarks.peers install"
    asked = (
        f"import importlib.metadata as m, sys, {peer.module};"
        f" sys.stdout.write('\\n{VERSION} ' + m.version({peer.distribution!r}) + '\\n')"
    )
    done = subprocess.run(
        [str(interpreter()), "-c", asked], env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"does not import ({last}): run python -m benchmarks.peers install"
    # A package may print lines of its own, before and after, from another thread even: one write.
    said = [line.split() for line in done.stdout.splitlines() if line.startswith(VERSION)]
    version = said[-1][1]
    if version != peer.version:
        return f"is version {version}, expected {peer.version}: delete .venv-peers and install"
    return None


def ensure(*names: str) -> None:
    """Install the peers on first use.

    Raises:
        PeerError: one of `names` still does not work afterwards.
    """
    if any(problem(name) for name in names):
        install()
    for name in names:
        reason = problem(name)
        if reason:
            raise PeerError(f"{name} {reason}. {PEERS[name].note}")


def install() -> dict[str, str | None]:
    """Build the environment; name each peer with its problem, None where it works."""
    if not interpreter().exists():
        _run("create .venv-peers", [sys.executable, "-m", "venv", str(VENV)])
    pip = [str(interpreter()), "-m", "pip", "install", "--disable-pip-version-check", "-q"]
    if not _run("install the peers with wheels", [*pip, "-r", str(REQUIREMENTS)]):
        # One broken package must not hide the others: the rest one by one.
        wanted = [line.split("#")[0].strip() for line in REQUIREMENTS.read_text().splitlines()]
        for one in filter(None, wanted):
            _run(f"install {one}", [*pip, one])
    for peer in PEERS.values():
        if peer.from_source and problem(peer.name):
            build = environment()
            build["PATH"] = f"{interpreter().parent}{os.pathsep}{build['PATH']}"
            build["CMAKE_POLICY_VERSION_MINIMUM"] = "3.5"
            command = [*pip, "--no-build-isolation", "--no-binary", peer.distribution]
            command.append(f"{peer.distribution}=={peer.version}")
            _run(f"build {peer.name} {peer.version} (minutes)", command, build)
    return {name: problem(name) for name in PEERS}


def _run(what: str, command: list[str], env: dict[str, str] | None = None) -> bool:
    print(f"{what} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-12:])
        print(f"failed: {what}\n{tail}", file=sys.stderr, flush=True)
    return done.returncode == 0
