"""Compile the Triton kernels for a Hopper GPU where there is none, and launch nothing.

Run as a script, in a process of its own: it puts a device that is not there before Triton. Prints
the name of each kernel compiled.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.jit import JITFunction


class Absent:
    """As much of a driver as compiling asks for."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", 90, 32)


def compile_only() -> set[str]:
    """Make every launch a compilation; the names of the kernels seen, filled as they come."""
    triton.runtime.driver.set_active(Absent())
    names: set[str] = set()
    run = JITFunction.run

    def compiled(self: Any, *arguments: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        kernel = run(self, *arguments, grid=grid, warmup=True, **options)
        assert kernel.asm["cubin"]
        names.add(self.__name__)
        return kernel

    JITFunction.run = compiled
    return names


def main() -> None:
    names = compile_only()
    from crossfm.nn.ops import triton as ops
    from crossfm.nn.ops import triton_backward, triton_forward, triton_layout, triton_steps
    from crossfm.nn.ops.arguments import Inputs, Options, Step, Steps, Upstream

    for module in (triton_backward, triton_forward, triton_layout, triton_steps):
        module.device_of = lambda tensor: nullcontext()  # type: ignore[attr-defined]
    hyper = {"lr": 0.1, "eps": 1e-8, "beta1": 0.9, "beta2": 0.99, "step": 1, "l1": 0, "beta": 1}
    flat = torch.randint(0, 50, (20,))
    for ids, offsets, k, dtype, across, kinds in (
        (flat.view(4, 5).int(), None, 16, torch.float32, False, ("rowwise_adagrad",)),
        (flat, torch.tensor([0, 3, 20]), 3, torch.bfloat16, True, ("sgd", "adagrad", "adam")),
        (flat, torch.tensor([0, 3, 20]), 64, torch.float16, True, ("ftrl",)),
    ):
        B = len(ids) if offsets is None else len(offsets) - 1
        x, fields = torch.rand(ids.shape), torch.zeros(ids.shape, dtype=torch.int64)
        w, V = torch.zeros(50, dtype=dtype), torch.zeros(50, k, dtype=dtype)
        inputs = Inputs(ids, x if across else None, offsets, fields if across else None, w, V)
        options = Options(1, across, reduce_sum=not across, pooled=across)
        S = ops.forward(inputs, options)[3]
        upstream = Upstream(
            torch.ones(B),
            torch.ones(B, k) if across else torch.ones(B),
            torch.ones(B, 1, k).to(dtype) if across else None,
            torch.ones(B, k) if across else None,
        )
        ops.backward(upstream, inputs, S, options, across, True)
        for kind in kinds:
            state = {name: torch.zeros(50, k) for name in "amvzn"}
            line = {name: torch.zeros(50) for name in "amvzn"}
            if kind == "rowwise_adagrad":
                state["a"] = line["a"]
            steps = Steps(Step(kind, line, hyper), Step(kind, state, hyper))
            ops.backward_update(upstream, inputs, S, options, across, steps)
            ops.update_rows(torch.arange(3), torch.ones(3, k), V, steps.factors)
    print(*sorted(names))


if __name__ == "__main__":
    main()
