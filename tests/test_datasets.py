"""Data sets: loaders on small copies and on real files, and how files come to this machine."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import threading
import zipfile
from functools import partial

import numpy as np
import pytest

from crossfm import datasets
from crossfm.datasets import criteo, fetch, frappe, movielens
from crossfm.errors import DatasetError


@pytest.fixture
def empty_home(monkeypatch, tmp_path):
    """A machine on which no data set lies."""
    monkeypatch.setenv(fetch.VARIABLE, str(tmp_path / "named"))
    monkeypatch.setattr(fetch, "cache_folder", lambda: tmp_path / "cache")
    return tmp_path


# MovieLens


def _write(folder, **files):
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_bytes(text.encode("latin1"))
    return folder


ML_100K = {
    "u__data": "".join(f"{1 + j % 2}\t{1 + j // 2}\t{1 + j % 5}\t{3600 * j}\n" for j in range(10)),
    "u__user": "1|24|M|writer|85711\n2|53|F|other|T8H1N\n",
    "u__item": "".join(
        f"{j}|{title}|01-Jan-1995||http://x|{'|'.join(flags)}\n"
        for j, (title, flags) in enumerate(
            [
                ("Toy Story (1995)", "011"),
                ("Misérables, Les (1934)", "010"),
                ('"Quoted" (Mind) (2001)', "001"),
                ("unknown", "100"),
                ("Nothing (1999) ", "000"),
            ],
            start=1,
        )
    ),
    "u__genre": "unknown|0\nAction|1\nComedy|2\n\n",
}


def test_movielens_100k_joins_both_sides(empty_home):
    _write(empty_home / "named" / "ml-100k", **ML_100K)
    data = datasets.load_movielens("100k", download=False)
    assert data.users.num_rows == 2
    assert data.users["zip"].to_pylist() == ["85711", "T8H1N"]
    row = data.ratings.slice(3, 1).to_pylist()[0]
    assert row == {
        "user": 2,
        "item": 2,
        "rating": 4.0,
        "timestamp": 3 * 3600,
        "hour": 3,
        "weekday": 3,  # the epoch was a Thursday
        "age": 53,
        "gender": "F",
        "occupation": "other",
        "zip_prefix": "T8",
        "title": "Misérables, Les (1934)",
        "year": 1934,
        "genres": "Action",
    }
    assert data.items["genres"].to_pylist() == ["Action|Comedy", "Action", "Comedy", "unknown", ""]
    assert data.items["year"].to_pylist() == [1995, 1934, 2001, None, 1999]
    train, test = data.fold(2)
    assert test["timestamp"].to_pylist() == [2 * 3600, 3 * 3600]
    assert train.num_rows == 8
    train, test = data.split(0.3, seed=1)
    assert train.num_rows + test.num_rows == 10
    assert not set(train["timestamp"].to_pylist()) & set(test["timestamp"].to_pylist())
    with pytest.raises(ValueError, match="1 to 5"):
        data.fold(0)


def test_movielens_folds_are_the_official_test_files_where_they_are(empty_home):
    folder = _write(empty_home / "named" / "ml-100k", **ML_100K)
    lines = ML_100K["u__data"].splitlines(keepends=True)
    for number in range(1, 6):
        (folder / f"u{number}.test").write_text("".join(sorted(lines[number - 1 :: 5])))
    data = datasets.load_movielens("100k", download=False)
    for number, (_, test) in enumerate(data.folds(), start=1):
        assert test["timestamp"].to_pylist() == [3600 * (number - 1), 3600 * (number + 4)]
    (folder / "u5.test").write_text("1\t77\t3\t0\n")
    with pytest.raises(DatasetError, match=r"u5\.test"):
        datasets.load_movielens("100k", download=False)


def test_movielens_1m_reads_double_colons(empty_home):
    _write(
        empty_home / "named" / "ml-1m",
        ratings__dat="1::10::5::978300760\n2::11::3::978302109\n",
        users__dat="1::F::1::10::48067\n2::M::56::20::98107-2117\n",
        movies__dat="10::Star Wars: Episode IV (1977)::Action|Sci-Fi\n11::Été (1966)::Drama\n",
    )
    data = datasets.load_movielens("1m", download=False)
    first, second = data.ratings.to_pylist()
    assert first["title"] == "Star Wars: Episode IV (1977)"
    assert first["occupation"] == "K-12-student"
    assert first["age"] == 1
    assert second["title"] == "Été (1966)"
    assert second["occupation"] == "writer"
    assert second["zip_prefix"] == "98"
    with pytest.raises(ValueError, match="no official folds"):
        data.fold(1)


def test_movielens_latest_small_has_tags_and_quotes(empty_home):
    _write(
        empty_home / "named" / "ml-latest-small",
        ratings__csv="userId,movieId,rating,timestamp\r\n1,1,4.5,0\r\n1,2,0.5,86399\r\n",
        movies__csv='movieId,title,genres\r\n1,"Net, The (1995)",Action\r\n'
        "2,Short (2000),(no genres listed)\r\n",
        tags__csv="userId,movieId,tag,timestamp\r\n1,1,tense,7\r\n",
    )
    data = datasets.load_movielens("latest-small", download=False)
    assert data.users is None
    assert data.ratings["title"].to_pylist() == ["Net, The (1995)", "Short (2000)"]
    assert data.ratings["genres"].to_pylist() == ["Action", ""]
    assert data.ratings["hour"].to_pylist() == [0, 23]
    assert data.ratings["rating"].to_pylist() == [4.5, 0.5]
    assert data.tags["tag"].to_pylist() == ["tense"]


def test_movielens_refuses_damaged_files(empty_home):
    folder = _write(empty_home / "named" / "ml-100k", **ML_100K)
    (folder / "u.data").write_text("1\t1\tfive\t0\n")
    with pytest.raises(DatasetError, match=r"u\.data"):
        datasets.load_movielens("100k", download=False)
    (folder / "u.data").write_text("3\t1\t5\t0\n")
    with pytest.raises(DatasetError, match="user"):
        datasets.load_movielens("100k", download=False)
    with pytest.raises(ValueError, match="Did you mean '100k'"):
        datasets.load_movielens("100K")


def test_movielens_100k_whole(real_data):
    folder = real_data("ml-100k")
    data = datasets.load_movielens("100k")
    ratings = data.ratings
    assert ratings.num_rows == 100_000
    assert len(ratings["user"].unique()) == data.users.num_rows == 943
    assert len(ratings["item"].unique()) == data.items.num_rows == 1682
    assert np.mean(ratings["rating"].to_numpy()) == pytest.approx(3.52986)
    assert ratings["title"].null_count == 0
    # the official order: the folds below are the published ones only then
    published = "06416e597f82b7342361e41163890c81036900f418ad91315590814211dca490"
    assert hashlib.sha256((folder / "u.data").read_bytes()).hexdigest() == published
    for number in range(1, 6):
        train, test = data.fold(number)
        assert (train.num_rows, test.num_rows) == (80_000, 20_000)
        test_file = folder / f"u{number}.test"
        stretch = ratings.slice(20_000 * (number - 1), 20_000)
        assert test.equals(stretch), f"fold {number} differs from its stretch of u.data"
        if test_file.is_file():
            official = np.loadtxt(test_file, dtype=np.int64)
            ours = np.stack([test[name].to_numpy() for name in ("user", "item")], axis=1)
            assert set(map(tuple, official[:, :2])) == set(map(tuple, ours))
    assert data.users["age"].to_pylist()[0] == 24


def test_movielens_latest_small_whole(real_data):
    real_data("ml-latest-small")
    data = datasets.load_movielens("latest-small")
    assert data.ratings.num_rows == 100_836
    assert len(data.ratings["user"].unique()) == 610
    assert data.ratings["genres"].null_count == 0
    assert data.tags.num_rows == 3683


# Frappe


def _frappe_line(label, last):
    first = [*frappe.FIRST_IDS.values()]
    first[-1] += last
    return f"{label} " + " ".join(f"{i}:1" for i in first) + "\n"


def _frappe_folder(parent, train="frappe.train.libfm"):
    folder = parent / "named" / "frappe"
    folder.mkdir(parents=True)
    (folder / train).write_text(_frappe_line(1, 0) + _frappe_line(-1, 1))
    (folder / "frappe.validation.libfm").write_text(_frappe_line(-1, 2))
    (folder / "frappe.test.libfm").write_text(_frappe_line(1, 3))
    return folder


@pytest.mark.parametrize("rebuilt", [False, True])
def test_frappe_becomes_rows(empty_home, rebuilt):
    _frappe_folder(empty_home, "frappe.train.rebuilt.libfm" if rebuilt else "frappe.train.libfm")
    data = datasets.load_frappe(download=False)
    assert data.rebuilt == rebuilt
    assert data.train.row_length == 10
    assert data.train.targets.tolist() == [1.0, 0.0]
    assert data.train.ids[[0, 9, 19]].tolist() == [0, 5149, 5150]
    assert data.train.ids.dtype == np.int32
    assert data.train.offsets is None
    assert data.train.values is None
    assert (data.field_of[data.test.ids] == np.arange(10)).all()


def test_frappe_refuses_other_files(empty_home):
    folder = _frappe_folder(empty_home)
    (folder / "frappe.test.libfm").write_text("1 5:1 7:1\n")
    with pytest.raises(DatasetError, match=r"frappe\.test\.libfm"):
        datasets.load_frappe(download=False)
    (folder / "frappe.test.libfm").write_text(_frappe_line(1, 0).replace("957:1", "958:0.5"))
    with pytest.raises(DatasetError, match=r"frappe\.test\.libfm"):
        datasets.load_frappe(download=False)


def test_frappe_whole(real_data):
    real_data("frappe")
    data = datasets.load_frappe()
    assert [len(part) for part in (data.train, data.validation, data.test)] == [
        202_027,
        57_722,
        28_860,
    ]
    assert int(data.train.targets.sum()) == 67_604
    fields = data.field_of[data.train.ids].reshape(-1, 10)
    assert (fields == np.arange(10)).all()


# Criteo

KAGGLE = "1\t1\t-2\t\t" + "\t".join(str(j) for j in range(10)) + "\t" + "68fd1e64\t" * 25 + "\n"


@pytest.mark.parametrize("packed", [False, True])
def test_criteo_kaggle_text(tmp_path, packed):
    text = (KAGGLE + KAGGLE.replace("68fd1e64", "a0", 1)).encode()
    path = tmp_path / ("train.txt.gz" if packed else "train.txt")
    path.write_bytes(gzip.compress(text) if packed else text)
    table = datasets.load_criteo(path)
    assert table.column_names == criteo.COLUMNS
    assert table["label"].to_pylist() == [1, 1]
    assert table["I2"].to_pylist() == [-2, -2]
    assert table["I3"].to_pylist() == [None, None]
    assert table["C1"].to_pylist() == ["68fd1e64", "a0"]
    assert table["C26"].to_pylist() == [None, None]
    assert datasets.load_criteo(path, n_rows=1).num_rows == 1


def test_criteo_test_file_has_no_label(tmp_path):
    (tmp_path / "test.txt").write_text(KAGGLE.split("\t", 1)[1])
    table = datasets.load_criteo(tmp_path / "test.txt")
    assert table.column_names == criteo.COLUMNS[1:]
    assert table["I1"].to_pylist() == [1]


def test_criteo_csv_variant(tmp_path):
    header = ["Id", "Label", *criteo.COUNTS, *criteo.CATEGORIES]
    ids = ["461.0", "68fd1e64", "", "1.0047882E7", "1E1"]
    cells = ["7", "0", "9.0", '""', *["1"] * 11, *ids, *[""] * 21]
    path = tmp_path / "criteo.csv"
    path.write_text(",".join(header) + "\r\n" + ",".join(cells) + "\r\n")
    row = datasets.load_criteo(path).to_pylist()[0]
    assert "Id" not in row
    assert (row["label"], row["I1"], row["I2"], row["I3"]) == (0, 9, None, 1)
    assert (row["C1"], row["C2"], row["C3"]) == ("461", "68fd1e64", None)
    assert (row["C4"], row["C5"]) == ("10047882", "10")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        "\t".join(criteo.COLUMNS) + "\n",
        KAGGLE + "1\t2\n",
        KAGGLE.replace("-2", "x"),
        KAGGLE.replace("-2", "0.5"),
    ],
)
def test_criteo_refuses_other_files(tmp_path, text):
    path = tmp_path / "other.txt"
    path.write_text(text)
    with pytest.raises(DatasetError, match=r"other\.txt is not a Criteo log"):
        datasets.load_criteo(path)


def test_criteo_names_what_is_missing(empty_home):
    with pytest.raises(DatasetError, match=r"no file .*absent\.txt"):
        datasets.load_criteo(empty_home / "absent.txt")
    with pytest.raises(DatasetError, match="CROSSFM_DATA"):
        datasets.load_criteo()


def test_criteo_20k_whole(real_data):
    real_data("criteo-20k")
    table = datasets.load_criteo()
    assert table.num_rows == 20_000
    assert np.mean(table["label"].to_numpy()) == pytest.approx(0.243, abs=0.001)
    assert table["I12"].null_count == 15_510
    assert not any("." in text for text in table["C1"].drop_null().to_pylist())


# Fetching, from a home on this machine


@pytest.fixture
def home(tmp_path):
    """A web server over a folder: yields (folder, base URL)."""
    folder = tmp_path / "home"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def _serve_100k(folder, **changed):
    archive = folder / "ml-100k.zip"
    with zipfile.ZipFile(archive, "w") as sink:
        for name, text in {**ML_100K, **changed}.items():
            if text is not None:
                sink.writestr(f"ml-100k/{name.replace('__', '.')}", text.encode("latin1"))
        sink.writestr("../evil.txt", "out")
    return hashlib.sha256(archive.read_bytes()).hexdigest()


def _trust(monkeypatch, url, sha256):
    files, optional, _, read = movielens.LOADERS["100k"]
    monkeypatch.setattr(movielens, "FILES", url)
    monkeypatch.setitem(movielens.LOADERS, "100k", (files, optional, sha256, read))


def test_download_is_checked_unpacked_and_kept(empty_home, home, monkeypatch):
    folder, url = home
    _trust(monkeypatch, url, _serve_100k(folder, u1__test="1\t1\t1\t0\n"))
    data = datasets.load_movielens("100k")
    assert data.ratings.num_rows == 10
    cached = empty_home / "cache" / "ml-100k"
    assert sorted(p.name for p in cached.iterdir()) == [
        "u.data",
        "u.genre",
        "u.item",
        "u.user",
        "u1.test",
    ]
    assert [p.name for p in (empty_home / "cache").iterdir()] == ["ml-100k"]
    (folder / "ml-100k.zip").unlink()  # the second time nothing is fetched
    assert datasets.load_movielens("100k").ratings.equals(data.ratings)


def test_download_of_a_folder_that_lacks_files_replaces_it(empty_home, home, monkeypatch):
    folder, url = home
    _trust(monkeypatch, url, _serve_100k(folder))
    _write(empty_home / "cache" / "ml-100k", u__data="")
    assert datasets.load_movielens("100k").ratings.num_rows == 10


@pytest.mark.parametrize("fault", ["checksum", "absent", "not a zip", "member"])
def test_a_bad_download_leaves_nothing(empty_home, home, monkeypatch, fault):
    folder, url = home
    sha256 = _serve_100k(folder, **({"u__item": None} if fault == "member" else {}))
    if fault == "checksum":
        sha256 = "0" * 64
    elif fault == "absent":
        (folder / "ml-100k.zip").unlink()
    elif fault == "not a zip":
        (folder / "ml-100k.zip").write_bytes(b"<html>login</html>")
        sha256 = hashlib.sha256(b"<html>login</html>").hexdigest()
    _trust(monkeypatch, url, sha256)
    expected = {
        "checksum": "SHA-256",
        "absent": "not found",
        "not a zip": "not a zip",
        "member": "u.item",
    }[fault]
    with pytest.raises(DatasetError, match=expected) as caught:
        datasets.load_movielens("100k")
    assert "CROSSFM_DATA" in str(caught.value)
    assert not list((empty_home / "cache").iterdir())


def test_no_network_is_said_within_seconds(empty_home, monkeypatch):
    monkeypatch.setattr(movielens, "FILES", "http://127.0.0.1:9/")  # nobody listens there
    with pytest.raises(DatasetError, match="could not be downloaded") as caught:
        datasets.load_movielens("100k")
    for part in ("CROSSFM_DATA", "u.data", "ml-100k", "grouplens.org"):
        assert part in str(caught.value)
    assert isinstance(caught.value, OSError)


def test_a_home_that_never_answers_is_given_up(empty_home, monkeypatch):
    monkeypatch.setattr(fetch, "CONNECT_SECONDS", 0.05)
    monkeypatch.setattr(fetch.urllib.request, "urlopen", lambda *a, **k: threading.Event().wait(2))
    with pytest.raises(DatasetError, match="no answer"):
        datasets.load_movielens("1m")


def test_download_can_be_refused(empty_home):
    with pytest.raises(DatasetError, match="downloading is off"):
        datasets.load_frappe(download=False)


def test_cache_folder_follows_the_system(monkeypatch, tmp_path):
    monkeypatch.setattr(fetch.sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert fetch.cache_folder() == tmp_path / "crossfm"
    monkeypatch.setattr(fetch.sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert fetch.cache_folder() == tmp_path / "local" / "crossfm"
