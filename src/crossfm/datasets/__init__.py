"""Public data sets from their official homes, and a click log that is made up.

==================  ==============================================================
`load_movielens`    MovieLens 100K, 1M, latest-small: ratings with side information
`load_frappe`       Frappe: app usage in context, as Rows
`load_criteo`       Criteo display advertising: raw columns, from your own copy
`make_click_log`    a synthetic click log of any length, with known probabilities
==================  ==============================================================
"""

from crossfm.datasets.click_log import ClickLog, iter_click_log, make_click_log
from crossfm.datasets.criteo import iter_criteo, load_criteo
from crossfm.datasets.frappe import Frappe, load_frappe
from crossfm.datasets.movielens import MovieLens, load_movielens

__all__ = [
    "ClickLog",
    "Frappe",
    "MovieLens",
    "iter_click_log",
    "iter_criteo",
    "load_criteo",
    "load_frappe",
    "load_movielens",
    "make_click_log",
]
