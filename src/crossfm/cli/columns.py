"""Which columns become fields of which kind: what inference says, and what the options say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crossfm.cli.errors import usage_error

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfm.data.fields import Field
    from crossfm.data.schema import Schema

__all__ = ["Wanted", "names_of"]

TOLD = "as told"


@dataclass(frozen=True)
class Wanted:
    """The options of `fit` that speak of columns, as they were written.

    Attributes:
        target: column of the targets.
        weight: column of the weights of rows, or None.
        fields: the columns to take; empty: all that are of use.
        drop: columns to leave out.
        categorical: columns that are categories.
        numeric: columns that are numbers, ``name`` or ``name:scale``.
        bag: columns of several values, ``name`` (lists) or ``name:separator``.
    """

    target: str | None = None
    weight: str | None = None
    fields: Sequence[str] = ()
    drop: Sequence[str] = ()
    categorical: Sequence[str] = ()
    numeric: Sequence[str] = ()
    bag: Sequence[str] = ()
    _told: dict[str, Field] = field(default_factory=dict)

    def resolve(self, available: Sequence[str]) -> Wanted:
        """The same with every name checked against the columns that there are.

        Raises:
            SchemaError: a column that is not there, or the target among the fields.
        """
        from crossfm.data.frames import missing_column
        from crossfm.errors import SchemaError

        for name in (self.target, self.weight):
            if name is not None and name not in available:
                raise missing_column(name, available)
        told = self._fields_told(available)
        fields, drop = names_of(self.fields, available), names_of(self.drop, available)
        for name in [*fields, *drop, *told]:
            if name not in available:
                raise missing_column(name, available)
        for option, names in (("--fields", fields), ("--categorical or another", list(told))):
            for name, what in ((self.target, "target"), (self.weight, "weight of rows")):
                if name is not None and name in names:
                    raise SchemaError(
                        f"column {name!r} is the {what}, and {option} makes it a field too, which"
                        " would tell the model the answer; leave one out"
                    )
        for name in drop:
            if name in told:
                usage_error(f"column {name!r} is dropped, and an option says what it holds")
        return Wanted(self.target, self.weight, fields, drop, _told=told)

    def columns(self, available: Sequence[str]) -> list[str]:
        """The columns to read, resolved: candidates for fields, target and weight."""
        return [*self.candidates(available), *filter(None, (self.target, self.weight))]

    def candidates(self, available: Sequence[str]) -> list[str]:
        """The columns that may become fields, in order."""
        names = list(self.fields) or list(available)
        names += [name for name in self._told if name not in names]
        out = {self.target, self.weight, *self.drop}
        return list(dict.fromkeys(name for name in names if name not in out))

    def types(self) -> dict[str, Any]:
        """Arrow types to read CSV files with: 01234 told to be a category is not 1234."""
        import pyarrow as pa

        from crossfm.data.fields import Bag, Categorical

        return {
            name: pa.string()
            for name, told in self._told.items()
            if isinstance(told, Categorical) or (isinstance(told, Bag) and told.sep is not None)
        }

    def schema(self, table: pa.Table) -> Schema:
        """A schema over the table's candidates, not fitted yet, with the reason of each field.

        Raises:
            SchemaError: no column of any use.
            DataError: no rows.
        """
        from crossfm.data.infer import Guess
        from crossfm.data.schema import Schema
        from crossfm.errors import SchemaError

        candidates = self.candidates(table.column_names)
        rest = [name for name in candidates if name not in self._told]
        fields: dict[str, Field] = dict(self._told)
        guesses = {
            name: Guess(name, type(told).__name__.lower(), TOLD)
            for name, told in self._told.items()
        }
        if rest or not fields:
            try:
                inferred = Schema.infer(table.select(rest))
            except SchemaError:
                if not fields:
                    raise
            else:
                fields.update({f.name: f for f in inferred.fields})
                guesses.update({guess.name: guess for guess in inferred.guesses})
        schema = Schema([fields[name] for name in candidates if name in fields])
        schema.guesses = [guesses[name] for name in candidates if name in guesses]
        return schema

    def _fields_told(self, available: Sequence[str]) -> dict[str, Field]:
        from crossfm.data.fields import Bag, Categorical, Numeric

        told: list[Field] = [Categorical(name) for name in names_of(self.categorical, available)]
        for text in names_of(self.numeric, available):
            name, scale = _split(text, available)
            told.append(Numeric(name, scale=scale or "standard"))  # type: ignore[arg-type]
        for text in self.bag:
            name, sep = _split(text, available)
            told.append(Bag(name, sep=sep))
        twice = [f.name for f in told if sum(g.name == f.name for g in told) > 1]
        if twice:
            usage_error(f"column {twice[0]!r} is given a kind more than once")
        return {f.name: f for f in told}


def names_of(texts: Sequence[str], available: Sequence[str]) -> list[str]:
    """Names from an option given several times, or with commas between them.

    >>> names_of(["user,item", "age"], ["user", "item", "age"])
    ['user', 'item', 'age']
    """
    names: list[str] = []
    for text in texts:
        names += [text] if text in available else [n.strip() for n in text.split(",") if n.strip()]
    return names


def _split(text: str, available: Sequence[str]) -> tuple[str, str | None]:
    """``name:word`` in its parts; a column's name may hold colons."""
    if text in available:
        return text, None
    if text.endswith("::"):  # a colon is the separator
        return text[:-2], ":"
    name, colon, word = text.rpartition(":")
    return (name, word or None) if colon else (text, None)
