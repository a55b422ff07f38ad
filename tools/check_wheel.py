"""Try an installed wheel where nothing but its run-time dependencies is there.

Trains nothing and reads no data: imports, calls the core, and looks at the size.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    import numpy as np

    import crossfm

    assert "torch" not in sys.modules
    rows = crossfm.Rows(np.array([[0, 1], [1, 2]]))
    assert rows.validate().max_id == 2
    package = Path(crossfm.__file__).parent
    size = sum(file.stat().st_size for file in package.rglob("*") if file.is_file())
    print(f"crossfm {crossfm.__version__} works; {size / 1e6:.1f} MB installed in {package.name}/")


if __name__ == "__main__":
    main()
