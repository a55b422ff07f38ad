"""Training of networks: batches, steps, early stopping, interrupts, checkpoints."""

from __future__ import annotations

import math
import signal

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="networks need PyTorch, an optional extra")

from torch import nn  # noqa: E402

from crossfm import Rows  # noqa: E402
from crossfm.errors import DataError, DivergedError, ModelFileError  # noqa: E402
from crossfm.fitting import Watch  # noqa: E402
from crossfm.nn.deepfm import DeepFM  # noqa: E402
from crossfm.nn.training import (  # noqa: E402
    Layout,
    Loader,
    OnePerClass,
    TrainingOptions,
    assemble,
    choose_device,
    loop,
    score,
    train,
)
from crossfm.nn.training.checkpoint import load_checkpoint, save_checkpoint  # noqa: E402
from crossfm.nn.training.steps import Steps  # noqa: E402

N_USERS, N_ITEMS = 30, 20
FIELD_OF = np.repeat([0, 1], [N_USERS, N_ITEMS])


def clicks(n=2000, seed=0):
    """Users click on items of their own parity: no user and no item alone tells."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, N_USERS, n), rng.integers(0, N_ITEMS, n)
    ids = np.stack([user, N_USERS + item], axis=1).astype(np.int32)
    return Rows(ids, targets=((user + item) % 2 == 0).astype(np.float32))


def ragged(n=101, seed=0, *, values=True, fields=True):
    """Rows of 0 to 5 features, with all that rows can carry."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 6, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    nnz = offsets[-1]
    return Rows(
        rng.integers(0, 50, nnz),
        rng.random(nnz).astype(np.float32) if values else None,
        offsets,
        rng.integers(0, 3, nnz).astype(np.int32) if fields else None,
        rng.random(n).astype(np.float32),
        rng.random(n).astype(np.float32),
    )


def network(seed=0, **options):
    torch.manual_seed(seed)
    return DeepFM(50, 4, FIELD_OF, **{"hidden": (16,), "dropout": 0.1} | options)


def options(**changed):
    given = {"n_epochs": 3, "batch_size": 100, "optimizer": "adam", "learning_rate": 0.02}
    return TrainingOptions(**given | {"seed": 5} | changed)


def log_loss_watch(rows, patience=0):
    def evaluate(scores):
        y = rows.targets
        return {"log_loss": float(np.mean(np.logaddexp(0, scores) - y * scores))}

    return Watch(rows, evaluate, "log_loss", lambda new, best: new < best, patience)


def same_weights(a, b):
    for (name, one), (_, other) in zip(a.state_dict().items(), b.state_dict().items(), strict=True):
        assert torch.equal(one, other), name


# --- batches ------------------------------------------------------------------------------------


def assert_is(batch, rows):
    assert batch.n_rows == len(rows)
    assert batch.ids.reshape(-1).tolist() == rows.ids.tolist()
    if rows.offsets is None:
        assert batch.offsets is None
    else:
        assert batch.offsets.tolist() == rows.offsets.tolist()
    for name in ("values", "fields", "targets", "weights"):
        ours, theirs = getattr(batch, name), getattr(rows, name)
        assert (ours is None) == (theirs is None), name
        if theirs is not None:
            assert ours.reshape(-1).tolist() == theirs.tolist(), name


@pytest.mark.parametrize(
    "rows",
    [ragged(), ragged(values=False, fields=False), clicks(101), Rows(np.zeros((7, 0), np.int32))],
    ids=["ragged", "plain", "equal", "empty"],
)
@pytest.mark.parametrize("size", [1, 7, 50, 1000])
@pytest.mark.parametrize("resident", [True, False])
def test_batches_are_rows_taken(rows, size, resident):
    loader = Loader(rows, size, resident=resident)
    order = loader.order(torch.Generator().manual_seed(1))
    assert sorted(order.tolist()) == list(range(len(rows)))
    at = 0
    batches = list(loader.batches(order))
    assert len(batches) == len(loader) == math.ceil(len(rows) / size)
    for batch in batches:
        assert_is(batch, rows.take(order[at : at + batch.n_rows].numpy()))
        at += batch.n_rows
    assert at == len(rows)
    sizes = {batch.n_rows for batch in batches}
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_batches_in_order_and_of_some_rows():
    rows, only = ragged(), np.array([3, 50, 7, 99])
    one, two = Loader(rows, 3, only=only)
    assert_is(one, rows.take([3, 50]))
    assert_is(two, rows.take([7, 99]))
    loader = Loader(rows, 3, only=only)
    order = loader.order(torch.Generator().manual_seed(0))
    assert sorted(order.tolist()) == sorted(only.tolist())
    (skipped,) = loader.batches(skip=1)
    assert_is(skipped, rows.take([7, 99]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="page-locked memory needs a GPU")
@pytest.mark.parametrize("rows", [ragged(1001), clicks(1001)], ids=["ragged", "equal"])
def test_batches_copied_to_a_gpu(rows):
    loader = Loader(rows, 10, device="cuda", resident=False)
    order = loader.order(torch.Generator().manual_seed(1))
    at = 0
    for batch in loader.batches(order):
        assert batch.ids.is_cuda
        assert_is(batch.to("cpu"), rows.take(order[at : at + batch.n_rows].numpy()))
        at += batch.n_rows


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Loader(clicks()[:0]), "no rows"),
        (lambda: Loader(clicks(), 0), "batch_size is 0"),
        (lambda: Loader(clicks(9), only=np.array([9])), "only names rows 9 to 9 of 9"),
        (lambda: Loader(clicks(9), only=np.array([], np.int64)), "no rows"),
    ],
)
def test_refused_batches(make, message):
    with pytest.raises(DataError, match=message):
        make()


# --- learning -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [("adam", 0.02), ("adagrad", 0.2), ("rowwise_adagrad", 0.2), ("ftrl", 2.0)],
)
def test_learns(optimizer, rate):
    rows, fresh = clicks(4000), clicks(500, seed=1)
    net = network(dropout=0.0)
    history = train(net, rows, options(n_epochs=8, optimizer=optimizer, learning_rate=rate))
    assert history.epochs[-1].loss < 0.2
    assert ((score(net, fresh) > 0) == fresh.targets).mean() > 0.95
    assert history.best_epoch == len(history.epochs) == 8
    assert history.stopped == "n_epochs"


def test_first_loss_and_step_are_those_of_plain_pytorch():
    """One step of everything, against PyTorch's own optimizers on dense copies."""
    rows = clicks(64).replace(weights=np.linspace(0.5, 2, 64, dtype=np.float32))
    net, other = (network(dropout=0.0, dtype=None, sparse_grad=False) for _ in range(2))
    history = train(net, rows, options(
        n_epochs=1, batch_size=64, optimizer="adagrad", learning_rate=0.1,
        learning_rate_dense=0.01, clip_norm=0.05, weight_decay=0.3, shuffle=False,
    ))  # fmt: skip
    tables = other.embedding.tables()
    dense = [p for p in other.parameters() if not any(p is table for table in tables)]
    logits = other(rows)
    y, weight = torch.tensor(rows.targets), torch.tensor(rows.weights)
    losses = nn.functional.softplus(logits) - y * logits
    loss = (weight * losses).sum() / weight.sum()
    assert history.epochs[0].loss == pytest.approx(loss.item(), rel=1e-6)
    loss.backward()
    nn.utils.clip_grad_norm_(dense, 0.05)
    torch.optim.Adagrad(tables, lr=0.1).step()
    torch.optim.AdamW([p for p in dense if p.dim() > 1], lr=0.01, weight_decay=0.3).step()
    torch.optim.AdamW([p for p in dense if p.dim() < 2], lr=0.01, weight_decay=0.0).step()
    for (name, ours), theirs in zip(net.named_parameters(), other.parameters(), strict=True):
        # Adam and AdaGrad divide by the gradient's size: rounding of tiny gradients shows.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4, msg=name)


def test_penalty_of_touched_rows():
    """l2 pulls in the vectors of the batch, against a single row's loss, and no others."""
    rows = Rows(np.array([[0, N_USERS]] * 4), targets=np.ones(4, np.float32))
    net = network()
    steps = Steps(net, options(l2_factors=4.0, l2_linear=2.0))
    steps.begin(0.5, n_rows=4)
    found = {group["params"][0].dim(): (group["lr"], group["l2"])
             for group in steps._tables.param_groups}  # fmt: skip
    assert found == {1: (0.01, 0.5), 2: (0.01, 1.0)}
    steps.release()
    before = net.embedding.factors.detach().clone()
    train(net, rows, options(n_epochs=1))
    moved = (net.embedding.factors != before).any(1).nonzero().squeeze(1)
    assert moved.tolist() == [0, N_USERS]
    assert net.embedding.optimizer is None


class Own(nn.Module):
    """A user's module, with embeddings of PyTorch's."""

    def __init__(self, sparse=True):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 6, sparse=sparse)
        self.top = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 1))

    def forward(self, batch):
        return self.top(self.table(batch.ids).flatten(1)).squeeze(1)


@pytest.mark.parametrize("sparse", [True, False])
def test_a_module_of_ones_own(sparse):
    net = Own(sparse)
    history = train(net, clicks(4000), options(n_epochs=8, learning_rate_dense=0.02))
    assert history.epochs[-1].loss < 0.2


def test_a_frozen_table_stays():
    net = network()
    net.embedding.factors.requires_grad_(False)
    before = net.embedding.factors.clone()
    weights = net.embedding.weights.detach().clone()
    train(net, clicks(), options())
    assert torch.equal(net.embedding.factors, before)
    assert not torch.equal(net.embedding.weights, weights)


def test_squared_and_softmax_losses():
    rows = clicks(4000)
    numbers = rows.replace(targets=rows.targets * 2 - 1)
    net = network(dropout=0.0)
    train(net, numbers, options(loss="squared", n_epochs=8))
    assert np.corrcoef(score(net, numbers), numbers.targets)[0, 1] > 0.9
    three = rows.replace(targets=((rows.ids[::2] + rows.ids[1::2]) % 3).astype(np.float32))
    several = OnePerClass([network(seed) for seed in range(3)])
    train(several, three, options(loss="softmax", n_epochs=12))
    found = score(several, three, several=True)
    assert found.shape == (4000, 3)
    assert (found.argmax(1) == three.targets).mean() > 0.9


def test_weights_count_in_proportion():
    rows = clicks(600)
    a, b, c = network(), network(), network()
    weights = np.linspace(0.5, 1.5, 600, dtype=np.float32)
    train(a, rows.replace(weights=weights), options())
    train(b, rows.replace(weights=weights * 4), options())
    train(c, rows, options())
    same_weights(a, b)
    assert not torch.equal(a.tower.layers[0].weight, c.tower.layers[0].weight)


def test_rates_follow_the_schedule():
    net, rows = network(), clicks(400)
    seen = []
    begin = Steps.begin

    def noted(self, rate, n_rows):
        seen.append(rate)
        begin(self, rate, n_rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Steps, "begin", lambda self, rate, n: seen.append(rate) or begin(self, rate, n)
        )
        train(net, rows, options(schedule="cosine", warmup=0.25, n_epochs=2))
        assert seen[:2] == [0.5, 1.0]
        assert seen[2] == 1.0
        assert np.all(np.diff(seen[2:]) < 0)
        assert 0 < seen[-1] < 0.1
        seen.clear()
        worse = iter([1.0, 2.0, 0.5, 3.0])
        watch = Watch(rows, lambda scores: {"x": next(worse)}, "x", lambda a, b: a < b, 0)
        train(net, rows, options(schedule="plateau", n_epochs=4), watch=watch)
        assert seen[::4] == pytest.approx([1.0, 1.0, 0.2, 0.2])


def test_mixed_precision_learns():
    net, rows = network(dropout=0.0), clicks(2000)
    history = train(net, rows, options(mixed_precision=True, n_epochs=10))
    assert history.epochs[-1].loss < 0.2
    assert net.tower.layers[0].weight.dtype == torch.float32
    assert score(net, rows, mixed_precision=True).dtype == np.float32


def test_the_seed_decides_and_the_programs_own_random_state_stays():
    a, b, c = network(), network(), network()
    torch.manual_seed(3)
    state = torch.get_rng_state()
    train(a, clicks(), options())
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(4)
    train(b, clicks(), options())
    train(c, clicks(), options(seed=6))
    same_weights(a, b)
    assert not torch.equal(a.tower.layers[0].weight, c.tower.layers[0].weight)


def test_the_mode_of_the_network_stays():
    net = network().eval()
    train(net, clicks(100), options(n_epochs=1), watch=log_loss_watch(clicks(50)))
    assert not net.training
    score(net.train(), clicks(10))
    assert net.training


# --- early stopping -----------------------------------------------------------------------------


def test_the_best_epoch_comes_back():
    rows, n = clicks(1000), 0
    values = [5.0, 3.0, 4.0, 4.5, 1.0]
    snapshots = []
    net = network()

    def evaluate(scores):
        nonlocal n
        n += 1
        snapshots.append(net.tower.layers[0].weight.detach().clone())
        return {"x": values[n - 1]}

    watch = Watch(rows, evaluate, "x", lambda new, best: new < best, patience=2)
    history = train(net, rows, options(n_epochs=10), watch=watch)
    assert (history.stopped, history.best_epoch, len(history.epochs)) == ("early", 2, 4)
    assert torch.equal(net.tower.layers[0].weight, snapshots[1])
    assert [epoch.metrics["x"] for epoch in history.epochs] == values[:4]


def test_progress_is_told():
    told = []
    train(network(), clicks(1000), options(n_epochs=2), watch=log_loss_watch(clicks(50)),
          progress=lambda event, what: told.append((event, dict(what))))  # fmt: skip
    epochs = [what for event, what in told if event == "epoch"]
    assert [what["epoch"] for what in epochs] == [1, 2]
    assert set(epochs[0]) == {"epoch", "of", "loss", "log_loss", "rows_per_second"}
    rows = [what for event, what in told if event == "rows"]
    assert rows[-1]["rows"] == rows[-1]["n_rows"] == 1000


# --- interrupts ---------------------------------------------------------------------------------


def interrupt_at(epoch):
    def progress(event, told):
        if event == "rows" and told["epoch"] == epoch:
            raise KeyboardInterrupt

    return progress


def at_every_batch(monkeypatch):
    """Look at the loss after each batch, and finish no epoch."""
    monkeypatch.setattr(loop, "LOOK_SECONDS", -1.0)
    monkeypatch.setattr(loop, "PATIENT_SECONDS", -1.0)


def test_an_interrupt_leaves_the_last_full_epoch(monkeypatch):
    at_every_batch(monkeypatch)
    net, short = network(), network()
    history = train(net, clicks(), options(), progress=interrupt_at(3))
    train(short, clicks(), options(n_epochs=2))
    assert (history.stopped, len(history.epochs)) == ("interrupted", 2)
    same_weights(net, short)
    assert net.embedding.optimizer is None


def test_an_interrupt_in_the_first_epoch_is_raised(monkeypatch):
    at_every_batch(monkeypatch)
    net = network()
    with pytest.raises(KeyboardInterrupt):
        train(net, clicks(), options(), progress=interrupt_at(1))
    assert net.embedding.optimizer is None
    assert np.isfinite(score(net, clicks())).all()


def test_a_signal_is_an_interrupt(monkeypatch):
    at_every_batch(monkeypatch)
    before = signal.getsignal(signal.SIGINT)

    def progress(event, told):
        if event == "rows" and told["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    history = train(network(), clicks(), options(), progress=progress)
    assert (history.stopped, len(history.epochs)) == ("interrupted", 1)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_short_rest_of_an_epoch_is_finished(patient):
    net, short = network(), network()
    history = train(net, clicks(), options(), progress=interrupt_at(1))
    train(short, clicks(), options(n_epochs=1))
    assert (history.stopped, len(history.epochs)) == ("interrupted", 1)
    same_weights(net, short)


# --- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "rowwise_adagrad", "ftrl"])
@pytest.mark.parametrize("middle", [True, False])
def test_a_resumed_training_is_equal_to_the_bit(tmp_path, monkeypatch, optimizer, middle):
    """Dropout, schedule, early stopping and all; broken off within an epoch or after one."""
    o = options(n_epochs=4, optimizer=optimizer, schedule="cosine")
    rows, watch = ragged_clicks(), log_loss_watch(ragged_clicks(seed=1), patience=4)
    whole = network()
    history = train(whole, rows, o, watch=watch)
    if middle:
        at_every_batch(monkeypatch)
    path = tmp_path / "training.ckpt"
    parts = network()
    broken = train(parts, rows, o, watch=watch, checkpoint=path, progress=interrupt_at(3))
    assert broken.stopped == "interrupted"
    assert len(broken.epochs) == (2 if middle else 3)
    assert path.exists()
    again = network(seed=9)  # other weights: all of them come from the file
    resumed = train(again, rows, o, watch=watch, checkpoint=path)
    assert not path.exists()
    same_weights(again, whole)
    assert resumed.best_epoch == history.best_epoch
    assert [e.loss for e in resumed.epochs] == [e.loss for e in history.epochs]
    assert [e.metrics for e in resumed.epochs] == [e.metrics for e in history.epochs]


def ragged_clicks(seed=0):
    rows = clicks(900, seed)
    return Rows(rows.ids, None, np.arange(901) * 2, targets=rows.targets)


def test_a_module_with_sparse_gradients_resumes_too(tmp_path, monkeypatch):
    at_every_batch(monkeypatch)
    whole, parts = Own(), Own()
    train(whole, clicks(), options())
    path = tmp_path / "x"
    train(parts, clicks(), options(), checkpoint=path, progress=interrupt_at(2))
    again = Own()
    train(again, clicks(), options(), checkpoint=path)
    same_weights(again, whole)


def test_a_first_epoch_resumes(tmp_path, monkeypatch):
    at_every_batch(monkeypatch)
    path = tmp_path / "x"
    with pytest.raises(KeyboardInterrupt):
        train(network(), clicks(), options(), checkpoint=path, progress=interrupt_at(1))
    again, whole = network(), network()
    train(again, clicks(), options(), checkpoint=path)
    train(whole, clicks(), options())
    same_weights(again, whole)


def test_a_checkpoint_of_other_rows_of_the_same_data_is_refused(tmp_path, monkeypatch):
    at_every_batch(monkeypatch)
    first, last = np.arange(1000), np.arange(1000, 2000)
    given = {"checkpoint": tmp_path / "x", "only": first}
    train(network(), clicks(), options(), **given, progress=interrupt_at(2))
    with pytest.raises(DataError, match="another training: checksum"):
        train(network(), clicks(), options(), **given | {"only": last})


def test_a_checkpoint_of_another_training_is_refused(tmp_path, monkeypatch):
    at_every_batch(monkeypatch)
    path = tmp_path / "x"
    train(network(), clicks(), options(), checkpoint=path, progress=interrupt_at(2))
    with pytest.raises(DataError, match="another training: checksum"):
        train(network(), clicks(seed=1), options(), checkpoint=path)
    with pytest.raises(DataError, match="another training: options"):
        train(network(), clicks(), options(seed=6), checkpoint=path)
    with pytest.raises(DataError, match="another training: network"):
        train(network(hidden=(8,)), clicks(), options(), checkpoint=path)


def test_a_damaged_checkpoint_is_refused(tmp_path):
    path = tmp_path / "x"
    assert load_checkpoint(path, {}) is None
    save_checkpoint(path, {"a": torch.arange(1000)}, {})
    assert load_checkpoint(path, {})["a"].tolist() == list(range(1000))
    whole = path.read_bytes()
    for damaged in (whole[:-50], whole[: len(whole) // 2], b"", b"a letter",
                    whole.replace(b"\x07\x00\x00\x00", b"\x08\x00\x00\x00")):  # fmt: skip
        path.write_bytes(damaged)
        with pytest.raises(ModelFileError, match=r"(whole checkpoint|altered)"):
            load_checkpoint(path, {})
    torch.save({"weights": 1}, path)
    with pytest.raises(ModelFileError, match="no checkpoint of crossfm"):
        load_checkpoint(path, {})
    torch.save(nn.Linear(1, 1), path)  # a pickled object, which is not unpickled
    with pytest.raises(ModelFileError, match="no whole checkpoint"):
        load_checkpoint(path, {})


def test_a_checkpoint_that_cannot_be_written(tmp_path):
    with pytest.raises(ModelFileError, match="cannot write"):
        train(network(), clicks(), options(), checkpoint=tmp_path / "absent" / "x")


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": "hinge"}, "loss is 'hinge'"),
        ({"optimizer": "adm"}, r"optimizer is 'adm'.*Did you mean 'adam'"),
        ({"schedule": "cosin"}, r"Did you mean 'cosine'"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"batch_size": 1.5}, "batch_size is 1.5"),
        ({"learning_rate": 0}, "learning_rate is 0"),
        ({"learning_rate_dense": math.nan}, "learning_rate_dense is nan"),
        ({"l2_factors": -1}, "l2_factors is -1"),
        ({"clip_norm": 0.0}, "clip_norm is 0.0"),
        ({"warmup": 1.0}, "warmup is 1.0"),
    ],
)
def test_refused_options(given, message):
    with pytest.raises(DataError, match=message):
        TrainingOptions(**given)


def test_refused_trainings():
    rows = clicks(100)
    with pytest.raises(DataError, match="no targets"):
        train(network(), rows.replace(targets=None))
    with pytest.raises(DataError, match="all sample weights are zero"):
        train(network(), rows.replace(weights=np.zeros(100, np.float32)))
    with pytest.raises(DataError, match=r"expected \[100\]; logits.squeeze"):
        train(nn.Sequential(Own(), Column()), rows)
    with pytest.raises(DataError, match="no parameters"):
        train(nn.Identity(), rows)
    with pytest.raises(DataError, match="returned Batch"):
        train(Odd(), rows)


class Column(nn.Module):
    def forward(self, x):
        return x[:, None]


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.p = nn.Parameter(torch.zeros(()))

    def forward(self, batch):
        return batch


def test_divergence_is_told():
    rows = clicks(500).replace(targets=np.full(500, 1e30, np.float32))
    with pytest.raises(DivergedError, match=r"epoch 1: .*smaller learning_rate \(now 0.02\)"):
        train(network(), rows, options(loss="squared"))


def test_a_last_step_to_infinity_is_told():
    """The loss is that of before the step; only the parameters show it."""

    class Root(nn.Module):
        def __init__(self):
            super().__init__()
            self.p = nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            return self.p.sqrt().expand(batch.n_rows)  # its slope at 0 is infinite

    with pytest.raises(DivergedError, match="epoch 1"):
        train(Root(), clicks(500), options(n_epochs=1, batch_size=500))


# --- assembly -----------------------------------------------------------------------------------

LAYOUT = Layout(50, FIELD_OF.astype(np.int32), ["user", "item"])


def test_assembled_by_name_class_function_and_module():
    given = {"hidden": (3,)}
    named, of_class = (
        assemble(kind, LAYOUT, n_factors=4, options=given, seed=1, start=[0.5], device="cpu")
        for kind in ("deepfm", DeepFM)
    )
    same_weights(named, of_class)
    assert named.bias.item() == 0.5
    copied = assemble(named, LAYOUT, n_factors=4, device="cpu")
    same_weights(copied, named)
    assert copied is not named
    three = assemble("deepfm", LAYOUT, n_factors=4, n_outputs=3, start=[1, 2, 3], device="cpu")
    assert [part.bias.item() for part in three.networks] == [1, 2, 3]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "deepfn"}, "Did you mean 'deepfm'"),
        ({"network": 3}, "network is 3"),
        ({"network": lambda *a, **b: 3}, "made a int"),
        ({"options": {"hiden": 3}}, "no option 'hiden'"),
        ({"device": "gpu"}, "device is 'gpu'"),
        ({"network": nn.Linear(1, 1), "options": {"a": 1}}, "network_options are for"),
    ],
)
def test_refused_assemblies(given, message):
    with pytest.raises(DataError, match=message):
        assemble(**{"network": "deepfm", "layout": LAYOUT, "n_factors": 4} | given)
    with pytest.raises(DataError, match="has 50 features, the data have 51"):
        assemble(network(), LAYOUT._replace(n_features_=51), n_factors=4)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
