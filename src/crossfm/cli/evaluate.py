"""``crossfm evaluate``: how good a model is on rows with known targets."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from crossfm.cli.errors import Debug, guarded, usage_error
from crossfm.cli.format import a_count, a_value
from crossfm.cli.output import Json, Quiet, Screen

__all__ = ["evaluate"]


@guarded
def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A file that fit wrote.", show_default=False)
    ],
    data: Annotated[
        list[Path],
        typer.Argument(
            metavar="DATA",
            help="Rows with targets: files of the kind that the model was fitted on.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option(
            "--target", "-t", metavar="NAME", help="The column of the targets; else that of fit."
        ),
    ] = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            "--metric",
            metavar="NAMES",
            help="rmse, mae, log_loss, auc, normalized_entropy, ece, grouped_auc, ndcg@10, ...",
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(
            "--group", metavar="NAME", help="The column that grouped metrics go by: user."
        ),
    ] = None,
    weight: Annotated[
        str | None,
        typer.Option("--weight", metavar="NAME", help="The column with the weight of each row."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Measure a model on rows whose targets are known.

    What the model had not seen in training is counted and reported.

    crossfm evaluate ratings.crossfm test.csv
    crossfm evaluate clicks.crossfm test.parquet --metrics auc,log_loss --json
    crossfm evaluate clicks.crossfm test.parquet --group user
    """
    names = [m.strip() for text in metrics or () for m in text.split(",") if m.strip()]
    from crossfm.cli.measuring import chosen_metrics, measure
    from crossfm.cli.scoring import Scorer
    from crossfm.cli.training import check_metrics

    screen = Screen(as_json=json, quiet=quiet)
    if names:
        chosen_metrics(names, group)  # wrong names are found before anything is read
    scorer = Scorer.load(model)
    check_metrics("--metrics", names, scorer.is_classifier)
    named = scorer.estimator.schema_ is not None
    if not named and (target or group or weight):
        usage_error(
            f"{model} was fitted on text without names of columns: leave out --target, --group"
            " and --weight"
        )
    target = target or scorer.about.get("target")
    if named and target is None:
        usage_error(f"--target is missing: {model} does not say which column it learned")
    with screen.busy("scoring"):
        values = measure(scorer, data, target, names, group, weight, screen)
    screen.result(
        [
            *((name, a_value(value)) for name, value in values.items()),
            ("rows", a_count(scorer.n_rows)),
        ]
    )
    screen.object(_result(model, scorer, values))
    for line in scorer.unseen_words():
        screen.note(line, "yellow")


def _result(model: Path, scorer: Any, values: dict[str, float]) -> dict[str, Any]:
    from crossfm.metrics import GroupedScore

    groups = {
        name: {"n_groups": value.n_groups, "n_skipped": value.n_skipped}
        for name, value in values.items()
        if isinstance(value, GroupedScore)
    }
    return {
        "model": str(model),
        "task": scorer.task,
        "n_rows": scorer.n_rows,
        "metrics": values,
        "groups": groups,
        "unseen": scorer.unseen(),
    }
