"""The deep networks as their papers write them: NumPy, float64, one row at a time, plain loops.

A network is given as its state (name of the parameter: array); a row as a list of (id, x, field).
Nothing of crossfm is imported.
"""

from __future__ import annotations

import numpy as np

EPS = 1e-5  # of batch normalisation
ACTIVATIONS = {
    "relu": lambda h: np.maximum(h, 0),
    "tanh": np.tanh,
    "identity": lambda h: h,
}


class State(dict):
    """Arrays by name; ``state / "tower"`` are those below a prefix."""

    def __truediv__(self, prefix):
        start = f"{prefix}."
        return State({k[len(start) :]: v for k, v in self.items() if k.startswith(start)})


def softmax(z):
    e = np.exp(z - z.max())
    return e / e.sum()


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def norm(state, h):
    """Batch normalisation in evaluation; channels first. Without parameters: nothing."""
    if not state:
        return h
    out = np.empty_like(h)
    for c in range(len(h)):
        scale = state["weight"][c] / np.sqrt(state["running_var"][c] + EPS)
        out[c] = (h[c] - state["running_mean"][c]) * scale + state["bias"][c]
    return out


def mlp(state, h, activation="relu", output=True):
    """``[W, (norm), activation]`` as often as there are layers; with `output` a last W alone."""
    act = ACTIVATIONS[activation]
    numbers = sorted({int(name.split(".")[1]) for name in state})
    linear = [n for n in numbers if f"layers.{n}.running_mean" not in state]
    for n in linear:
        part = state / f"layers.{n}"
        h = part["weight"] @ h + part["bias"]
        if n == linear[-1] and output:
            return h
        if n + 1 in numbers and n + 1 not in linear:
            h = norm(state / f"layers.{n + 1}", h)
        h = act(h)
    return h


def linear_term(state, row):
    return sum((state["embedding.weights"][i] * x for i, x, _ in row), 0.0)


def pool(factors, row, n_fields):
    p = np.zeros((n_fields, factors.shape[1]))
    for i, x, f in row:
        p[f] += x * factors[i]
    return p


def crossed_vector(state, row, n_fields, interactions):
    V = state["embedding.factors"]
    vectors = list(pool(V, row, n_fields))
    if interactions == "all":
        vectors = [x * V[i] for i, x, _ in row]
    total = np.zeros(V.shape[1])
    for j in range(len(vectors)):
        for i in range(j):
            total += vectors[i] * vectors[j]
    return total


def nfm(state, row, F, interactions="across_fields", activation="relu", **_):
    c = crossed_vector(state, row, F, interactions)
    h = norm(state / "crossed.0", c)
    return state["bias"] + linear_term(state, row) + mlp(state / "tower", h, activation)[0]


def deepfm(state, row, F, interactions="across_fields", activation="relu", **_):
    p = pool(state["embedding.factors"], row, F)
    fm = linear_term(state, row) + crossed_vector(state, row, F, interactions).sum()
    return state["bias"] + fm + mlp(state / "tower", p.ravel(), activation)[0]


def wide_deep(state, row, F, activation="relu", **_):
    p = pool(state["embedding.factors"], row, F)
    deep = mlp(state / "tower", p.ravel(), activation)[0]
    return state["bias"] + linear_term(state, row) + deep


def fnn(state, row, F, activation="relu", **_):
    p = pool(state["embedding.factors"], row, F)
    return state["bias"] + mlp(state / "tower", p.ravel(), activation)[0]


def pnn(state, row, F, product="inner", activation="relu", **_):
    p = pool(state["embedding.factors"], row, F)
    k = p.shape[1]
    inner = [sum(p[f, d] * p[g, d] for d in range(k)) for f in range(F) for g in range(f + 1, F)]
    outer = np.zeros((k, k))
    for f in range(F):
        for g in range(F):
            outer += np.outer(p[f], p[g])
    signals = {"inner": inner, "outer": outer.ravel(), "both": [*inner, *outer.ravel()]}[product]
    return state["bias"] + mlp(state / "tower", np.array([*p.ravel(), *signals]), activation)[0]


def cross_layer(state, x0, x):
    if "V" in state:  # experts
        gates = softmax(state["gate.weight"] @ x)
        out = x.copy()
        for gate, V, C, U in zip(gates, state["V"], state["C"], state["U"], strict=True):
            out += gate * x0 * (U @ np.tanh(C @ np.tanh(V @ x)) + state["b"])
        return out
    if "linear.weight" in state:
        return x0 * (state["linear.weight"] @ x + state["linear.bias"]) + x
    U, V = state["linear.1.weight"], state["linear.0.weight"]
    return x0 * (U @ (V @ x) + state["linear.1.bias"]) + x


def dcn(state, row, F, n_layers=3, structure="parallel", hidden=(), activation="relu", **_):
    x0 = pool(state["embedding.factors"], row, F).ravel()
    x = x0
    for layer in range(n_layers):
        x = cross_layer(state / f"cross.{layer}", x0, x)
    if hidden is not None and structure == "stacked":
        x = mlp(state / "tower", x, activation, output=False)
    elif hidden is not None:
        x = np.concatenate([x, mlp(state / "tower", x0, activation, output=False)])
    return state["bias"] + state["output.weight"][0] @ x


def xdeepfm(state, row, F, cin=(16, 16, 16), activation="relu", **_):
    X0 = pool(state["embedding.factors"], row, F)
    X, sums = X0, []
    for layer, size in enumerate(cin):
        W = state[f"cin.compress.{layer}.weight"].reshape(size, len(X), F)
        out = np.zeros((size, X0.shape[1]))
        for h in range(size):
            for i in range(len(X)):
                for j in range(F):
                    out[h] += W[h, i, j] * X[i] * X0[j]
        X = out
        sums += [X[h].sum() for h in range(size)]
    return (
        state["bias"]
        + linear_term(state, row)
        + state["output.weight"][0] @ np.array(sums)
        + mlp(state / "tower", X0.ravel(), activation)[0]
    )


def autoint(state, row, F, n_layers=3, n_attention=32, n_heads=2, hidden=None, **options):
    p = pool(state["embedding.factors"], row, F)
    e = p
    for layer in range(n_layers):
        Q, K, V, R = np.split(state[f"attention.{layer}.project.weight"], 4)
        out = np.zeros((F, n_heads * n_attention))
        for h in range(n_heads):
            part = slice(h * n_attention, (h + 1) * n_attention)
            for m in range(F):
                a = softmax(np.array([(Q[part] @ e[m]) @ (K[part] @ e[g]) for g in range(F)]))
                out[m, part] = sum(a[g] * (V[part] @ e[g]) for g in range(F))
        e = np.stack([np.maximum(out[m] + R @ e[m], 0) for m in range(F)])
    y = state["bias"] + state["output.weight"][0] @ e.ravel()
    if hidden is not None:
        y += mlp(state / "tower", p.ravel(), options.get("activation", "relu"))[0]
    return y


def afn(state, row, F, n_neurons=400, parallel_hidden=None, activation="relu", **_):
    p = pool(state["embedding.factors"], row, F)
    logs = norm(state / "products.log_norm", np.log(np.maximum(np.abs(p), 1e-5)))
    W = state["products.powers.weight"]
    h = np.array(
        [np.exp(sum(W[j, f] * logs[f] for f in range(F))) for j in range(n_neurons)]
    )  # [neurons, k]
    h = norm(state / "products.product_norm", h)
    y = mlp(state / "tower", h.ravel(), activation)[0]
    if parallel_hidden is not None:
        own = pool(state["parallel_embedding.factors"], row, F)
        a, b = state["mix"]
        y = a * y + b * mlp(state / "parallel_tower", own.ravel(), activation)[0]
    return state["bias"] + y


def bilinear(W, p, kind):
    F, out = len(p), []
    for f in range(F):
        for g in range(f + 1, F):
            which = {"all": 0, "each": f, "interaction": len(out)}[kind]
            out.append((W[which] @ p[f]) * p[g])
    return np.concatenate(out)


def fibinet(state, row, F, bilinear_kind="interaction", activation="relu", **options):
    kind = options.get("bilinear", bilinear_kind)
    p = pool(state["embedding.factors"], row, F)
    z = np.array([p[f].mean() for f in range(F)])
    shorten, weigh = state["senet.shorten.weight"], state["senet.weigh.weight"]
    a = np.maximum(weigh @ np.maximum(shorten @ z, 0), 0)
    weighed = np.stack([a[f] * p[f] for f in range(F)])
    W = state["bilinear.W"]
    h = np.concatenate([bilinear(W, p, kind), bilinear(W, weighed, kind)])
    return state["bias"] + linear_term(state, row) + mlp(state / "tower", h, activation)[0]


def finalmlp(state, row, F, n_heads=1, gates=True, gate_fields=((), ()), activation="relu", **_):
    p = pool(state["embedding.factors"], row, F)
    streams = []
    for s in range(2):
        h = p.ravel()
        if gates:
            chosen = gate_fields[s]
            own = state / f"gates.{s}"
            c = np.concatenate([p[f] for f in chosen]) if chosen else own["context"]
            h = 2 * sigmoid(mlp(own / "mlp", c)) * h
        streams.append(mlp(state / f"towers.{s}", h, activation, output=False))
    h, g = streams
    y = state["bias"] + state["fusion.left.weight"][0] @ h + state["fusion.right.weight"][0] @ g
    for j, (a, b) in enumerate(zip(np.split(h, n_heads), np.split(g, n_heads), strict=True)):
        y += a @ state["fusion.W"][j] @ b
    return y
