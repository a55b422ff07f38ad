"""Explanations: terms that sum to the score, strengths of fields, nearest features, plots."""

from __future__ import annotations

from crossfm.explain.contributions import Contributions, Part, Term, explain_row
from crossfm.explain.neighbours import Neighbour, nearest
from crossfm.explain.strengths import FieldStrengths, field_strengths

__all__ = [
    "Contributions",
    "FieldStrengths",
    "Neighbour",
    "Part",
    "Term",
    "explain_row",
    "field_strengths",
    "nearest",
]
