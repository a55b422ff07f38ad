"""Batch: rows of features as tensors, the one input type of every network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfm.data.rows import Rows
from crossfm.errors import DataError

__all__ = ["Batch", "as_batch", "to_tensor"]

IDS = (torch.int32, torch.int64)


class Batch(NamedTuple):
    """Rows of features as tensors: `crossfm.Rows` where PyTorch computes.

    A tuple of tensors, so that ``torch.export``, ``DataParallel`` and collate functions take it
    apart and put it together. (``len`` is therefore the number of its parts; `n_rows` counts rows.)

    Attributes:
        ids: int32 or int64, ``[batch, m]`` (m features in every row), or ``[nnz]`` with offsets.
        values: floats of ids' shape, ``x_i``; None: all ones.
        offsets: int64 ``[batch + 1]``: row r holds the features ``offsets[r]`` to
            ``offsets[r + 1] - 1``; None: ids has two dimensions.
        fields: integers of ids' shape, or ``[m]``: the field of each feature, or of each column of
            ids; None: the field belongs to the id, and the module knows it.
        targets: float ``[batch]`` or None.
        weights: float ``[batch]`` or None (all ones).
        checked: ids are known to lie below this number and offsets to rise; 0: not known. Modules
            look at the contents only where it is smaller than their number of features.

    Example:
        >>> import numpy as np
        >>> batch = Batch.of(Rows(np.array([[0, 2], [1, 2]])))
        >>> batch.n_rows, batch.ids.tolist()
        (2, [[0, 2], [1, 2]])
    """

    ids: Tensor
    values: Tensor | None = None
    offsets: Tensor | None = None
    fields: Tensor | None = None
    targets: Tensor | None = None
    weights: Tensor | None = None
    checked: int = 0

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.ids.shape[0] if self.offsets is None else self.offsets.shape[0] - 1

    @classmethod
    def of(cls, x: Rows | Tensor | Batch, device: torch.device | str | None = None) -> Batch:
        """A batch of Rows, of ids ``[batch, m]``, or of a batch, on a device.

        Rows are validated, and their memory is shared where it can be.

        Raises:
            DataError: broken rows, or an x of another type.
        """
        if isinstance(x, Batch):
            return x if device is None else x.to(device)
        if isinstance(x, Rows):
            stats = x.validate()
            shape = (len(x), x.row_length) if x.offsets is None else (x.nnz,)
            batch = cls(
                to_tensor(x.ids).view(shape),
                None if x.values is None else to_tensor(x.values).view(shape),
                None if x.offsets is None else to_tensor(x.offsets),
                None if x.fields is None else to_tensor(x.fields).view(shape),
                None if x.targets is None else to_tensor(x.targets),
                None if x.weights is None else to_tensor(x.weights),
                stats.max_id + 1,
            )
            return batch if device is None else batch.to(device)
        if isinstance(x, Tensor):
            if x.dtype not in IDS or x.dim() != 2:
                raise DataError(
                    f"x is {x.dtype} {list(x.shape)}, expected int32 or int64 ids [batch, m]"
                )
            return cls(x if device is None else x.to(device))
        raise DataError(
            f"x is {type(x).__name__}, expected a tensor, a Batch or crossfm.Rows;"
            " schema.transform(frame) makes Rows"
        )

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The batch on another device."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """The batch in page-locked memory, from which a GPU copies while it computes."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        changed: dict[str, Any] = {
            name: function(part)
            for name, part in zip(self._fields, self, strict=True)
            if isinstance(part, Tensor)
        }
        return self._replace(**changed)


def as_batch(x: Rows | Tensor | Batch, n_features: int, device: torch.device) -> Batch:
    """`Batch.of`, on the device of the parameters and fit for a table of `n_features`.

    Rows go where the parameters are; tensors have to lie there already. While a graph is traced
    nothing is looked at.

    Raises:
        DataError: shapes or types that do not fit together, tensors on different devices, ids out
            of range, offsets that do not rise from 0 to the number of ids.
    """
    if isinstance(x, Rows):
        x.validate(n_features)
        return Batch.of(x, device)
    batch = Batch.of(x)
    if torch.compiler.is_compiling():
        return batch  # a graph has no place for a look at the numbers
    ids, offsets = batch.ids, batch.offsets
    for name, part in zip(batch._fields, batch, strict=True):
        if not isinstance(part, Tensor):
            if name == "ids" or (part is not None and name != "checked"):
                raise DataError(
                    f"{name}: {type(part).__name__}, expected a tensor; torch.as_tensor(...) makes"
                    " one"
                )
        elif part.device != device:
            raise DataError(
                f"{name}: on {part.device}, the parameters on {device}; batch.to('{device}') moves"
                " a batch"
            )
    if ids.dtype not in IDS or ids.dim() != (2 if offsets is None else 1):
        shape = "[batch, m]" if offsets is None else "[nnz], as they come with offsets"
        raise DataError(f"ids are {ids.dtype} {list(ids.shape)}, expected int32 or int64 {shape}")
    if batch.values is not None and (
        batch.values.shape != ids.shape or not batch.values.is_floating_point()
    ):
        raise DataError(
            f"values are {batch.values.dtype} {list(batch.values.shape)}, expected floats"
            f" {list(ids.shape)}, as the ids"
        )
    fields = batch.fields
    if fields is not None and (
        fields.is_floating_point() or fields.shape not in (ids.shape, ids.shape[1:])
    ):
        raise DataError(
            f"fields are {fields.dtype} {list(fields.shape)}, expected integers {list(ids.shape)},"
            " as the ids"
        )
    if offsets is not None and (
        offsets.dtype != torch.int64 or offsets.dim() != 1 or not len(offsets)
    ):
        raise DataError(
            f"offsets are {offsets.dtype} {list(offsets.shape)}, expected int64 [batch + 1]"
        )
    if batch.checked == 0 or batch.checked > n_features:
        _check_contents(ids, offsets, n_features)
    return batch


def _check_contents(ids: Tensor, offsets: Tensor | None, n_features: int) -> None:
    if ids.numel():
        low, high = (int(end) for end in torch.aminmax(ids))
        if low < 0 or high >= n_features:
            at = int(((ids < 0) | (ids >= n_features)).reshape(-1).to(torch.uint8).argmax())
            found = int(ids.reshape(-1)[at])
            raise DataError(
                f"id {found} at position {at} is out of range, expected 0 to {n_features - 1}"
            )
    if offsets is not None:
        ends = int(offsets[0]), int(offsets[-1])
        if ends != (0, ids.shape[0]):
            raise DataError(
                f"offsets run from {ends[0]} to {ends[1]}, expected 0 to {ids.shape[0]}, the number"
                " of ids"
            )
        falls = offsets[1:] < offsets[:-1]
        if falls.any():
            raise DataError(f"offsets fall after row {int(falls.to(torch.uint8).argmax())}")


def to_tensor(array: NDArray[Any]) -> Tensor:
    """A tensor on the array's memory, or on a copy where the array is read-only.

    >>> import numpy as np
    >>> to_tensor(np.ones(2, np.float32))
    tensor([1., 1.])
    """
    return torch.from_numpy(array if array.flags.writeable else array.copy())
