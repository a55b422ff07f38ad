"""PyTorch modules: the factorization machine as a layer, and the operations it is made of.

Needs ``pip install 'crossfm[torch]'``. Modules return logits (raw scores), never
probabilities, and take their sizes as plain arguments.
"""

from crossfm.errors import require

require("torch", "torch")

from crossfm.nn import optim  # noqa: E402 - after the check for torch
from crossfm.nn.batch import Batch  # noqa: E402
from crossfm.nn.deepfm import DeepFM  # noqa: E402
from crossfm.nn.embedding import FieldEmbedding  # noqa: E402
from crossfm.nn.fm import FactorizationMachine  # noqa: E402
from crossfm.nn.interaction import PairwiseInteraction  # noqa: E402
from crossfm.nn.linear import Linear  # noqa: E402
from crossfm.nn.ops.pairwise import pairwise  # noqa: E402
from crossfm.nn.towers import MLP  # noqa: E402

__all__ = [
    "Batch",
    "DeepFM",
    "FactorizationMachine",
    "FieldEmbedding",
    "Linear",
    "MLP",
    "PairwiseInteraction",
    "optim",
    "pairwise",
]
