"""What a solver needs to know, travelling together: one frozen dataclass a solver."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Literal, get_args

from crossfm.errors import DataError, did_you_mean
from crossfm.model import MOST_ORDER

__all__ = [
    "FTRL",
    "SGD",
    "SOLVERS",
    "AdaGrad",
    "Adam",
    "RowwiseAdaGrad",
    "SolverOptions",
    "solver_options",
]

MOST_ROWS = 8192  # of the matrix of all fields

Loss = Literal["squared", "logistic", "softmax", "hinge", "huber", "poisson", "quantile"]
Interactions = Literal["all", "across_fields"]
Model = Literal["fm", "ffm", "fwfm", "fmfm", "hofm"]
Precision = Literal["float32", "bfloat16"]
PENALTIES = ("l2_linear", "l2_factors")


@dataclass(frozen=True, slots=True)
class SolverOptions:
    r"""Options of the fused row-by-row solvers.

    One row is scored, its gradient ``g = d loss / d score`` found, and each of its features
    updated with ``dw_i = g x_i`` and ``dv_i = g x_i (S - p_i)``, in one pass over the row's
    parameters (`S`: sum of the pooled vectors, `p_i`: the pooled vector of the feature's field).

    Attributes:
        n_factors: length k of each feature's vector; 0 gives a linear model.
        loss: a name of `crossfm.losses.LOSSES`: "squared", "huber" or "quantile" (any targets),
            "poisson" (targets 0 or more, the score is their mean's logarithm), "logistic" (targets
            0 and 1), "softmax" (targets 0 .. n_outputs-1), or "hinge" (either).
        loss_parameter: of "huber" the residual from which it is linear, of "quantile" the level.
        interactions: "all" pairs of features, or pooled per field and crossed "across_fields".
        learning_rate: step size.
        l2_linear: penalty ``l2 / 2 * w_i^2`` at each touch of a feature; one number, or one a
            field.
        l2_factors: the same for the factors.
        init_scale: standard deviation of the random factors at the start.
        n_outputs: 1, or the number of classes under softmax and hinge.
        shuffle: visit the rows of an epoch in random order; from 100,000 rows on in runs of
            eight neighbours.
        n_jobs: threads; -1 for all cores.
        deterministic: bit-equal results for a seed on any number of threads: rows are scored in
            short blocks, and then every thread updates features of its own. Slower than
            ``n_jobs=1``, which is bit-equal too.
        seed: of factors and order.
        model: "fm"; "ffm", whose features have a vector of `n_factors` for each field that they
            meet, ``dv_{i,g} = g x_i T_{g,f(i)}`` with ``T_{f,g} = sum_{i in f} x_i v_{i,g}``; or
            "fwfm", with a weight for each two fields, ``dr_{f,g} = g <p_f, p_g>``, that starts at 1
            and has no penalty; "fmfm", with a matrix in its place, ``dM_{f,g} = g p_f p_g^T``, that
            starts as the identity; or "hofm", where sets of up to `order` features cross, with a
            vector of `n_factors` for each order from 2 on. Penalties of a feature are for all of
            its vectors.
        n_fields: number of fields, for "ffm", "fwfm" and "fmfm".
        order: of "hofm".
        field_learning_rates: step sizes of the features of each field; (): `learning_rate`, which
            is also that of the bias and of the weights of fields.
        l2_scaling: with what power of its count the whole penalty of a feature grows; see
            `FeatureCounts`. None: 1, as features pay at each touch ("ftrl": 0, as they pay once).
        min_count_factors: a feature has a linear weight alone until it has been seen so often in
            the rows prepared for training.
        adaptive: penalties of `PENALTIES` that are learned on the validation rows of a fit, one a
            field where they are given so; see `FusedTrainer.adapt`. "adagrad" and "sgd" only.
    """

    optimizer: ClassVar[str] = ""
    states: ClassVar[int] = 0  # numbers kept beside each factor
    linear_states: ClassVar[int] = 0  # and beside each linear weight and bias

    n_factors: int = 16
    loss: Loss = "squared"
    loss_parameter: float = 0.0
    interactions: Interactions = "all"
    learning_rate: float = 0.05
    l2_linear: float | Sequence[float] = 0.0
    l2_factors: float | Sequence[float] = 0.0
    init_scale: float = 0.01
    n_outputs: int = 1
    shuffle: bool = True
    n_jobs: int = 1
    deterministic: bool = False
    seed: int = 0
    model: Model = "fm"
    n_fields: int = 0
    order: int = 2
    field_learning_rates: Sequence[float] = ()
    l2_scaling: float | None = None
    min_count_factors: int = 1
    adaptive: Sequence[str] = ()

    @property
    def bfloat16(self) -> bool:
        """Whether factors and their state are kept in half of float32."""
        return False

    @property
    def n_vectors(self) -> int | None:
        """Vectors of a feature, where it has several."""
        return {"ffm": self.n_fields, "hofm": self.order - 1}.get(self.model)

    @property
    def natural_scaling(self) -> float:
        """The `l2_scaling` that needs no counts."""
        return 0.0 if self.optimizer == "ftrl" else 1.0

    @property
    def numbers(self) -> int:
        """Factors of a feature, over all of its vectors."""
        return self.n_factors * (self.n_vectors or 1)

    @property
    def by_field(self) -> bool:
        """Whether there are parameters for fields."""
        return self.model in ("ffm", "fwfm", "fmfm")

    def __post_init__(self) -> None:
        _expect_integer("n_factors", self.n_factors, 0, 4096)
        _expect_one_of("loss", self.loss, get_args(Loss))
        if self.loss in ("huber", "quantile"):
            most = 1.0 if self.loss == "quantile" else math.inf
            _expect_number(
                f"loss_parameter of loss={self.loss!r}", self.loss_parameter, above=0.0, below=most
            )
        _expect_one_of("interactions", self.interactions, ("all", "across_fields"))
        _expect_number("learning_rate", self.learning_rate, above=0.0)
        for name in ("l2_linear", "l2_factors"):
            value = getattr(self, name)
            several = isinstance(value, Sequence) and not isinstance(value, str)
            for number in value if several else [value]:
                _expect_number(name, number, least=0.0)
        _expect_number("init_scale", self.init_scale, least=0.0)
        for number in self.field_learning_rates:
            _expect_number("field_learning_rates", number, above=0.0)
        if self.l2_scaling is not None:
            _expect_number("l2_scaling", self.l2_scaling, least=0.0)
            if self.l2_scaling > 2:
                raise DataError(
                    f"l2_scaling is {self.l2_scaling!r}, expected a number from 0 (the penalty of a"
                    " feature is the same however often it was seen) over 1 (in proportion) to 2"
                )
        _expect_integer("min_count_factors", self.min_count_factors, 1, 2**31 - 1)
        for name in self.adaptive:
            _expect_one_of("adaptive", name, PENALTIES)
        if self.adaptive and self.optimizer not in ("adagrad", "sgd"):
            raise DataError(
                f"{' and '.join(self.adaptive)} cannot be adaptive with solver={self.optimizer!r},"
                " whose steps do not follow a penalty's gradient; take 'adagrad' or 'sgd'"
            )
        _expect_integer("n_outputs", self.n_outputs, 1, 2**16)
        if self.loss not in ("softmax", "hinge") and self.n_outputs != 1:
            raise DataError(f"n_outputs={self.n_outputs} needs loss='softmax' or 'hinge'")
        _expect_one_of("model", self.model, get_args(Model))
        _expect_integer("order", self.order, 2, MOST_ORDER)
        if (self.order > 2) != (self.model == "hofm"):
            raise DataError(
                f"order is {self.order} and the model {self.model!r}: orders from 3 on belong to"
                " 'hofm', and it needs one"
            )
        if self.model != "fm":
            _expect_integer("n_factors", self.n_factors, 1, 4096)
        if self.by_field:
            _expect_integer("n_fields", self.n_fields, 1, 2**31 - 1)
            if self.numbers > 2**16:
                raise DataError(
                    f"{self.n_fields} fields with {self.n_factors} factors each are {self.numbers}"
                    " numbers a feature, at most 65536 are possible; take fewer factors or fields"
                )
        if self.model in ("fwfm", "fmfm") and self.interactions != "across_fields":
            raise DataError(
                f"interactions is {self.interactions!r}, and a {self.model} model crosses the"
                " pooled vectors of its fields: take 'across_fields'"
            )
        if self.model == "fmfm" and self.n_fields * self.n_factors > MOST_ROWS:
            raise DataError(
                f"{self.n_fields} fields with {self.n_factors} factors each make matrices of"
                f" {(self.n_fields * self.n_factors) ** 2:,} numbers, which every row steps;"
                f" fields times factors may be {MOST_ROWS}: take fewer, or a 'fwfm' model"
            )
        if not isinstance(self.n_jobs, int) or self.n_jobs == 0 or self.n_jobs < -1:
            raise DataError(f"n_jobs must be a positive integer or -1 (all), got {self.n_jobs!r}")


@dataclass(frozen=True, slots=True)
class SGD(SolverOptions):
    """Plain stochastic gradient descent: ``v -= learning_rate * (g + l2 v)``.

    The step size has to suit the data: too large a step diverges, which stops the fit with a
    `DivergedError`.
    """

    optimizer: ClassVar[str] = "sgd"
    states: ClassVar[int] = 0

    learning_rate: float = 0.01


@dataclass(frozen=True, slots=True)
class AdaGrad(SolverOptions):
    """AdaGrad: ``a += g^2``, ``v -= learning_rate * g / sqrt(a)``, each number on its own.

    Attributes:
        initial_accumulator: value of ``a`` before the first step; larger is more careful.
        precision: what factors and their ``a`` are kept in between steps. "bfloat16" takes half
            the memory: they have 8 bits, each step is taken in float32, and its result rounded up
            or down at random, so that the mean over many roundings is the number itself and small
            steps are not lost. Linear weights stay float32. For "fm" and "ffm".

    Sources: Duchi, Hazan, Singer 2011; Gupta et al. 2015, Deep Learning with Limited Numerical
    Precision (stochastic rounding).
    """

    optimizer: ClassVar[str] = "adagrad"
    states: ClassVar[int] = 1
    linear_states: ClassVar[int] = 1

    learning_rate: float = 0.05
    initial_accumulator: float = 1.0
    precision: Precision = "float32"

    @property
    def bfloat16(self) -> bool:
        """Whether factors and their state are kept in half of float32."""
        return self.precision == "bfloat16"

    def __post_init__(self) -> None:
        super(AdaGrad, self).__post_init__()
        _expect_number("initial_accumulator", self.initial_accumulator, least=1e-30)
        _expect_one_of("precision", self.precision, get_args(Precision))
        if self.precision == "float32":
            return
        if self.model not in ("fm", "ffm"):
            raise DataError(
                f"precision is {self.precision!r}, which {self.model} models are not trained in:"
                " take 'float32', or an fm or ffm model"
            )
        if self.adaptive:
            raise DataError(
                f"precision is {self.precision!r}, and penalties adapt in 'float32' alone: give"
                f" {' and '.join(self.adaptive)} as numbers, or take 'float32'"
            )


@dataclass(frozen=True, slots=True)
class RowwiseAdaGrad(SolverOptions):
    """AdaGrad with one sum of squares for all factors of a feature.

    ``a_i += mean(g_i^2)``, ``v_i -= learning_rate * (g_i + l2 v_i) / sqrt(a_i)``, with ``g_i`` the
    gradient of the loss by all factors of feature i. Weights and biases have sums of their own, as
    under `AdaGrad`. It keeps half the numbers that `AdaGrad` does, and where a feature has many
    factors, as in an "ffm" model, is faster by as much. For "fm" and "ffm".

    Attributes:
        initial_accumulator: value of ``a`` before the first step; larger is more careful.

    Source: Gupta, Bengio, Weston 2014, Training Highly Multiclass Classifiers, section 4.
    """

    optimizer: ClassVar[str] = "rowwise_adagrad"
    states: ClassVar[int] = 0
    linear_states: ClassVar[int] = 3  # two sums, and one that fills a quarter of a cache line

    learning_rate: float = 0.05
    initial_accumulator: float = 1.0

    def __post_init__(self) -> None:
        super(RowwiseAdaGrad, self).__post_init__()
        _expect_number("initial_accumulator", self.initial_accumulator, least=1e-30)
        if self.model not in ("fm", "ffm"):
            raise DataError(
                f"solver is {self.optimizer!r}, which does not train {self.model} models: take"
                " 'adagrad', or an fm or ffm model"
            )


@dataclass(frozen=True, slots=True)
class FTRL(SolverOptions):
    """FTRL-proximal: AdaGrad's step sizes with L1 and L2 in closed form; L1 gives exact zeros.

    ``z += g - (sqrt(n + g^2) - sqrt(n)) / learning_rate * v``, ``n += g^2``,
    ``v = -shrink(z, l1) / ((beta + sqrt(n)) / learning_rate + l2)``.

    Attributes:
        beta: steadies the first steps.
        l1_linear: L1 penalty of the linear weights.
        l1_factors: L1 penalty of the factors.

    Source: McMahan et al. 2013, algorithm 1.
    """

    optimizer: ClassVar[str] = "ftrl"
    states: ClassVar[int] = 2
    linear_states: ClassVar[int] = 2

    learning_rate: float = 0.1
    beta: float = 1.0
    l1_linear: float = 0.0
    l1_factors: float = 0.0

    def __post_init__(self) -> None:
        super(FTRL, self).__post_init__()
        _expect_number("beta", self.beta, above=0.0)
        for name in ("l1_linear", "l1_factors"):
            _expect_number(name, getattr(self, name), least=0.0)


@dataclass(frozen=True, slots=True)
class Adam(SolverOptions):
    r"""Lazy Adam: the steps follow the mean gradient over the root of its mean square.

    ``m += (1 - beta1) (g - m)``, ``a += (1 - beta2) (g^2 - a)``,
    ``v -= learning_rate * m' / (sqrt(a') + epsilon)`` with ``m' = m / (1 - beta1^t)`` and
    ``a' = a / (1 - beta2^t)``, t the number of rows trained so far. What a row does not hold stands
    still, its averages too; so a feature that is first seen late begins with steps of up to
    ``(1 - beta1) / sqrt(1 - beta2)``, about three, learning rates. The bias, and the field weights
    of a field-weighted model, belong to all rows and step with each.

    Steps do not shrink with the rows trained: what is best is often passed soon, so validate.

    Attributes:
        beta1: decay of the mean gradient.
        beta2: decay of its mean square.
        epsilon: keeps the quotient finite.

    Source: Kingma and Ba 2015, algorithm 1.
    """

    optimizer: ClassVar[str] = "adam"
    states: ClassVar[int] = 2
    linear_states: ClassVar[int] = 2

    learning_rate: float = 0.001
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        super(Adam, self).__post_init__()
        for name in ("beta1", "beta2"):
            decay = getattr(self, name)
            if not (isinstance(decay, int | float) and 0.0 <= decay < 1.0):
                raise DataError(f"{name} must be a number from 0 to below 1, got {decay!r}")
        _expect_number("epsilon", self.epsilon, least=1e-30)


SOLVERS: dict[str, type[SolverOptions]] = {
    "adagrad": AdaGrad,
    "rowwise_adagrad": RowwiseAdaGrad,
    "sgd": SGD,
    "ftrl": FTRL,
    "adam": Adam,
}


def solver_options(solver: str, **options: Any) -> SolverOptions:
    """Options of a solver by its name; None keeps the solver's default.

    >>> solver_options("adagrad", n_factors=8, learning_rate=None).learning_rate
    0.05
    """
    _expect_one_of("solver", solver, tuple(SOLVERS))
    kind = SOLVERS[solver]
    given = {name: value for name, value in options.items() if value is not None}
    known = {f.name for f in fields(kind)}
    for name, value in given.items():
        if name not in known and value:
            owners = [n for n, k in SOLVERS.items() if name in {f.name for f in fields(k)}]
            raise DataError(
                f"{name}={value!r} does not apply to solver={solver!r}"
                + (f"; it belongs to {' and '.join(owners)}" if owners else "")
            )
    return kind(**{name: value for name, value in given.items() if name in known})


def _expect_integer(name: str, value: object, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise DataError(f"{name} must be an integer from {least} to {most}, got {value!r}")


def _expect_number(
    name: str,
    value: Any,
    *,
    above: float | None = None,
    below: float = math.inf,
    least: float | None = None,
) -> None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if above is not None and not (above < number < below):
        limit = "" if below == math.inf else f" and below {below:g}"
        raise DataError(f"{name} must be a finite number above {above:g}{limit}, got {value!r}")
    if least is not None and not (least <= number < math.inf):
        raise DataError(f"{name} must be a finite number of at least {least:g}, got {value!r}")


def _expect_one_of(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        listed = ", ".join(repr(c) for c in choices)
        raise DataError(
            f"{name} must be one of {listed}, got {value!r}.{did_you_mean(value, choices)}"
        )
