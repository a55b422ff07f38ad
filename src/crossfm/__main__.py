"""``python -m crossfm`` is the command ``crossfm``."""

from __future__ import annotations

from crossfm.cli import main

if __name__ == "__main__":
    main()
