"""Operations on tensors: functions without parameters, one subject a file.

- `crossfm.nn.ops.pairwise`: sums over pairs of vectors
- `crossfm.nn.ops.dense`: crossing the columns of a dense matrix
"""
