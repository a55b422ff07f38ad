"""FMRanker: machines that put items in order for a user."""

from __future__ import annotations

import operator
import os
from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from crossfm.data import inputs
from crossfm.data.relations import expect_column
from crossfm.data.rows import Rows, side_by_side
from crossfm.data.schema import Schema
from crossfm.errors import DataError
from crossfm.estimators._held_out import held_out, known, split
from crossfm.estimators._options import check_count, check_one_of, check_options, check_scores
from crossfm.estimators._ranking import best_of, score_blocks
from crossfm.estimators._sides import Sides, read_interactions
from crossfm.estimators._targets import check_weight
from crossfm.estimators._watching import Lines, check_fraction
from crossfm.factors import Precision
from crossfm.fitting import History, Progress
from crossfm.model import FactorModel
from crossfm.retrieval.topk import TopK
from crossfm.solvers import AdaGrad
from crossfm.solvers.ranking import (
    Lists,
    Pairs,
    RankingOptions,
    RankTrainer,
    fit_ranking,
)

__all__ = ["FMRanker"]


@final
class FMRanker(BaseEstimator):
    r"""Factorization machine that ranks items for users, learned from what users took.

    ``score(u, i) = <S_u, S_i> + b_i + (what u has alone)``, with ``S`` the sum of the vectors of
    all features of a side and ``b_i`` the item's weights and its features' interactions among
    themselves: a `FactorModel` of the user's and the item's fields, trained so that items a user
    took stand above others. What a user has alone is the same for all items: it has no gradient,
    and the linear weights of users' features stay 0.

    Args:
        n_factors: length k of each feature's vector.
        loss: "softmax", "bpr" or "warp"; see `crossfm.solvers.ranking.RankingOptions`.
        negatives: what the items are drawn from that a pair is set against: "uniform",
            "popularity" (for "bpr" and "softmax"), or "in_batch" (for "softmax"), with the
            logarithm of their chance taken off under "softmax". Items that the user took are
            never drawn.
        n_negatives: drawn for each pair under "softmax".
        max_trials: of "warp", to find an item that stands too high.
        popularity_power: of an item's count, in its chance under "popularity".
        batch_size: pairs of a batch, for "in_batch".
        n_epochs: passes over the pairs, at most.
        learning_rate: step size of AdaGrad.
        l2_linear: penalty of linear weights, at each touch.
        l2_factors: the same of factors.
        interactions: "all" pairs of features, or "across_fields".
        init_scale: deviation of the random factors at the start.
        schema: what the columns of both tables are; None: the two keys are categories, and the
            other columns are inferred.
        early_stopping: True, False, or "auto": where `fit` is given an eval_set.
        validation_fraction: of the pairs, held out where there is no eval_set.
        patience: epochs without a better NDCG before the fit stops.
        eval_k: length of the lists that are judged in a fit.
        n_jobs: threads; -1: all cores. With one, results are the same to the bit for a seed.
        random_state: int, `numpy.random.RandomState` or None.
        verbose: 1: on a terminal, a line an epoch; 2: everywhere.

    Attributes:
        model_: the trained machine as a frozen `FactorModel`.
        schema_: the fields of users and items in one schema, fitted.
        user_fields_, context_fields_, item_fields_: names of the fields of users, of what comes
            with each pair, and of items.
        users_, items_: the keys of all users and items.
        history_: a dict an epoch: "loss", and with validation "ndcg@k", "recall@k", "mrr".
        n_iter_: epochs run.
        best_epoch_: the one whose parameters were kept.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> log = {"user": rng.integers(0, 40, 2000), "item": rng.integers(0, 30, 2000)}
        >>> log = {name: part[log["user"] % 3 == log["item"] % 3] for name, part in log.items()}
        >>> films = {"item": np.arange(30), "kind": [f"kind {i % 3}" for i in range(30)]}
        >>> ranker = FMRanker(8, random_state=0).fit(log, items=films)
        >>> ranker.recommend([4], k=3, exclude_seen=False).ids % 3
        array([[1, 1, 1]])

    Sources: Rendle 2010, Factorization Machines; Rendle et al. 2009, BPR; for the other losses see
    `crossfm.solvers.ranking.RankingOptions`.
    """

    def __init__(
        self,
        n_factors: int = 16,
        *,
        loss: str = "softmax",
        negatives: str = "uniform",
        n_negatives: int = 64,
        max_trials: int = 100,
        popularity_power: float = 0.75,
        batch_size: int = 256,
        n_epochs: int = 20,
        learning_rate: float = 0.1,
        l2_linear: float = 0.0,
        l2_factors: float = 0.02,
        interactions: str = "all",
        init_scale: float = 0.1,
        schema: Schema | None = None,
        early_stopping: bool | str = "auto",
        validation_fraction: float = 0.1,
        patience: int = 3,
        eval_k: int = 10,
        n_jobs: int | None = 1,
        random_state: Any = None,
        verbose: int = 0,
    ) -> None:
        self.n_factors = n_factors
        self.loss = loss
        self.negatives = negatives
        self.n_negatives = n_negatives
        self.max_trials = max_trials
        self.popularity_power = popularity_power
        self.batch_size = batch_size
        self.n_epochs = n_epochs
        self.learning_rate = learning_rate
        self.l2_linear = l2_linear
        self.l2_factors = l2_factors
        self.interactions = interactions
        self.init_scale = init_scale
        self.schema = schema
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.eval_k = eval_k
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose

    def fit(
        self,
        interactions: Any,
        *,
        users: Any = None,
        items: Any = None,
        user: str = "user",
        item: str = "item",
        context: str | Sequence[str] = (),
        eval_set: Any = None,
        sample_weight: Any = None,
        progress: Progress | None = None,
    ) -> FMRanker:
        """Learn from what users took.

        Args:
            interactions: a row a pair, in any form of table (DataFrame, dict of columns, Parquet or
                CSV path); columns that are neither keys nor context are ignored.
            users: a table with a row a user: the column `user`, and what is known of each. None:
                nothing is. Users that it lacks have every column missing.
            items: the same of items, by the column `item`. All of them are candidates, also those
                that nobody took.
            user: the column of users' keys.
            item: the column of items' keys.
            context: columns of `interactions` that tell of the moment of each pair: the device, the
                hour, what the user took before (`crossfm.data.recent_items`). They are features of
                the query, and all that is asked of the ranker later needs them.
            eval_set: pairs held out, to judge lists by after each epoch.
            sample_weight: ``[n]`` of the pairs, or the name of a column; None: ones. A pair of
                weight 0 teaches nothing, and its item counts as seen in `recommend`.
            progress: called after each epoch; True from it ends the fit.

        Raises:
            DataError: no pairs, a missing key, a parameter out of range.
            SchemaError: a missing column, or one that is in two of the tables.
            DivergedError: the loss left the finite numbers.
        """
        seed, ranking = self._check()
        table = read_interactions(interactions, user, item)
        if not table.num_rows:
            raise DataError("interactions has no rows, so there is nothing to learn from")
        weights = self._weights(table, sample_weight)
        around = (context,) if isinstance(context, str) else tuple(context)
        sides = Sides.learn(table, users, items, user, item, around, self.schema)
        owner, taken = sides.user_units(table), sides.item_numbers(table)
        seen = Lists.of(owner, taken, len(sides.users.rows), len(sides.item_rows))
        kept, watch = np.arange(len(owner)), None
        if eval_set is not None:
            watch = held_out(sides, sides.read(eval_set, "eval_set"), self.eval_k, seen, "eval_set")
        elif self._stops(None):
            kept, watch = split(sides, table, self.validation_fraction, self.eval_k, seed)
        if weights is not None:
            kept = kept[weights[kept] > 0]
        pairs = self._pairs(sides, table, owner, taken, kept, weights)
        trainer = RankTrainer(
            self._adagrad(seed), ranking, pairs, sides.schema.n_features_, sides.schema.field_of_
        )
        told = progress or (Lines() if Lines.wanted(self.verbose) else None)
        history = fit_ranking(
            trainer, n_epochs=check_count("n_epochs", self.n_epochs, 1), watch=watch,
            patience=self.patience if self._stops(eval_set) else 0, progress=told,
        )  # fmt: skip
        self._adopt(trainer.models(schema=sides.schema)[0], sides, seen, history)
        return self

    # --- what comes of it -------------------------------------------------------------------

    def predict(self, pairs: Any) -> NDArray[np.float32]:
        """Scores of pairs ``[n]``: higher is better, for one user; they are no probabilities.

        Args:
            pairs: a table with the two columns of keys, and those of the context. A key that the
                fit has not seen counts as unknown.

        Raises:
            SchemaError: a column is missing.
        """
        check_is_fitted(self)
        sides = self._sides
        table = sides.read(pairs, "pairs")
        queries = sides.queries(table, sides.users.rows.take(sides.user_units(table)))
        items = sides.items.rows.take(sides.item_numbers(table) + 1)
        return check_scores(self.model_.score(side_by_side([queries, items]), self.n_jobs))

    def recommend(
        self, users: Any, k: int = 10, *, exclude_seen: bool = True, only: ArrayLike | None = None
    ) -> TopK:
        """The k best items of each user, out of all.

        Args:
            users: their keys, ``[n]``, or a table with their column, and with those of the context
                where the fit had one. A table that has the columns of all of the users' fields is
                taken at its word: users as they are now, or new ones.
            k: items a user; fewer come where no more are left.
            exclude_seen: leave out what each user took in the interactions of the fit.
            only: keys of the items to choose from; None: all.

        Raises:
            DataError: a k that is none, an item that is not known.
            SchemaError: a table without the users' column, or without one of the context's.
        """
        check_is_fitted(self)
        k = check_count("k", k, 1)
        rows, units = self._queries(users)
        allowed = None if only is None else self._allowed(only)
        found = [(np.empty((0, k), np.int64), np.empty((0, k), np.float32))]
        for part, scores in score_blocks(self.model_, rows, self._sides.item_rows):
            if exclude_seen:
                self._seen.hide(scores, units[part])
            if allowed is not None:
                scores[:, ~allowed] = -np.inf
            found.append(best_of(scores, k))
        places, best = (np.concatenate(one) for one in zip(*found, strict=True))
        keys = self.items_[np.maximum(places, 0)]
        if (places < 0).any():
            keys = keys.astype(object)
            keys[places < 0] = None
        return TopK(keys, best)

    def evaluate(
        self, interactions: Any, *, k: int = 10, exclude_seen: bool = True
    ) -> dict[str, float]:
        """Judge lists over all items by pairs that the fit did not see.

        A list for each user, or for each user and context that differs.

        Args:
            interactions: pairs; what a user took in the fit already is left out of them.
            k: length of the lists.
            exclude_seen: leave what each user took in the fit out of the lists.

        Returns:
            "ndcg@k", "recall@k" and "mrr", means over the lists; items that are not known are
            missed.

        Raises:
            DataError: no pairs are left.
            SchemaError: a column is missing.
        """
        check_is_fitted(self)
        seen = self._seen if exclude_seen else None
        table = self._sides.read(interactions, "interactions")
        held = held_out(self._sides, table, check_count("k", k, 1), seen, "interactions")
        return held.judge(score_blocks(self.model_, held.queries, self._sides.item_rows), seen)

    @property
    def models_(self) -> list[FactorModel]:
        """The trained machine, as a list of one."""
        return [self.model_]

    @property
    def user_fields_(self) -> list[str]:
        """Names of the users' fields."""
        return list(self._sides.users.fields)

    @property
    def context_fields_(self) -> list[str]:
        """Names of the context's fields, which are the query's beside the users'."""
        return list(self._sides.context)

    @property
    def item_fields_(self) -> list[str]:
        """Names of the items' fields."""
        return list(self._sides.items.fields)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        precision: Precision | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the ranker to a file, whole or not at all; `crossfm.load` reads it.

        Args:
            path: by custom ``name.crossfm``.
            precision: how factors are stored; see `FactorModel.quantize`.
            metadata: anything JSON can hold, kept in the file's metadata as "about".

        Raises:
            ModelFileError: the system refused to write; the old file is unchanged.
        """
        from crossfm.estimators._ranker_saving import save_ranker

        check_is_fitted(self)
        save_ranker(self, path, precision, metadata)

    # --- inside -----------------------------------------------------------------------------

    def _check(self) -> tuple[int, RankingOptions]:
        check_one_of("early_stopping", self.early_stopping, ("auto", True, False))
        for name in ("patience", "eval_k"):
            check_count(name, getattr(self, name), 1)
        check_fraction(self.validation_fraction)
        ranking = RankingOptions(
            self.loss, self.negatives, self.n_negatives, self.max_trials,  # type: ignore[arg-type]
            self.popularity_power, self.batch_size,
        )  # fmt: skip
        seed = check_options(self)
        self._adagrad(seed)
        return seed, ranking

    def _adagrad(self, seed: int) -> AdaGrad:
        return AdaGrad(
            n_factors=check_count("n_factors", self.n_factors),
            interactions=self.interactions,  # type: ignore[arg-type]
            learning_rate=self.learning_rate,
            l2_linear=self.l2_linear,
            l2_factors=self.l2_factors,
            init_scale=self.init_scale,
            n_jobs=1 if self.n_jobs is None else operator.index(self.n_jobs),
            seed=seed,
        )

    def _stops(self, eval_set: Any) -> bool:
        return eval_set is not None if self.early_stopping == "auto" else bool(self.early_stopping)

    @staticmethod
    def _weights(table: pa.Table, given: Any) -> NDArray[np.float32] | None:
        if isinstance(given, str):
            if given not in table.column_names:
                raise DataError(f"sample_weight is {given!r}, no column of interactions")
            given = table.column(given).to_numpy()
        checked = check_weight(given, table.num_rows)
        return None if checked is None else checked.astype(np.float32)

    @staticmethod
    def _pairs(
        sides: Sides, table: pa.Table, owner: NDArray[np.int32], taken: NDArray[np.int32],
        kept: NDArray[np.int64], weights: NDArray[np.float32] | None,
    ) -> Pairs:  # fmt: skip
        """The pairs to train on: a query a user, or a query a pair where there is a context."""
        weights = None if weights is None else weights[kept]
        users, n_users = sides.users.rows, len(sides.users.rows)
        if not sides.context:
            return Pairs(users, sides.item_rows, owner[kept], taken[kept], weights=weights)
        queries = sides.queries(table.take(kept), users.take(owner[kept]))
        return Pairs(
            queries, sides.item_rows, np.arange(len(kept), dtype=np.int32), taken[kept],
            user_of=owner[kept], n_users=n_users, weights=weights,
        )  # fmt: skip

    def _queries(self, users: Any) -> tuple[Rows, NDArray[np.int64]]:
        """Features of queries, and whose seen items to leave out (-1: of none)."""
        sides = self._sides
        if inputs.kind_of(users) != "frame" or isinstance(users, list | tuple):
            users = {sides.user: users}
        table = inputs.as_table(users)
        fields = sides.users.fields
        told = set(sides.schema.columns_of(fields)) <= set(table.column_names)
        named = sides.user in table.column_names
        if not (told or named):
            expect_column(table, sides.user, "users")  # says what is missing
        sides.expect_context(table, "users")
        units = sides.user_units(table) if named else np.zeros(table.num_rows, np.int32)
        if told and (len(fields) > 1 or not named):
            rows = sides.schema.transform(table, fields=fields)
        else:
            rows = sides.users.rows.take(units)
        return sides.queries(table, rows), known(units)

    def _allowed(self, only: ArrayLike) -> NDArray[np.bool_]:
        given = np.asarray(only).reshape(-1)
        numbers = self._sides.item_numbers(pa.table({self._sides.item: given}))
        if (numbers < 0).any():
            stranger = given.tolist()[int(np.argmax(numbers < 0))]
            raise DataError(f"only holds {stranger!r}, which is no item")
        allowed = np.zeros(len(self.items_), bool)
        allowed[numbers] = True
        return allowed

    def _adopt(self, model: FactorModel, sides: Sides, seen: Lists, history: History) -> None:
        epochs = [
            {"epoch": one.number, "loss": one.loss, **one.metrics, "seconds": one.seconds,
             "rows_per_second": one.rows_per_second}
            for one in history.epochs
        ]  # fmt: skip
        self._restore(model, sides, seen, epochs, len(epochs), history.best_epoch)

    def _restore(
        self, model: FactorModel, sides: Sides, seen: Lists, history: list[dict[str, Any]],
        n_iter: int, best_epoch: int,
    ) -> None:  # fmt: skip
        self.model_, self.schema_ = model, sides.schema
        self._sides, self._seen = sides, seen
        self.users_, self.items_ = sides.user_keys, sides.item_keys
        self.history_, self.n_iter_, self.best_epoch_ = history, n_iter, best_epoch
