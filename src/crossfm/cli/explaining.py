"""What ``crossfm explain`` does: find the row, take its score apart, draw it."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from crossfm.cli.errors import usage_error
from crossfm.cli.examples import column_names
from crossfm.cli.format import a_value, plural
from crossfm.cli.output import Screen
from crossfm.cli.pictures import check_picture, write_picture
from crossfm.cli.scoring import BATCH_ROWS, Scorer
from crossfm.errors import DataError, SchemaError

if TYPE_CHECKING:
    from rich.text import Text

    from crossfm.data.rows import Rows
    from crossfm.explain import Contributions, Part

__all__ = ["explain_fields", "explain_one"]

BAR = 24  # characters of the longest bar
BIAS = "bias"


class Found(NamedTuple):
    """One row: as the model takes it, encoded, and the target that stands beside it."""

    X: Any
    rows: Rows
    target: Any


def explain_one(
    model: Path,
    data: Path,
    row: int,
    k: int,
    by: str,
    label: str | None,
    plot: Path | None,
    screen: Screen,
) -> None:
    """Explain row `row` of the file, and draw it where `plot` says so.

    Raises:
        DataError: no such row, text that is not JSON, values that no model takes.
        SchemaError: a column that is not there.
    """
    from crossfm.explain import explain_row

    if plot is not None:
        check_picture(plot, [model, data])
    scorer = Scorer.load(model)
    found = _find(scorer, data, row)
    told, chosen = _prediction(scorer, found, label)
    told = {"row": row, **told}
    if found.target is not None:
        told["target"] = found.target
    parts = explain_row(scorer.estimator.models_[chosen], found.rows, scorer.estimator.schema_)
    largest, rest = _parts(parts, k, by)
    screen.object(
        {
            **told,
            "score": parts.score,
            "by": by,
            "contributions": [{"names": list(p.names), "value": p.value} for p in largest],
            "rest": {"n": len(rest), "value": math.fsum(p.value for p in rest)},
        }
    )
    screen.result((name, _shown(value)) for name, value in told.items())
    screen.result_line()
    _draw(screen, largest, rest, parts.score)
    if plot is not None:
        from crossfm.explain.plots import waterfall

        facts = [(name, _shown(value)) for name, value in told.items()]
        rows = [(" × ".join(p.names) or BIAS, f"{p.value:+.4f}") for p in largest]
        if rest:
            left = math.fsum(p.value for p in rest)
            rows.append((f"{len(rest):,} smaller ones", f"{left:+.4f}"))
        rows.append(("score", f"{parts.score:+.4f}"))
        shown = max(1, sum(1 for p in largest if p.names))
        picture = waterfall(parts, limit=shown, by=by)
        write_picture(plot, picture, f"Row {row} of {data.name}", facts, ("what", "adds"), rows)
        screen.note(f"{plot} written")


def explain_fields(
    model: Path, data: Path, k: int, label: str | None, plot: Path | None, screen: Screen
) -> None:
    """Show how much each field, and each pair of fields, moves the scores of a file's rows.

    Raises:
        DataError: no rows; a model whose fields are not known, or of higher order.
        SchemaError: a column that is not there.
    """
    from crossfm.data.inputs import as_rows
    from crossfm.explain import field_strengths

    if plot is not None:
        check_picture(plot, [model, data])
    scorer = Scorer.load(model)
    estimator = scorer.estimator
    if scorer.estimator.schema_ is None:
        raise SchemaError(f"{model} was fitted on text without names of columns: no fields")
    chosen = 0
    if len(estimator.models_) > 1:
        names = [str(c) for c in estimator.classes_.tolist()]
        if label not in names:
            usage_error(f"--class says whose scores: one of {', '.join(names[:20])}")
        chosen = names.index(label)
    with screen.busy("reading"):
        rows = as_rows(data, estimator.schema_)
    found = field_strengths(estimator.models_[chosen], rows)
    strongest = found.strongest(len(found.fields) ** 2)
    screen.object(
        {
            "n_rows": found.n_rows,
            "fields": found.fields,
            "deviation": found.deviation.tolist(),
            "mean": found.mean.tolist(),
            "mean_size": found.mean_size.tolist(),
        }
    )
    size = strongest[0][1] or 1.0
    drawn = sys.stdout.isatty()
    screen.result_table(
        ("field, or pair", "moves scores by", ""),
        [
            (" × ".join(names), f"{value:.4f}", _bar(value / size) if drawn else "")
            for names, value in strongest[:k]
        ],
        right=("moves scores by",),
        footer=f"standard deviations over {plural(found.n_rows, 'row')}",
    )
    if plot is not None:
        from crossfm.explain.plots import field_heatmap

        write_picture(
            plot, field_heatmap(found), f"Fields of {model.name}",
            [("rows", f"{found.n_rows:,} of {data.name}")],
            ("field, or pair", "moves scores by"),
            [(" × ".join(names), f"{value:.4f}") for names, value in strongest],
        )  # fmt: skip
        screen.note(f"{plot} written")


# --- the row ------------------------------------------------------------------------------------


def _find(scorer: Scorer, data: Path, row: int) -> Found:
    features, schema = scorer.features, scorer.estimator.schema_
    target = scorer.about.get("target")
    if str(data) == "-" or data.suffix in (".json", ".jsonl", ".ndjson"):
        if schema is None:
            raise SchemaError(
                f"{scorer.path} was fitted on text without names of columns, so it takes no JSON;"
                " give a libsvm or libffm file, and --row"
            )
        records = _records(data)
        if row >= len(records):
            raise _no_row(data, row, len(records))
        record = records[row]
        (rows,) = features.stream([record])
        return Found([record], features.flat(rows), record.get(target) if target else None)
    from crossfm.data.inputs import are_tables, paths_of

    paths = paths_of([data])
    scorer.check_kind(paths)
    start = 0
    for path in paths:
        if are_tables([path]):
            from crossfm.data.tables import iter_tables

            extra = [target] if target is not None and target in column_names(path) else []
            columns = list(dict.fromkeys([*features.columns, *extra]))
            for table in iter_tables(path, BATCH_ROWS, columns, types=features.column_types):
                if row < start + table.num_rows:
                    one = table.slice(row - start, 1)
                    value = one.column(target)[0].as_py() if extra else None
                    (rows,) = features.stream(one)
                    return Found(one, features.flat(rows), value)
                start += table.num_rows
        else:
            for rows in scorer.text_rows(path, BATCH_ROWS):
                if row < start + len(rows):
                    one = rows[row - start : row - start + 1]
                    assert one.targets is not None
                    bare = one.replace(targets=None)
                    return Found(bare, _known(scorer, bare), float(one.targets[0]))
                start += len(rows)
    raise _no_row(data, row, start)


def _known(scorer: Scorer, rows: Rows) -> Rows:
    """The row's features that the model has; a warning counts the others."""
    from crossfm.estimators._features import drop_unknown

    return drop_unknown(rows, scorer.estimator.models_[0].n_features)


def _records(path: Path) -> list[dict[str, Any]]:
    """One JSON object, a list of them, or one a line."""
    from crossfm.data.files import open_bytes

    name = "the standard input" if str(path) == "-" else str(path)
    if str(path) == "-":
        content = sys.stdin.buffer.read()
    else:
        with open_bytes(path) as file:
            content = file.read()
    try:
        text = content.decode()
        found = (
            [json.loads(line) for line in text.splitlines() if line.strip()]
            if path.suffix in (".jsonl", ".ndjson")
            else json.loads(text)
        )
    except (ValueError, RecursionError) as error:
        raise DataError(f"{name} is not JSON: {error}") from error
    records = found if isinstance(found, list) else [found]
    for record in records:
        if not isinstance(record, dict):
            raise DataError(
                f"{name} holds {json.dumps(record)[:40]}, expected an object of column: value, or a"
                " list of them"
            )
    return records


def _no_row(data: Path, row: int, n: int) -> DataError:
    return DataError(f"{data} has {plural(n, 'row')}, no row {row} (the first is row 0)")


# --- the numbers --------------------------------------------------------------------------------


def _prediction(scorer: Scorer, found: Found, label: str | None) -> tuple[dict[str, Any], int]:
    """What the model says of the row, and which of its models is to be explained."""
    estimator = scorer.estimator
    if not scorer.is_classifier:
        if label is not None:
            usage_error("--class is for classes; this model predicts numbers")
        told: dict[str, Any] = {"prediction": float(estimator.predict(found.X)[0])}
        if scorer.loss == "poisson":
            told["explained"] = "logarithm of the mean"
        elif scorer.is_ordinal:
            told["explained"] = "latent score"
        return told, 0
    classes = estimator.classes_.tolist()
    if scorer.knows_probabilities:
        probabilities = estimator.predict_proba(found.X)[0]
        best = int(probabilities.argmax())
        told = {"prediction": classes[best], "probability": float(probabilities[best])}
    else:
        best = classes.index(estimator.predict(found.X).tolist()[0])
        told = {"prediction": classes[best]}
    if len(classes) == 2:  # one model: log odds, a probit or a margin of the second class
        if label is not None and label != str(classes[1]):
            usage_error(f"--class {label}: of two classes the second is explained, {classes[1]}")
        what = "probit" if scorer.sweeps else "log odds" if scorer.knows_probabilities else "score"
        return {**told, "explained": f"{what} of {classes[1]}"}, 0
    chosen = best
    if label is not None:
        names = [str(c) for c in classes]
        if label not in names:
            usage_error(f"--class {label}: the classes are {', '.join(names[:20])}")
        chosen = names.index(label)
    return {**told, "explained": f"score of {classes[chosen]}"}, chosen


def _parts(found: Contributions, k: int, by: str) -> tuple[list[Part], list[Part]]:
    """The largest contributions, and the others."""
    from crossfm.explain import Part

    if by == "term":
        parts = [Part(term.names, term.value) for term in found.terms()]
    else:
        parts = [
            Part((), found.bias),
            *(found.by_feature() if by == "feature" else found.by_field()),
        ]
        parts.sort(key=lambda part: -abs(part.value))
    return (parts, []) if len(parts) <= k + 1 else (parts[:k], parts[k:])


# --- the picture --------------------------------------------------------------------------------


def _draw(screen: Screen, largest: list[Part], rest: list[Part], score: float) -> None:
    """A line a contribution; on a terminal a bar, in proportion to all but the bias."""
    lines = [(" × ".join(part.names) or BIAS, part.value) for part in largest]
    if rest:
        lines.append((f"{len(rest):,} smaller ones", math.fsum(part.value for part in rest)))
    size = max((abs(value) for name, value in lines if name != BIAS), default=0.0) or 1.0
    drawn = sys.stdout.isatty()
    rows: list[tuple[Any, ...]] = [
        (name, f"{value:+.4f}", _bar(value / size) if drawn and name != BIAS else "")
        for name, value in lines
    ]
    total = "score", f"{score:+.4f}"
    if drawn:
        from rich.text import Text

        rows.append((*(Text(cell, "bold") for cell in total), ""))
    else:
        rows.append((*total, ""))
    screen.result_table(("what", "adds", ""), rows, right=("adds",))


def _bar(share: float) -> Text:
    """A bar of one sign: what adds in green, what takes away in red."""
    from rich.text import Text

    eighths = round(abs(share) * BAR * 8)
    whole, part = divmod(eighths, 8)
    text = "█" * whole + (" ▏▎▍▌▋▊▉"[part] if part else "")
    return Text(text or "▏", "green" if share > 0 else "red")


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.0f}" if value == int(value) else a_value(value)
    return str(value)
