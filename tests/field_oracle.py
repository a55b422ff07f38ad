"""Machines with other crossed terms in float64, set by set; imports nothing it judges."""

from __future__ import annotations

import itertools
import math

from solver_oracle import RowSums, numbers, plain


def ffm_pairs(v, entries, across_fields):
    """Score of (id, field, value) entries, and its gradient for each entry's vectors [F][k].

    ``v(i, g)`` is the vector of feature i for field g, a list.
    """
    score, gradients = 0.0, [{} for _ in entries]
    for b, (j, f_j, x_j) in enumerate(entries):
        for a, (i, f_i, x_i) in enumerate(entries[:b]):
            if across_fields and f_i == f_j:
                continue
            mine, theirs = v(i, f_j), v(j, f_i)
            score += sum(p * q for p, q in zip(mine, theirs, strict=True)) * x_i * x_j
            for at, field, other in ((a, f_j, theirs), (b, f_i, mine)):
                held = gradients[at].setdefault(field, [0.0] * len(other))
                gradients[at][field] = [h + x_i * x_j * o for h, o in zip(held, other, strict=True)]
    return score, gradients


def fwfm_pairs(v, r, entries):
    """Score, its gradient for each entry's vector, and for each two fields f < g."""
    k = len(v(0))
    score, weights = 0.0, {}
    gradients = [[0.0] * k for _ in entries]
    for b, (j, f_j, x_j) in enumerate(entries):
        for a, (i, f_i, x_i) in enumerate(entries[:b]):
            if f_i == f_j:
                continue
            f, g = min(f_i, f_j), max(f_i, f_j)
            dot = sum(p * q for p, q in zip(v(i), v(j), strict=True)) * x_i * x_j
            score += r(f, g) * dot
            weights[f, g] = weights.get((f, g), 0.0) + dot
            for e in range(k):
                gradients[a][e] += r(f, g) * x_i * x_j * v(j)[e]
                gradients[b][e] += r(f, g) * x_i * x_j * v(i)[e]
    return score, gradients, weights


def fmfm_pairs(v, matrix, entries):
    """Score, its gradient for each entry's vector, and for each two fields f < g, row by row."""
    k = len(v(0))
    score, weights = 0.0, {}
    gradients = [[0.0] * k for _ in entries]
    for b, a in itertools.permutations(range(len(entries)), 2):
        (i, f, x_i), (j, g, x_j) = entries[a], entries[b]
        if f >= g:  # the other order of the two, or no pair
            continue
        M, xx = matrix(f, g), x_i * x_j
        held = weights.setdefault((f, g), [0.0] * (k * k))
        for c in range(k):
            for d in range(k):
                score += xx * v(i)[c] * M[c * k + d] * v(j)[d]
                gradients[a][c] += xx * M[c * k + d] * v(j)[d]
                gradients[b][d] += xx * M[c * k + d] * v(i)[c]
                held[c * k + d] += xx * v(i)[c] * v(j)[d]
    return score, gradients, weights


def hofm_sets(v, k, order, entries, across_fields):
    """Score, and its gradient for each entry's vectors side by side."""
    score = 0.0
    gradients = [[0.0] * (k * (order - 1)) for _ in entries]
    for size in range(2, order + 1):
        for chosen in itertools.combinations(range(len(entries)), size):
            if across_fields and len({entries[a][1] for a in chosen}) < size:
                continue
            x = math.prod(entries[a][2] for a in chosen)
            for c in range((size - 2) * k, (size - 1) * k):
                score += x * math.prod(v(entries[a][0])[c] for a in chosen)
                for a in chosen:
                    others = [v(entries[b][0])[c] for b in chosen if b != a]
                    gradients[a][c] += x * math.prod(others)
    return score, gradients


class FieldOracle:
    """Rows one after the other through one machine an output."""

    def __init__(self, options, models):
        self.o, self.F = options, max(options.n_fields, 1 + int(models[0].field_of.max()))
        l1 = [getattr(options, "l1_linear", 0.0), getattr(options, "l1_factors", 0.0)]
        self.l2 = [
            x if isinstance(x, tuple) else (x,) * self.F
            for x in (options.l2_linear, options.l2_factors)
        ]
        field_of = models[0].field_of
        self.clock = clock = [0]  # rows trained
        self.b = [numbers(options, [m.bias], 0.0, 0.0, clock)[0] for m in models]
        self.w = [
            [
                numbers(options, [w], self.l2[0][f], l1[0], clock)[0]
                for w, f in zip(m.weights, field_of, strict=True)
            ]
            for m in models
        ]
        self.V = [
            [
                numbers(options, v.ravel(), self.l2[1][f], l1[1], clock)
                for v, f in zip(m.factors, field_of, strict=True)
            ]
            for m in models
        ]
        self.sums = RowSums(options)
        self.r = [
            {
                (f, g): numbers(options, m.field_weights[f, g].ravel(), 0.0, 0.0, clock)
                for g in range(self.F)
                for f in range(g)
            }
            if m.kind in ("fwfm", "fmfm")
            else {}
            for m in models
        ]

    def look(self, c, entries):
        k = self.o.n_factors
        values = {i: [x.v for x in self.V[c][i]] for i, _, _ in entries} or {0: [0.0] * k}
        linear = self.b[c].v + sum(x * self.w[c][i].v for i, _, x in entries)
        if self.o.model == "ffm":
            crossed, gradients = ffm_pairs(
                lambda i, g: values[i][g * k : (g + 1) * k],
                entries,
                self.o.interactions == "across_fields",
            )
            flat = [
                [x for g in range(self.F) for x in found.get(g, [0.0] * k)] for found in gradients
            ]
            return linear + crossed, flat, {}
        if self.o.model == "hofm":
            across = self.o.interactions == "across_fields"
            crossed, flat = hofm_sets(values.__getitem__, k, self.o.order, entries, across)
            return linear + crossed, flat, {}
        values.setdefault(0, [0.0] * k)
        if self.o.model == "fmfm":
            crossed, flat, weights = fmfm_pairs(
                values.__getitem__, lambda f, g: [x.v for x in self.r[c][f, g]], entries
            )
        else:
            crossed, flat, found = fwfm_pairs(
                values.__getitem__, lambda f, g: self.r[c][f, g][0].v, entries
            )
            weights = {pair: [gradient] for pair, gradient in found.items()}
        return linear + crossed, flat, weights

    def score(self, c, entries):
        return self.look(c, entries)[0]

    def train_row(self, entries, target, weight):
        self.clock[0] += 1
        found = [self.look(c, entries) for c in range(len(self.b))]
        z = [score for score, _, _ in found]
        if self.o.loss == "squared":
            g, loss = [z[0] - target], 0.5 * (z[0] - target) ** 2
        elif self.o.loss == "logistic":
            g = [1 / (1 + math.exp(-z[0])) - target]
            loss = math.log1p(math.exp(-z[0] if target else z[0]))
        elif self.o.loss == "softmax":
            e = [math.exp(x) for x in z]
            g = [x / sum(e) - (c == target) for c, x in enumerate(e)]
            loss = -math.log(e[int(target)] / sum(e))
        else:
            loss, g = plain(self.o.loss, z, target, self.o.loss_parameter)
        for c, (_, gradients, weights) in enumerate(found):
            upstream = weight * g[c]
            steps = [[upstream * d for d in gradient] for gradient in gradients]
            rates = self.sums.rates(c, entries, steps, self.V[c])
            for (i, _, x), step, rate in zip(entries, steps, rates, strict=True):
                self.w[c][i].step(upstream * x)
                for number, d in zip(self.V[c][i], step, strict=True):
                    number.step(d, rate)
            for pair, shared in self.r[c].items():  # of all rows
                for number, d in zip(shared, weights.get(pair, [0.0] * len(shared)), strict=True):
                    number.step(upstream * d)
            self.b[c].step(upstream)
        return weight * loss
