"""Explanations: terms that sum to the score."""

from __future__ import annotations

from crossfm.explain.contributions import Contributions, Part, Term, explain_row

__all__ = ["Contributions", "Part", "Term", "explain_row"]
