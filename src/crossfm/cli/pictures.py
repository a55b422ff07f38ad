"""Pictures that commands write: PNG, SVG and PDF, and pages of HTML that need nothing else."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from crossfm.cli.errors import usage_error
from crossfm.cli.training import check_writable
from crossfm.data.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["check_picture", "write_picture"]

ENDINGS = (".png", ".svg", ".pdf", ".html")
PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  font-variant-numeric: tabular-nums; }}
figure {{ background: #fff; border-radius: 8px; padding: 1rem; margin: 1.5rem 0; }}
figure svg {{ max-width: 100%; height: auto; display: block; }}
table {{ border-collapse: collapse; }}
th, td {{ text-align: left; padding: 0.15rem 1.5rem 0.15rem 0; border-bottom: 1px solid #8884; }}
td:last-child, th:last-child {{ text-align: right; }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>{facts}</table>
<figure>{picture}</figure>
<table><thead><tr>{header}</tr></thead><tbody>{rows}</tbody></table>
</body>
</html>
"""


def check_picture(path: Path, keep: Sequence[Path]) -> None:
    """Refuse, before any work, a picture that could not be written."""
    from crossfm.errors import require

    if path.suffix.lower() not in ENDINGS:
        usage_error(f"--plot {path}: its name must end in one of {', '.join(ENDINGS)}")
    check_writable(path, keep=keep)
    require("matplotlib", "plot")


def write_picture(
    path: Path,
    figure: Figure,
    title: str,
    facts: Iterable[tuple[str, str]],
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
) -> None:
    """Write a figure, whole or not at all; a page has the numbers beside it.

    Args:
        path: its ending says what it becomes.
        figure: the picture.
        title: of a page.
        facts: names and values above it.
        header: of the table below it.
        rows: of that table.
    """
    kind = path.suffix.lower()[1:]
    drawn = io.BytesIO()
    figure.savefig(drawn, format="svg" if kind == "html" else kind, dpi=150, bbox_inches="tight")
    content = drawn.getvalue()
    if kind == "html":
        svg = content.decode()
        content = PAGE.format(
            title=html.escape(title),
            facts="".join(_row("th", "td", pair) for pair in facts),
            picture=svg[svg.index("<svg") :],
            header="".join(f"<th>{html.escape(name)}</th>" for name in header),
            rows="".join(_row("td", "td", row) for row in rows),
        ).encode()
    with replacing(path) as file:
        file.write(content)


def _row(first: str, others: str, cells: Sequence[str]) -> str:
    tags = [first, *[others] * (len(cells) - 1)]
    cells = [f"<{tag}>{html.escape(cell)}</{tag}>" for tag, cell in zip(tags, cells, strict=True)]
    return f"<tr>{''.join(cells)}</tr>"
