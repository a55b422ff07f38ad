"""Solvers of whole sweeps: the options that go with them, those that do not, what draws come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crossfm.cli.errors import usage_error
from crossfm.cli.format import plural

if TYPE_CHECKING:
    from crossfm.estimators import Sampling

__all__ = [
    "SWEEPS", "Drawn", "check_foreign", "drawn", "is_sweeping", "read_burn_in", "read_keep",
    "sampling_of",
]  # fmt: skip

SWEEPS = ("mcmc", "vb", "als")
PENALTIES = ("--l2-linear", "--l2-factors", "--l2-scaling")
TRUSTED = 1.01  # R-hat below which chains agree

# Why an option does not go with sweeps, for those of one reason.
FOREIGN = {
    "--loss": "takes numbers as normal, and classes as probit",
    "--kind": "fits plain factorization machines",
    "--learning-rate": "takes no gradient steps",
    "--l2-scaling": "counts penalties once for all rows",
    "--min-count-factors": "gives every feature its factors",
    "--stream": "needs all rows in memory",
    "--cache-dir": "needs all rows in memory",
    "--checkpoint": "keeps no state but the model",
    "--follow": "sweeps over all rows together",
}


def is_sweeping(parameters: Mapping[str, Any], task: str) -> bool:
    """Whether a fit is one by sweeps."""
    return task == "ordinal" or parameters.get("solver") in SWEEPS


def check_foreign(solver: str | None, task: str, options: Mapping[str, Any]) -> None:
    """Refuse what does not go with the solver: options by name, None where they were not given.

    Raises:
        typer.BadParameter: one that only draws, or only steps, can use.
    """
    if task == "ordinal" and solver not in (None, "mcmc"):
        usage_error(f"--task ordinal is fitted by --solver mcmc alone, and {solver} was asked for")
    draws = task == "ordinal" or solver == "mcmc"
    if not draws:
        for option in ("--burn-in", "--chains", "--keep"):
            if options[option] is not None:
                usage_error(
                    f"{option} goes with --solver mcmc, and {solver or 'adagrad'} draws nothing"
                )
    if not is_sweeping({"solver": solver}, task):
        return
    if task == "ordinal" and options["--keep"] == "mean":
        usage_error("--keep mean goes with numbers, of which the mean of the draws is one model")
    what = "--task ordinal" if task == "ordinal" else f"--solver {solver}"
    usual: dict[str, tuple[Any, ...]] = {"--loss": ("squared", "logistic"), "--kind": ("fm",)}
    why = dict(FOREIGN)
    if task == "ordinal":
        usual["--loss"], why["--loss"] = (), "takes levels as an ordered probit"
    if solver != "als":
        why |= dict.fromkeys(PENALTIES, "learns its penalties")
    if draws:
        why["--patience"] = "predicts a mean over its sweeps"
        usual["--patience"] = (0,)
    for option, reason in why.items():
        if options[option] is not None and options[option] not in usual.get(option, ()):
            usage_error(f"{option} does not go with {what}, which {reason}")
    for option in PENALTIES[:2]:
        value = options[option]
        if value is not None and not (isinstance(value, float) and 0 <= value < float("inf")):
            usage_error(f"{option}: --solver als takes one number for all fields, of at least 0")


def read_burn_in(text: str | None) -> int | float | None:
    """Sweeps, or a share of them.

    >>> read_burn_in("50"), read_burn_in("0.25")
    (50, 0.25)
    """
    if text is None:
        return None
    try:
        if text.isdecimal():
            return int(text)
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        usage_error(
            f"--burn-in is {text!r}, expected a number of sweeps such as 50, or a share of them"
            " from 0 to below 1 such as 0.25"
        )
    return share


def read_keep(text: str | None) -> int | str | None:
    """A number of draws, or all, or their mean.

    >>> read_keep("25"), read_keep("all")
    (25, 'all')
    """
    if text is None or text in ("all", "mean"):
        return text
    if not text.isdecimal() or int(text) == 0:
        usage_error(f"--keep is {text!r}, expected a number of draws of at least 1, all, or mean")
    return int(text)


def sampling_of(asked: Mapping[str, Any], n_epochs: int) -> Sampling:
    """The estimator's options, with the burn-in as a count: that of a fit that is interrupted too.

    Args:
        asked: "burn_in", a count or a share, "n_chains" and "keep", where they are given.
        n_epochs: sweeps.

    Raises:
        typer.BadParameter: a burn-in after which no sweep is left.
    """
    from crossfm.estimators import Sampling

    burn_in = asked.get("burn_in")
    if isinstance(burn_in, float):
        burn_in = int(burn_in * n_epochs)
    elif burn_in is None:
        burn_in = Sampling().left_out(n_epochs)
    elif burn_in >= n_epochs:
        usage_error(
            f"--burn-in {burn_in} leaves none of {n_epochs} sweeps; take a smaller one, or more"
            " --epochs"
        )
    return Sampling(**{**asked, "burn_in": burn_in})


@dataclass(frozen=True)
class Drawn:
    """What a fit by sweeps has left.

    Attributes:
        method: "mcmc", "vb" or "als".
        n_sweeps: of each chain, the burn-in among them.
        n_chains: independent runs.
        n_draws: kept, of all chains together; 0 where the mean alone was.
        burn_in: sweeps at the start that count for nothing.
        of: what R-hat is of.
        r_hat: whether chains agree on it; None of a single chain, or where it does not vary.
    """

    method: str
    n_sweeps: int
    n_chains: int
    n_draws: int
    burn_in: int
    of: str
    r_hat: float | None

    @property
    def mean_of(self) -> int:
        """Draws that the mean is of; after an interrupt within the burn-in one of each chain."""
        return max(1, self.n_sweeps - self.burn_in) * self.n_chains if self.n_draws == 0 else 0

    @property
    def agrees(self) -> bool:
        """Whether R-hat is nothing to worry about."""
        return self.r_hat is None or self.r_hat < TRUSTED

    def facts(self) -> list[tuple[str, str]]:
        """Names and values, for people; of "mcmc" alone."""
        if self.method != "mcmc":
            return []
        kept = f"{self.n_draws:,}" if self.n_draws else f"the mean of {self.mean_of:,} alone"
        per = (self.n_draws or self.mean_of) // self.n_chains
        each = "" if self.n_chains == 1 else f", {per:,} in each of {self.n_chains} chains"
        after = f", after a burn-in of {plural(self.burn_in, 'sweep')}" if self.burn_in else ""
        facts = [("draws", f"{kept}{each}{after}")]
        if self.r_hat is not None:
            far = "" if self.agrees else f" (chains agree below {TRUSTED}: take more sweeps)"
            facts.append(("R-hat", f"{self.r_hat:.3f} of the {self.of}{far}"))
        return facts

    def told(self) -> dict[str, Any]:
        """The same, for JSON."""
        return {
            "method": self.method, "n_sweeps": self.n_sweeps, "n_chains": self.n_chains,
            "n_draws": self.n_draws, "mean_of": self.mean_of or None, "burn_in": self.burn_in,
            "r_hat": None if self.r_hat is None else {self.of: self.r_hat},
        }  # fmt: skip


def drawn(estimator: Any) -> Drawn | None:
    """What an estimator's draws come to; None after a fit row by row."""
    import numpy as np

    from crossfm.estimators import Sampling

    if getattr(estimator, "solver", None) not in SWEEPS:
        return None
    method, n_draws = estimator.solver, len(getattr(estimator, "draws_", ()))
    n_chains, n_sweeps = estimator.traces_["noise"].shape
    of, r_hat, burn_in = "noise", None, 0
    if method == "mcmc":
        diagnostics = estimator.diagnostics_
        if "cutpoints" in diagnostics:
            of = "cutpoints"
        elif hasattr(estimator, "classes_"):
            of = "bias"  # of a probit the noise is given
        found = np.asarray(diagnostics[of]["r_hat"])
        if n_chains > 1 and np.isfinite(found).all():
            r_hat = float(found.max())
        burn_in = (estimator.sampling or Sampling()).burnt(n_sweeps)
    return Drawn(method, n_sweeps, n_chains, n_draws, burn_in, of, r_hat)
