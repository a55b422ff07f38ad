"""Networks leave Python as graphs and as ONNX files, and come out the same.

onnxruntime is the judge of files: it shares no code with PyTorch. Whatever `to_onnx` checks by
itself is checked again here, on batches of other sizes.
"""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is an extra: pip install 'crossfm[torch]'")

from torch import nn  # noqa: E402 - after the check for torch
from torch.testing import assert_close  # noqa: E402

from crossfm import Rows  # noqa: E402
from crossfm.errors import DataError, MissingExtraError, ModelFileError  # noqa: E402
from crossfm.nn import export  # noqa: E402
from crossfm.nn.batch import Batch  # noqa: E402
from crossfm.nn.build import network_class, networks  # noqa: E402
from crossfm.nn.deepfm import DeepFM  # noqa: E402
from crossfm.nn.embedding import FieldEmbedding  # noqa: E402
from crossfm.nn.export import InputSpec, export_program, to_onnx  # noqa: E402
from crossfm.nn.fm import FactorizationMachine  # noqa: E402

N, K, FIELDS = 30, 3, 5
FIELD_OF = np.arange(N) % FIELDS
RAGGED = InputSpec(values=True)
SPECS = [
    RAGGED,
    InputSpec(row_length=4),
    InputSpec(row_length=4, values=True, fields=True),
    InputSpec(fields=True),
]


def make(**options):
    torch.manual_seed(0)
    options = {"hidden": (6,), "init_scale": 0.5, **options}
    return DeepFM(N, K, FIELD_OF, **options).eval()


def batch_of(spec: InputSpec, lengths: list[int], seed: int = 0) -> Batch:
    """Rows of the given lengths, or of the spec's."""
    rng = np.random.default_rng(seed)
    shape = (sum(lengths),) if spec.row_length is None else (len(lengths), spec.row_length)
    offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)
    return Batch(
        torch.tensor(rng.integers(0, N, shape)),
        torch.tensor(rng.normal(size=shape), dtype=torch.float32) if spec.values else None,
        offsets if spec.row_length is None else None,
        torch.tensor(rng.integers(0, FIELDS, shape)) if spec.fields else None,
    )


def named(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: x for name, x in zip(batch._fields[:4], batch, strict=False) if x is not None}


def run_onnx(path, **inputs):
    onnxruntime = importlib.import_module("onnxruntime")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert {one.name for one in session.get_inputs()} == set(inputs)
    return [
        torch.from_numpy(x) for x in session.run(None, {k: np.asarray(inputs[k]) for k in inputs})
    ]


BATCHES = [[3], [0], [], [0, 0], [2, 0, 5, 1], [7] * 40, [1, 100, 2]]


class TestProgram:
    @pytest.mark.parametrize("spec", SPECS, ids=str)
    def test_gives_the_same_numbers_for_any_number_of_rows(self, spec):
        network = make()
        graph = export_program(network, spec).module()
        for lengths in BATCHES:
            batch = batch_of(spec, lengths)
            assert_close(graph(**named(batch)), network(batch), rtol=1e-6, atol=1e-6)

    def test_keeps_the_operator_as_one_node(self):
        program = export_program(make(), RAGGED)
        operators = [n for n in program.graph.nodes if "crossfm" in str(n.target)]
        assert [str(n.target) for n in operators] == ["crossfm.pairwise.default"]

    def test_is_saved_and_loaded(self, tmp_path):
        network, batch = make(), batch_of(RAGGED, [2, 0, 3])
        torch.export.save(export_program(network, batch), tmp_path / "deepfm.pt2")
        graph = torch.export.load(tmp_path / "deepfm.pt2").module()
        assert_close(graph(**named(batch)), network(batch))

    @pytest.mark.parametrize("kind", ["batch", "rows", "ids"])
    def test_takes_an_example_of_any_kind(self, kind):
        ids = np.array([[0, 7, 4]])
        example = {"batch": Batch(torch.tensor(ids)), "rows": Rows(ids), "ids": torch.tensor(ids)}
        graph = export_program(make(), example[kind]).module()
        more = torch.tensor([[1, 2, 3], [3, 4, 5]])
        assert_close(graph(ids=more), make()(more))

    def test_a_network_in_training_predicts_and_goes_on_training(self):
        network = make(dropout=0.5).train()
        network.embedding.eval()
        batch = batch_of(RAGGED, [2, 3])
        graph = export_program(network, batch).module()
        assert network.training
        assert not network.embedding.training
        assert_close(graph(**named(batch)), network.eval()(batch))

    def test_a_wrong_example_is_said_before_anything_is_traced(self):
        with pytest.raises(DataError, match="id 99 at position 1"):
            export_program(make(), torch.tensor([[0, 99]]))
        with pytest.raises(DataError, match="row_length is 0"):
            export_program(make(), InputSpec(row_length=0))
        with pytest.raises(DataError, match="row_length is 'four', expected an integer"):
            export_program(make(), InputSpec(row_length="four"))
        with pytest.raises(DataError, match="Linear does not say its n_features"):
            export_program(nn.Linear(2, 1), InputSpec(row_length=2))

    def test_a_network_that_is_no_graph_is_a_data_error(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = make()

            def forward(self, x):
                logits = self.inner(x)
                return logits if logits.sum().item() > 0 else -logits

        with pytest.raises(DataError, match="Odd cannot be exported"):
            export_program(Odd(), batch_of(RAGGED, [2, 3]))

    def test_a_graph_for_some_sizes_only_is_refused(self):
        class Doubling(nn.Module):
            n_features = N

            def __init__(self):
                super().__init__()
                self.inner = make()

            def forward(self, x):
                logits, by = self.inner(x), 1
                while by < x.n_rows:
                    logits, by = logits + 1, 2 * by
                return logits

        with pytest.raises(DataError, match="goes by the size of the batch"):
            export_program(Doubling(), RAGGED)


needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="ONNX is an extra: pip install 'crossfm[onnx]'",
)


@needs_onnx
class TestOnnx:
    @pytest.mark.parametrize(
        ("spec", "interactions"),
        list(zip(SPECS, ["all", "across_fields"] * 2, strict=True)),
        ids=str,
    )
    def test_onnxruntime_gives_the_same_numbers(self, spec, interactions, tmp_path):
        network = make(interactions=interactions)
        to_onnx(network, tmp_path / "m.onnx", spec, check=False)
        for lengths in BATCHES:
            batch = batch_of(spec, lengths)
            (got,) = run_onnx(tmp_path / "m.onnx", **named(batch))
            assert_close(got, network(batch).detach(), rtol=1e-5, atol=1e-5)

    def test_a_file_of_standard_operators_with_speaking_names(self, tmp_path):
        onnx = importlib.import_module("onnx")
        to_onnx(make(), tmp_path / "m.onnx", RAGGED)
        model = onnx.load(tmp_path / "m.onnx")
        onnx.checker.check_model(model, full_check=True)
        assert {node.domain for node in model.graph.node} == {""}
        assert "ScatterND" not in {node.op_type for node in model.graph.node}
        assert not model.functions
        shapes = {
            value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
            for value in (*model.graph.input, *model.graph.output)
        }
        assert shapes == {
            "ids": ["nnz"], "values": ["nnz"], "offsets": ["batch + 1"], "logits": ["batch"],
        }  # fmt: skip
        assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]
        # On several threads ScatterND loses some of what it adds up in one place.
        batch = batch_of(RAGGED, [20_000, 3, 20_000])
        (got,) = run_onnx(tmp_path / "m.onnx", **named(batch))
        assert_close(got, make()(batch).detach(), rtol=1e-3, atol=1e-3)

    def test_int32_ids_double_tables_and_fields_of_columns(self, tmp_path):
        network = make(dtype=torch.float64)
        example = Batch(torch.tensor([[1, 2]], dtype=torch.int32), fields=torch.tensor([3, 0]))
        to_onnx(network, tmp_path / "m.onnx", example)
        batch = example._replace(ids=torch.tensor([[5, 6], [7, 5]], dtype=torch.int32))
        (got,) = run_onnx(tmp_path / "m.onnx", **named(batch))
        assert_close(got, network(batch).detach(), rtol=1e-10, atol=1e-10)
        outside = example._replace(ids=torch.tensor([[5, N]], dtype=torch.int32))
        with pytest.raises(Exception, match=r"(?i)out of|invalid"):
            run_onnx(tmp_path / "m.onnx", **named(outside))

    def test_shared_rows_of_a_table(self, tmp_path):
        class Shared(nn.Module):
            n_features = N

            def __init__(self):
                super().__init__()
                self.embedding = FieldEmbedding(
                    N, K, FIELD_OF, share=np.arange(N) // 5, init_scale=0.5
                )

            def forward(self, x):
                return self.embedding.cross(x).crossed

        network, batch = Shared(), batch_of(RAGGED, [4, 0, 2])
        to_onnx(network, tmp_path / "m.onnx", RAGGED)
        (got,) = run_onnx(tmp_path / "m.onnx", **named(batch))
        assert_close(got, network(batch).detach())

    def test_half_precision_is_refused_with_the_remedy(self, tmp_path):
        with pytest.raises(DataError, match=r"bfloat16.*\.float\(\)"):
            to_onnx(make().bfloat16(), tmp_path / "m.onnx", RAGGED)
        assert not list(tmp_path.iterdir())

    def test_parameters_too_large_for_a_file_lie_beside_it(self, tmp_path, monkeypatch):
        monkeypatch.setattr(export, "LARGE", 100)
        network, batch = make(hidden=(64,)), batch_of(RAGGED, [2, 3])
        with pytest.raises(DataError, match="external_data=True"):
            to_onnx(network, tmp_path / "m.onnx", RAGGED, external_data=False)
        to_onnx(network, tmp_path / "m.onnx", RAGGED)
        assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "m.onnx.data"}
        (got,) = run_onnx(tmp_path / "m.onnx", **named(batch))
        assert_close(got, network(batch).detach())

    @pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
    def test_ids_out_of_range_are_refused(self, tmp_path, dtype):
        """Gather would count negative ids from the end; also where ids share rows."""
        plain, shared = make(), FactorizationMachine(N, K)
        shared.embedding = FieldEmbedding(N, K, share=np.arange(N) // 2)
        for network in (plain, shared.eval()):
            to_onnx(network, tmp_path / "m.onnx", torch.tensor([[0, 7]], dtype=dtype))
            for wrong in (-1, -N, N):
                with pytest.raises(Exception, match="out of data bounds"):
                    run_onnx(tmp_path / "m.onnx", ids=torch.tensor([[0, wrong]], dtype=dtype))

    def test_a_folder_that_is_not_there(self, tmp_path):
        with pytest.raises(ModelFileError, match=r"cannot write .*there is no folder .*none"):
            to_onnx(make(), tmp_path / "none" / "m.onnx", RAGGED)

    def test_a_file_that_differs_is_not_kept(self, tmp_path, monkeypatch):
        (tmp_path / "m.onnx").write_text("the one before")
        broken = {torch.ops.crossfm.pairwise.default: lambda *a: _scaled(export._pairwise(*a))}
        monkeypatch.setattr(export, "_decompositions", lambda: broken)
        with pytest.raises(ModelFileError, match="other numbers than DeepFM"):
            to_onnx(make(), tmp_path / "m.onnx", RAGGED)
        assert (tmp_path / "m.onnx").read_text() == "the one before"
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.parametrize("missing", ["onnx", "onnxscript", "onnxruntime"])
    def test_a_missing_package_is_named_with_its_extra(self, missing, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, missing, None)
        with pytest.raises(MissingExtraError, match=rf"'{missing}'.*crossfm\[onnx\]"):
            to_onnx(make(), tmp_path / "m.onnx", RAGGED)


def _scaled(outputs):
    linear, crossed, pooled, S = outputs
    return linear, crossed * 1.01, pooled, S


def named_network(name: str):
    """An export takes a second: the quick run has those whose parts are unlike the others'."""
    quick = name in {"fm", "ffm", "hofm", "dcn", "xdeepfm"}
    return pytest.param(name, marks=() if quick else pytest.mark.slow)


@needs_onnx
class TestEveryNetwork:
    @pytest.mark.parametrize("name", [named_network(name) for name in networks()])
    def test_onnxruntime_gives_the_same_numbers(self, name, tmp_path):
        torch.manual_seed(0)
        network = network_class(name)(N, 4, field_of=FIELD_OF, init_scale=0.5).eval()
        to_onnx(network, tmp_path / "m.onnx", RAGGED, check=False)
        for lengths in BATCHES:
            batch = batch_of(RAGGED, lengths)
            (got,) = run_onnx(tmp_path / "m.onnx", **named(batch))
            assert_close(got, network(batch).detach(), rtol=1e-4, atol=1e-4)

    def test_a_machine_on_dense_input_gives_both_terms(self, tmp_path):
        torch.manual_seed(0)
        network = FactorizationMachine(5, 3, reduce_sum=False, init_scale=0.5)
        to_onnx(network, tmp_path / "m.onnx", torch.rand(2, 5))
        x = torch.rand(7, 5)
        linear, crossed = run_onnx(tmp_path / "m.onnx", x=x)
        assert_close((linear, crossed), tuple(part.detach() for part in network(x)))


class TestDecompositions:
    @pytest.mark.parametrize("lengths", [[0], [2], [0, 3, 0, 0, 1, 0], []], ids=str)
    def test_rows_from_offsets(self, lengths):
        offsets = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int64)
        want = torch.repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
        assert_close(export._row_of(offsets, sum(lengths)), want)
        assert_close(export._repeat_interleave(torch.tensor(lengths), sum(lengths)), want)

    @pytest.mark.parametrize("dim", [0, 1, -1])
    def test_index_add(self, dim):
        x, source = torch.rand(4, 4), torch.rand(4, 4)
        index = torch.tensor([3, 0, 3, 1])
        got = export._index_add(x, dim, index, source, alpha=2)
        assert_close(got, x.index_add(dim, index, source, alpha=2))


class TestCompile:
    """With the back end that only records and replays: inductor needs a compiler and time."""

    def test_inference_is_one_graph(self):
        network = make()
        compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
        with torch.no_grad():
            for lengths in ([2, 0, 5, 1], [1, 1], [4]):
                batch = batch_of(RAGGED, lengths)
                assert_close(compiled(batch), network(batch))

    def test_training_with_dense_gradients_is_one_graph(self):
        self.check_gradients(sparse_grad=False, fullgraph=True)

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # its compiler looks
    def test_training_with_sparse_gradients_breaks_at_the_embedding(self):
        self.check_gradients(sparse_grad=True, fullgraph=False)

    def check_gradients(self, *, sparse_grad, fullgraph):
        network, plain = (make(sparse_grad=sparse_grad).train() for _ in range(2))
        compiled = torch.compile(network, fullgraph=fullgraph, backend="aot_eager")
        for lengths in ([2, 0, 5, 1], [3, 3]):
            batch = batch_of(RAGGED, lengths)
            for one, call in ((network, compiled), (plain, plain)):
                one.zero_grad()
                call(batch).square().sum().backward()
            for got, want in zip(network.parameters(), plain.parameters(), strict=True):
                assert got.grad.is_sparse == want.grad.is_sparse
                assert_close(got.grad.to_dense(), want.grad.to_dense())
