"""The network inside a deep estimator, and how rows reach it."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.rows import Rows
from crossfm.errors import DataError
from crossfm.estimators._features import Features
from crossfm.estimators._matrix import matrix_rows
from crossfm.estimators._targets import Targets
from crossfm.nn.training import Layout, score

__all__ = ["DeepMachine", "layout_of"]

MOST_FIELDS = 256  # columns of a matrix that are fields of their own; more are one field


class DeepMachine:
    """A trained network, its scores on the user's scale.

    A network learns on standardised targets and scaled values; values are scaled before each
    score, because a network cannot take the scale into its parameters as a machine can.

    Args:
        network: a module that takes a batch and returns logits.
        layout: sizes and fields that the network was made for.
        features: how X is read; with the scaling of values.
        targets: how y is read.
        mixed_precision: whether dense layers compute in bfloat16.
    """

    def __init__(
        self,
        network: Any,
        layout: Layout,
        features: Features,
        targets: Targets,
        mixed_precision: bool = False,
    ) -> None:
        self.network = network
        self.layout = layout
        self.features = features
        self.targets = targets
        self.mixed_precision = mixed_precision

    def score(self, rows: Rows) -> NDArray[np.float32]:
        """Scores ``[n]``, or ``[n, C]``, of rows whose values are as they came."""
        scaling = self.features.scaling
        if scaling is not None:
            if len(scaling.centred):  # whose zeros count
                rows = matrix_rows(rows.to_csr(self.features.n_features), scaling.centred)
            rows = scaling.apply(rows)
        highest = rows.validate().max_field
        if highest >= len(self.layout.field_names):
            raise DataError(
                f"X names field {highest}, the fit saw the fields 0 to"
                f" {len(self.layout.field_names) - 1}"
            )
        found = score(
            self.network, rows, several=self.targets.n_outputs > 1,
            mixed_precision=self.mixed_precision,
        )  # fmt: skip
        targets = self.targets
        if targets.std == 1.0 and targets.mean == 0.0:
            return found
        with np.errstate(over="ignore"):  # refused by the caller
            return (targets.mean + targets.std * found.astype(np.float64)).astype(np.float32)

    def __getstate__(self) -> dict[str, Any]:
        """The network in the host's memory."""
        return {**self.__dict__, "network": copy.deepcopy(self.network).to("cpu")}


def layout_of(features: Features, rows: Rows) -> Layout:
    """Sizes and fields of the data.

    A frame has the fields of its schema, rows of libffm text their own. In a matrix a column is a
    field. Where ids come without fields and every row is as long, the place in the row is the
    field, if each id has one place; otherwise all ids are one field.
    """
    n = features.n_features
    if features.schema is not None:
        return Layout(n, features.schema.field_of_, list(features.schema.field_names))
    field_of = np.zeros(n, np.int32)
    if rows.fields is not None:
        field_of[rows.ids] = rows.fields
        n_fields = int(rows.validate().max_field) + 1
    elif features.kind == "matrix" and n <= MOST_FIELDS:
        field_of, n_fields = np.arange(n, dtype=np.int32), n
    elif features.kind == "ids" and 1 < rows.row_length <= MOST_FIELDS:
        place = np.tile(np.arange(rows.row_length, dtype=np.int32), len(rows))
        field_of[rows.ids] = place
        n_fields = rows.row_length
        if not np.array_equal(field_of[rows.ids], place):
            field_of, n_fields = np.zeros(n, np.int32), 1
    else:
        n_fields = 1
    return Layout(n, field_of, [str(number) for number in range(max(n_fields, 1))])
