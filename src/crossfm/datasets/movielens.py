"""MovieLens: ratings of films, with side information on users and films.

Source: F. M. Harper and J. A. Konstan. The MovieLens Datasets: History and Context. ACM
Transactions on Interactive Intelligent Systems 5 (4), 2015. Its terms forbid redistribution,
so the files come from https://grouplens.org/datasets/movielens/.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from crossfm.datasets.fetch import Remote, locate
from crossfm.errors import DataError, DatasetError, did_you_mean

__all__ = ["MovieLens", "load_movielens"]

HOME = "https://grouplens.org/datasets/movielens/"
FILES = "https://files.grouplens.org/datasets/movielens/"
N_FOLDS = 5

# Code of each occupation in MovieLens 1M, from its README.
OCCUPATIONS_1M = [
    "other",
    "educator",
    "artist",
    "clerical",
    "student",
    "customer-service",
    "doctor",
    "executive",
    "farmer",
    "homemaker",
    "K-12-student",
    "lawyer",
    "programmer",
    "retired",
    "sales",
    "scientist",
    "self-employed",
    "technician",
    "tradesman",
    "unemployed",
    "writer",
]


@dataclass(frozen=True)
class MovieLens:
    """A MovieLens data set as Arrow tables.

    Attributes:
        name: ``100k``, ``1m`` or ``latest-small``.
        ratings: one row a rating, in the order of the official file: `user`, `item` (int32),
            `rating` (float32), `timestamp` (int64, seconds), `hour`, `weekday` (int32, UTC,
            Monday is 0), then, where the data set knows them, `age` (int32), `gender`,
            `occupation`, `zip_prefix` (first two characters), then `title`, `year` (int32 or
            null), `genres` (``"Action|Comedy"``, empty where there is none).
        users: one row a user, with the full `zip`; None in latest-small.
        items: one row a film: `item`, `title`, `year`, `genres`.
        tags: `user`, `item`, `tag`, `timestamp` of latest-small; None elsewhere.
    """

    name: str
    ratings: pa.Table = field(repr=False)
    users: pa.Table | None = field(repr=False)
    items: pa.Table = field(repr=False)
    tags: pa.Table | None = field(repr=False, default=None)
    _folds: tuple[NDArray[np.int64], ...] = field(repr=False, default=())

    def fold(self, number: int) -> tuple[pa.Table, pa.Table]:
        """Training and test part of the official fold 1 to 5 (u1 to u5 of MovieLens 100K).

        Raises:
            DataError: another number, or a data set without official folds.
        """
        if not self._folds:
            raise DataError(
                f"MovieLens {self.name} has no official folds; use split(...), or load '100k'"
            )
        if number not in range(1, N_FOLDS + 1):
            raise DataError(f"folds are numbered 1 to {N_FOLDS}, got {number!r}")
        test = self._folds[number - 1]
        keep = np.ones(self.ratings.num_rows, dtype=bool)
        keep[test] = False
        return self.ratings.filter(pa.array(keep)), self.ratings.take(pa.array(test))

    def folds(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Training and test parts of the official folds 1 to 5, in order."""
        for number in range(1, N_FOLDS + 1):
            yield self.fold(number)

    def split(self, test: float = 0.1, *, seed: int = 0) -> tuple[pa.Table, pa.Table]:
        """Training and test part, drawn at random.

        Args:
            test: share of the ratings in the test part, between 0 and 1.
            seed: another seed, another split.
        """
        if not 0.0 < test < 1.0:
            raise DataError(f"test must lie between 0 and 1, got {test!r}")
        chosen = np.random.default_rng(seed).random(self.ratings.num_rows) < test
        return self.ratings.filter(pa.array(~chosen)), self.ratings.filter(pa.array(chosen))


def load_movielens(
    name: Literal["100k", "1m", "latest-small"] = "100k", *, download: bool = True
) -> MovieLens:
    """Load a MovieLens data set: 100,000, 1,000,209 or 100,836 ratings.

    Args:
        name: ``100k`` (1998; users with age, gender, occupation, zip code; official folds),
            ``1m`` (2003; the same, ages in seven groups) or ``latest-small`` (2018; tags).
        download: False: look on this machine only.

    Raises:
        DatasetError: neither in the folder of ``CROSSFM_DATA``, nor in the cache folder, nor
            to be downloaded.

    Example:
        >>> ratings = load_movielens("100k").ratings  # doctest: +SKIP
        >>> ratings.column_names[:4]  # doctest: +SKIP
        ['user', 'item', 'rating', 'timestamp']
    """
    if name not in LOADERS:
        raise DataError(
            f"no MovieLens {name!r}, expected one of {', '.join(LOADERS)}."
            + did_you_mean(name, LOADERS)
        )
    files, optional, sha256, read = LOADERS[name]
    folder = f"ml-{name}"
    members = [f"{folder}/{file}" for file in files] + [f"{folder}/{file}?" for file in optional]
    remote = Remote(f"{FILES}{folder}.zip", sha256, tuple(members))
    path = locate(f"MovieLens {name}", folder, [files], [remote], home=HOME, download=download)
    return read(path)


def _load_100k(path: Path) -> MovieLens:
    ratings = _read(path / "u.data", ["user", "item", "rating", "timestamp"], "\t")
    users = _read(path / "u.user", ["user", "age", "gender", "occupation", "zip"], "|")
    genres = _read(path / "u.genre", ["genre", "code"], "|")["genre"].to_pylist()
    flags = [f"flag{j}" for j in range(len(genres))]
    raw = _read(path / "u.item", ["item", "title", "day", "video_day", "url", *flags], "|")
    parts = [
        pc.if_else(pc.equal(raw[flag], 1), f"|{genre}", "")
        for flag, genre in zip(flags, genres, strict=True)
    ]
    items = _items(raw, pc.utf8_slice_codeunits(pc.binary_join_element_wise(*parts, ""), 1))
    table = _join(ratings, users, items)
    return MovieLens("100k", table, users, items, None, _official_folds(path, table))


def _load_1m(path: Path) -> MovieLens:
    ratings = _read(path / "ratings.dat", ["user", "item", "rating", "timestamp"], "::")
    users = _read(path / "users.dat", ["user", "gender", "age", "occupation", "zip"], "::")
    names = pa.array(OCCUPATIONS_1M)
    occupation = names.take(users["occupation"].combine_chunks().cast(pa.int32()))
    users = users.set_column(3, "occupation", occupation)
    users = users.select(["user", "age", "gender", "occupation", "zip"])
    raw = _read(path / "movies.dat", ["item", "title", "genres"], "::")
    items = _items(raw, raw["genres"])
    return MovieLens("1m", _join(ratings, users, items), users, items)


def _load_latest_small(path: Path) -> MovieLens:
    ratings = _read(path / "ratings.csv", ["user", "item", "rating", "timestamp"], ",", skip=1)
    raw = _read(path / "movies.csv", ["item", "title", "genres"], ",", skip=1)
    none = pc.equal(raw["genres"], "(no genres listed)")
    items = _items(raw, pc.if_else(none, "", raw["genres"]))
    tags = None
    if (path / "tags.csv").is_file():
        tags = _read(path / "tags.csv", ["user", "item", "tag", "timestamp"], ",", skip=1)
    return MovieLens("latest-small", _join(ratings, None, items), None, items, tags)


TYPES = {
    "user": pa.int32(),
    "item": pa.int32(),
    "rating": pa.float32(),
    "timestamp": pa.int64(),
    "age": pa.int32(),
    "code": pa.int32(),
    "occupation": pa.string(),
} | dict.fromkeys(("gender", "zip", "title", "day", "genres", "tag", "genre"), pa.string())


def _read(path: Path, names: list[str], separator: str, *, skip: int = 0) -> pa.Table:
    """A file without header as columns of known types."""
    data = path.read_bytes()
    if len(separator) > 1:  # the reader takes one character only
        data = data.replace(separator.encode(), b"\x1f")
        separator = "\x1f"
    quoted = '"' if separator == "," else False
    try:
        return pa.csv.read_csv(
            io.BytesIO(data),
            pa.csv.ReadOptions(
                column_names=names,
                skip_rows=skip,
                encoding="utf8" if separator == "," else "latin1",
            ),
            pa.csv.ParseOptions(delimiter=separator, quote_char=quoted),
            pa.csv.ConvertOptions(
                column_types={
                    name: TYPES.get(name) or pa.int8()
                    for name in names
                    if name not in ("video_day", "url")
                },
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid as error:
        raise DatasetError(f"{path} is not the official file: {error}") from error


def _items(raw: pa.Table, genres: pa.ChunkedArray) -> pa.Table:
    year = pc.extract_regex(raw["title"], r"\((?P<year>\d{4})\)\s*$")
    year = pc.struct_field(year, "year").cast(pa.int32())
    return pa.table({"item": raw["item"], "title": raw["title"], "year": year, "genres": genres})


def _join(ratings: pa.Table, users: pa.Table | None, items: pa.Table) -> pa.Table:
    """Ratings in their order, with hour and weekday, and the columns of their user and item."""
    seconds = ratings["timestamp"]
    when = seconds.cast(pa.timestamp("s"))
    ratings = ratings.append_column("hour", pc.hour(when).cast(pa.int32()))
    ratings = ratings.append_column("weekday", pc.day_of_week(when).cast(pa.int32()))
    sides = [items] if users is None else [users, items]
    for side in sides:
        key = side.column_names[0]
        at = pc.index_in(ratings[key], side[key].combine_chunks())
        if at.null_count:
            raise DatasetError(f"ratings name {at.null_count} unknown values of {key!r}")
        for name in side.column_names[1:]:
            column = side[name].take(at)
            if name == "zip":
                name, column = "zip_prefix", pc.utf8_slice_codeunits(column, 0, 2)
            ratings = ratings.append_column(name, column)
    return ratings.combine_chunks()


def _official_folds(path: Path, ratings: pa.Table) -> tuple[NDArray[np.int64], ...]:
    """Row numbers of the five official test parts.

    They are u1.test to u5.test where those are at hand. They were made by cutting u.data, in
    its original order, into five stretches of 20,000 lines; so they need not be at hand.
    """
    tests = [path / f"u{number}.test" for number in range(1, N_FOLDS + 1)]
    if not all(test.is_file() for test in tests):
        return tuple(np.array_split(np.arange(ratings.num_rows), N_FOLDS))
    keys = _pair_keys(ratings)
    order = np.argsort(keys)
    folds = []
    for test in tests:
        wanted = _pair_keys(_read(test, ["user", "item", "rating", "timestamp"], "\t"))
        at = np.minimum(np.searchsorted(keys, wanted, sorter=order), keys.size - 1)
        rows = order[at]
        if not np.array_equal(keys[rows], wanted):
            raise DatasetError(f"{test} holds ratings that u.data does not")
        folds.append(np.sort(rows))
    return tuple(folds)


def _pair_keys(ratings: pa.Table) -> NDArray[np.int64]:
    user: NDArray[np.int64] = ratings["user"].to_numpy().astype(np.int64)
    item: NDArray[np.int64] = ratings["item"].to_numpy().astype(np.int64)
    return (user << 32) | item


_FOLD_FILES: Sequence[str] = [f"u{j}.test" for j in range(1, N_FOLDS + 1)]

# name: (files, files that may be absent, SHA-256 of the official zip, reader)
LOADERS = {
    "100k": (
        ("u.data", "u.user", "u.item", "u.genre"),
        _FOLD_FILES,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        _load_100k,
    ),
    "1m": (
        ("ratings.dat", "users.dat", "movies.dat"),
        (),
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        _load_1m,
    ),
    "latest-small": (
        ("ratings.csv", "movies.csv"),
        ("tags.csv",),
        "696d65a3dfceac7c45750ad32df2c259311949efec81f0f144fdfb91ebc9e436",
        _load_latest_small,
    ),
}
