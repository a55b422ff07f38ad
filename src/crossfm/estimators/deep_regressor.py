"""DeepRegressor: numbers predicted by a deep network on sparse features."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from crossfm.data.schema import Schema
from crossfm.estimators._deep import DeepBase
from crossfm.estimators._predicting import PredictsNumbers

__all__ = ["DeepRegressor"]


class DeepRegressor(PredictsNumbers, DeepBase):
    r"""Deep network for numbers: ratings, prices, times.

    A network of `crossfm.nn`, or one of your own, fitted to squared errors on standardised
    targets. Needs ``pip install 'crossfm[torch]'``.

    Args:
        n_factors: length k of each feature's vector.
        network: a name of `crossfm.nn.build` ("deepfm", "dcn", "nfm", ...); a `torch.nn.Module`
            that takes a `crossfm.nn.batch.Batch` and returns logits ``[batch]``, which is copied;
            or what makes one of ``(n_features, n_factors, field_of=..., n_fields=..., **options)``.
        network_options: a dict of the network's own options, such as ``{"hidden": (400, 400),
            "dropout": 0.2}``.
        solver: of the vectors and linear weights, of which a step touches only those of its rows:
            "rowwise_adagrad", "adagrad", "adam" (lazy) or "ftrl".
        learning_rate: of the same; None: 0.05, for "adam" 0.01, for "ftrl" 0.1.
        learning_rate_dense: of the layers of the network, by AdamW.
        n_epochs: passes over the rows at most.
        batch_size: rows a step; None: a fiftieth of the rows, from 32 to 4,096.
        l2_linear: penalty of the linear weights that a batch touches; None: 0.
        l2_factors: the same for the vectors; None: 0.3.
        weight_decay: of the layers' matrices.
        clip_norm: longest gradient of the layers; None: any.
        schedule: of both learning rates: "constant", "cosine" or "plateau" (a fifth after each
            epoch without an improvement).
        warmup: share of the steps in which the rates rise from zero.
        interactions: "all" or "across_fields", for networks with a crossed term; None: theirs.
        init_scale: deviation of the random vectors at the start; None: the network's.
        schema: what the columns of a frame are; None: inferred, and shown if `verbose`. One that
            is not fitted is fitted to X; one that is stays as it is. Yours is never changed.
        early_stopping: stop when the validation metric no longer improves, and keep the best
            epoch. "auto": with an `eval_set`; without one from 10,000 rows on (from 1,000 where
            there is a feature for every ten rows or fewer), of which `validation_fraction` is
            then held out; True or False.
        patience: epochs without an improvement before the fit stops.
        validation_fraction: share of the rows held out where there is no `eval_set`.
        eval_metric: a name of `crossfm.metrics.METRICS`, a `Metric`, ``f(y_true, y_pred)`` (greater
            is better), or a list of these, the first of which decides; None: "rmse".
        scale_values: "auto": columns of numbers in matrices are scaled; False: not. (The fields of
            a frame are scaled by its schema.)
        shuffle: visit rows in random order.
        device: "auto" (a CUDA GPU where there is one), "cpu", "cuda", "cuda:1".
        mixed_precision: whether the layers compute in bfloat16.
        checkpoint: a file from which an interrupted fit goes on, to the same result; removed when
            the fit is complete. Needs a `random_state`.
        random_state: int, `numpy.random.RandomState` or None.
        verbose: 1: on a terminal, show an inferred schema and a line an epoch; 2: everywhere.

    Attributes:
        network_: the trained module.
        schema_: the fitted schema, for columns with names, else None.
        history_: a dict an epoch: "epoch", "loss" (half the mean squared error while training),
            validation metrics, "seconds", "rows_per_second".
        n_iter_: epochs run.
        best_epoch_: the epoch whose weights were kept.
        n_features_in_: columns (or ids) that were read.
        feature_names_in_: names of these columns, where they have names.

    Example:
        >>> log = {"user": ["ann", "ann", "bob", "bob"] * 25, "film": ["x", "y", "x", "y"] * 25}
        >>> model = DeepRegressor(4, network_options={"hidden": (16,)}, random_state=0)
        >>> model = model.fit(log, [1.0, 2.0, 3.0, 4.0] * 25)
        >>> model.predict({"user": ["ann", "bob"], "film": ["y", "y"]}).round(0)
        array([2., 4.], dtype=float32)

    Source: Guo et al. 2017, DeepFM ("deepfm"); the other networks name theirs.
    """

    def __init__(
        self,
        n_factors: int = 16,
        *,
        network: Any = "deepfm",
        network_options: Mapping[str, Any] | None = None,
        solver: str = "rowwise_adagrad",
        learning_rate: float | None = None,
        learning_rate_dense: float = 1e-3,
        n_epochs: int = 50,
        batch_size: int | None = None,
        l2_linear: float | None = None,
        l2_factors: float | None = None,
        weight_decay: float = 0.0,
        clip_norm: float | None = 10.0,
        schedule: str = "constant",
        warmup: float = 0.0,
        interactions: str | None = None,
        init_scale: float | None = None,
        schema: Schema | None = None,
        early_stopping: bool | str = "auto",
        patience: int = 3,
        validation_fraction: float = 0.1,
        eval_metric: Any = None,
        scale_values: bool | str = "auto",
        shuffle: bool = True,
        device: str = "auto",
        mixed_precision: bool = False,
        checkpoint: str | os.PathLike[str] | None = None,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_factors = n_factors
        self.network = network
        self.network_options = network_options
        self.solver = solver
        self.learning_rate = learning_rate
        self.learning_rate_dense = learning_rate_dense
        self.n_epochs = n_epochs
        self.batch_size = batch_size
        self.l2_linear = l2_linear
        self.l2_factors = l2_factors
        self.weight_decay = weight_decay
        self.clip_norm = clip_norm
        self.schedule = schedule
        self.warmup = warmup
        self.interactions = interactions
        self.init_scale = init_scale
        self.schema = schema
        self.early_stopping = early_stopping
        self.patience = patience
        self.validation_fraction = validation_fraction
        self.eval_metric = eval_metric
        self.scale_values = scale_values
        self.shuffle = shuffle
        self.device = device
        self.mixed_precision = mixed_precision
        self.checkpoint = checkpoint
        self.random_state = random_state
        self.verbose = verbose
