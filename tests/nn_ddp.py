"""One of two processes that share a batch: ``python nn_ddp.py rank file``.

Prints, as JSON, how far the gradients of each network are from those of one process with the whole
batch: relative to the largest, the worst of all parameters.
"""

from __future__ import annotations

import json
import sys

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from crossfm.nn.build import network_class
from crossfm.nn.embedding import table_parameters

IDS = torch.tensor([[0, 3, 5], [1, 4, 6], [2, 4, 5], [0, 3, 6]])
FIELD_OF = [0, 0, 0, 1, 1, 2, 2]
# No batch normalisation: each process would normalise by its own half.
NETWORKS = {
    "nfm": {"batch_norm": False},
    "deepfm": {},
    "wide_deep": {},
    "fnn": {},
    "pnn": {},
    "dcn": {},
    "xdeepfm": {"cin": (2,)},
    "autoint": {"n_layers": 1, "n_attention": 2},
    "afn": {"n_neurons": 3, "log_norm": False, "parallel_hidden": (3,)},
    "fibinet": {},
    "finalmlp": {},
}


def make(name, sparse_grad):
    torch.manual_seed(0)
    return network_class(name)(
        7, 3, FIELD_OF, hidden=(4,), init_scale=1.0, sparse_grad=sparse_grad,
        dtype=torch.float64, **NETWORKS[name],
    )  # fmt: skip


def dense(name, mine):
    """Dense gradients of the tables: `DistributedDataParallel` does it all."""
    network = make(name, sparse_grad=False)
    parallel = DistributedDataParallel(network)  # its hooks live as long as it does
    parallel(mine).square().mean().backward()
    return network


def sparse(name, mine):
    """Sparse gradients of the tables: kept from `DistributedDataParallel`, added up by hand."""
    network = make(name, sparse_grad=True)
    tables = table_parameters(network)
    kept = [n for n, p in network.named_parameters() if any(p is table for table in tables)]
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(network, kept)
    parallel = DistributedDataParallel(network)  # its hooks live as long as it does
    parallel(mine).square().mean().backward()
    for table in tables:
        dist.all_reduce(table.grad)
        table.grad /= dist.get_world_size()
    return network


def main(rank, file):
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    worst = {}
    for name in NETWORKS:
        alone = make(name, sparse_grad=False)
        alone(IDS).square().mean().backward()
        for way in (dense, sparse):
            together = way(name, IDS[2 * rank : 2 * rank + 2])
            largest = max(p.grad.abs().max() for p in alone.parameters())
            worst[f"{name}, {way.__name__}"] = max(
                float((q.grad.to_dense() - p.grad).abs().max() / largest)
                for p, q in zip(alone.parameters(), together.parameters(), strict=True)
            )
    dist.destroy_process_group()
    print(json.dumps(worst))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
