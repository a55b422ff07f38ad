"""Field-aware and field-weighted machines in float64, pair by pair; imports nothing it judges."""

from __future__ import annotations

import math

from solver_oracle import numbers, plain


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


class FieldOracle:
    """Rows one after the other through one machine an output."""

    def __init__(self, options, models):
        self.o, self.F = options, options.n_fields
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
        self.r = [
            {
                (f, g): numbers(options, [m.field_weights[f, g]], 0.0, 0.0, clock)[0]
                for g in range(self.F)
                for f in range(g)
            }
            if m.kind == "fwfm"
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
        values.setdefault(0, [0.0] * k)
        crossed, flat, weights = fwfm_pairs(
            values.__getitem__, lambda f, g: self.r[c][f, g].v, entries
        )
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
            for (i, _, x), gradient in zip(entries, gradients, strict=True):
                self.w[c][i].step(upstream * x)
                for number, d in zip(self.V[c][i], gradient, strict=True):
                    number.step(upstream * d)
            for pair, number in self.r[c].items():  # all rows share them
                number.step(upstream * weights.get(pair, 0.0))
            self.b[c].step(upstream)
        return weight * loss
