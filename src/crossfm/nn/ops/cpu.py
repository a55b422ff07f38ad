"""The pairwise operator on the C++ core: float32 tables in a CPU's memory."""

from crossfm.nn.ops.reference import backward, backward_update, forward, update_rows

__all__ = ["backward", "backward_update", "forward", "update_rows"]
