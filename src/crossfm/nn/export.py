r"""Export: a network as a graph of PyTorch (`export_program`), or as an ONNX file (`to_onnx`).

Both take rows in any number. What a graph is fed is named as in `crossfm.nn.Batch`: ``ids``
``[batch, m]`` where every row has m features, else ``ids`` ``[nnz]`` and ``offsets``
``[batch + 1]``; ``values`` and ``fields`` of ids' shape where the network is given them.

A graph of PyTorch keeps ``crossfm::pairwise`` as one node, so crossfm has to be imported where it
runs. ONNX has no such node: the operator becomes gathers and sums over rows, from the definition in
`crossfm.nn.ops.operator`. The row of a feature follows from the offsets as ``row_j = #{r >= 1:
offsets_r <= j}``, a count made by ScatterElements and summed up by CumSum: O(nnz + batch) memory,
no loop, standard since opset 16. Sums over rows are ScatterElements too: the other candidate,
ScatterND, adds repeated places in parallel in onnxruntime, and loses some.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from crossfm.data.rows import Rows
from crossfm.errors import DataError, ModelFileError, require
from crossfm.nn.batch import Batch
from crossfm.nn.embedding import whole_number

__all__ = ["InputSpec", "export_program", "to_onnx"]

LARGE = 1_900_000_000  # bytes: an ONNX file itself ends at 2 GiB
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-9}  # of the largest output
SAMPLES = ((1, 1), (2, 5), (19, 40))  # rows, and features of the longest one

Sample = dict[str, Tensor]


class InputSpec(NamedTuple):
    """What a network is fed, where there is no batch at hand to show it. Ids are int64.

    Attributes:
        row_length: number of features in every row (ids ``[batch, m]``); None: rows of any
            length, ids with offsets.
        values: whether features have values; without, all are ones.
        fields: whether the input says the field of each feature; without, the network knows it.

    Example:
        >>> InputSpec(row_length=3)
        InputSpec(row_length=3, values=False, fields=False)
    """

    row_length: int | None = None
    values: bool = False
    fields: bool = False


class _Call(nn.Module):
    """A network fed with named tensors.

    Gather of ONNX counts negative ids from the end; with `refuse_negative` they become ids that no
    table has.
    """

    def __init__(self, network: nn.Module, refuse_negative: bool = False) -> None:
        super().__init__()
        self.network, self.refuse_negative = network, refuse_negative

    def forward(
        self,
        ids: Tensor | None = None,
        values: Tensor | None = None,
        offsets: Tensor | None = None,
        fields: Tensor | None = None,
        x: Tensor | None = None,
    ) -> Any:
        if x is not None:
            return self.network(x)
        assert ids is not None
        if self.refuse_negative:
            ids = ids.where(ids >= 0, torch.iinfo(ids.dtype).min)
        return self.network(Batch(ids, values, offsets, fields))


def export_program(
    network: nn.Module, example: Rows | Tensor | Batch | InputSpec
) -> ExportedProgram:
    """A network as a graph of PyTorch, for rows in any number, without Python at run time.

    The graph predicts (dropout is off, batch norm uses its running figures) and shares the
    network's parameters. ``crossfm::pairwise`` stays one node, with its fast implementations.

    Args:
        network: a module of `crossfm.nn`, or another one that takes a `Batch`.
        example: shows what the network is fed, in any number of rows: a `Batch`, `crossfm.Rows`,
            ids ``[batch, m]``, dense floats ``[batch, n_features]`` for modules that take them, or
            an `InputSpec`.

    Returns:
        An ExportedProgram; its ``module()`` takes the tensors by name: ``ids``, and as the example
        has them ``values``, ``offsets``, ``fields`` (``x`` for dense floats).
        ``torch.export.save`` writes it to a file.

    Raises:
        DataError: an example that the network does not take, or a network that is no graph.

    Example:
        >>> from crossfm.nn.deepfm import DeepFM
        >>> network = DeepFM(6, 4, field_of=[0, 0, 0, 1, 1, 1], hidden=(8,))
        >>> graph = export_program(network, InputSpec(row_length=2)).module()
        >>> graph(ids=torch.tensor([[0, 3], [2, 5], [1, 4]])).shape
        torch.Size([3])
    """
    return _program(network, _sample_of(network, example), _Call(network))


def _program(network: nn.Module, given: Sample, call: _Call) -> ExportedProgram:
    with _predicting(network), _quiet():
        try:
            network(*_arguments(given))  # what is wrong with the example is said here
            program = _trace(call, _sample_like(given, 3))
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"{type(network).__name__} cannot be exported: {_first_line(error)}"
            ) from error
    for size, held in program.range_constraints.items():
        if str(held.upper) != "int_oo" or not held.lower <= 2:
            raise DataError(
                f"{type(network).__name__} cannot be exported: its forward pass goes by the size of"
                f" the batch, so that the graph would hold for {held.lower} <= {size} <="
                f" {held.upper} only"
            )
    return program


def to_onnx(
    network: nn.Module,
    path: str | os.PathLike[str],
    example: Rows | Tensor | Batch | InputSpec,
    *,
    opset: int = 18,
    check: bool = True,
    external_data: bool | None = None,
) -> None:
    """Write a network as an ONNX file, for rows in any number.

    The file's inputs are named as in `export_program`; its output is ``logits`` ``[batch]``
    (``linear`` and ``crossed`` of a machine with ``reduce_sum=False``). Standard operators only.
    Needs ``pip install 'crossfm[onnx]'``.

    Args:
        network: with float32 or float64 parameters.
        path: of the file. It is put in place when it is complete and checked.
        example: as in `export_program`. int32 ids make a file that takes int32 ids.
        opset: version of the ONNX operators, 18 or newer.
        check: whether to run the file in onnxruntime on batches of several sizes, beside the
            network.
        external_data: whether the parameters go to a second file, ``path`` with ``.data`` added;
            None: where they take 1.9 GB or more, as a file of ONNX ends at 2 GiB.

    Raises:
        DataError: an example that the network does not take, parameters in half precision, a
            network that has no counterpart in ONNX.
        ModelFileError: the file gives other numbers than the network (it is not kept), or there is
            no such folder.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.

    Example:
        >>> from crossfm.nn.deepfm import DeepFM
        >>> network = DeepFM(6, 4, field_of=[0, 0, 0, 1, 1, 1], hidden=(8,))
        >>> to_onnx(network, "deepfm.onnx", InputSpec(row_length=2))  # doctest: +SKIP
    """
    for module in ("onnx", "onnxscript", "onnxruntime") if check else ("onnx", "onnxscript"):
        require(module, "onnx")
    _check_types(network)
    given = _sample_of(network, example)
    size = sum(p.numel() * p.element_size() for p in network.parameters())
    if external_data is None:
        external_data = size >= LARGE
    elif size >= LARGE and not external_data:
        raise DataError(
            f"the parameters take {size} bytes, a file of ONNX ends at 2 GiB;"
            " external_data=True puts them beside it"
        )
    program = _program(network, given, _Call(network, refuse_negative=True))
    with _predicting(network), _quiet():
        try:
            program = program.run_decompositions(_decompositions())
            model: Any = torch.onnx.export(
                program, dynamo=True, verbose=False, opset_version=opset, optimize=True
            )
        except Exception as error:
            raise DataError(
                f"{type(network).__name__} has no counterpart in ONNX: {_first_line(error)}"
            ) from error
        _name(model.model.graph, given)
        path = Path(path)
        if not path.parent.is_dir():
            raise ModelFileError(f"cannot write {path}: there is no folder {path.parent}; make it")
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.") as folder:
            written = Path(folder) / path.name
            model.save(str(written), external_data=external_data)
            if check:
                _check(network, written, given)
            data = Path(f"{written}.data")
            if data.exists():
                path.unlink(missing_ok=True)  # never an old graph with new parameters
                data.replace(f"{path}.data")
            written.replace(path)


def _trace(call: _Call, sample: Sample) -> ExportedProgram:
    shapes = {
        name: None if name == "fields" and _is_per_column(sample) else {0: Dim.DYNAMIC}
        for name in sample
    }
    try:
        # Without it a graph is for two rows or more.
        from torch.fx.experimental import _config

        any_size: Any = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    except (ImportError, AttributeError):
        any_size = contextlib.nullcontext()
    with any_size:
        return torch.export.export(call, (), dict(sample), dynamic_shapes=shapes, strict=False)


# --- samples: batches like the example, of any number of rows ---------------------------------


def _sample_of(network: nn.Module, example: Rows | Tensor | Batch | InputSpec) -> Sample:
    """The example as named tensors."""
    device = next(network.parameters()).device
    if isinstance(example, InputSpec):
        return _sample_from(network, example, device)
    if isinstance(example, Tensor) and example.is_floating_point():
        return {"x": example.to(device)}
    batch = Batch.of(example, device)
    parts = zip(("ids", "values", "offsets", "fields"), batch[:4], strict=True)
    return {name: part for name, part in parts if part is not None}


def _sample_from(network: nn.Module, spec: InputSpec, device: torch.device) -> Sample:
    sizes = {name: getattr(network, name, None) for name in ("n_features", "n_fields")}
    for name in ("n_features", "n_fields") if spec.fields else ("n_features",):
        if not isinstance(sizes[name], int):
            raise DataError(
                f"{type(network).__name__} does not say its {name}; give an example batch"
            )
    if spec.row_length is not None:
        whole_number("row_length", spec.row_length)
    generator = torch.Generator().manual_seed(0)
    shape = (7,) if spec.row_length is None else (3, spec.row_length)
    sample = {"ids": torch.randint(0, sizes["n_features"], shape, generator=generator)}  # type: ignore[arg-type]
    if spec.values:
        sample["values"] = torch.rand(shape, generator=generator)
    if spec.row_length is None:
        sample["offsets"] = torch.tensor([0, 3, 3, 7])
    if spec.fields:
        sample["fields"] = torch.randint(0, sizes["n_fields"], shape, generator=generator)  # type: ignore[arg-type]
    return {name: part.to(device) for name, part in sample.items()}


def _sample_like(given: Sample, n_rows: int, longest: int = 5) -> Sample:
    """As many rows, made of the given ones' entries."""
    rng = np.random.default_rng(n_rows)

    def take(part: Tensor, index: Any) -> Tensor:
        if not part.shape[0]:
            return part.new_zeros((len(index), *part.shape[1:]))
        return part[torch.as_tensor(index % part.shape[0], device=part.device)]

    if "offsets" not in given:
        index = rng.integers(0, 1 << 30, n_rows)
        columns = _is_per_column(given)
        return {
            name: part if columns and name == "fields" else take(part, index)
            for name, part in given.items()
        }
    lengths = rng.integers(0, 6, n_rows)
    lengths[: n_rows // 2 : 2] = 0  # some are empty
    lengths[-1] = longest
    index = rng.integers(0, 1 << 30, lengths.sum())
    sample = {name: take(part, index) for name, part in given.items() if name != "offsets"}
    ends = torch.from_numpy(np.append(0, lengths.cumsum()))
    return {
        "ids": sample.pop("ids"),
        **({"values": sample.pop("values")} if "values" in sample else {}),
        "offsets": ends.to(given["offsets"]),
        **sample,
    }


def _is_per_column(sample: Sample) -> bool:
    return "fields" in sample and sample["fields"].dim() < sample["ids"].dim()


def _arguments(sample: Sample) -> tuple[Any, ...]:
    """What the network itself is called with."""
    if "x" in sample:
        return (sample["x"],)
    return (Batch(*(sample.get(name) for name in Batch._fields[:4])),)  # type: ignore[arg-type]


# --- the operator in standard operations ------------------------------------------------------


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """What nodes without a counterpart in ONNX, or with a broken one, are replaced by."""
    aten = torch.ops.aten
    return {
        torch.ops.crossfm.pairwise.default: _pairwise,
        aten.index_add.default: _index_add,
        aten.repeat_interleave.Tensor: _repeat_interleave,
    }


def _pairwise(
    ids: Tensor,
    values: Tensor | None,
    offsets: Tensor | None,
    fields: Tensor | None,
    weights: Tensor | None,
    factors: Tensor,
    n_fields: int,
    across_fields: bool,
    reduce_sum: bool,
    pooled: bool,
    sparse_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``crossfm::pairwise`` in operations that ONNX has."""
    flat, k = ids.reshape(-1), factors.shape[1]
    n = ids.shape[0] if offsets is None else offsets.shape[0] - 1
    if offsets is None:
        m = ids.shape[1]
        row = torch.arange(n, device=ids.device)[:, None].expand(n, m).reshape(-1)
    else:
        row = _row_of(offsets, flat.shape[0])

    def over_rows(x: Tensor) -> Tensor:
        if offsets is None:
            return x.view(n, ids.shape[1], *x.shape[1:]).sum(1)
        return _index_add(x.new_zeros(n, *x.shape[1:]), 0, row, x)

    u = factors.index_select(0, flat)  # [nnz, k]
    x = None if values is None else values.reshape(-1).to(u.dtype)
    if x is not None:
        u = u * x[:, None]
    linear = u.new_zeros(n)
    if weights is not None:
        w = weights.index_select(0, flat)
        linear = over_rows(w if x is None else w * x)
    P = factors.new_zeros(0)
    if across_fields or pooled:
        assert fields is not None
        field = fields.expand(ids.shape).reshape(-1).to(torch.int64)
        P = _index_add(u.new_zeros(n * n_fields, k), 0, row * n_fields + field, u)
        P = P.view(n, n_fields, k)
        S = P.sum(1)
    else:
        S = over_rows(u)
    Q = (P * P).sum(1) if across_fields else over_rows(u * u)
    crossed = 0.5 * (S * S - Q)
    return (
        linear,
        crossed.sum(1) if reduce_sum else crossed,
        P if pooled else factors.new_zeros(0),
        S,
    )


def _row_of(offsets: Tensor, nnz: int) -> Tensor:
    """The row of each of nnz features: how many later rows have begun by then.

    >>> _row_of(torch.tensor([0, 2, 2, 3]), 3)
    tensor([0, 0, 2])
    """
    starts = offsets[1:]
    begun = offsets.new_zeros(nnz + 1).scatter_add(0, starts, torch.ones_like(starts))
    return begun.cumsum(0)[:nnz]


def _index_add(x: Tensor, dim: int, index: Tensor, source: Tensor, alpha: float = 1) -> Tensor:
    """``x.index_add(...)`` by scatter_add; see above for the reason.

    >>> _index_add(torch.zeros(2, 2), 0, torch.tensor([1, 1]), torch.ones(2, 2)).tolist()
    [[0.0, 0.0], [2.0, 2.0]]
    """
    if alpha != 1:
        source = source * alpha
    shape = [1] * source.dim()
    if shape:
        shape[dim] = -1
    place = index.to(torch.int64).view(shape).expand(source.shape)
    return x.scatter_add(dim, place, source)


def _repeat_interleave(repeats: Tensor, output_size: int | None = None) -> Tensor:
    """``torch.repeat_interleave(repeats, output_size=...)``: each index as often as it says.

    >>> _repeat_interleave(torch.tensor([2, 0, 1]), 3)
    tensor([0, 0, 2])
    """
    if output_size is None:
        return NotImplemented
    ends = repeats.to(torch.int64).cumsum(0)
    return _row_of(torch.cat([ends.new_zeros(1), ends]), output_size)


# --- the file ---------------------------------------------------------------------------------


def _check_types(network: nn.Module) -> None:
    for name, parameter in network.named_parameters():
        if parameter.dtype not in TOLERANCE:
            raise DataError(
                f"{name} is {parameter.dtype}, expected float32 or float64 for ONNX;"
                " copy.deepcopy(network).float() makes such a network"
            )


def _name(graph: Any, given: Sample) -> None:
    """Speaking names for the outputs and for the sizes that vary."""
    outputs = ("logits",) if len(graph.outputs) == 1 else ("linear", "crossed")
    for value, name in zip(graph.outputs, outputs, strict=True):
        value.name = name
    entries = "nnz" if "offsets" in given else "batch"
    sizes = {str(value.shape[0]): entries for value in graph.inputs if value.name == "ids"}
    sizes |= {str(v.shape[0]): "batch + 1" for v in graph.inputs if v.name == "offsets"}
    sizes |= {str(v.shape[0]): "batch" for v in graph.inputs if v.name == "x"}
    for value in [*graph.inputs, *graph.outputs]:
        shape = [sizes.get(str(size), size) for size in value.shape]
        if value in graph.outputs:
            shape[0] = "batch"
        value.shape = type(value.shape)(shape)


def _check(network: nn.Module, path: Path, given: Sample) -> None:
    """Run a file in onnxruntime beside the network; ModelFileError where they differ."""
    session = require("onnxruntime", "onnx").InferenceSession(
        str(path), providers=["CPUExecutionProvider"]
    )
    names = {one.name for one in session.get_inputs()}
    for sample in (given, *(_sample_like(given, n, length) for n, length in SAMPLES)):
        with torch.no_grad():
            wanted = network(*_arguments(sample))
        fed = {name: part.cpu().numpy() for name, part in sample.items() if name in names}
        for got, want in zip(
            session.run(None, fed),
            wanted if isinstance(wanted, tuple) else (wanted,),
            strict=True,
        ):
            expected = want.cpu().numpy()
            scale = max(float(np.abs(expected).max(initial=0.0)), 1e-3)
            apart = float(np.abs(got - expected).max(initial=0.0))
            if got.shape != expected.shape or not apart <= TOLERANCE[want.dtype] * scale:
                raise ModelFileError(
                    f"the ONNX file gives other numbers than {type(network).__name__}: {apart:.2g}"
                    f" apart where the largest is {scale:.2g}, in a batch of {len(expected)};"
                    " it was not kept"
                )


@contextlib.contextmanager
def _predicting(network: nn.Module) -> Iterator[None]:
    """Without gradients and in evaluation mode; every part's own mode comes back after it."""
    modes = [(part, part.training) for part in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's remarks about its own parts."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Copies of PyTorch's own trees say this of themselves.
            warnings.filterwarnings("ignore", ".*LeafSpec.* is deprecated", FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _first_line(error: Exception) -> str:
    """What went wrong, without the pages that follow."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
