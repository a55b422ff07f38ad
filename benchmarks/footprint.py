"""``python -m benchmarks.footprint``: how long ``import crossfm`` takes, how large its wheel is.

Import times are medians over fresh interpreters, the first of which only warms the file cache
and is not counted. The wheel is built in a folder of its own (a minute of compiling), or given
with ``--wheel``.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, Report, Spread, show_table
from benchmarks.harness import ROOT, machine

IMPORT_SECONDS, WHEEL_MEGABYTES = 0.5, 5.0
REPEATS = 7
PROGRAM = """
import sys, time
started = time.perf_counter()
{statement}
seconds = time.perf_counter() - started
import json
heavy = [name for name in ("torch", "pandas", "polars", "sklearn", "matplotlib", "pyarrow")
         if name in sys.modules]
print(json.dumps({{"seconds": seconds, "heavy": heavy, "modules": len(sys.modules)}}))
"""


def import_time(statement: str, repeats: int = REPEATS) -> dict[str, Any]:
    """Seconds that a statement takes in a fresh interpreter, and what it loaded."""
    found = []
    for _ in range(repeats + 1):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM.format(statement=statement)], cwd=ROOT,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(json.loads(done.stdout))
    seconds = [one["seconds"] for one in found[1:]]
    return {"seconds": seconds, "heavy": found[-1]["heavy"], "modules": found[-1]["modules"]}


def build_wheel(folder: Path) -> Path:
    """Build the wheel into `folder` without touching the checkout's own build."""
    command = [
        sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
        "--disable-pip-version-check", "-q", "-w", str(folder),
        f"--config-settings=build-dir={folder / 'build'}", str(ROOT),
    ]  # fmt: skip
    subprocess.run(command, cwd=folder, check=True, stdout=sys.stderr)
    return next(folder.glob("*.whl"))


def measure_wheel(wheel: Path) -> dict[str, Any]:
    """Size of a wheel and of its largest members, in bytes."""
    with zipfile.ZipFile(wheel) as archive:
        members = sorted(archive.infolist(), key=lambda member: -member.compress_size)
    return {
        "wheel": wheel.name,
        "bytes": wheel.stat().st_size,
        "installed_bytes": sum(member.file_size for member in members),
        "largest": {member.filename: member.compress_size for member in members[:5]},
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--check", action="store_true", help="end with JSON; exit 1 on a miss")
    parser.add_argument("--wheel", type=Path, help="measure this wheel instead of building one")
    arguments = parser.parse_args(argv)

    bare = import_time("import crossfm")
    # What a first fit needs on top: the estimators' own imports, scikit-learn among them.
    ready = import_time("import crossfm; crossfm.FMClassifier")
    if arguments.wheel:
        wheel = measure_wheel(arguments.wheel)
    else:
        with tempfile.TemporaryDirectory(prefix="crossfm-wheel-") as name:
            wheel = measure_wheel(build_wheel(Path(name)))

    report = Report("footprint", details={
        "machine": machine(), "import": bare, "import_with_estimators": ready, "wheel": wheel,
    })  # fmt: skip
    report.add(
        Figure("import_seconds", Spread.of(bare["seconds"]).median, IMPORT_SECONDS, "<=", "s"),
        Figure("torch_loaded", float("torch" in bare["heavy"]), 0.0, "<="),
        Figure("wheel_megabytes", wheel["bytes"] / 1e6, WHEEL_MEGABYTES, "<=", "MB"),
    )
    show_table(
        "footprint", ("what", "median", "spread", "loaded beside it"),
        [(what, f"{s.median:.3f} s", f"{s.least:.3f} to {s.greatest:.3f} s",
          ", ".join(one["heavy"]) or "nothing heavy")
         for what, one in (("import crossfm", bare), ("with FMClassifier", ready))
         for s in (Spread.of(one["seconds"]),)]
        + [(wheel["wheel"], f"{wheel['bytes'] / 1e6:.2f} MB",
            f"{wheel['installed_bytes'] / 1e6:.1f} MB installed", "")],
    )  # fmt: skip
    return report.finish(check=arguments.check)


if __name__ == "__main__":
    sys.exit(main())
