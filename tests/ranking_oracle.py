"""Learning to rank in float64, by definition: scores as double sums, gradients by differences.

Imports nothing of what it judges. A side is a list of rows, a row a list of (feature, value).
"""

from __future__ import annotations

import math

STEP = 1e-5  # of the central differences; their error is of its square


class Machine:
    """Parameters with AdaGrad's sums: numbers by (kind, feature, factor)."""

    def __init__(self, V, w, rate, l2_linear, l2_factors, across, field_of):
        self.v = {("v", i, f): float(x) for i, row in enumerate(V) for f, x in enumerate(row)}
        self.v |= {("w", i, 0): float(x) for i, x in enumerate(w)}
        self.a = dict.fromkeys(self.v, 1.0)
        self.k, self.rate, self.l2 = len(V[0]), rate, {"v": l2_factors, "w": l2_linear}
        self.across, self.field_of = across, field_of

    def score(self, row):
        """The whole score of a row, the query's own part too: a plain sum over pairs."""
        v, total = self.v, sum(self.v["w", i, 0] * x for i, x in row)
        for b, (j, y) in enumerate(row):
            for i, x in row[:b]:
                if not (self.across and self.field_of[i] == self.field_of[j]):
                    total += x * y * sum(v["v", i, f] * v["v", j, f] for f in range(self.k))
        return total

    def step(self, loss, touched):
        """One step down `loss`, a function of no arguments, in the features of `touched`."""
        gradient = {}
        for key in self.v:
            if key[1] not in touched:
                continue
            here = self.v[key]
            self.v[key] = here + STEP
            above = loss()
            self.v[key] = here - STEP
            below = loss()
            self.v[key] = here
            gradient[key] = (above - below) / (2 * STEP)
        for key, g in gradient.items():
            if key[0] == "w" and abs(g) < 1e-9:
                continue  # what a query has alone has no gradient, and is left alone
            g += self.l2[key[0]] * self.v[key]
            self.a[key] += g * g
            self.v[key] -= self.rate * g / math.sqrt(self.a[key])


def bpr(own, other):
    return math.log1p(math.exp(other - own))


def softmax(own, others, expected):
    """`expected`: how often each of the others is to be drawn."""
    e = [math.exp(z) / m for z, m in zip(others, expected, strict=True)]
    return -own + math.log(math.exp(own) + sum(e))


def harmonic(n):
    return sum(1 / r for r in range(1, n + 1))


def train_pair(machine, loss, query, own, drawn, items, *, weight, n_unseen=0, expected=None):
    """One step for a pair; what it lost before. `drawn`: the items in the order of their draw."""
    if loss == "warp":
        for trial, j in enumerate(drawn, 1):
            if machine.score(query + items[j]) > machine.score(query + items[own]) - 1:
                level = harmonic(max(1, n_unseen // trial))
                drawn = [j]
                break
        else:
            return 0.0

    def lost():
        z = machine.score(query + items[own])
        others = [machine.score(query + items[j]) for j in drawn]
        if loss == "bpr":
            return weight * bpr(z, others[0])
        if loss == "warp":
            return weight * level * (1 - z + others[0])
        return weight * softmax(z, others, expected)

    before = lost()
    machine.step(lost, {i for row in (query, *(items[j] for j in [own, *drawn])) for i, _ in row})
    return before


def train_batch(machine, pairs, items):
    """One step for pairs (query, own, weight, others, expected) that are each other's negatives."""

    def lost():
        return sum(
            weight
            * softmax(
                machine.score(query + items[own]),
                [machine.score(query + items[j]) for j in others],
                expected,
            )
            for query, own, weight, others, expected in pairs
        )

    before = lost()
    touched = {i for query, own, *_ in pairs for i, _ in query + items[own]}
    machine.step(lost, touched)
    return before
