"""Folders that grow: each file is learned once, half-written ones wait."""

from __future__ import annotations

import copy
import os
import shutil
import signal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up import ratings

import crossfm as cf
from crossfm.data import arrivals as module
from crossfm.data.arrivals import Arrivals
from crossfm.errors import DataError
from crossfm.estimators import _folders
from crossfm.store import load_model, save_model

FRAME, Y = ratings(600)
LABELS = (Y > 3).astype(int)


def write(path, low, high, **more):
    table = pa.table({name: column[low:high] for name, column in (FRAME | more).items()}
                     | {"stars": Y[low:high]})  # fmt: skip
    pq.write_table(table, path)


def regressor():
    return cf.FMRegressor(n_factors=4, random_state=0)


def same(one, other):
    for name in ("factors_", "coef_", "intercept_"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "days"
    made.mkdir()
    write(made / "a.parquet", 0, 200)
    write(made / "b.parquet", 200, 400)
    return made


# --- partial_fit --------------------------------------------------------------------------------


def test_each_file_is_learned_once(folder, tmp_path):
    model = regressor().partial_fit(folder, "stars")
    expected = regressor()
    for name in ("a", "b"):
        expected.partial_fit(folder / f"{name}.parquet", "stars")
    same(model, expected)
    assert model.files_ == [str((folder / f"{name}.parquet").resolve()) for name in ("a", "b")]
    assert model.n_iter_ == 2
    model.partial_fit(str(folder), "stars")
    assert model.n_iter_ == 2  # nothing new
    same(model, expected)
    write(folder / "c.parquet", 400, 600)
    model.partial_fit(folder, "stars")
    same(model, expected.partial_fit(folder / "c.parquet", "stars"))
    # A file that is named is learned, whatever was learned before.
    assert model.partial_fit(folder / "c.parquet", "stars").n_iter_ == 4


def test_the_memory_of_files_is_saved(folder, tmp_path):
    model = regressor().partial_fit(folder, "stars")
    model.save(tmp_path / "m.crossfm")
    for again in (cf.load(tmp_path / "m.crossfm"), copy.deepcopy(model)):
        assert again.files_ == model.files_
        before = again.factors_.copy()
        np.testing.assert_array_equal(again.partial_fit(folder, "stars").factors_, before)
    again = cf.load(tmp_path / "m.crossfm")
    write(folder / "c.parquet", 400, 600)
    assert again.partial_fit(folder, "stars").n_iter_ == model.n_iter_ + 1


def test_files_of_older_model_files_are_none(folder, tmp_path):
    path = tmp_path / "m.crossfm"
    model = regressor().partial_fit(folder, "stars")
    model.save(path)
    stored = load_model(path)
    metadata = {name: value for name, value in stored.metadata.items() if name != "files"}
    save_model(stored.models, path, metadata=metadata)
    assert cf.load(path).files_ == []
    save_model(stored.models, path, metadata=metadata | {"files": {"a": [1]}})
    with pytest.raises(cf.errors.ModelFileError, match="broken description"):
        cf.load(path)


def test_fit_on_a_folder_remembers_it_too(folder):
    model = regressor().set_params(n_epochs=2).fit(folder, "stars")
    assert len(model.files_) == 2
    before = model.factors_.copy()
    np.testing.assert_array_equal(model.partial_fit(folder, "stars").factors_, before)
    model.fit(FRAME, Y)  # anew
    assert model.files_ == []


def test_new_categories_of_new_files(folder):
    model = regressor().partial_fit(folder, "stars")
    names = model.schema_.feature_names()
    write(folder / "c.parquet", 400, 600, user=["somebody new"] * 600)
    model.partial_fit(folder, "stars")
    assert model.schema_.feature_names() == [*names, "user=somebody new"]


def test_classes(folder, tmp_path):
    for at, name in enumerate(("a", "b")):
        part = slice(200 * at, 200 * at + 200)
        pq.write_table(pa.table({n: c[part] for n, c in FRAME.items()} | {"liked": LABELS[part]}),
                       folder / f"{name}.parquet")  # fmt: skip
    model = cf.FMClassifier(random_state=0, n_factors=4)
    model.partial_fit(folder, "liked", classes=[0, 1]).partial_fit(folder, "liked")
    assert (model.n_iter_, len(model.files_)) == (2, 2)


def test_text(tmp_path):
    model = cf.FMClassifier(random_state=0, n_factors=4)
    for at in range(3):
        lines = [f"{i % 2} {i % 7}:1 {7 + i % (5 + at)}:1" for i in range(100)]
        (tmp_path / f"{at}.libsvm").write_text("\n".join(lines) + "\n")
        model.partial_fit(tmp_path, classes=[0, 1])
        assert model.n_iter_ == at + 1


# --- what waits ---------------------------------------------------------------------------------


def test_half_written_files_wait(folder):
    whole = (folder / "b.parquet").read_bytes()
    (folder / "c.parquet").write_bytes(whole[:-100])
    (folder / "d.parquet").touch()
    (folder / "e.parquet.tmp").write_bytes(whole)
    footer = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    (folder / "f.parquet").write_bytes(whole[:footer] + bytes(52) + whole[footer + 52 :])
    (folder / "g.log.gz").write_bytes(b"\x1f\x8b\x08\x00")
    (folder / ".hidden").touch()
    model = regressor()
    with pytest.warns(UserWarning, match="left") as told:
        model.partial_fit(folder, "stars")
    (warning,) = told
    text = str(warning.message)
    assert text.startswith("left for the next call: c.parquet (its footer is missing")
    for part in ("d.parquet (it is empty)", "e.parquet.tmp (its name", "f.parquet (its footer can",
                 "g.log.gz"):  # fmt: skip
        assert part in text
    assert warning.filename == __file__
    assert len(model.files_) == 2
    for name in ("d.parquet", "f.parquet", "g.log.gz", "e.parquet.tmp"):
        (folder / name).unlink()
    (folder / "c.parquet").write_bytes(whole)
    same(model.partial_fit(folder, "stars"),
         regressor().partial_fit([folder / f"{n}.parquet" for n in "abc"], "stars"))  # fmt: skip


def test_nothing_to_learn(tmp_path, folder):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match=r"holds no files to learn$"):
        regressor().partial_fit(empty, "stars")
    (empty / "a.parquet").touch()
    with (
        pytest.warns(UserWarning, match="left for"),
        pytest.raises(DataError, match=r"no files to learn: a.parquet \(it is empty\)"),
    ):
        regressor().partial_fit(empty, "stars")
    model = regressor().partial_fit(folder, "stars")
    (empty / "a.parquet").unlink()
    assert model.partial_fit(empty, "stars").n_iter_ == 2
    shutil.rmtree(empty)
    with pytest.raises(DataError, match="no such file"):
        model.partial_fit(empty, "stars")


# --- what is known ------------------------------------------------------------------------------


def test_a_replaced_file_is_new(folder):
    model = regressor().partial_fit(folder, "stars")
    write(folder / "a.parquet", 400, 600)
    with pytest.warns(UserWarning, match="replaced since they were learned.*: a.parquet"):
        model.partial_fit(folder, "stars")
    assert (model.n_iter_, len(model.files_)) == (3, 2)
    assert model.partial_fit(folder, "stars").n_iter_ == 3


def test_touched_and_moved_files_are_known(folder, tmp_path):
    model = regressor().partial_fit(folder, "stars")
    os.utime(folder / "a.parquet", ns=(1, 1))
    assert model.partial_fit(folder, "stars").n_iter_ == 2
    moved = folder.rename(tmp_path / "moved")
    assert model.partial_fit(moved, "stars").n_iter_ == 2
    shutil.copy(moved / "a.parquet", moved / "copy.parquet")  # a new name in the same folder
    assert model.partial_fit(moved, "stars").n_iter_ == 3


def test_large_files_are_told_apart_by_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "WHOLE", 1000)
    monkeypatch.setattr(module, "SAMPLE", 10)
    content = bytearray(os.urandom(5000))
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    first = module._checksum(path, 5000)
    assert module._checksum(path, 5000) == first
    for at in (0, 2500, 4999):
        content[at] ^= 1
        path.write_bytes(content)
        assert module._checksum(path, 5000) != first
        content[at] ^= 1


def test_arrivals_come_back(folder):
    arrivals = Arrivals()
    a, b = arrivals.new(folder)
    arrivals.learned(a, 50)
    arrivals.learned(a, 70)
    arrivals.end(b)
    again = Arrivals.from_state(arrivals.state())
    assert again.state() == arrivals.state()
    assert (len(again), again.paths) == (1, [str(b.resolve())])
    assert again.new(folder) == [a]
    assert (again.begun(a), again.begun(b)) == (120, 0)
    write(a, 0, 10)
    assert again.new(folder) == [a]
    assert (again.begun(a), again.changed) == (0, [a])


# --- what goes wrong half way -------------------------------------------------------------------


def pieces_of(size):
    before = _folders.file_batches

    def smaller(X, schema_now):
        for piece in before(X, schema_now):
            for low in range(0, len(piece), size):
                yield piece[low : low + size]

    return smaller


def test_rows_before_an_error_are_not_learned_again(folder, monkeypatch):
    monkeypatch.setattr(_folders, "file_batches", pieces_of(50))
    table = pq.read_table(folder / "b.parquet")
    stars = table["stars"].to_pylist()
    broken = table.set_column(2, "stars", pa.array([*stars[:120], None, *stars[121:]]))
    pq.write_table(broken, folder / "b.parquet")
    model = regressor()
    with pytest.raises(DataError) as found:
        model.partial_fit(folder, "stars")
    assert f"Row 0 is row 100 of {folder / 'b.parquet'}" in found.value.__notes__[-1]
    assert (model.n_iter_, len(model.files_)) == (6, 1)  # four pieces, and two
    with pytest.raises(DataError):
        model.partial_fit(folder, "stars")
    assert model.n_iter_ == 6


def test_an_interrupted_folder_goes_on(folder, monkeypatch, patient):
    monkeypatch.setattr(_folders, "file_batches", pieces_of(50))
    whole = regressor().partial_fit(folder, "stars")
    model, before = regressor(), cf.FMRegressor._partial_fit

    def stop(self, *given):
        before(self, *given)
        if self.n_iter_ == 6:
            signal.raise_signal(signal.SIGINT)
        return self

    monkeypatch.setattr(cf.FMRegressor, "_partial_fit", stop)
    with pytest.raises(KeyboardInterrupt):
        model.partial_fit(folder, "stars")
    monkeypatch.setattr(cf.FMRegressor, "_partial_fit", before)
    assert model.partial_fit(folder, "stars").n_iter_ == whole.n_iter_ == 8
    same(model, whole)
