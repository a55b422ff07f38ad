"""``python -m benchmarks.nn gpu``: FM training steps on a CUDA device, data resident.

39 fields with 10 million features in all, ids Zipf-distributed within each field, 16 factors,
logistic loss. A step is forward, backward and the optimizer on both tables. Compared are

- crossfm's module with row-wise AdaGrad in the backward pass, as a user would write it;
- the operator's two calls alone, forward and backward with the update, and the loss between them:
  what the kernels do when nothing is in their way;
- plain PyTorch, lookups with sparse gradients, with each optimizer that takes them.

The forward pass alone is set beside the bytes that it must move: every id, each output, and each
distinct row of the tables once; and beside the speed at which this device copies memory. Before
anything is timed, all must give the same loss from the same parameters, and one step of the kernels
must leave the tables as the plain PyTorch definition of the operator does. Times come from CUDA
events around several steps over different batches, all entries turn about; medians of the rounds.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.figures import RESULTS, Figure, Report, Spread, show_table
from benchmarks.harness import Disagreement, machine

N_FIELDS, N_FEATURES, N_FACTORS = 39, 10_000_000, 16
BATCHES = (65_536, 262_144, 1_048_576)
STEPS, ROUNDS, WARM = 8, 7, 3
ROWS_PER_SECOND = 50e6  # to be reached on an H200; the goal is twice that
LEARNING_RATE = 0.005  # the first AdaGrad step moves each of a row's 39 weights by all of it
SAME = 1e-5  # relative, float32 sums in another order
MODULE, KERNELS, PLAIN = "crossfm module", "crossfm operator alone", "PyTorch"
NOTE = "no CUDA device here, so no figures: run this where there is one"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batches", default=",".join(map(str, BATCHES)))
    parser.add_argument("--features", type=int, default=N_FEATURES)
    parser.add_argument("--steps", type=int, default=STEPS, help="steps that are timed together")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder to save in")


def field_sizes(n_features: int, n_fields: int = N_FIELDS) -> list[int]:
    """Ids of each field: from a few to millions, evenly on a logarithmic scale.

    Example:
        >>> sum(field_sizes(10_000_000)), min(field_sizes(10_000_000)) >= 2
        (10000000, True)
    """
    span = math.log(max(n_features / 8, 4.0) / 4.0)
    shape = [4.0 * math.exp(span * at / (n_fields - 1)) for at in range(n_fields)]
    scale = n_features / sum(shape)
    sizes = [max(int(size * scale), 2) for size in shape]
    sizes[-1] += n_features - sum(sizes)
    return sizes


def click_ids(n_rows: int, sizes: Sequence[int], generator: Any) -> Any:
    """int32 ``[n_rows, fields]``: in each field the id of rank r with probability about 1 / r."""
    import torch

    device = generator.device
    ids = torch.empty(n_rows, len(sizes), dtype=torch.int32, device=device)
    first = 0
    for at, size in enumerate(sizes):
        u = torch.rand(n_rows, device=device, dtype=torch.float64, generator=generator)
        rank = torch.exp(u * math.log(size + 1.0)).long() - 1
        ids[:, at] = (rank.clamp(0, size - 1) + first).to(torch.int32)
        first += size
    return ids


class Clock:
    """Seconds of work on a device, by its own events; by the wall on a CPU."""

    def __init__(self, device: Any) -> None:
        import torch

        self.cuda = torch.device(device).type == "cuda"

    def seconds(self, work: Callable[[], None]) -> float:
        import torch

        if not self.cuda:
            start = time.perf_counter()
            work()
            return time.perf_counter() - start
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        begin.record()
        work()
        end.record()
        torch.cuda.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


class Tables:
    """The parameters that all start from: linear weights of zero, small factors."""

    def __init__(self, n_features: int, device: Any) -> None:
        import torch

        generator = torch.Generator(device=device).manual_seed(1)
        self.weights = torch.zeros(n_features, device=device)
        self.factors = 0.01 * torch.randn(n_features, N_FACTORS, device=device, generator=generator)


def fused_module(tables: Tables) -> Callable[[Any, Any], Any]:
    """A step of ``FactorizationMachine``, its tables' optimizer fused; returns the loss."""
    import torch

    from crossfm import nn
    from crossfm.nn.batch import Batch
    from crossfm.nn.optim import fuse_optimizer, split_parameters

    n = len(tables.weights)
    fm = nn.FactorizationMachine(n, N_FACTORS, device=tables.factors.device)
    with torch.no_grad():
        fm.embedding.weights.copy_(tables.weights)
        fm.embedding.factors.copy_(tables.factors)
    fuse_optimizer(fm, "rowwise_adagrad", lr=LEARNING_RATE)
    dense = torch.optim.SGD(split_parameters(fm)[1], lr=LEARNING_RATE)
    loss_of = torch.nn.BCEWithLogitsLoss()

    def step(ids: Any, targets: Any) -> Any:
        dense.zero_grad()
        loss = loss_of(fm(Batch(ids, checked=n)), targets)
        loss.backward()
        dense.step()
        return loss.detach()

    return step


class Operator:
    """The operator's calls without autograd, by the device's kernels or those given."""

    def __init__(self, tables: Tables, kernels: Any = None) -> None:
        import torch

        from crossfm.nn.ops.arguments import Options, Step, Steps
        from crossfm.nn.ops.operator import kernels_for

        self.weights, self.factors = tables.weights.clone(), tables.factors.clone()
        self.kernels = kernels or kernels_for(self.factors)
        hyper = {"lr": LEARNING_RATE, "l2": 0.0, "eps": 1e-10}
        self.options = Options(0, across_fields=False, reduce_sum=True)
        self.steps = Steps(*[
            Step("rowwise_adagrad", {"a": torch.zeros_like(self.weights)}, hyper)
            for _ in range(2)
        ])  # fmt: skip

    def inputs(self, ids: Any) -> Any:
        from crossfm.nn.ops.arguments import Inputs

        return Inputs(ids, None, None, None, self.weights, self.factors)

    def forward(self, ids: Any) -> tuple[Any, ...]:
        return self.kernels.forward(self.inputs(ids), self.options)

    def step(self, ids: Any, targets: Any) -> Any:
        import torch

        from crossfm.nn.ops.arguments import Upstream

        linear, crossed, _, S = self.forward(ids)
        logits = linear + crossed
        g = (torch.sigmoid(logits) - targets) / len(targets)
        self.kernels.backward_update(
            Upstream(g, g, None, None), self.inputs(ids), S, self.options, False, self.steps
        )
        return torch.nn.functional.binary_cross_entropy_with_logits(logits, targets)


class Plain:
    """The same model in plain PyTorch: an embedding bag, a lookup, dense operations on it."""

    def __init__(self, tables: Tables, optimizer: str) -> None:
        import torch

        self.weights = tables.weights[:, None].clone().requires_grad_()
        self.factors = tables.factors.clone().requires_grad_()
        parameters = [self.weights, self.factors]
        if optimizer == "Adagrad":
            self.optimizer = torch.optim.Adagrad(parameters, lr=LEARNING_RATE)
        else:
            self.optimizer = torch.optim.SparseAdam(parameters, lr=1e-3)

    def forward(self, ids: Any) -> Any:
        from torch.nn import functional as F

        linear = F.embedding_bag(ids, self.weights, mode="sum", sparse=True)[:, 0]
        v = F.embedding(ids, self.factors, sparse=True)  # [batch, fields, k]
        S = v.sum(1)
        return linear + 0.5 * (S * S - (v * v).sum(1)).sum(1)

    def step(self, ids: Any, targets: Any) -> Any:
        from torch.nn import functional as F

        self.optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(self.forward(ids), targets)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def check_kernels(tables: Tables, ids: Any, targets: Any) -> float:
    """One step beside the definition's; the largest difference in units of the largest change.

    Raises:
        Disagreement: more than rounding.
    """
    from crossfm.nn.ops import reference

    ours, theirs = Operator(tables), Operator(tables, reference)
    for operator in (ours, theirs):
        operator.step(ids, targets)
    worst = 0.0
    for name in ("weights", "factors"):
        start, want, got = (getattr(each, name) for each in (tables, theirs, ours))
        change = float((want - start).abs().max())
        worst = max(worst, float((want - got).abs().max()) / max(change, 1e-30))
    # A first AdaGrad step divides a gradient by its own size: sums that all but cancel show.
    if not worst < 1e-3:
        raise Disagreement(
            f"after one step a table is {worst:.2g} of its largest change away from the definition"
        )
    return worst


def measure(
    batch: int, tables: Tables, sizes: Sequence[int], n_steps: int, n_rounds: int
) -> dict[str, Any]:
    """Seconds of a step of each entry at one batch size, and of the forward passes.

    Raises:
        Disagreement: other losses from the same parameters, or a loss that does not fall.
    """
    import torch

    device = tables.factors.device
    generator = torch.Generator(device=device).manual_seed(batch)
    ids = [click_ids(batch, sizes, generator) for _ in range(n_steps)]
    # Targets that a model of the first field's ids alone can learn something of.
    targets = [(each[:, 0] % 2).float() for each in ids]
    agree = check_kernels(tables, ids[0][:4096], targets[0][:4096])
    operator = Operator(tables)
    plain = {f"{PLAIN}, {name}": Plain(tables, name) for name in ("Adagrad", "SparseAdam")}
    entries = {MODULE: fused_module(tables), KERNELS: operator.step}
    entries |= {label: each.step for label, each in plain.items()}
    clock = Clock(device)
    seconds: dict[str, list[float]] = {label: [] for label in entries}
    losses: dict[str, tuple[float, float]] = {}
    first: dict[str, float] = {}
    failed: dict[str, str] = {}
    for turn in range(n_rounds + 1):  # the first warms up
        for label, step in entries.items():
            if label in failed:
                continue
            found: list[Any] = []

            def work(step: Any = step, found: list[Any] = found) -> None:
                for each, target in zip(ids, targets, strict=True):
                    found.append(step(each, target))

            try:
                # PyTorch's own optimizers make sparse tensors; to opt out says that it is known.
                with torch.sparse.check_sparse_tensor_invariants(enable=False):
                    taken = clock.seconds(work)
            except torch.OutOfMemoryError:
                failed[label] = "out of memory"
                continue
            if turn == 0:
                first[label] = float(found[0])
            else:
                seconds[label].append(taken / n_steps)
            losses[label] = first[label], float(found[-1])
    check_losses(losses)
    return {
        "batch": batch, "agreement": agree, "failed": failed, "losses": losses,
        "seconds": {label: times for label, times in seconds.items() if times},
        "forward": forward_alone(operator, next(iter(plain.values())), ids, n_rounds),
    }  # fmt: skip


def check_losses(losses: dict[str, tuple[float, float]]) -> None:
    """Raise unless all begin with one loss, and every loss falls."""
    expected = losses[KERNELS][0]
    for label, (begun, ended) in losses.items():
        if not math.isclose(begun, expected, rel_tol=SAME):
            raise Disagreement(f"{label} begins with a loss of {begun:.7f}, not {expected:.7f}")
        if not ended < begun:
            raise Disagreement(f"{label} does not learn: its loss goes from {begun} to {ended}")


def forward_alone(operator: Operator, plain: Plain, ids: Any, n_rounds: int) -> dict[str, Any]:
    """Seconds of one forward pass, of PyTorch's too, and the bytes that it must move."""
    import torch

    clock = Clock(operator.factors.device)
    distinct = sum(len(torch.unique(each)) for each in ids) / len(ids)
    batch, m = ids[0].shape
    row = 4 * N_FACTORS + 4
    outputs = batch * (4 * N_FACTORS + 8)  # S, linear, crossed

    def ours() -> None:
        for each in ids:
            operator.forward(each)

    def theirs() -> None:
        with torch.no_grad():
            for each in ids:
                plain.forward(each)

    found: dict[str, list[float]] = {"crossfm": [], "pytorch": []}
    for turn in range(n_rounds + 1):
        for name, work in (("crossfm", ours), ("pytorch", theirs)):
            with suppress(torch.OutOfMemoryError):
                taken = clock.seconds(work) / len(ids)
                if turn:
                    found[name].append(taken)
    return {
        **found,
        "bytes_least": ids[0].numel() * 4 + outputs + int(distinct * row),
        "bytes_asked": ids[0].numel() * 4 + outputs + batch * m * row,
    }


def copy_speed(device: Any, size: int = 1 << 30) -> float:
    """Bytes per second, read and written, of a copy within the device's memory."""
    import torch

    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    clock = Clock(device)
    times = [clock.seconds(lambda: target.copy_(source)) for _ in range(WARM + 5)][WARM:]
    return 2 * size / Spread.of(times).median


def figures(found: Sequence[dict[str, Any]]) -> list[Figure]:
    """What is promised: training steps of the module, at every batch size."""
    return [
        Figure(
            f"rows_per_second_{one['batch']}",
            one["batch"] / Spread.of(one["seconds"][MODULE]).median,
            ROWS_PER_SECOND, ">=", "rows/s",
        )
        for one in found
        if MODULE in one["seconds"]
    ]  # fmt: skip


def show(found: Sequence[dict[str, Any]], copied: float, name: str, n_features: int) -> None:
    lines, forward = [], []
    for one in found:
        batch = one["batch"]
        ours = Spread.of(one["seconds"][MODULE]).median
        for label, times in one["seconds"].items():
            spread = Spread.of(times)
            first, last = one["losses"][label]
            lines.append(
                (f"{batch:,}: {label}", f"{1e3 * spread.median:,.3f}",
                 f"{1e3 * spread.least:,.3f} to {1e3 * spread.greatest:,.3f}",
                 f"{batch / spread.median / 1e6:,.2f}", f"{spread.median / ours:.2f}",
                 f"{first:.5f}", f"{last:.5f}")
            )  # fmt: skip
        lines += [(f"{batch:,}: {label}", why, *[""] * 5) for label, why in one["failed"].items()]
        passes = one["forward"]
        taken = Spread.of(passes["crossfm"]).median
        theirs = passes["pytorch"]
        times = f"{Spread.of(theirs).median / taken:.1f}" if theirs else "out of memory"
        least, asked = (passes[key] / taken / 1e9 for key in ("bytes_least", "bytes_asked"))
        forward.append(
            (f"{batch:,}", f"{1e3 * taken:,.3f}", f"{batch / taken / 1e6:,.1f}",
             f"{least:,.0f}", f"{1e11 * least / copied:.0f} %", f"{asked:,.0f}", times)
        )  # fmt: skip
    show_table(
        f"{name}: FM training steps, {N_FIELDS} fields, {n_features:,} features, k = {N_FACTORS}",
        ("batch", "ms/step", "spread", "M rows/s", "x slower", "loss at first", "at last"),
        lines,
    )
    show_table(
        f"forward alone; a copy moves {copied / 1e9:,.0f} GB/s",
        ("batch", "ms", "M rows/s", "GB/s at least", "of a copy", "GB/s asked for", "x PyTorch"),
        forward,
    )


def gpu(arguments: argparse.Namespace) -> int:
    """The steps at each batch size, the bars, the report; 0 with a note without a device."""
    import torch

    if not torch.cuda.is_available():
        print(NOTE)
        if getattr(arguments, "check", False):
            print(Report("nn gpu").check_line())
        return 0
    name = torch.cuda.get_device_name()
    print(f"device: {name}; PyTorch {torch.__version__}")
    device = torch.device("cuda")
    n_features = getattr(arguments, "features", N_FEATURES)
    sizes = field_sizes(n_features)
    tables = Tables(n_features, device)
    copied = copy_speed(device)
    batches = [int(text) for text in str(getattr(arguments, "batches", "")).split(",") if text]
    found = []
    for batch in batches or BATCHES:
        found.append(
            measure(batch, tables, sizes, getattr(arguments, "steps", STEPS),
                    getattr(arguments, "rounds", ROUNDS))
        )  # fmt: skip
        torch.cuda.empty_cache()
    report = Report("nn gpu")
    report.add(*figures(found))
    report.details = {
        "device": name, "machine": machine(), "torch": torch.__version__,
        "features": n_features, "factors": N_FACTORS, "fields": N_FIELDS,
        "copy_bytes_per_second": copied, "found": found,
    }  # fmt: skip
    show(found, copied, name, n_features)
    return report.finish(
        check=getattr(arguments, "check", False), folder=getattr(arguments, "results", RESULTS)
    )
