"""DeviceSweeper: Gibbs sampling and least squares on a GPU, by scatter and gather."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from crossfm import _native
from crossfm.errors import DataError

__all__ = ["DeviceSweeper"]

GIBBS, VARIATIONAL = 0, 2


class _Field(NamedTuple):
    """Features `first` to `first + n` of the design, at most one of them in a row."""

    first: int
    n: int
    unit_of: Tensor  # int64 [n_rows], from 0
    values: Tensor | None  # float32 [n_rows]; None: all ones

    def scaled(self, of_rows: Tensor) -> Tensor:
        return of_rows if self.values is None else self.values * of_rows


class DeviceSweeper:
    r"""Sweeps over the features of a design with its rows on a device of PyTorch.

    The conditionals are those of `crossfm.solvers.sweeps.Chain`. Features of a field share no row,
    so the sums that they need are one scatter over the rows, and the new residuals one gather::

        hh_u = sum_{r: u_r = u} h_r^2,   he_u = sum_{r: u_r = u} h_r e_r,   e_r -= h_r change_{u_r}

    Sums are in float64, parameters and residuals in float32. Normal numbers are those of the
    core's counter-based streams, so a chain is the one that the core draws, up to rounding; sums
    by atomic additions on CUDA come in any order, so runs differ in the last digits. Parameters
    and residuals travel to the device and back in each sweep.

    Takes the place of the core's sweeper in a `Design`: methods and arguments are the same.

    Args:
        device: where to, as for `torch.device`.
        n_rows: rows of the design.
        group_of: int32 ``[n_features]``, whose hyperparameters each feature has.
        n_groups: number of groups.
        row_weights: float32 ``[n_rows]``, or None.
        vb: variational Bayes, which is refused.

    Raises:
        DataError: no such device is there, or variational Bayes, bags or relation blocks.

    Source: Rendle 2012, Factorization Machines with libFM, algorithms 2 and 3.
    """

    def __init__(
        self,
        device: str,
        *,
        n_rows: int,
        group_of: NDArray[np.int32],
        n_groups: int,
        row_weights: NDArray[np.float32] | None,
        vb: bool,
    ) -> None:
        if vb:
            raise DataError("solver='vb' runs on the CPU alone: leave device at 'cpu'")
        self.device = _device(device)
        self.n_rows = n_rows
        self._group_of = self._put(group_of).long()
        self._weights = None if row_weights is None else self._put(row_weights)
        self._fields: list[_Field] = []
        self._next = 0
        # sums over all rows, and what else is not worth the way
        self._core = _native.Sweeper(
            n_rows=n_rows, group_of=group_of, n_groups=n_groups, row_weights=row_weights, vb=False
        )

    def add_field(
        self, *, features: int, unit_of: NDArray[np.int32], values: NDArray[np.float32] | None
    ) -> None:
        """The next features: a field of at most one feature a row."""
        field = _Field(
            self._next, features, self._put(unit_of).long(),
            None if values is None else self._put(values),
        )  # fmt: skip
        self._fields.append(field)
        self._next += features

    def add_block(self, **block: Any) -> None:
        """Refused: columns of a table are swept one after another, which is no work for a GPU."""
        raise DataError(
            "fields with several features a row (bags, or the columns of a matrix) and relation"
            " blocks are swept on the CPU alone: leave device at 'cpu'"
        )

    def sweep(
        self,
        *,
        residual: NDArray[np.float32],
        weights: NDArray[np.float32],
        factors: NDArray[np.float32],
        mean: NDArray[np.float64],
        precision: NDArray[np.float64],
        noise: float,
        method: int,
        seed: int,
        iteration: int,
        with_weights: bool,
        **rest: Any,
    ) -> None:
        """Go through all parameters once (method 0: Gibbs, 1: ALS), in place."""
        e = self._put(residual)
        means, precisions = self._put(mean), self._put(precision)
        rows = [weights, *factors] if with_weights else list(factors)
        for number, numbers in enumerate(rows, start=0 if with_weights else 1):
            values = self._put(numbers)
            q = None if number == 0 else self._pooled(values)
            noises = None
            if method == GIBBS:
                drawn = np.empty(len(numbers))
                _native.normals(seed=seed, a=iteration, b=number + 1, first=0, out=drawn)
                noises = self._put(drawn)
            for field in self._fields:
                part = slice(field.first, field.first + field.n)
                group = self._group_of[part]
                change = self._draw(
                    field, values[part], q, e,
                    means[number][group], precisions[number][group], noise,
                    None if noises is None else noises[part],
                )  # fmt: skip
                values[part] += change
            numbers[:] = values.cpu().numpy()
        residual[:] = e.cpu().numpy()

    def _draw(
        self,
        field: _Field,
        old: Tensor,
        q: Tensor | None,
        e: Tensor,
        mean: Tensor,
        precision: Tensor,
        noise: float,
        normals: Tensor | None,
    ) -> Tensor:
        """What is added to a field's values; rows follow."""
        unit_of = field.unit_of
        if q is None:
            h = torch.ones_like(e) if field.values is None else field.values
        else:
            h = field.scaled(q - field.scaled(old[unit_of]))
        weighted = h if self._weights is None else h * self._weights
        zero = torch.zeros(field.n, dtype=torch.float64, device=self.device)
        hh = zero.index_add(0, unit_of, (weighted * h).double())
        he = zero.index_add(0, unit_of, (weighted * e).double())
        p = precision + noise * hh
        following = (precision * mean + noise * (he + old * hh)) / p
        if normals is not None:
            following = following + normals / p.sqrt()
        change = torch.where(p > 0, following, old.double()).float() - old
        of_rows = change[unit_of]
        e -= h * of_rows
        if q is not None:
            q += field.scaled(of_rows)
        return change

    def residuals(
        self,
        *,
        targets: NDArray[np.float32],
        bias: float,
        residual: NDArray[np.float32],
        weights: NDArray[np.float32],
        factors: NDArray[np.float32],
        **rest: Any,
    ) -> None:
        """Write targets less scores, from nothing but the parameters."""
        e = self._put(targets) - bias - self._pooled(self._put(weights))
        for numbers in factors:
            values = self._put(numbers)
            e -= 0.5 * self._pooled(values).square()
            for field in self._fields:
                own = field.scaled(values[field.first : field.first + field.n][field.unit_of])
                e += 0.5 * own.square()
        residual[:] = e.cpu().numpy()

    def moments(self, *, residual: NDArray[np.float32], threads: int) -> tuple[float, float]:
        """Weighted sums of the residual and of its square."""
        total, squares = self._core.moments(residual=residual, threads=threads)
        return float(total), float(squares)

    def _pooled(self, values: Tensor) -> Tensor:
        """Sum of ``x_i v_i`` over the features of each row."""
        q = torch.zeros(self.n_rows, device=self.device)
        for field in self._fields:
            q += field.scaled(values[field.first : field.first + field.n][field.unit_of])
        return q

    def _put(self, numbers: NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(numbers)).to(self.device)


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise DataError(
            f"device is {name!r}, which is not to be had here: {reason}; take 'cpu', or 'cuda'"
            " where there is a GPU and a PyTorch for it"
        ) from None
    if device.type == "mps":
        raise DataError("device='mps' has no float64, which sums over rows need: take 'cpu'")
    return device
