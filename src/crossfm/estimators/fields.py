"""Estimators of the machines with parameters for fields: the plain ones, other models."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, final

from crossfm.estimators.classifier import FMClassifier
from crossfm.estimators.regressor import FMRegressor
from crossfm.solvers.options import Model

__all__ = [
    "FFMClassifier",
    "FFMRegressor",
    "FmFMClassifier",
    "FmFMRegressor",
    "FwFMClassifier",
    "FwFMRegressor",
    "with_defaults",
]


def with_defaults(init: Callable[..., None], **defaults: Any) -> Any:
    """An ``__init__`` of the same parameters with other defaults, named by its signature.

    A name that `init` does not have becomes a parameter more, which is kept on the estimator.

    Example:
        >>> one = with_defaults(FMRegressor.__init__, n_factors=4)
        >>> inspect.signature(one).parameters["n_factors"].default
        4
    """
    plain = inspect.signature(init)
    own = [name for name in defaults if name not in plain.parameters]
    signature = plain.replace(
        parameters=[
            *(
                parameter.replace(default=defaults.get(name, parameter.default))
                for name, parameter in plain.parameters.items()
            ),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=defaults[name])
                for name in own
            ),
        ]
    )

    def __init__(self: Any, *arguments: Any, **named: Any) -> None:
        given = signature.bind(self, *arguments, **named)
        given.apply_defaults()
        for name in own:
            setattr(self, name, given.arguments.pop(name))
        init(*given.args, **given.kwargs)

    __init__.__signature__ = signature  # type: ignore[attr-defined]
    return __init__


@final
class FFMRegressor(FMRegressor):
    r"""Field-aware factorization machine for numbers.

    ``y = w0 + sum_i w_i x_i + sum_{i<j} <v_{i,f(j)}, v_{j,f(i)}> x_i x_j``: a feature has a vector
    for each field that it meets. Fields are those of the schema, a column each in a matrix, and
    the ones that libffm text and `Rows` name; all of them must be in the first data seen. With F
    fields a feature has ``F n_factors`` numbers, so that few factors do.

    Args:
        n_factors: length k of each vector, 4 unless given; at least 1.
        interactions: "all", as in libffm; "across_fields" leaves out pairs of one field.
        options: all others are those of `FMRegressor`. Columns of numbers in matrices are scaled,
            but not shifted.

    Attributes:
        factors_: ``V`` ``[n_features, n_fields, n_factors]``, ``v_{i,g}`` at ``[i, g]``.
        model_: the parameters as a `FactorModel` of kind "ffm"; the other attributes are those of
            `FMRegressor`.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"], "film": ["x", "y", "x", "y"]}
        >>> model = FFMRegressor(random_state=0, n_epochs=200).fit(log, [1.0, 2.0, 3.0, 4.0])
        >>> model.factors_.shape  # users and films, each with an unknown one
        (6, 2, 4)

    Source: Juan et al. 2016, Field-aware Factorization Machines for CTR Prediction.
    """

    _model: ClassVar[Model] = "ffm"
    _centres = False
    __init__ = with_defaults(FMRegressor.__init__, n_factors=4)


@final
class FFMClassifier(FMClassifier):
    r"""Field-aware factorization machine for classes: clicks, purchases, categories.

    Scores as in `FFMRegressor`, in a sigmoid, or one a class in a softmax.

    Args:
        n_factors: length k of each vector, 4 unless given; at least 1.
        interactions: "all", as in libffm; "across_fields" leaves out pairs of one field.
        options: all others are those of `FMClassifier`. Columns of numbers in matrices are scaled,
            but not shifted.

    Attributes:
        factors_: ``V`` ``[n_features, n_fields, n_factors]``; a class more in front of them.
        model_: the parameters as a `FactorModel` of kind "ffm"; the other attributes are those of
            `FMClassifier`.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"] * 9, "ad": ["x", "y", "x", "y"] * 9}
        >>> clicked = ["yes", "no", "no", "yes"] * 9  # neither user nor ad alone tells
        >>> model = FFMClassifier(random_state=0, n_epochs=200).fit(log, clicked)
        >>> model.predict({"user": ["ann", "bob"], "ad": ["x", "x"]})
        array(['yes', 'no'], dtype='<U3')

    Source: Juan et al. 2016, Field-aware Factorization Machines for CTR Prediction.
    """

    _model: ClassVar[Model] = "ffm"
    _centres = False
    __init__ = with_defaults(FMClassifier.__init__, n_factors=4)


@final
class FwFMRegressor(FMRegressor):
    r"""Field-weighted factorization machine for numbers.

    ``y = w0 + sum_i w_i x_i + sum_{f<g} r_fg <p_f, p_g>``, ``p_f = sum_{i in f} v_i x_i``: a weight
    says how much two fields matter together. Weights start at 1 and have no penalty. Fields are
    as in `FFMRegressor`.

    Args:
        n_factors: length k of each vector, 16 unless given; at least 1.
        interactions: "across_fields", the only one.
        options: all others are those of `FMRegressor`. Columns of numbers in matrices are scaled,
            but not shifted.

    Attributes:
        model_: the parameters as a `FactorModel` of kind "fwfm", its ``field_weights`` among them;
            the other attributes are those of `FMRegressor`.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"], "film": ["x", "y", "x", "y"]}
        >>> model = FwFMRegressor(random_state=0, n_epochs=200).fit(log, [1.0, 2.0, 3.0, 4.0])
        >>> model.model_.field_weights.shape
        (2, 2)

    Source: Pan et al. 2018, Field-weighted Factorization Machines for Click-Through Rate
    Prediction in Display Advertising.
    """

    _model: ClassVar[Model] = "fwfm"
    _centres = False
    __init__ = with_defaults(FMRegressor.__init__, interactions="across_fields")


@final
class FwFMClassifier(FMClassifier):
    r"""Field-weighted factorization machine for classes: clicks, purchases, categories.

    Scores as in `FwFMRegressor`, in a sigmoid, or one a class in a softmax.

    Args:
        n_factors: length k of each vector, 16 unless given; at least 1.
        interactions: "across_fields", the only one.
        options: all others are those of `FMClassifier`. Columns of numbers in matrices are scaled,
            but not shifted.

    Attributes:
        model_: the parameters as a `FactorModel` of kind "fwfm", its ``field_weights`` among them;
            the other attributes are those of `FMClassifier`.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"] * 9, "ad": ["x", "y", "x", "y"] * 9}
        >>> clicked = ["yes", "no", "no", "yes"] * 9
        >>> model = FwFMClassifier(random_state=0, n_epochs=200).fit(log, clicked)
        >>> model.predict({"user": ["ann", "bob"], "ad": ["x", "x"]})
        array(['yes', 'no'], dtype='<U3')

    Source: Pan et al. 2018, Field-weighted Factorization Machines for Click-Through Rate
    Prediction in Display Advertising.
    """

    _model: ClassVar[Model] = "fwfm"
    _centres = False
    __init__ = with_defaults(FMClassifier.__init__, interactions="across_fields")


@final
class FmFMRegressor(FMRegressor):
    r"""Field-matrixed factorization machine for numbers.

    ``y = w0 + sum_i w_i x_i + sum_{f<g} <p_f M_fg, p_g>``, ``p_f = sum_{i in f} v_i x_i``: a matrix
    takes one field's vector to another's. Matrices start as the identity and have no penalty; every
    row reads and steps the ``(n_fields n_factors)^2`` numbers of all of them. Fields are as in
    `FFMRegressor`.

    Args:
        n_factors: length k of each vector, 8 unless given; at least 1.
        interactions: "across_fields", the only one.
        options: all others are those of `FMRegressor`. Columns of numbers in matrices are scaled,
            but not shifted.

    Attributes:
        model_: the parameters as a `FactorModel` of kind "fmfm", the matrices as its
            ``field_weights``; the other attributes are those of `FMRegressor`.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"], "film": ["x", "y", "x", "y"]}
        >>> model = FmFMRegressor(random_state=0, n_epochs=200).fit(log, [1.0, 2.0, 3.0, 4.0])
        >>> model.model_.field_weights.shape
        (2, 2, 8, 8)

    Source: Sun et al. 2021, FM^2: Field-matrixed Factorization Machines for Recommender Systems.
    """

    _model: ClassVar[Model] = "fmfm"
    _centres = False
    __init__ = with_defaults(FMRegressor.__init__, n_factors=8, interactions="across_fields")


@final
class FmFMClassifier(FMClassifier):
    r"""Field-matrixed factorization machine for classes: clicks, purchases, categories.

    Scores as in `FmFMRegressor`, in a sigmoid, or one a class in a softmax.

    Args:
        n_factors: length k of each vector, 8 unless given; at least 1.
        interactions: "across_fields", the only one.
        options: all others are those of `FMClassifier`. Columns of numbers in matrices are scaled,
            but not shifted.

    Attributes:
        model_: the parameters as a `FactorModel` of kind "fmfm", the matrices as its
            ``field_weights``; the other attributes are those of `FMClassifier`.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"] * 9, "ad": ["x", "y", "x", "y"] * 9}
        >>> clicked = ["yes", "no", "no", "yes"] * 9
        >>> model = FmFMClassifier(random_state=0, n_epochs=200).fit(log, clicked)
        >>> model.predict({"user": ["ann", "bob"], "ad": ["x", "x"]})
        array(['yes', 'no'], dtype='<U3')

    Source: Sun et al. 2021, FM^2: Field-matrixed Factorization Machines for Recommender Systems.
    """

    _model: ClassVar[Model] = "fmfm"
    _centres = False
    __init__ = with_defaults(FMClassifier.__init__, n_factors=8, interactions="across_fields")
