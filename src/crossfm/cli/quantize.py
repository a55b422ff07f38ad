"""``crossfm quantize``: a model in less space, and what the rounding costs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crossfm.cli.errors import Debug, guarded, usage_error
from crossfm.cli.format import a_count, a_size, a_value
from crossfm.cli.output import Json, Quiet, Screen

if TYPE_CHECKING:
    from crossfm.cli.scoring import Scorer
    from crossfm.factors import Precision

__all__ = ["quantize"]


@guarded
def quantize(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file that fit wrote.", show_default=False)
    ],
    precision: Annotated[
        str, typer.Option("--precision", "-p", metavar="NAME", help="float16 or int8.")
    ] = "int8",
    on: Annotated[
        list[Path] | None,
        typer.Option(
            "--on", metavar="DATA", help="Rows with targets, on which the loss is measured."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Write the smaller model here."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", metavar="NAME", help="The column of the targets; else that of fit."
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Store the factors of a model in half or a quarter of the space, and measure what it costs.

    With --on, the metrics of both models on the same rows, and how far their scores are apart at
    most. Without --out nothing is written.

    crossfm quantize clicks.crossfm --precision int8 --on test.parquet
    crossfm quantize clicks.crossfm --precision float16 --out small.crossfm
    """
    if precision not in ("float16", "int8"):
        usage_error(f"--precision is {precision!r}, expected float16 or int8")
    if on is None and out is None:
        usage_error("give --on, rows to measure on, or --out, a file to write, or both")
    from crossfm.cli.scoring import Scorer
    from crossfm.store import read_header

    screen = Screen(as_json=json, quiet=quiet)
    before, after = Scorer.load(model), Scorer.load(model, precision)
    found = read_header(model)
    if found.precision == "int8" or found.precision == precision:
        usage_error(
            f"{model} holds its factors as {found.precision} already; take the model before it was"
            " rounded"
        )
    told: dict[str, Any] = {
        "model": str(model),
        "precision": {"before": found.precision, "after": precision},
        "n_parameters": found.n_models * (found.n_features * (found.n_factors + 1) + 1),
    }
    lines = [("precision", f"{found.precision} to {precision}")]
    if out is not None:
        _write(after, out, precision)  # type: ignore[arg-type] # one of the two, as checked
        sizes = {"before": model.stat().st_size, "after": out.stat().st_size}
        told |= {"out": str(out), "bytes": sizes}
        share = sizes["after"] / sizes["before"]
        lines.append(
            ("file", f"{a_size(sizes['before'])} to {a_size(sizes['after'])}, {share:.0%} of it")
        )
    if on is not None:
        measured, shown = _measure(before, after, on, target, screen)
        told |= measured
        lines += shown
    screen.result(lines)
    screen.object(told)


def _write(scorer: Scorer, out: Path, precision: Precision) -> None:
    scorer.estimator.save(out, precision=precision, metadata=scorer.about)


def _measure(
    before: Scorer, after: Scorer, on: list[Path], target: str | None, screen: Screen
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Metrics before and after, and the differences of scores: for JSON, and as lines."""
    import numpy as np

    from crossfm.cli.measuring import collect, values_of

    target = target or before.about.get("target")
    if before.estimator.schema_ is None:
        target = None
    elif target is None:
        usage_error(f"--target is missing: {before.path} does not say which column it learned")
    with screen.busy("scoring"):
        rows, rounded = collect(before, on, target), collect(after, on, target)
        values = values_of(before, rows, (), screen)
        now = values_of(after, rounded, (), screen)
    apart = np.abs(rows.score.astype(np.float64) - rounded.score)
    measured = {
        "n_rows": before.n_rows,
        "metrics": {name: {"before": values[name], "after": now[name]} for name in values},
        "score_difference": {"largest": float(apart.max()), "mean": float(apart.mean())},
        "score_std": float(rows.score.std()),
    }
    lines = [
        (name, f"{a_value(values[name])} to {a_value(now[name])} ({now[name] - values[name]:+.2g})")
        for name in values
    ]
    lines += [
        ("scores apart", f"{apart.max():.2g} at most, {apart.mean():.2g} in the mean"),
        ("spread of scores", f"{rows.score.std():.2g}"),
        ("rows", a_count(before.n_rows)),
    ]
    return measured, lines
