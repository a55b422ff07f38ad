"""Features in the plane."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from crossfm.errors import DataError
from crossfm.explain.plots.style import INK, SERIES, figure
from crossfm.model import FactorModel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["factor_map"]

LETTER, LINE = 0.0135, 0.03  # of the plot's width and height that a label takes
RIGHT = 0.75  # from where on labels stand to the left of their points


def factor_map(
    model: FactorModel,
    features: ArrayLike,
    *,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    n_labels: int = 25,
    title: str = "",
) -> Figure:
    """Features in the two directions in which their factors differ most.

    Features that are near each other meet all others alike. The axes are the principal components;
    how much of the factors' variance they hold stands beside them.

    Args:
        model: any.
        features: ids, two or more, such as ``model.schema.block("film")[1:]``.
        labels: a text for each; None: names by the schema, without the field's.
        groups: what each belongs to, for its colour; None: one colour.
        n_labels: texts shown, of the features with the longest vectors first, where there is room.
        title: above.

    Raises:
        DataError: fewer than two features, or texts of another number.
        MissingExtraError: matplotlib is not installed.

    Example:
        >>> model = FactorModel(0.0, [0, 0, 0], [[1, 0], [2, 0.1], [0, 1]])
        >>> figure = factor_map(model, [0, 1, 2], labels=["a", "b", "c"])
        >>> figure.axes[0].get_xlabel()
        'first component, 94% of the variance'
    """
    ids = np.asarray(features)
    if ids.ndim != 1 or len(ids) < 2:
        raise DataError(f"a map needs two features or more, got shape {list(ids.shape)}")
    for name, given in (("labels", labels), ("groups", groups)):
        if given is not None and len(given) != len(ids):
            raise DataError(f"{name} has {len(given)} texts for {len(ids)} features")
    if labels is None:
        schema = model.schema
        labels = [str(i) for i in ids] if schema is None else [
            name.split("=", 1)[-1] for name in schema.feature_names(ids)
        ]  # fmt: skip
    vectors = model.vectors(ids).astype(np.float64).reshape(len(ids), -1)
    centred = vectors - vectors.mean(axis=0)
    if centred.shape[1] < 2:
        centred = np.pad(centred, ((0, 0), (0, 2 - centred.shape[1])))
    _, sizes, axes_of = np.linalg.svd(centred, full_matrices=False)
    places = centred @ axes_of[:2].T
    places = np.pad(places, ((0, 0), (0, 2 - places.shape[1])))
    shares = np.r_[np.square(sizes) / max(float(np.square(sizes).sum()), 1e-300), 0.0]
    made, (plot,) = figure(1, 7.2, 6.0)
    kinds = ["" for _ in ids] if groups is None else list(groups)
    for number, kind in enumerate(dict.fromkeys(kinds)):
        of = np.array([one == kind for one in kinds])
        plot.scatter(places[of, 0], places[of, 1], s=14, alpha=0.7, linewidth=0, label=kind,
                     color=SERIES[number % len(SERIES)])  # fmt: skip
    if groups is not None:
        plot.legend(frameon=False, fontsize=9)
    low, span = places.min(axis=0), np.maximum(np.ptp(places, axis=0), 1e-12)
    taken: list[tuple[float, float, float]] = []
    for at in np.argsort(-np.linalg.norm(vectors, axis=1), kind="stable").tolist():
        if len(taken) >= n_labels:
            break
        x, y = (places[at] - low) / span
        width, at_right = LETTER * len(labels[at]), x > RIGHT
        left = x - width if at_right else x
        if any(abs(y - other) < LINE and left < end and start < left + width
               for start, end, other in taken):  # fmt: skip
            continue
        taken.append((left, left + width, y))
        plot.annotate(
            labels[at], places[at], (-4 if at_right else 4, 3), textcoords="offset points",
            ha="right" if at_right else "left", fontsize=8, color=INK,
        )  # fmt: skip
    plot.set_xlabel(f"first component, {shares[0]:.0%} of the variance")
    plot.set_ylabel(f"second component, {shares[1]:.0%}")
    if title:
        plot.set_title(title, fontsize=11, loc="left")
    return made
