"""What both deep estimators share: a network assembled, trained, saved."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from crossfm.data.rows import Rows
from crossfm.errors import DataError, did_you_mean
from crossfm.estimators._deep_machine import DeepMachine, layout_of
from crossfm.estimators._deep_saving import save_deep
from crossfm.estimators._fitting import EstimatorBase, Task
from crossfm.estimators._options import check_checkpoint, check_count, check_one_of
from crossfm.fitting import History
from crossfm.nn.training import TABLE_OPTIMIZERS, TrainingOptions, assemble, train

__all__ = ["DeepBase"]

# Step size of the tables where none is given.
RATES = {"rowwise_adagrad": 0.05, "adagrad": 0.05, "adam": 0.01, "ftrl": 0.1}
L2_FACTORS = 0.3
LEAST_BATCH, MOST_BATCH, STEPS = 32, 4096, 50  # rows a step: a fiftieth of all, within bounds


class DeepBase(EstimatorBase):
    """Training, scoring and files of `DeepRegressor` and `DeepClassifier`."""

    _machine: DeepMachine

    def _check(self) -> int:
        seed = super()._check()
        check_count("n_factors", self.n_factors, 1)
        if self.solver not in TABLE_OPTIMIZERS:
            raise DataError(
                f"solver is {self.solver!r}, expected one of {', '.join(TABLE_OPTIMIZERS)}."
                f"{did_you_mean(self.solver, TABLE_OPTIMIZERS)}"
            )
        check_one_of("mixed_precision", self.mixed_precision, (True, False))
        if self.batch_size is not None:
            check_count("batch_size", self.batch_size, 1)
        if self.network_options is not None and not isinstance(self.network_options, Mapping):
            raise DataError(
                f"network_options is {self.network_options!r}, expected a dict of option: value"
            )
        check_checkpoint(self.checkpoint, self.random_state)
        self._options(100, "squared", seed)
        return seed

    def _train(self, task: Task) -> tuple[DeepMachine, History]:
        features, targets, rows = task.features, task.targets, task.rows
        layout = layout_of(features, rows)
        rows.validate(layout.n_features_)
        n_rows = len(rows) if task.only is None else len(task.only)
        options = self._options(n_rows, targets.loss, task.seed, task.n_epochs)
        given = dict(self.network_options or {})
        for name in ("interactions", "init_scale"):
            if getattr(self, name) is not None:
                given.setdefault(name, getattr(self, name))
        network = assemble(
            self.network, layout, n_factors=operator.index(self.n_factors),
            n_outputs=targets.n_outputs, options=given,
            start=[float(b) for b in targets.start(rows.targets, task.weight)],
            seed=task.seed, device=self.device,
        )  # fmt: skip
        history = train(
            network, rows, options, watch=task.watch, progress=task.progress, only=task.only,
            checkpoint=self.checkpoint,
        )  # fmt: skip
        network.eval()
        return DeepMachine(network, layout, features, targets, bool(self.mixed_precision)), history

    def _options(
        self, n_rows: int, loss: Any, seed: int, n_epochs: int | None = None
    ) -> TrainingOptions:
        rate = self.learning_rate
        if rate is None:
            rate = RATES.get(self.solver, 1.0) if isinstance(self.solver, str) else 1.0
        size = self.batch_size
        if size is None:
            size = min(max(n_rows // STEPS, LEAST_BATCH), MOST_BATCH)
        return TrainingOptions(
            loss=loss,
            n_epochs=1 if n_epochs is None else n_epochs,
            batch_size=operator.index(size),
            optimizer=self.solver,
            learning_rate=_plain(rate),
            l2_linear=_plain(0.0 if self.l2_linear is None else self.l2_linear),
            l2_factors=_plain(L2_FACTORS if self.l2_factors is None else self.l2_factors),
            learning_rate_dense=_plain(self.learning_rate_dense),
            weight_decay=_plain(self.weight_decay),
            clip_norm=_plain(self.clip_norm),
            schedule=self.schedule,
            warmup=_plain(self.warmup),
            mixed_precision=bool(self.mixed_precision),
            shuffle=bool(self.shuffle),
            seed=seed,
        )

    def _score_rows(self, rows: Rows) -> NDArray[np.float32]:
        return self._machine.score(rows)

    @property
    def network_(self) -> Any:
        """The trained `torch.nn.Module`, in its evaluation mode; it returns raw scores."""
        if not self.__sklearn_is_fitted__():
            raise AttributeError(f"{type(self).__name__} has no 'network_' before it is fitted")
        return self._machine.network

    def save(
        self, path: str | os.PathLike[str], *, metadata: Mapping[str, Any] | None = None
    ) -> None:
        """Write the estimator to a file, whole or not at all; `crossfm.load` reads it.

        A network of your own is not in the file, only its weights; load it with
        ``crossfm.load(path, network=...)``.

        Args:
            path: by custom ``name.crossfm``.
            metadata: anything JSON can hold, kept in the file's metadata as "about".

        Raises:
            ModelFileError: the system refused to write; the old file is unchanged.
        """
        check_is_fitted(self)
        save_deep(self, path, metadata)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.non_deterministic = self.device not in ("cpu", "auto")
        return tags


def _plain(number: Any) -> Any:
    """NumPy's numbers as Python's."""
    return number.item() if isinstance(number, np.generic) else number
