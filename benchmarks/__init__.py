"""Benchmarks: crossfm and its peers on the same data, with bars that hold or do not.

    python -m benchmarks.speed fm                    training rows per second, threads, memory
    python -m benchmarks.speed text                  libsvm text to arrays
    python -m benchmarks.speed tables                Parquet to encoded rows, vocabularies included
    python -m benchmarks.quality movielens-100k      RMSE over the official folds
    python -m benchmarks.quality frappe              AUC and log loss on the rebuilt train part
    python -m benchmarks.quality frappe --networks   AUC of the networks of crossfm.nn
    python -m benchmarks.quality ... --solver mcmc   the same by Gibbs sampling
    python -m benchmarks.nn speed                    training steps of PyTorch modules
    python -m benchmarks.nn memory                   peak of a forward and backward pass
    python -m benchmarks.footprint                   import time, wheel size
    python -m benchmarks.peers install               the peers, in .venv-peers

With ``--check`` the last line of standard output is one JSON object, and the exit status is 0
only where every bar holds. Results are saved under ``benchmarks/results/``.
"""
