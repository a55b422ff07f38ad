"""Catalogue: the items that can be found, what names them, the columns they are chosen by."""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.fields import Categorical
from crossfm.data.records import RecordSchema
from crossfm.errors import DataError, SchemaError, did_you_mean

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfm.data.schema import Schema

__all__ = ["Catalogue"]

FEW = 500  # ids are looked up one by one below
EPOCH = datetime.datetime(1970, 1, 1)


class Catalogue:
    """Items at places 0, 1, ... in the order in which they came; one that is removed leaves a gap.

    Args:
        id: the column with what names an item.

    Attributes:
        live: which places hold an item that can be found, bool ``[places]``.
        names: what names the item of each place ``[places]``.
        table: all columns of the items, an Arrow table; None where they were read without Arrow.
    """

    def __init__(self, id: str) -> None:
        self.id = id
        self.live = np.zeros(0, bool)
        self.names: NDArray[Any] = np.empty(0, object)
        self.table: pa.Table | None = None
        self._keys: Schema | RecordSchema | None = None
        self._records: RecordSchema | None = None  # the same keys, for a few ids
        self._place = np.full(1, -1)  # of each id that the keys know; 0: unknown

    def __len__(self) -> int:
        return len(self.live)

    def plan(self, table: pa.Table) -> Arrival:
        """Where the items of a table are to go. Nothing is changed before `Arrival.commit`.

        Raises:
            SchemaError: no column of ids.
            DataError: an item that is there twice, or has no id; columns of other types.
        """
        from crossfm.data.schema import Schema

        if self.id not in table.column_names:
            names = table.column_names
            raise SchemaError(
                f"items have no column {self.id!r}.{did_you_mean(self.id, names)} They have {names}"
            )
        if self._keys is None and not table.num_rows:
            raise DataError("there are no items")
        assert not isinstance(self._keys, RecordSchema)  # of a model read without Arrow
        own = table.select([self.id])
        keys = Schema([Categorical(self.id)]) if self._keys is None else self._keys.copy()
        if table.num_rows:
            keys.partial_fit(own)
        units = keys.transform(own).ids.astype(np.int64)
        if len(units) and units.min() == 0:
            raise DataError(f"row {int(np.argmin(units))} of the items has no {self.id!r}")
        counts = np.bincount(units, minlength=1)
        if counts.max() > 1:
            unit = int(np.argmax(counts > 1))
            raise DataError(f"{keys.feature_name(unit)} is {counts[unit]} times among the items")
        place = np.full(keys.n_features_, -1)
        place[: len(self._place)] = self._place
        new = place[units] < 0
        place[units[new]] = len(self) + np.arange(int(new.sum()))
        at = place[units]
        merged = _merged(self.table, table, at, len(self) + int(new.sum()))
        return Arrival(self, keys, place, merged, at)

    def remove(self, ids: Any) -> None:
        """Take items out.

        Raises:
            DataError: an id that no item has.
        """
        self.live[self.places(ids, strict=True)] = False

    def places(self, ids: Any, *, strict: bool = False) -> NDArray[np.int64]:
        """The places of items, rising; ids that none has are left out, or refused.

        Raises:
            DataError: strict, and no item has the id.
        """
        if isinstance(ids, str | bytes) or not hasattr(ids, "__len__"):
            ids = [ids]
        if not len(ids) or self._keys is None:
            return np.zeros(0, np.int64)
        keys = self._records if len(ids) < FEW and self._records is not None else self._keys
        places = self._place[keys.transform({self.id: ids}).ids]
        known = places >= 0
        known[known] &= self.live[places[known]]
        if strict and not known.all():
            raise DataError(f"no item has the {self.id} {np.asarray(ids, object)[~known][0]!r}")
        return np.unique(places[known])

    def find(self, ids: Any) -> NDArray[np.int64]:
        """The place of each id, in their order, in whatever type it is written: "7" finds 7.

        Raises:
            DataError: no item has an id.
        """
        found = np.full(len(ids), -1)
        if len(ids) and self._keys is not None:
            keys = self._keys if self._records is None else self._records
            found = self._place[keys.transform({self.id: ids}).ids]
            found[(found >= 0) & ~self.live[found]] = -1
        if (found < 0).any():
            raise DataError(f"no item has the {self.id} {ids[int(np.argmax(found < 0))]!r}")
        return found

    def allowed(self, filter: Any) -> NDArray[np.bool_]:
        """Which places hold items that a filter lets in; None: all items.

        Args:
            filter: an Arrow expression over the items' columns, or bool in the order of the items.

        Raises:
            SchemaError: an expression over columns that are not there.
            DataError: an array of another shape.
        """
        if filter is None:
            return self.live
        mask = np.zeros(len(self), bool)
        given = np.asarray(filter)
        if given.dtype == bool and given.shape == (int(self.live.sum()),):
            mask[np.flatnonzero(self.live)[given]] = True
            return mask
        if not hasattr(filter, "isin"):  # no expression
            raise DataError(
                f"filter has shape {list(given.shape)} and type {given.dtype}, expected an"
                f" expression of Arrow, or bool [{int(self.live.sum())}]"
            )
        if self.table is None:
            raise DataError("these items were read without Arrow; give a filter as a bool array")
        import pyarrow as pa

        numbered = self.table.append_column("__place__", pa.array(np.arange(len(self))))
        try:
            found = numbered.filter(filter).column("__place__").to_numpy()
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise SchemaError(
                f"the filter cannot be applied to the items: {error}; their columns are"
                f" {self.table.column_names}"
            ) from error
        mask[found] = True
        return mask & self.live

    # --- files ------------------------------------------------------------------------------

    def state(self) -> tuple[dict[str, Any], bytes]:
        """The items that can be found, for JSON, and their columns as a stream of Arrow."""
        import pyarrow as pa

        from crossfm.data.schema import Schema

        assert self.table is not None
        table = self.table.take(np.flatnonzero(self.live))
        own = table.select([self.id])
        keys = Schema([Categorical(self.id)])
        keys = keys.fit(own) if table.num_rows else keys
        order = keys.transform(own).ids.tolist() if table.num_rows else []
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        state = {"id": self.id, "units": order, "keys": keys.to_json() if order else None}
        return state, sink.getvalue().to_pybytes()

    @staticmethod
    def from_state(state: dict[str, Any], columns: bytes) -> Catalogue:
        """What `state` gave; without Arrow installed, without the columns.

        Raises:
            KeyError, TypeError, ValueError, SchemaError: a state that `state` cannot have given.
        """
        self = Catalogue(str(state["id"]))
        units = np.array(state["units"], np.int64)
        n = len(units)
        self.live = np.ones(n, bool)
        try:
            import pyarrow as pa
        except ImportError:
            pass
        else:
            self.table = pa.ipc.open_stream(pa.py_buffer(columns)).read_all()
            if self.table.num_rows != n:
                raise ValueError(f"{self.table.num_rows} rows of columns for {n} items")
        if not n:
            return self
        if self.table is None:
            self._keys = RecordSchema.from_json(state["keys"])
            self.names = _names_of(state["keys"], units)
        else:
            from crossfm.data.schema import Schema

            keys = Schema.from_json(state["keys"])
            self._keys, self._records = keys, keys.records()
            self.names = _column(self.table, self.id)
        self._place = np.full(self._keys.n_features_, -1)
        self._place[units] = np.arange(n)
        if len(np.unique(units)) < n or units.min() < 1:
            raise ValueError("ids repeat")
        return self


class Arrival:
    """Items on their way into a catalogue.

    Attributes:
        places: where each goes ``[n]``.
    """

    def __init__(
        self,
        catalogue: Catalogue,
        keys: Schema,
        place: NDArray[np.int64],
        table: pa.Table,
        places: NDArray[np.int64],
    ) -> None:
        self.places = places
        self._catalogue, self._keys, self._place, self._table = catalogue, keys, place, table

    def commit(self) -> None:
        """Take them in."""
        catalogue = self._catalogue
        live = np.zeros(self._table.num_rows, bool)
        live[: len(catalogue.live)] = catalogue.live
        live[self.places] = True
        catalogue.live, catalogue.table = live, self._table
        catalogue._keys, catalogue._place = self._keys, self._place
        catalogue._records = self._keys.records()
        catalogue.names = _column(self._table, catalogue.id)


def _merged(old: pa.Table | None, new: pa.Table, at: NDArray[np.int64], n: int) -> pa.Table:
    """The table with rows added and replaced; columns that one of them lacks are null there."""
    import pyarrow as pa

    if old is None:
        return new.take(np.argsort(at)).combine_chunks()
    origin = np.arange(n)
    origin[at] = old.num_rows + np.arange(len(at))
    try:
        both = pa.concat_tables([old, new], promote_options="permissive")
    except pa.ArrowException as error:
        raise DataError(f"columns of the items are of other types than before: {error}") from error
    return both.take(origin).combine_chunks()


def _column(table: pa.Table, name: str) -> NDArray[Any]:
    import pyarrow as pa

    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        return np.array(column.to_pylist(), object)
    found: NDArray[Any] = column.to_numpy()
    return found


def _names_of(keys: str, units: NDArray[np.int64]) -> NDArray[Any]:
    """What names each item, by the JSON of the keys."""
    (field,) = json.loads(keys)["fields"]
    values = field["fitted"]["values"]
    if field["fitted"]["kind"] == "datetime":
        values = [EPOCH + datetime.timedelta(microseconds=value) for value in values]
    found = np.array(values, None if field["fitted"]["kind"] == "int" else object)
    return found[units - 1]
