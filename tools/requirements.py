"""Print the requirements that pyproject.toml names, one line, for pip.

python tools/requirements.py --build              what builds the package
python tools/requirements.py --extras dev,torch   the dependencies and those of the extras
python tools/requirements.py --extras dev --oldest    the same, at their lower bounds
"""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path

# cmake and ninja are programs: the build backend asks for them only where the system has none.
# Naming them here gives every machine the same ones.
PROGRAMS = ["cmake", "ninja"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", action="store_true")
    parser.add_argument("--extras", default="")
    parser.add_argument("--oldest", action="store_true")
    options = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    project = tomllib.loads((root / "pyproject.toml").read_text())
    if options.build:
        wanted = project["build-system"]["requires"] + PROGRAMS
    else:
        wanted = list(project["project"]["dependencies"])
        for extra in filter(None, options.extras.split(",")):
            wanted += project["project"]["optional-dependencies"][extra]
    if options.oldest:
        wanted = [requirement.replace(">=", "==") for requirement in wanted]
    print(" ".join(requirement.replace(" ", "") for requirement in wanted))


if __name__ == "__main__":
    main()
