"""A small runtime: scoring, recall and pre-ranking by a model file, for plain Python records.

NumPy, SciPy and safetensors are all it imports: no torch, pandas or Arrow. A model starts in the
time that its file takes to read, and a record is encoded and scored in tens of microseconds.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from crossfm.data.records import RecordSchema
from crossfm.data.rows import Rows
from crossfm.errors import DataError, ModelFileError, SchemaError
from crossfm.factors import Precision
from crossfm.losses import sigmoid, softmax
from crossfm.model import FactorModel
from crossfm.retrieval import Ranker, Retriever
from crossfm.store import load_model

__all__ = ["Runtime"]


@dataclass(frozen=True, eq=False)
class Runtime:
    """A model file, ready to score.

    Attributes:
        models: one machine, or one a class.
        classes: labels, of a classifier; None: it predicts numbers.
        link: what makes predictions of scores: "identity", "log" (counts), "logistic", "softmax",
            "none" (margins: no probabilities).
        records: what encodes records; None: the model takes `Rows` only.

    Example:
        >>> import crossfm as cf, os, tempfile
        >>> log = {"user": [1, 1, 2, 2], "film": ["a", "b", "b", "c"]}
        >>> path = os.path.join(tempfile.mkdtemp(), "ratings.crossfm")
        >>> model = cf.FMRegressor(4, random_state=0).fit(log, [5.0, 1.0, 2.0, 4.0])
        >>> model.save(path)
        >>> small = Runtime.load(path)
        >>> record = {"user": 2, "film": "b"}
        >>> bool(small.predict([record]) == model.predict([record]))
        True
    """

    models: tuple[FactorModel, ...]
    classes: NDArray[Any] | None
    link: str
    records: RecordSchema | None

    @staticmethod
    def load(path: str | os.PathLike[str], *, precision: Precision | None = None) -> Runtime:
        """Read a model file.

        Args:
            path: what `save` of an estimator, or `save_model`, wrote.
            precision: how factors are held; see `load_model`.

        Raises:
            ModelFileError: no such file, damaged; or a model that takes more than one machine and a
                link to predict: draws of a posterior, ordered levels, tables of a relation, scaled
                matrices. `crossfm.load` reads these.
        """
        stored = load_model(path, precision=precision, records=True)
        records: Any = stored.models[0].schema
        return Runtime.of(
            stored.models, stored.metadata, records,
            has_more=bool(stored.attached), name=os.fspath(path),
        )  # fmt: skip

    @staticmethod
    def of(
        models: Sequence[FactorModel],
        metadata: Mapping[str, Any],
        records: RecordSchema | None,
        *,
        has_more: bool = False,
        name: str = "the file",
    ) -> Runtime:
        """From what a file holds; `has_more`: it has something attached.

        Raises:
            ModelFileError: as `load`.
        """
        more = [
            words
            for words, is_so in (
                ("draws of a posterior", metadata.get("draws") is not None),
                ("ordered levels", metadata.get("estimator") == "OrdinalFMRegressor"),
                ("tables of relations", has_more and metadata.get("estimator") != "FMRanker"),
                ("scaled columns of a matrix", bool(metadata.get("features", {}).get("scaling"))),
            )
            if is_so
        ]
        if more:
            raise ModelFileError(
                f"{name} holds {more[0]}, which the small runtime does not know; read it with"
                " crossfm.load"
            )
        classes, link = None, "logistic" if models[0].task == "classification" else "identity"
        try:
            targets = metadata.get("targets", {})
            if "classes" in targets:
                classes = np.array(targets["classes"], np.dtype(targets["dtype"]))
                hinge = targets.get("loss") == "hinge"
                link = "none" if hinge else "logistic" if len(classes) == 2 else "softmax"
                if len(models) != (1 if len(classes) == 2 else len(classes)):
                    raise ValueError(f"{len(models)} machines for {len(classes)} classes")
            elif targets.get("loss") == "poisson":
                link = "log"
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ModelFileError(f"{name} describes targets that are none: {error}") from error
        return Runtime(tuple(models), classes, link, records)

    @property
    def model(self) -> FactorModel:
        """The only machine.

        Raises:
            DataError: there is one for each of several classes.
        """
        if len(self.models) != 1:
            raise DataError(f"there are {len(self.models)} machines, one a class; use .models")
        return self.models[0]

    def scores(self, records: Any) -> NDArray[np.float32]:
        """Raw scores ``[n]``, or one a class ``[n, C]``.

        Args:
            records: a list of dicts, a dict of columns, or `Rows`.

        Raises:
            SchemaError: a column that is missing; records without a schema.
            DataError: a value that cannot be encoded, a score beyond float32.
        """
        rows = records
        if not isinstance(records, Rows):
            if self.records is None:
                raise SchemaError("the model has no schema to read columns by; give Rows")
            rows = self.records.transform(records)
        found = [model.score(rows) for model in self.models]
        scores = found[0] if len(found) == 1 else np.stack(found, axis=1)
        if not np.isfinite(scores).all():
            row = int(np.argmin(np.isfinite(scores).reshape(len(scores), -1).all(axis=1)))
            raise DataError(
                f"row {row}: the score is beyond what float32 holds; look at its values"
            )
        return scores

    def predict(self, records: Any) -> NDArray[Any]:
        """Numbers, or labels, ``[n]``; arguments and errors as of `scores`."""
        scores = self.scores(records)
        if self.classes is not None:
            best = (scores > 0).astype(np.intp) if scores.ndim == 1 else scores.argmax(axis=1)
            return self.classes[best]
        return self.shown(scores)

    def predict_proba(self, records: Any) -> NDArray[np.float64]:
        """Probability of each class ``[n, C]``; arguments and errors as of `scores`.

        Raises:
            DataError: it predicts numbers, or classes by margins.
        """
        if self.link not in ("logistic", "softmax"):
            raise DataError(f"there are no probabilities under the link {self.link!r}")
        scores = self.scores(records)
        if self.link == "softmax":
            return softmax(scores)
        second = sigmoid(scores)
        return np.stack([1 - second, second], axis=1)

    def shown(self, scores: NDArray[np.float32]) -> NDArray[Any]:
        """Scores on the scale that people read: probabilities of the second class, counts, as is.

        They keep the order of the scores.
        """
        if self.link == "logistic":
            return sigmoid(scores)
        if self.link == "log":
            tiny = float(np.finfo(np.float32).tiny)
            with np.errstate(over="ignore"):
                found = np.maximum(np.exp(scores.astype(np.float64)), tiny).astype(np.float32)
            if np.isinf(found).any():
                raise DataError("a predicted count is beyond what float32 holds")
            return found
        return scores

    def ranker(
        self,
        *,
        query_fields: str | Sequence[str],
        item_fields: str | Sequence[str],
        items: Mapping[str, Any] | Retriever | None = None,
        **more: Any,
    ) -> Ranker:
        """A `Ranker` of the machine; items as a dict of columns, or a retriever's."""
        return Ranker(
            self.model, query_fields=query_fields, item_fields=item_fields, items=items, **more
        )

    def retriever(self, path: str | os.PathLike[str], *, n_jobs: int = 1) -> Retriever:
        """A `Retriever` of the items that `Retriever.save` wrote for this machine.

        Raises:
            ModelFileError: no such file; damaged, or made with another model.
        """
        return Retriever.load(path, self.model, n_jobs=n_jobs)
