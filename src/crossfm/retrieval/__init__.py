"""Retrieval: recall and pre-ranking from a trained machine, by the same parameters that rank."""

from __future__ import annotations

from crossfm.retrieval.ranker import Query, Ranker
from crossfm.retrieval.retriever import Retriever
from crossfm.retrieval.topk import ItemIndex, TopK
from crossfm.retrieval.vectors import Vectors

__all__ = ["ItemIndex", "Query", "Ranker", "Retriever", "TopK", "Vectors"]
