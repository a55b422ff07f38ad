"""Targets: what y becomes for a solver, and what a solver's scores become for the user."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from crossfm.errors import DataError
from crossfm.losses import Hinge, Logistic, Poisson, Softmax, sigmoid, softmax, weighted_quantile
from crossfm.metrics import Metric, get_metric

__all__ = ["ClassTargets", "NumberTargets", "Targets", "as_vector", "check_weight", "numbers_of"]

Array = NDArray[Any]
NumberLoss: TypeAlias = Literal["squared", "huber", "poisson", "quantile"]

TINY = float(np.finfo(np.float32).tiny)  # a predicted mean is never 0


class NumberTargets:
    """Regression: numbers, on a common scale for the solver. The scale of the first fit stays.

    A solver's score z means the score ``mean + std z``, and that the prediction, or under Poisson
    its logarithm. Targets become ``(y - mean) / std``, under Poisson ``y / exp(mean)``: their mean
    is 1 then.

    Attributes:
        mean: of the targets first seen, weights respected; their median under Huber, their
            quantile under the quantile loss, their mean's logarithm under Poisson.
        std: their deviation, 1 where all are equal; a robust one under Huber and the quantile loss;
            1 under Poisson.
        loss: "squared", "huber", "poisson" or "quantile".
        loss_parameter: of "huber" the deviations from which on it is linear, of "quantile" the
            level.
    """

    task: Literal["regression", "classification"] = "regression"
    likelihood = "normal"
    n_outputs = 1

    def __init__(
        self,
        mean: float = 0.0,
        std: float = 1.0,
        loss: NumberLoss = "squared",
        loss_parameter: float = 0.0,
    ) -> None:
        self.mean = mean
        self.std = std
        self.loss = loss
        self.loss_parameter = loss_parameter

    @staticmethod
    def learn(
        y: Any, weight: Array | None, loss: NumberLoss = "squared", loss_parameter: float = 0.0
    ) -> NumberTargets:
        """The scale of these targets."""
        numbers = numbers_of(y)
        size = float(np.abs(numbers).max()) or 1.0
        z = numbers / size  # squares of large numbers stay finite
        if loss == "poisson":
            mean = float(np.average(_counts(z), weights=weight))
            return NumberTargets(float(np.log(mean * size)) if mean else 0.0, 1.0, loss)
        if loss == "squared":
            mean = float(np.average(z, weights=weight))
            std = float(np.sqrt(np.average((z - mean) ** 2, weights=weight)))
        else:
            level = loss_parameter if loss == "quantile" else 0.5
            mean, std = weighted_quantile(z, level, weight), _robust_deviation(z, weight)
        return NumberTargets._of(mean * size, std * size, loss, loss_parameter)

    def of_all(self, mean: float, std: float) -> NumberTargets:
        """These, learned from a sample, for targets of this mean and deviation in all."""
        if self.loss == "squared":
            return self._of(mean, std, self.loss, self.loss_parameter)
        if self.loss == "poisson":
            return self.learn(np.array([mean]), None, self.loss)
        return self

    @staticmethod
    def _of(mean: float, std: float, loss: NumberLoss, loss_parameter: float) -> NumberTargets:
        """A deviation that is rounding only counts as none."""
        if std <= 1e-12 * max(abs(mean), 1e-300):
            return NumberTargets(mean, 1.0, loss, loss_parameter)
        return NumberTargets(mean, std, loss, loss_parameter)

    @property
    def metric(self) -> str | Metric:
        """What judges a validation, where nothing else is asked for."""
        if self.loss == "quantile":
            return get_metric(f"pinball@{self.loss_parameter!r}")
        return {"squared": "rmse", "huber": "mae", "poisson": "poisson_deviance"}[self.loss]

    @property
    def loss_scale(self) -> float:
        """What a solver's loss times it is the loss of the data."""
        if self.loss == "poisson":
            return float(np.exp(self.mean))
        return self.std if self.loss == "quantile" else self.std**2

    def encode(self, y: Any) -> NDArray[np.float32]:
        """The targets as the solver sees them."""
        if self.loss == "poisson":
            return (_counts(numbers_of(y)) / np.exp(self.mean)).astype(np.float32)
        return ((numbers_of(y) - self.mean) / self.std).astype(np.float32)

    def weigh(self, codes: NDArray[np.float32], weight: Array | None) -> Array | None:
        """The weights as they are."""
        return weight

    def start(self, codes: NDArray[np.float32], weight: Array | None) -> NDArray[np.float64]:
        """The score of a model without features: zero, but where all counts are."""
        if self.loss == "poisson":
            return np.atleast_1d(Poisson().initial_score(codes, weight))
        return np.zeros(1)

    def shown(self, scores: Array, needs: str) -> Array:
        """Predictions, or scores."""
        if self.loss == "poisson" and needs == "value":
            mean = np.exp(np.asarray(scores, np.float64))
            with np.errstate(over="ignore"):  # becomes infinite, refused where it is given out
                return np.maximum(mean, TINY).astype(np.float32)
        return scores

    def truth(self, codes: NDArray[np.float32], needs: str) -> Array:
        """The targets on their own scale."""
        if self.loss == "poisson":
            return codes.astype(np.float64) * np.exp(self.mean)
        return codes.astype(np.float64) * self.std + self.mean

    def strata(self, codes: NDArray[np.float32]) -> None:
        """None."""

    def state(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "mean": self.mean,
            "std": self.std,
            "loss": self.loss,
            "loss_parameter": self.loss_parameter,
        }


class ClassTargets:
    """Classification: labels of any kind, 0 .. C-1 for the solver; two classes make one output.

    Attributes:
        classes: the labels, sorted, ``[C]``.
        class_weight: label to weight, "balanced", or None.
    """

    loss: Literal["logistic", "softmax", "hinge"]
    task: Literal["regression", "classification"] = "classification"
    likelihood = "probit"
    mean, std, loss_scale, loss_parameter = 0.0, 1.0, 1.0, 0.0

    def __init__(self, classes: Array, class_weight: Any = None, loss: str = "logistic") -> None:
        self.classes = classes
        self.class_weight = class_weight
        self.loss = "hinge" if loss == "hinge" else "logistic" if len(classes) == 2 else "softmax"

    @staticmethod
    def learn(
        y: Any, class_weight: Any, classes: ArrayLike | None = None, loss: str = "logistic"
    ) -> ClassTargets:
        """The labels that occur, or those given."""
        labels = _labels(y) if classes is None else _labels(np.asarray(classes))
        found = np.unique(labels)
        if len(found) < 2:
            raise DataError(
                f"all {len(labels)} targets are of one class, {found.tolist()[0]!r}; a classifier"
                " needs at least two"
                if classes is None
                else f"classes holds {len(found)} labels, a classifier needs at least two"
            )
        return ClassTargets(found, class_weight, loss)

    @property
    def metric(self) -> str:
        """What judges a validation, where nothing else is asked for."""
        return "hinge_loss" if self.loss == "hinge" else "log_loss"

    @property
    def n_outputs(self) -> int:
        """1 for two classes, else one a class."""
        return 1 if len(self.classes) == 2 else len(self.classes)

    def encode(self, y: Any) -> NDArray[np.float32]:
        """The place of each label among the classes."""
        labels = _labels(y)
        try:
            place = np.searchsorted(self.classes, labels).clip(0, len(self.classes) - 1)
            unknown = self.classes[place] != labels
        except TypeError as error:
            raise DataError(
                f"targets are {labels.dtype}, the classes are {self.classes.dtype}"
            ) from error
        if np.any(unknown):
            row = int(np.argmax(unknown))
            shown = ", ".join(repr(c) for c in self.classes[:10].tolist())
            raise DataError(
                f"row {row}: target {labels.tolist()[row]!r} is none of the classes {shown}; name"
                " all of them with classes=... in the first partial_fit, or fit anew"
            )
        return place.astype(np.float32)

    def weigh(self, codes: NDArray[np.float32], weight: Array | None) -> Array | None:
        """The weight of each row times that of its class."""
        if self.class_weight is None:
            return weight
        of_class = np.ones(len(self.classes))
        if isinstance(self.class_weight, str):
            if self.class_weight != "balanced":
                raise DataError(
                    f"class_weight is {self.class_weight!r}, expected 'balanced', a dict of"
                    " label: weight, or None"
                )
            share = np.bincount(codes.astype(np.intp), weight, len(self.classes))
            of_class = np.where(share > 0, share.sum() / (len(share) * share.clip(1e-300)), 1.0)
        elif isinstance(self.class_weight, Mapping):
            for label, value in self.class_weight.items():
                at = np.flatnonzero(self.classes == label)
                if not len(at):
                    shown = ", ".join(repr(c) for c in self.classes[:10].tolist())
                    raise DataError(f"class_weight names {label!r}, the classes are {shown}")
                of_class[at] = _class_weight(label, value)
        else:
            raise DataError(
                f"class_weight is {self.class_weight!r}, expected 'balanced', a dict or None"
            )
        chosen = of_class[codes.astype(np.intp)]
        return chosen if weight is None else weight * chosen

    def start(self, codes: NDArray[np.float32], weight: Array | None) -> NDArray[np.float64]:
        """The log odds of the base rate; logs of the classes' shares; under hinge a margin."""
        if self.loss == "hinge":
            return np.atleast_1d(Hinge().initial_score(codes, weight, len(self.classes)))
        if self.loss == "logistic":
            return np.atleast_1d(Logistic().initial_score(codes, weight))
        return Softmax().initial_score(codes, weight, len(self.classes))

    def probabilities(self, scores: Array) -> NDArray[np.float64]:
        """Probability of the second of two classes ``[n]``, or of each class ``[n, C]``."""
        if self.loss == "hinge":
            Hinge().mean(scores)  # refuses
        return sigmoid(scores) if self.loss == "logistic" else softmax(scores)

    def labels(self, scores: Array) -> Array:
        """The most probable label of each row."""
        if self.n_outputs == 1:
            return self.classes[(scores > 0).astype(np.intp)]
        return self.classes[scores.argmax(axis=1)]

    def shown(self, scores: Array, needs: str) -> Array:
        """Labels, probabilities, or scores."""
        if needs == "value":
            return self.labels(scores)
        return self.probabilities(scores) if needs == "probability" else scores

    def truth(self, codes: NDArray[np.float32], needs: str) -> Array:
        """Labels where the metric looks at labels, else class numbers."""
        number = codes.astype(np.intp)
        return self.classes[number] if needs == "value" else number

    def strata(self, codes: NDArray[np.float32]) -> Array:
        """The classes."""
        return codes.astype(np.intp)

    def state(self) -> dict[str, Any]:
        """For JSON."""
        plain = self.classes.view(np.int64) if self.classes.dtype.kind in "mM" else self.classes
        return {"classes": plain.tolist(), "dtype": self.classes.dtype.str, "loss": self.loss}


Targets: TypeAlias = NumberTargets | ClassTargets


def check_weight(weight: Any, n_rows: int) -> NDArray[np.float64] | None:
    """Weights ``[n]`` as float64, checked: finite, not negative, not all zero."""
    if weight is None:
        return None
    try:
        checked = np.asarray(weight, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"sample_weight holds something else than numbers: {error}") from error
    if checked.ndim == 0:
        checked = np.full(n_rows, float(checked))
    if checked.ndim != 1:
        raise DataError(
            f"sample_weight has shape {checked.shape}; Sample weights must be 1D array or scalar"
        )
    if len(checked) != n_rows:
        raise DataError(f"sample_weight has {len(checked)} entries, X has {n_rows} rows")
    bad = ~np.isfinite(checked) | (checked < 0)
    if bad.any():
        row = int(np.argmax(bad))
        raise DataError(
            f"row {row}: sample_weight is {checked[row]}, expected a finite number that is not"
            " negative"
        )
    if n_rows and not checked.any():
        raise DataError("Sample weights must contain at least one non-zero number; all are zero")
    return checked


def _counts(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """Targets of the Poisson loss, none of which is negative."""
    if (numbers < 0).any():
        raise DataError(
            f"row {int(np.argmax(numbers < 0))}: the target is negative, and loss='poisson' takes"
            " counts, 0 or more; take another loss"
        )
    return numbers


def _robust_deviation(z: NDArray[np.float64], weight: Array | None) -> float:
    """1.4826 times the median distance to the median, which for normal numbers is the deviation.

    Where more than half are equal it is 0, and the mean distance is taken in its place.
    """
    distance = np.abs(z - weighted_quantile(z, 0.5, weight))
    return 1.4826 * weighted_quantile(distance, 0.5, weight) or float(
        np.average(distance, weights=weight)
    )


def _class_weight(label: Any, value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = -1.0
    if not 0.0 <= number < np.inf:
        raise DataError(
            f"class_weight of {label!r} is {value!r}, expected a finite number that is not negative"
        )
    return number


def as_vector(y: Any) -> Array:
    """Targets as a vector; a column is taken with scikit-learn's warning."""
    from sklearn.utils import column_or_1d

    if hasattr(y, "__array__") and not hasattr(y, "iloc"):  # polars, Arrow
        y = np.asarray(y)
    try:
        return column_or_1d(y, warn=True)
    except ValueError as error:
        raise DataError(str(error).split("\n")[0]) from error


def numbers_of(y: Any) -> NDArray[np.float64]:
    """Targets as finite numbers that float32 holds."""
    vector = as_vector(y)
    if vector.dtype.kind == "c":
        raise DataError("Complex data not supported: y holds complex numbers")
    if vector.dtype.kind in "mM":
        raise DataError(
            "y holds dates, times or durations; make them numbers whose unit you choose, for"
            " example days since a first day"
        )
    try:
        numbers = vector.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"y holds something else than numbers: {error}") from error
    bad = ~np.isfinite(numbers)
    if bad.any():
        row = int(np.argmax(bad))
        what = "NaN" if np.isnan(numbers[row]) else "infinity"
        raise DataError(
            f"Input y contains {what}: row {row}; drop the rows without a target, or fill them in"
        )
    large = np.abs(numbers) > np.finfo(np.float32).max
    if large.any():
        row = int(np.argmax(large))
        raise DataError(
            f"row {row}: the target is {numbers[row]:g}, beyond what float32 holds (3.4e38); take a"
            " larger unit, or logarithms"
        )
    return numbers


def _labels(y: Any) -> Array:
    from sklearn.utils.multiclass import check_classification_targets

    labels = as_vector(y)
    if labels.dtype.kind == "f":
        numbers_of(labels)
    elif labels.dtype.kind == "O":
        missing = np.array([v is None or v != v for v in labels], bool)
        if missing.any():
            raise DataError(
                f"Input y contains NaN: row {int(np.argmax(missing))} has no label; drop such rows"
            )
        if all(isinstance(v, str) for v in labels):
            labels = labels.astype(str)
        elif all(isinstance(v, bool | np.bool_) for v in labels):
            labels = labels.astype(bool)
        elif all(isinstance(v, int | np.integer) for v in labels):
            labels = labels.astype(np.int64)
    if labels.dtype.kind == "S" or (labels.size and isinstance(labels.flat[0], bytes)):
        raise DataError("the labels are bytes; decode them to strings: y.astype(str)")
    try:
        check_classification_targets(labels)
    except (TypeError, ValueError) as error:
        raise DataError(str(error)) from error
    return labels
