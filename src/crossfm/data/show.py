"""A schema as a table of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from crossfm.data.fields import Field

if TYPE_CHECKING:
    from crossfm.data.schema import Schema

__all__ = ["HEADER", "schema_rows", "schema_table"]

HEADER = ("field", "kind", "encoding", "distinct", "why")


def schema_rows(schema: Schema) -> list[tuple[str, str, str, str, str]]:
    """A row a field, then one a column left out; the cells are those of `HEADER`."""
    from crossfm.data.encoding import encoding_for

    reasons = {guess.name: guess.reason for guess in schema.guesses}
    rows = []
    for f, field in enumerate(schema.fields):
        encoding = schema._encodings[f] if schema.is_fitted else encoding_for(field)
        words, distinct = encoding.describe()
        count = f"{distinct:,}" if schema.is_fitted and distinct is not None else ""
        rows.append((field.name, kind_of(field), words, count, reasons.get(field.name, "")))
    rows += [(g.name, g.kind, "", "", g.reason) for g in schema.guesses if g.kind == "left out"]
    return rows


def schema_table(schema: Schema) -> str:
    """Field, kind, encoding, distinct values and the reason of a guess, in aligned columns."""
    header, rows = HEADER, schema_rows(schema)
    kept = [c for c in range(5) if c < 2 or any(row[c] for row in rows)]
    widths = [max(len(row[c]) for row in [header, *rows]) for c in kept]
    lines = []
    for row in [header, *rows]:
        cells = [
            row[c].rjust(width) if header[c] == "distinct" else row[c].ljust(width)
            for c, width in zip(kept, widths, strict=True)
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * max(map(len, lines)))
    n = len(schema.fields)
    total = f", {schema.n_features_:,} features" if schema.is_fitted else ", not fitted yet"
    lines.append(f"{n} field{'s' if n > 1 else ''}{total}")
    return "\n".join(lines)


def kind_of(field: Field) -> str:
    """categorical, numeric or bag."""
    return type(field).__name__.lower()
