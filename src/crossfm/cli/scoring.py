"""Files through a model, in batches: scores, targets, and what the model had not seen before."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from crossfm.cli.format import a_count
from crossfm.cli.sampling import SWEEPS
from crossfm.errors import DataError, ModelFileError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfm.data.rows import Rows

__all__ = ["Batch", "Scorer", "Beside"]

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Beside:
    """What is asked for beside the scores.

    Attributes:
        std: the deviation of what may be observed.
        coverage: of intervals, or None.
        levels: the probability of each ordered level, and the scores are not.
    """

    std: bool = False
    coverage: float | None = None
    levels: bool = False


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows and their scores.

    Attributes:
        start: number of the first row, over all files.
        scores: predictions, or raw scores in classification: ``[n]``, or ``[n, C]``.
        table: the columns that were read, None in text formats.
        targets: of text formats, else None.
        more: what else was asked for, by the names of its columns.
    """

    start: int
    scores: NDArray[np.float32]
    table: pa.Table | None
    targets: NDArray[np.float32] | None
    more: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores)


SCORES = Beside()


@dataclass(eq=False)
class Scorer:
    """A model file, ready to score.

    Attributes:
        path: of the file.
        estimator: what was saved in it.
        about: what `crossfm fit` noted beside it, such as the target's name.
        unknown: so far, for each field, how many values the model had not seen in training.
        missing: the same for missing values.
        n_rows: scored so far.
    """

    path: Path
    estimator: Any
    about: Mapping[str, Any]
    unknown: Counter[str] = field(default_factory=Counter)
    missing: Counter[str] = field(default_factory=Counter)
    n_rows: int = 0

    @staticmethod
    def load(path: Path, precision: Any = None) -> Scorer:
        """Read a model file; `precision` as in `crossfm.load`.

        Raises:
            ModelFileError: absent, damaged, of a newer version, or no estimator's.
        """
        from crossfm.estimators import load
        from crossfm.store import read_header

        estimator = load(path, precision=precision)
        about = read_header(path).metadata.get("about")
        return Scorer(path, estimator, about if isinstance(about, dict) else {})

    @property
    def features(self) -> Any:
        """How the estimator reads rows.

        Raises:
            ModelFileError: it does not read rows, but keys of users and items.
        """
        found = getattr(self.estimator, "_features", None)
        if found is None:
            raise ModelFileError(
                f"{self.path} holds an {type(self.estimator).__name__}, which reads users and items"
                " by their keys: in Python, crossfm.load(path).recommend(users); over HTTP, crossfm"
                " serve"
            )
        return found

    @property
    def is_classifier(self) -> bool:
        """Whether it predicts classes."""
        return hasattr(self.estimator, "classes_")

    @property
    def is_ordinal(self) -> bool:
        """Whether it predicts ordered levels."""
        return hasattr(self.estimator, "levels_")

    @property
    def task(self) -> str:
        """What it predicts, in the words of ``crossfm fit --task``."""
        if self.is_ordinal:
            return "ordinal"
        return "classification" if self.is_classifier else "regression"

    @property
    def sweeps(self) -> bool:
        """Whether it was fitted by sweeps: classes and levels by a probit."""
        return getattr(self.estimator, "solver", None) in SWEEPS

    @property
    def knows_how_sure(self) -> bool:
        """Whether numbers come with deviations and intervals."""
        return hasattr(self.estimator, "predict_interval") and not self.is_mean

    @property
    def is_mean(self) -> bool:
        """Whether it is the mean of draws that were not kept."""
        return self.sweeps and not hasattr(self.estimator, "draws_")

    @property
    def knows_probabilities(self) -> bool:
        """Whether classes come with probabilities, and not with margins."""
        return hasattr(self.estimator, "predict_proba")

    @property
    def loss(self) -> str:
        """What it was fitted to."""
        return str(getattr(self.estimator, "loss", ""))

    @property
    def own_metrics(self) -> list[str]:
        """Metrics that a regression's loss brings along."""
        if self.loss == "quantile":
            return [f"pinball@{float(self.estimator.quantile)!r}"]
        return ["poisson_deviance"] if self.loss == "poisson" else []

    def batches(
        self,
        data: Sequence[Path],
        columns: Sequence[str] = (),
        batch_rows: int = BATCH_ROWS,
        beside: Beside = SCORES,
    ) -> Iterator[Batch]:
        """The rows of files, scored, in bounded memory.

        Args:
            data: files, or folders of them, of the kind that the model was fitted on.
            columns: to be read beside those that the model needs.
            batch_rows: rows at a time.
            beside: what is asked for with the scores; the model must know it.

        Raises:
            SchemaError: a column that is not there; columns where the model knows only ids.
            DataError: damaged files, values that no model takes, no rows.
        """
        from crossfm.data.inputs import paths_of

        paths = paths_of(data)
        self.check_kind(paths)
        schema = self.estimator.schema_
        start = 0
        for path in paths:
            read = self._rows(path, batch_rows) if schema is None else self._tables(
                path, columns, batch_rows
            )  # fmt: skip
            for X, table, targets in read:
                scores, more = self._score(X, beside)
                batch = Batch(start, scores, table, targets, more)
                start += len(batch)
                yield batch
        if start == 0:
            raise DataError(f"{paths[0]} holds no rows")

    def check_kind(self, paths: Sequence[Path]) -> None:
        """Refuse files of another kind than the model was fitted on.

        Raises:
            SchemaError: text for a model of columns, or columns for one of text.
        """
        from crossfm.data.inputs import are_tables

        schema = self.estimator.schema_
        if are_tables(paths) != (schema is not None):
            raise SchemaError(
                f"{self.path} was fitted on columns with names, {paths[0]} has none; give Parquet"
                " or CSV files"
                if schema is not None
                else f"{self.path} was fitted on libsvm or libffm text, without names of columns;"
                f" {paths[0]} is a table"
            )

    def text_rows(self, path: Path, batch_rows: int) -> Iterator[Rows]:
        """The rows of a libsvm or libffm file, with their targets."""
        from crossfm.data import text
        from crossfm.data.inputs import file_format

        read = text.iter_libffm if file_format(path) == "libffm" else text.iter_libsvm
        yield from read(path, batch_rows=batch_rows)

    def labels(self, scores: NDArray[np.float32]) -> NDArray[Any]:
        """The most probable class of each row."""
        if scores.ndim == 1:
            return self.estimator.classes_[(scores > 0).astype(np.intp)]
        return self.estimator.classes_[scores.argmax(axis=1)]

    def probabilities(self, scores: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of the second of two classes ``[n]``, or of each class ``[n, C]``."""
        from crossfm.losses import sigmoid, softmax

        return sigmoid(scores) if scores.ndim == 1 else softmax(scores)

    def codes(self, y: NDArray[Any], start: int = 0) -> NDArray[np.intp]:
        """The number of each label among the classes; 1 and "1" and 1.0 are the same label.

        Raises:
            DataError: a label that the model does not know.
        """
        known = {_key(label): code for code, label in enumerate(self.estimator.classes_.tolist())}
        labels = y.astype(str) if y.dtype.kind == "O" else y
        distinct, place = np.unique(labels, return_inverse=True)
        codes = np.array([known.get(_key(label), -1) for label in distinct.tolist()], np.intp)
        found: NDArray[np.intp] = codes[place]
        if (found < 0).any():
            row = int(np.argmax(found < 0))
            classes = ", ".join(repr(c) for c in self.estimator.classes_.tolist()[:10])
            raise DataError(
                f"row {start + row}: the label {y[row]!r} is none of the model's classes {classes}"
            )
        return found

    def unseen_words(self) -> list[str]:
        """Lines that say what was not seen in training, and what was missing."""
        lines = []
        for what, counts in (
            ("not seen in training", self.unknown),
            ("missing values", self.missing),
        ):
            told = [f"{name} {a_count(n)}" for name, n in counts.most_common(8) if n]
            more = len([n for n in counts.values() if n]) - len(told)
            if told:
                lines.append(f"{what}: {', '.join(told)}{f' and {more} more' if more > 0 else ''}")
        return lines

    def unseen(self) -> dict[str, dict[str, int]]:
        """The same for JSON: field to counts."""
        names = dict.fromkeys([*self.unknown, *self.missing])
        return {n: {"unknown": self.unknown[n], "missing": self.missing[n]} for n in names}

    def score(self, X: Any) -> NDArray[np.float32]:
        """The scores of rows at hand, as those of `Batch`."""
        return self._score(X, SCORES)[0]

    # --- inside -----------------------------------------------------------------------------

    def _score(
        self, X: Any, beside: Beside
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[np.float32]]]:
        estimator, more = self.estimator, {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # ids beyond the model: counted below
            if self.is_classifier:
                scores = estimator.decision_function(X)
            elif beside.levels:
                found = estimator.predict_proba(X).astype(np.float32)
                scores = found[:, 0]
                names = [f"probability_{level:g}" for level in estimator.levels_.tolist()]
                more = dict(zip(names, found.T, strict=True))
            elif beside.std:
                scores, more["std"] = estimator.predict(X, return_std=True)
            else:
                scores = estimator.predict(X)
            if beside.coverage is not None:
                more["low"], more["high"] = estimator.predict_interval(X, beside.coverage).T
        self.n_rows += len(scores)
        schema = self.estimator.schema_
        if schema is not None:
            for name, counts in schema.unseen_.items():
                self.unknown[name] += counts.unknown
                self.missing[name] += counts.missing
        else:
            n_features = self.estimator.models_[0].n_features
            beyond = int((X.ids >= n_features).sum())
            if beyond:
                self.unknown["ids"] += beyond
        return scores, more

    def _tables(
        self, path: Path, columns: Sequence[str], batch_rows: int
    ) -> Iterator[tuple[Any, Any, Any]]:
        from crossfm.data.tables import iter_tables

        features = self.features
        wanted = list(dict.fromkeys([*features.columns, *columns]))
        for table in iter_tables(path, batch_rows, wanted, types=features.column_types):
            yield table, table, None

    def _rows(self, path: Path, batch_rows: int) -> Iterator[tuple[Any, Any, Any]]:
        for rows in self.text_rows(path, batch_rows):
            yield rows.replace(targets=None), None, rows.targets


def _key(label: Any) -> str:
    """What makes labels of files and of the model the same."""
    if isinstance(label, float) and label == int(label):
        return str(int(label))
    return str(label)
