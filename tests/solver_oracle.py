"""The row-by-row updates in float64, one number at a time; imports nothing of what it judges."""

from __future__ import annotations

import math


def plain(name, z, y, p):
    """Value and gradient of one row; z is a list, one an output."""
    if name == "hinge":
        t = [1 if (y == 1 if len(z) == 1 else y == c) else -1 for c in range(len(z))]
        miss = [max(0.0, 1 - a * b) for a, b in zip(t, z, strict=True)]
        return sum(miss), [-a if m > 0 else 0 for a, m in zip(t, miss, strict=True)]
    s, r = z[0], z[0] - y
    if name == "squared":
        return r * r / 2, [r]
    if name == "huber":
        return (r * r / 2, [r]) if abs(r) <= p else (p * abs(r) - p * p / 2, [math.copysign(p, r)])
    if name == "poisson":
        e = math.exp(s) if s <= 30 else math.exp(30) * (1 + s - 30)
        return (e - y * s + (y * math.log(y) - y if y else 0), [math.exp(min(s, 30)) - y])
    if name == "quantile":
        return (-p * r, [-p]) if r < 0 else ((1 - p) * r, [1 - p if r > 0 else 0])
    sign = 2 * y - 1
    return math.log1p(math.exp(-sign * s)), [-sign / (1 + math.exp(sign * s))]


class Number:
    """One parameter with its optimizer state."""

    def __init__(
        self, kind, value, rate, l2, *, accumulator=0.0, beta=1.0, l1=0.0, adam=(), clock=None
    ):
        self.kind, self.v, self.rate, self.l2 = kind, value, rate, l2
        self.a, self.beta, self.l1 = accumulator, beta, l1
        self.n = 0.0
        self.m, self.adam, self.clock = 0.0, adam, clock
        self.stays = False
        self.settle()

    def settle(self):
        curvature = self.beta / self.rate + self.l2
        self.z = 0.0 if self.v == 0 else -self.v * curvature - math.copysign(self.l1, self.v)

    def step(self, g, rate=None):
        """`rate`: the step size of a whole row of numbers, instead of its own."""
        if self.stays:
            return
        if rate is not None:
            self.v -= rate * (g + self.l2 * self.v)
        elif self.kind == "sgd":
            self.v -= self.rate * (g + self.l2 * self.v)
        elif self.kind == "adagrad":
            g += self.l2 * self.v
            self.a += g * g
            self.v -= self.rate * g / math.sqrt(self.a)
        elif self.kind == "adam":
            g += self.l2 * self.v
            b1, b2, epsilon = self.adam
            self.m = b1 * self.m + (1 - b1) * g
            self.n = b2 * self.n + (1 - b2) * g * g
            mean, square = self.m / (1 - b1 ** self.clock[0]), self.n / (1 - b2 ** self.clock[0])
            self.v -= self.rate * mean / (math.sqrt(square) + epsilon)
        else:
            sigma = (math.sqrt(self.n + g * g) - math.sqrt(self.n)) / self.rate
            self.z += g - sigma * self.v
            self.n += g * g
            if abs(self.z) <= self.l1:
                self.v = 0.0
            else:
                shrunk = self.z - math.copysign(self.l1, self.z)
                self.v = -shrunk / ((self.beta + math.sqrt(self.n)) / self.rate + self.l2)


def numbers(options, values, l2, l1, clock):
    extra = {"l1": l1, "beta": getattr(options, "beta", 1.0)}
    extra["accumulator"] = getattr(options, "initial_accumulator", 0.0)
    if hasattr(options, "beta2"):
        extra["adam"] = options.beta1, options.beta2, options.epsilon
    extra["clock"] = clock
    kind = type(options).__name__.lower().removeprefix("rowwise")  # weights have sums of their own
    return [Number(kind, float(v), options.learning_rate, l2, **extra) for v in values]


class RowSums:
    """Step sizes of row-wise AdaGrad, whose sums are of all factors of a feature; else None."""

    def __init__(self, options):
        self.o = options
        self.sums = {} if type(options).__name__ == "RowwiseAdaGrad" else None

    def rates(self, c, entries, gradients, held):
        """One for each (id, gradients of its numbers): of the loss alone, before any step."""
        if self.sums is None:
            return [None] * len(entries)
        found = []
        for (i, *_), gradient in zip(entries, gradients, strict=True):
            a = self.sums.get((c, i), self.o.initial_accumulator)
            if gradient and not held[i][0].stays:
                a += sum(g * g for g in gradient) / len(gradient)
            self.sums[c, i] = a
            found.append(held[i][0].rate / math.sqrt(a) if gradient else None)
        return found


class Oracle:
    def __init__(self, options, bias, w, V, field_of):  # w [C][n], V [C][n][k]
        self.o, self.field_of = options, field_of
        per = [x if isinstance(x, tuple) else (x,) for x in (options.l2_linear, options.l2_factors)]

        def l2(which, i):
            return per[which][int(field_of[i]) if len(per[which]) > 1 else 0]

        l1 = [getattr(options, "l1_linear", 0.0), getattr(options, "l1_factors", 0.0)]
        n = len(w[0])
        self.clock = clock = [0]  # rows trained
        self.b = [numbers(options, [b], 0.0, 0.0, clock)[0] for b in bias]
        self.w = [
            [numbers(options, [c[i]], l2(0, i), l1[0], clock)[0] for i in range(n)] for c in w
        ]
        self.V = [[numbers(options, c[i], l2(1, i), l1[1], clock) for i in range(n)] for c in V]
        self.sums = RowSums(options)

    def pools(self, c, entries):
        """Pooled vector of each entry, and their sum over pools."""
        k = self.o.n_factors
        across = self.o.interactions == "across_fields"
        keys = [self.field_of[i] if across else t for t, (i, _) in enumerate(entries)]
        pooled = {key: [0.0] * k for key in keys}
        for key, (i, x) in zip(keys, entries, strict=True):
            for f in range(k):
                pooled[key][f] += x * self.V[c][i][f].v
        S = [sum(p[f] for p in pooled.values()) for f in range(k)]
        return [pooled[key] for key in keys], S, list(pooled.values())

    def score(self, c, entries):
        _, _, pools = self.pools(c, entries)
        crossed = sum(
            sum(a * b for a, b in zip(pools[i], pools[j], strict=True))
            for j in range(len(pools))
            for i in range(j)
        )
        return self.b[c].v + sum(x * self.w[c][i].v for i, x in entries) + crossed

    def train_row(self, entries, target, weight):
        self.clock[0] += 1
        z = [self.score(c, entries) for c in range(len(self.b))]
        if self.o.loss == "squared":
            g, loss = [z[0] - target], 0.5 * (z[0] - target) ** 2
        elif self.o.loss == "logistic":
            g = [1 / (1 + math.exp(-z[0])) - target]
            loss = math.log(1 + math.exp(-z[0])) if target else math.log(1 + math.exp(z[0]))
        else:
            e = [math.exp(x) for x in z]
            g = [x / sum(e) - (c == target) for c, x in enumerate(e)]
            loss = -math.log(e[int(target)] / sum(e))
        held = [self.pools(c, entries)[:2] for c in range(len(z))]
        for c, upstream in enumerate(g):
            upstream *= weight
            pooled, S = held[c]
            alone = self.o.interactions == "all"
            for i, x in entries:
                self.w[c][i].step(upstream * x)
            before = [
                [upstream * x * (S[f] - p[f]) for f in range(len(S))]
                for (_, x), p in zip(entries, pooled, strict=True)
            ]
            rates = self.sums.rates(c, entries, before, self.V[c])
            for t, (i, x) in enumerate(entries):
                for f, number in enumerate(self.V[c][i]):
                    # without pooling and values the row's own vector is read where it is updated
                    own = x * number.v if alone and not self.general else pooled[t][f]
                    number.step(upstream * x * (S[f] - own), rates[t])
            self.b[c].step(upstream)
        return weight * loss

    general = True
