"""PyTorch modules: the factorization machine as a layer, and the operations it is made of.

Needs ``pip install 'crossfm[torch]'``. Modules return logits (raw scores), never
probabilities, and take their sizes as plain arguments.
"""

from crossfm.errors import require

require("torch", "torch")

from crossfm.nn.fm import FactorizationMachine  # noqa: E402 - after the check for torch
from crossfm.nn.ops.pairwise import pairwise  # noqa: E402

__all__ = ["FactorizationMachine", "pairwise"]
