"""
The native core: validation, fused training, scoring, the pairwise operator, top-k, text parsing.
"""

from typing import Any

import numpy
from numpy.typing import NDArray

def validate_rows(
    ids: NDArray,
    values: NDArray[numpy.float32] | None,
    offsets: NDArray[numpy.int64] | None,
    fields: NDArray[numpy.int32] | None,
    n_rows: int,
) -> Any:
    """
    Check ids, values, offsets and fields. Returns (max_id, longest_row, has_repeats, grouped,
    max_field), or a message that says which row is wrong and how.
    """

def count_ids(ids: NDArray, counts: NDArray[numpy.uint32]) -> None:
    """
    Add to counts[id] (uint32, saturating) how often each id occurs. Ids must be in range.
    """

isa: str

def levels() -> list[str]:
    """
    Instruction-set levels that are compiled in and that this chip runs, best first.
    """

class Batch:
    """Validated rows, as the kernels read them."""

    def __init__(
        self,
        *,
        ids: NDArray,
        values: NDArray[numpy.float32] | None,
        offsets: NDArray[numpy.int64] | None,
        fields: NDArray[numpy.int32] | None,
        field_of: NDArray[numpy.int32] | None,
        targets: NDArray[numpy.float32] | None,
        weights: NDArray[numpy.float32] | None,
        n_rows: int,
        longest_row: int,
        has_repeats: bool,
    ) -> None: ...
    @property
    def n_rows(self) -> int: ...

class Table:
    """Parameters and optimizer state, feature-major."""

    def __init__(
        self,
        *,
        factors: NDArray[numpy.float32],
        linear: NDArray[numpy.float32],
        bias: NDArray[numpy.float32],
        n_features: int,
        padded: int,
        outputs: int,
        optimizer: int,
        model: int = 0,
        n_fields: int = 0,
        length: int = 0,
        order: int = 2,
        field_weights: NDArray[numpy.float32] | None = None,
        scales: NDArray[numpy.float32] | None = None,
        bfloat16: bool = False,
    ) -> None: ...

class Steps:
    """What an update does: loss, interactions, step size, penalties."""

    def __init__(
        self,
        *,
        loss: int,
        loss_parameter: float,
        across_fields: bool,
        learning_rate: float,
        beta: float,
        beta2: float,
        epsilon: float,
        l1_linear: float,
        l1_factors: float,
        l2_linear: NDArray[numpy.float32],
        l2_factors: NDArray[numpy.float32],
        rates: NDArray[numpy.float32],
        scaled: bool,
        seed: int,
    ) -> None: ...

def train(
    *,
    batch: Batch,
    order: NDArray[numpy.int64] | None,
    table: Table,
    steps: Steps,
    hot_ids: NDArray[numpy.int64] | None,
    rows_before: int,
    blocks: tuple[int, int, int],
    threads: int,
    deterministic: bool,
) -> float:
    """
    Train on the rows of `order` (None: all) in that order; returns the weighted sum of losses.
    """

def pulls(
    *,
    batch: Batch,
    order: NDArray[numpy.int64] | None,
    table: Table,
    steps: Steps,
    out: NDArray[numpy.float64],
) -> float:
    """
    Add to `out` what a unit more of each field's penalty would do to the loss of these rows.
    """

def score(
    *,
    batch: Batch,
    factors: NDArray[numpy.float32],
    factors_at: int,
    stride: int,
    linear: NDArray[numpy.float32],
    linear_at: int,
    linear_stride: int,
    bias: float,
    k: int,
    across_fields: bool,
    n_features: int,
    out: NDArray[numpy.float32],
    threads: int,
    model: int = 0,
    n_fields: int = 0,
    length: int = 0,
    order: int = 2,
    field_weights: NDArray[numpy.float32] | None = None,
    field_weights_at: int = 0,
    storage: int = 0,
) -> None:
    """Write the raw score of each row to `out`."""

def allocate(count: int) -> Any:
    """Zeroed, aligned float32 array; large ones on huge pages."""

def start_features(
    *,
    table: Table,
    ids: NDArray[numpy.int64],
    n_factors: int,
    scale: float,
    seed: int,
    accumulator: float,
    steps: Steps,
    field_of: NDArray[numpy.int32] | None,
    weights: bool,
    threads: int,
) -> None:
    """
    Give the listed features a fresh optimizer state, and random factors unless scale < 0.
    """

class Pairs:
    """
    A batch and the tables it looks up, as the pairwise operator reads them.
    """

    def __init__(
        self,
        ids: NDArray,
        values: NDArray[numpy.float32] | None,
        offsets: NDArray[numpy.int64] | None,
        fields: NDArray | None,
        weights: NDArray[numpy.float32] | None,
        factors: NDArray[numpy.float32],
        n_fields: int,
    ) -> None: ...

class PairGroups:
    """The occurrences of a batch, grouped by feature."""

    def __init__(
        self, pairs: Pairs, across_fields: bool, positions: bool, threads: int
    ) -> None: ...
    @property
    def count(self) -> int:
        """Number of distinct features."""

    @property
    def problem(self) -> Any:
        """What is wrong with the batch, (kind, position), or None."""

class PairGradients:
    """
    Gradients of the pairwise operator's outputs, None where there is none.
    """

    def __init__(
        self,
        linear: NDArray[numpy.float32] | None,
        crossed: NDArray[numpy.float32] | None,
        pooled: NDArray[numpy.float32] | None,
        sum: NDArray[numpy.float32] | None,
        S: NDArray[numpy.float32],
        reduce_sum: bool,
    ) -> None: ...

class RowStep:
    """An optimizer's step on rows: kind, states, rates."""

    def __init__(
        self,
        kind: int,
        first: NDArray[numpy.float32] | None,
        second: NDArray[numpy.float32] | None,
        lr: float,
        l2: float,
        eps: float,
        beta1: float,
        beta2: float,
        step: float,
        l1: float,
        beta: float,
    ) -> None: ...

def pairwise_forward(
    pairs: Pairs,
    across_fields: bool,
    reduce_sum: bool,
    linear: NDArray[numpy.float32],
    crossed: NDArray[numpy.float32],
    pooled: NDArray[numpy.float32] | None,
    S: NDArray[numpy.float32],
    threads: int,
) -> Any:
    """
    Write the outputs of a batch. Returns None, or what is wrong with it: (kind, position).
    """

def pairwise_backward(
    pairs: Pairs,
    groups: PairGroups,
    given: PairGradients,
    rows: NDArray[numpy.int64] | None,
    weights: NDArray[numpy.float32] | None,
    factors: NDArray[numpy.float32],
    values: NDArray[numpy.float32] | None,
    threads: int,
) -> None:
    """
    Write the gradients of tables, by distinct feature or (rows None) to zeroed dense arrays.
    """

def pairwise_backward_update(
    pairs: Pairs,
    groups: PairGroups,
    given: PairGradients,
    weight_step: RowStep | None,
    factor_step: RowStep,
    values: NDArray[numpy.float32] | None,
    threads: int,
) -> None:
    """Let the tables' rows step against their gradients, in place."""

def update_rows(
    rows: NDArray[numpy.int64],
    gradients: NDArray[numpy.float32],
    table: NDArray[numpy.float32],
    step: RowStep,
    threads: int,
) -> Any:
    """Let distinct rows of a table step against given gradients, in place."""

class Sweeper:
    """A design of fields and relation blocks, and sweeps over its features."""

    def __init__(
        self,
        *,
        n_rows: int,
        group_of: NDArray[numpy.int32],
        n_groups: int,
        row_weights: NDArray[numpy.float32] | None,
        vb: bool,
    ) -> None: ...
    def add_field(
        self, *, features: int, unit_of: NDArray[numpy.int32], values: NDArray[numpy.float32] | None
    ) -> None:
        """The next features: a field of at most one feature a row."""

    def add_block(
        self,
        *,
        units: int,
        unit_of: NDArray[numpy.int32],
        columns: NDArray[numpy.int64],
        column_units: NDArray[numpy.int32],
        column_values: NDArray[numpy.float32] | None,
        column_fields: NDArray[numpy.int32] | None,
    ) -> None:
        """The next features: a table whose row unit_of[r] belongs to row r."""

    def sweep(
        self,
        *,
        residual: NDArray[numpy.float32],
        weights: NDArray[numpy.float32],
        factors: NDArray[numpy.float32],
        weights_var: NDArray[numpy.float32] | None,
        factors_var: NDArray[numpy.float32] | None,
        mean: NDArray[numpy.float64],
        precision: NDArray[numpy.float64],
        noise: float,
        method: int,
        seed: int,
        iteration: int,
        with_weights: bool,
        threads: int,
    ) -> None:
        """
        Go through all parameters once (method 0: Gibbs, 1: ALS, 2: variational Bayes).
        """

    def residuals(
        self,
        *,
        targets: NDArray[numpy.float32],
        bias: float,
        residual: NDArray[numpy.float32],
        weights: NDArray[numpy.float32],
        factors: NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """Write targets less scores, from nothing but the parameters."""

    def moments(self, *, residual: NDArray[numpy.float32], threads: int) -> tuple:
        """Weighted sums of the residual and of its square."""

    def variances(
        self,
        *,
        out: NDArray[numpy.float32],
        weights: NDArray[numpy.float32],
        factors: NDArray[numpy.float32],
        weights_var: NDArray[numpy.float32],
        factors_var: NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """
        Write the variance of each row's score under variational Bayes, the bias's left out.
        """

def draw_latents(
    *,
    low: NDArray[numpy.float32],
    high: NDArray[numpy.float32],
    latent: NDArray[numpy.float32],
    residual: NDArray[numpy.float32],
    seed: int,
    iteration: int,
    threads: int,
) -> None:
    """
    Draw latent normal variables within their limits, and bring the residuals along.
    """

def normals(*, seed: int, a: int, b: int, first: int, out: NDArray[numpy.float64]) -> None:
    """Standard normal numbers of a counter-based stream."""

def dot_rows(
    vectors: NDArray[numpy.float32],
    places: NDArray[numpy.int64],
    query: NDArray[numpy.float32],
    constant: float,
    out: NDArray[numpy.float32],
) -> None:
    """
    A constant and the inner product of a query with the vectors at places.
    """

class ItemScan:
    """Vectors of items in panels, scanned for the highest inner products."""

    def __init__(self, d: int, bfloat16: bool = False) -> None: ...
    @property
    def count(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def put(self, places: NDArray[numpy.int64], vectors: NDArray[numpy.float32]) -> None: ...
    def get(self, places: NDArray[numpy.int64], out: NDArray[numpy.float32]) -> None: ...
    def top(
        self,
        queries: NDArray[numpy.float32],
        k: int,
        allowed: NDArray[numpy.uint16] | None,
        places: NDArray[numpy.int64],
        scores: NDArray[numpy.float32],
        threads: int = 1,
    ) -> None: ...
    def top_in(
        self,
        queries: NDArray[numpy.float32],
        k: int,
        begin: NDArray[numpy.int64],
        end: NDArray[numpy.int64],
        allowed: NDArray[numpy.uint16],
        places: NDArray[numpy.int64],
        scores: NDArray[numpy.float32],
        threads: int = 1,
    ) -> None:
        """
        As top, of the panels from begin to end [n, m] alone, for each query its own ranges.
        """

class RankingSide:
    """
    The rows of queries or of items, whose features cross with those of the other side.
    """

    def __init__(
        self,
        *,
        ids: NDArray[numpy.int64],
        values: NDArray[numpy.float32] | None,
        offsets: NDArray[numpy.int64],
        field_of: NDArray[numpy.int32] | None,
        n_features: int,
    ) -> None: ...
    def vectors(
        self,
        *,
        factors: NDArray[numpy.float32],
        stride: int,
        linear: NDArray[numpy.float32],
        linear_stride: int,
        S: NDArray[numpy.float32],
        b: NDArray[numpy.float32],
        threads: int,
    ) -> None:
        """
        Write of each row the sum of its vectors, and its weights and inner interactions.
        """

class RankingPairs:
    """
    Queries with the items that are right for them, and what others are drawn from.
    """

    def __init__(
        self,
        *,
        queries: RankingSide,
        items: RankingSide,
        query_of: NDArray[numpy.int32],
        item_of: NDArray[numpy.int32],
        user_of: NDArray[numpy.int32],
        weights: NDArray[numpy.float32] | None,
        seen_offsets: NDArray[numpy.int64],
        seen: NDArray[numpy.int32],
        share: NDArray[numpy.float64] | None,
    ) -> None: ...
    def train(
        self,
        *,
        order: NDArray[numpy.int64] | None,
        factors: NDArray[numpy.float32],
        linear: NDArray[numpy.float32],
        k: int,
        loss: int,
        in_batch: int,
        n_negatives: int,
        max_trials: int,
        learning_rate: float,
        l2_linear: float,
        l2_factors: float,
        seed: int,
        epoch: int,
        threads: int,
    ) -> float:
        """
        One pass over pairs (loss 0: BPR, 1: WARP, 2: softmax); the weighted sum of losses.
        """

    def negatives(self, *, pair: int, seed: int, epoch: int, out: NDArray[numpy.int64]) -> None:
        """Write the items that would be drawn for a pair, one after another."""

class TextReader:
    """
    Rows of libsvm or libffm text, fed piece by piece. Of one thread at a
    time.
    """

    def __init__(
        self, with_fields: bool, first_id: int, n_features: int, threads: int, part_bytes: int
    ) -> None: ...
    def __len__(self) -> int: ...
    def feed(self, text: NDArray[numpy.uint8]) -> Any:
        """
        Parse whole lines (uint8): None, or where one is malformed (line, column, found,
        expected); lines are counted over all feeds.
        """

    def take(self) -> tuple:
        """
        The rows fed since the last call: (ids, values | None, offsets | None,
        fields | None, targets, qids | None).
        """

def hash_strings(
    offsets: NDArray[numpy.int64], data: NDArray[numpy.uint8], n_buckets: int
) -> NDArray[numpy.int64]:
    """
    The bucket of each string of an Arrow array (offsets int64 [n + 1], data uint8), [n]:
    fmix64(FNV-1a 64(bytes)) mod n_buckets, the same on every machine.
    """

def hash_ints(values: NDArray[numpy.int64], n_buckets: int) -> NDArray[numpy.int64]:
    """The bucket of each integer: that of its decimal text."""

class StringIndex:
    """Positions of distinct strings."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def insert(self, offsets: NDArray[numpy.int64], data: NDArray[numpy.uint8]) -> None:
        """Append strings that are not in it yet."""

    def find(
        self, offsets: NDArray[numpy.int64], data: NDArray[numpy.uint8]
    ) -> NDArray[numpy.int32]:
        """The position of each string, -1 if absent."""

    def encode(
        self,
        offsets: NDArray[numpy.int64],
        data: NDArray[numpy.uint8],
        valid: NDArray[numpy.uint8] | None,
        bit: int,
    ) -> NDArray[numpy.int32]:
        """
        The position of each string, those that are new appended; -1 where the bitmap `valid`,
        which begins at `bit`, has 0.
        """

    def take(self) -> tuple:
        """
        (offsets, data) of the strings in the order of their positions; it is empty then.
        """

class IntIndex:
    """Positions of distinct integers."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def insert(self, values: NDArray[numpy.int64]) -> None:
        """Append integers that are not in it yet."""

    def find(self, values: NDArray[numpy.int64]) -> NDArray[numpy.int32]:
        """The position of each integer, -1 if absent."""

    def encode(
        self, values: NDArray[numpy.int64], valid: NDArray[numpy.uint8] | None, bit: int
    ) -> NDArray[numpy.int32]:
        """
        The position of each integer, those that are new appended; -1 where the bitmap has 0.
        """

    def take(self) -> NDArray[numpy.int64]:
        """The integers in the order of their positions; it is empty then."""

def count_codes(
    codes: NDArray[numpy.int32], valid: NDArray[numpy.uint8] | None, bit: int, size: int
) -> NDArray[numpy.int64]:
    """
    How often each code below `size` occurs, int64 [size]; rows where the bitmap `valid`, which
    begins at `bit`, has 0 do not count.
    """

def order_strings(
    offsets: NDArray[numpy.int64], data: NDArray[numpy.uint8], counts: NDArray[numpy.int64]
) -> NDArray[numpy.int64]:
    """The order of strings by falling count, ties by their bytes, int64 [n]."""

class RowWriter:
    """
    Ids and values of rows of equal length from columns, each added in pieces
    from the first row on. Of one thread at a time.
    """

    def __init__(self, n_rows: int, n_columns: int, wide: bool) -> None: ...
    def add_codes(
        self,
        column: int,
        codes: NDArray[numpy.int32],
        valid: NDArray[numpy.uint8] | None,
        bit: int,
        table: NDArray,
        none: int,
    ) -> None:
        """Rows whose id is table[code], or `none` where the bitmap has 0."""

    def add_ids(self, column: int, ids: NDArray, shift: int, none: int) -> None:
        """Rows whose id is ids[row] + shift."""

    def add_numbers(
        self,
        column: int,
        x: NDArray[numpy.float64],
        mean: float,
        std: float,
        present: int,
        none: int,
    ) -> None:
        """
        Rows with the id `present` and the value (x - mean) / std; NaN: `none` and 1.
        """

    def write(self, ids: NDArray, values: NDArray[numpy.float32] | None, threads: int) -> tuple:
        """
        Fill ids (int32, int64 where wide) and values (float32, or None) row by row. Returns,
        of each column, the rows with the id `none`, and the first row whose value float32
        cannot hold, or -1.
        """
