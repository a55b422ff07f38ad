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
from crossfm.errors import DataError, SchemaError

if TYPE_CHECKING:
    import pyarrow as pa

    from crossfm.data.rows import Rows

__all__ = ["Batch", "Scorer"]

BATCH_ROWS = 65_536


@dataclass(frozen=True, eq=False)
class Batch:
    """Some rows and their scores.

    Attributes:
        start: number of the first row, over all files.
        scores: predictions, or raw scores in classification: ``[n]``, or ``[n, C]``.
        table: the columns that were read, None in text formats.
        targets: of text formats, else None.
    """

    start: int
    scores: NDArray[np.float32]
    table: pa.Table | None
    targets: NDArray[np.float32] | None

    def __len__(self) -> int:
        return len(self.scores)


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
    def is_classifier(self) -> bool:
        """Whether it predicts classes."""
        return hasattr(self.estimator, "classes_")

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
        self, data: Sequence[Path], columns: Sequence[str] = (), batch_rows: int = BATCH_ROWS
    ) -> Iterator[Batch]:
        """The rows of files, scored, in bounded memory.

        Args:
            data: files, or folders of them, of the kind that the model was fitted on.
            columns: to be read beside those that the model needs.
            batch_rows: rows at a time.

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
                batch = Batch(start, self._score(X), table, targets)
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

    # --- inside -----------------------------------------------------------------------------

    def _score(self, X: Any) -> NDArray[np.float32]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # ids beyond the model: counted below
            if self.is_classifier:
                scores = self.estimator.decision_function(X)
            else:
                scores = self.estimator.predict(X)
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
        return scores

    def _tables(
        self, path: Path, columns: Sequence[str], batch_rows: int
    ) -> Iterator[tuple[Any, Any, Any]]:
        from crossfm.data.tables import iter_tables

        features = self.estimator._features
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
