"""Estimators of the higher-order machine: the plain ones, where more than two features cross."""

from __future__ import annotations

from typing import Any, ClassVar, final

from crossfm.estimators.classifier import FMClassifier
from crossfm.estimators.fields import with_defaults
from crossfm.estimators.regressor import FMRegressor
from crossfm.solvers.options import Model

__all__ = ["HOFMClassifier", "HOFMRegressor"]


@final
class HOFMRegressor(FMRegressor):
    r"""Factorization machine of higher order for numbers.

    ``y = w0 + sum_i w_i x_i + sum_{t=2}^{order} sum_{i_1<...<i_t} <v^t_{i_1}, ..., v^t_{i_t}>
    x_{i_1} ... x_{i_t}``: sets of up to `order` features cross, with a vector for each order.
    The work is that of pairs times the order. Products of many small numbers have small slopes:
    where the higher orders do not learn, start them larger with `init_scale`.

    Args:
        n_factors: length k of each vector, 8 unless given; at least 1.
        order: the largest sets, 3 to 8.
        interactions: "all", or "across_fields": features of one field are summed first, and the
            sums cross.
        options: all others are those of `FMRegressor`; `init_scale` is 0.1 unless given. Columns of
            numbers in matrices are scaled, but not shifted.

    Attributes:
        factors_: ``V`` ``[n_features, order - 1, n_factors]``, ``v^t_i`` at ``[i, t - 2]``.
        model_: the parameters as a `FactorModel` of kind "hofm"; the other attributes are those of
            `FMRegressor`.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"], "film": ["x", "y", "x", "y"]}
        >>> model = HOFMRegressor(random_state=0, n_epochs=200).fit(log, [1.0, 2.0, 3.0, 4.0])
        >>> model.factors_.shape  # users and films, each with an unknown one
        (6, 2, 8)

    Source: Blondel et al. 2016, Higher-Order Factorization Machines.
    """

    _model: ClassVar[Model] = "hofm"
    _centres = False
    order: int
    __init__: Any = with_defaults(FMRegressor.__init__, n_factors=8, init_scale=0.1, order=3)


@final
class HOFMClassifier(FMClassifier):
    r"""Factorization machine of higher order for classes: clicks, purchases, categories.

    Scores as in `HOFMRegressor`, in a sigmoid, or one a class in a softmax.

    Args:
        n_factors: length k of each vector, 8 unless given; at least 1.
        order: the largest sets, 3 to 8.
        interactions: as in `HOFMRegressor`.
        options: all others are those of `FMClassifier`; `init_scale` is 0.1 unless given. Columns
            of numbers in matrices are scaled, but not shifted.

    Attributes:
        factors_: ``V`` ``[n_features, order - 1, n_factors]``; a class more in front of them.
        model_: the parameters as a `FactorModel` of kind "hofm"; the other attributes are those of
            `FMClassifier`.

    Example:
        >>> log = {c: [b >> i & 1 for b in range(8)] * 9 for i, c in enumerate("xyz")}
        >>> odd = [(b ^ b >> 1 ^ b >> 2) & 1 for b in range(8)] * 9  # no pair tells
        >>> model = HOFMClassifier(random_state=0, n_epochs=300, init_scale=0.3).fit(log, odd)
        >>> model.score(log, odd)
        1.0

    Source: Blondel et al. 2016, Higher-Order Factorization Machines.
    """

    _model: ClassVar[Model] = "hofm"
    _centres = False
    order: int
    __init__: Any = with_defaults(FMClassifier.__init__, n_factors=8, init_scale=0.1, order=3)
