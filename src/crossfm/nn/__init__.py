"""PyTorch modules: the factorization machine as a layer, and the operations it is made of.

Needs ``pip install 'crossfm[torch]'``. Modules return logits (raw scores), never
probabilities, and take their sizes as plain arguments.
"""

from crossfm.errors import require

require("torch", "torch")

from crossfm.nn import optim  # noqa: E402 - after the check for torch
from crossfm.nn.afm import AttentionalFM  # noqa: E402
from crossfm.nn.afn import AFN  # noqa: E402
from crossfm.nn.autoint import AutoInt  # noqa: E402
from crossfm.nn.batch import Batch  # noqa: E402
from crossfm.nn.build import build, networks  # noqa: E402
from crossfm.nn.dcn import CrossLayer, CrossMixture, DCNv2  # noqa: E402
from crossfm.nn.deepfm import DeepFM  # noqa: E402
from crossfm.nn.embedding import FieldEmbedding  # noqa: E402
from crossfm.nn.export import InputSpec, export_program, to_onnx  # noqa: E402
from crossfm.nn.ffm import FieldAwareFM  # noqa: E402
from crossfm.nn.fibinet import SENET, BilinearInteraction, FiBiNET  # noqa: E402
from crossfm.nn.finalmlp import FinalMLP  # noqa: E402
from crossfm.nn.fm import FactorizationMachine  # noqa: E402
from crossfm.nn.fmfm import FmFM  # noqa: E402
from crossfm.nn.fnn import FNN  # noqa: E402
from crossfm.nn.fwfm import FwFM  # noqa: E402
from crossfm.nn.hofm import HigherOrderFM  # noqa: E402
from crossfm.nn.interaction import PairwiseInteraction  # noqa: E402
from crossfm.nn.linear import Linear  # noqa: E402
from crossfm.nn.nfm import NeuralFM  # noqa: E402
from crossfm.nn.ops.anova import anova  # noqa: E402
from crossfm.nn.ops.pairwise import pairwise  # noqa: E402
from crossfm.nn.pnn import PNN  # noqa: E402
from crossfm.nn.search import TorchIndex  # noqa: E402
from crossfm.nn.towers import MLP  # noqa: E402
from crossfm.nn.wide_deep import WideDeep  # noqa: E402
from crossfm.nn.xdeepfm import CIN, XDeepFM  # noqa: E402

__all__ = [
    "AFN",
    "AttentionalFM",
    "AutoInt",
    "Batch",
    "BilinearInteraction",
    "CIN",
    "CrossLayer",
    "CrossMixture",
    "DCNv2",
    "DeepFM",
    "FNN",
    "FactorizationMachine",
    "FiBiNET",
    "FieldAwareFM",
    "FieldEmbedding",
    "FinalMLP",
    "FmFM",
    "FwFM",
    "HigherOrderFM",
    "InputSpec",
    "Linear",
    "MLP",
    "NeuralFM",
    "PNN",
    "PairwiseInteraction",
    "SENET",
    "TorchIndex",
    "WideDeep",
    "XDeepFM",
    "anova",
    "build",
    "networks",
    "export_program",
    "optim",
    "pairwise",
    "to_onnx",
]
