# SPDX-License-Identifier: MIT
"""layer.py LAYER.safetensors X.npy Y.npy: the attention layer of gma/layer/layer.hpp, in NumPy.

Reads a layer in the form of gma::io::write_layer(), and an input with one row per token. Computes the outputs in
float64 from the definition, with simple loops that are easy to read and slow to run. Prints how far Y is from them, and
exits with 1 if the distance is more than 1e-6. Needs only NumPy.

Y is computed in float32, which rounds a forgetting of exp(g) per token to 6e-8. Gates that remember T tokens may move Y
by up to T times half of that, so layers that remember more than some hundred tokens may differ by more."""
import json
import struct
import sys

import numpy as np

TINY = 2.0**-40  # under every division by a mass
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


def read_safetensors(path):
    """Tensors in float64, and the metadata: a header of JSON after its length, then the numbers."""
    data = open(path, "rb").read()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    tensors = {}
    for name, entry in header.items():
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        numbers = np.frombuffer(data[begin:end], STORED[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        tensors[name] = numbers.astype("f8").reshape(entry["shape"])
    return tensors, metadata


def unit_rms(x):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)


def responsibilities(x, factors):
    """x: N x d, split evenly over the factors of a product mixture. N x K, the last factor's slots fastest."""
    result = np.ones((len(x), 1))
    for f, part in zip(factors, np.split(x, len(factors), axis=1)):
        log_pi = f["weight_logits"] - np.log(np.exp(f["weight_logits"]).sum())
        z = (part[:, None, :] - f["means"]) / np.exp(f["log_scales"])  # N x K x d
        log_normal = -(z * z / 2 + f["log_scales"] + np.log(2 * np.pi) / 2).sum(-1)
        logits = (log_pi + log_normal) / np.exp(f["log_temperature"])
        posterior = np.exp(logits - logits.max(-1, keepdims=True))
        posterior /= posterior.sum(-1, keepdims=True)
        result = (result[:, :, None] * posterior[:, None, :]).reshape(len(x), -1)
    return result


def attention(r_q, r_k, v, g, is_causal, normalization):
    """Slots M (K x e) and masses m (K). Causal: forget, write and read token by token; else write all and read."""
    y = np.zeros((len(r_q), v.shape[1]))
    M, m = np.zeros((r_k.shape[1], v.shape[1])), np.zeros(r_k.shape[1])
    if not is_causal:
        M, m = r_k.T @ v, r_k.sum(0)
    for t, q in enumerate(r_q):
        if is_causal:
            M, m = np.exp(g[t])[:, None] * M + np.outer(r_k[t], v[t]), np.exp(g[t]) * m + r_k[t]
        if normalization == "none":
            y[t] = q @ M
        elif normalization == "slot":
            y[t] = (q / np.maximum(m, TINY)) @ M
        else:
            y[t] = q @ M / max(q @ m, TINY)
    return y


def rotated(x):
    """Coordinates i and i + d/2 of row p as a complex number times exp(i p 10000^(-2i/d))."""
    n, d = x.shape
    z = x[:, : d // 2] + 1j * x[:, d // 2 :]
    z = z * np.exp(1j * np.arange(n)[:, None] * 10000.0 ** (-2 * np.arange(d // 2) / d))
    return np.hstack([z.real, z.imag])


def window_attention(q, k, v, window):
    """Softmax attention over the last tokens, the present one included, with rotary positions."""
    y = np.zeros((len(q), v.shape[1]))
    q, k = rotated(q), rotated(k)
    for t in range(len(q)):
        seen = slice(max(0, t - window + 1), t + 1)
        scores = k[seen] @ q[t] / np.sqrt(q.shape[1])
        weights = np.exp(scores - scores.max())
        y[t] = weights @ v[seen] / weights.sum()
    return y


def layer(p, config, x):
    """p: the parameters by name; x: N x D. Returns N x D."""
    heads = config["heads"]
    key_heads = config["key_value_heads"] or heads
    taps, n = config["convolution"], len(x)

    def projected(part, count):
        """count x N x width: x W^T, then the filter of every channel, whose last tap is for the present token."""
        z = x @ p[part + ".weight"].T
        if taps > 1:
            filter = p[part + ".filter"].reshape(-1, taps)
            past = np.vstack([np.zeros((taps - 1, z.shape[1])), z])
            z = sum(past[i : i + n] * filter[:, i] for i in range(taps))
        return z.reshape(n, count, -1).swapaxes(0, 1)

    q, k, v = projected("query", heads), projected("key", key_heads), projected("value", key_heads)
    q, k = unit_rms(q), unit_rms(k)
    window = config.get("window", 0)
    if window:
        share = 1 / (1 + np.exp(-(x @ p["window.weight"].T + p["window.bias"])))
    g = np.zeros((n, key_heads))
    if config["has_forgetting"]:
        g = -np.logaddexp(0, x @ p["forget.weight"].T + p["forget.bias"]) * np.exp(p["forget.rate"])
    # Every slot's own forgetting, of low rank: [N, H, K].
    slots, rank = np.prod(config["components"]), config.get("slot_forgetting_rank", 0)
    by_slot = np.zeros((n, key_heads, slots))
    if rank:
        amounts = np.logaddexp(0, x @ p["slot_forget.weight"].T).reshape(n, key_heads, rank)
        rates = np.exp(p["slot_forget.rate"]).reshape(key_heads, rank, slots)
        by_slot = -np.einsum("nhr,hrk->nhk", amounts, rates)
    members = ("weight_logits", "means", "log_scales", "log_temperature")
    y = []
    for h in range(heads):
        kh = h // (heads // key_heads)  # queries in order share a key head
        factors = [{member: p[f"mixtures.{kh}.factors.{i}.{member}"] for member in members}
                   for i in range(len(config["components"]))]
        r_q, r_k = responsibilities(q[h], factors), responsibilities(k[kh], factors)
        y.append(attention(r_q, r_k, v[kh], g[:, kh, None] + by_slot[:, kh], config["is_causal"], config["normalization"]))
        if window:
            s = share[:, h : h + 1]
            y[h] = s * window_attention(q[h], k[kh], v[kh], window) + (1 - s) * y[h]
        if config["has_output_norm"]:
            y[h] = unit_rms(y[h])
    y = np.hstack(y)
    if config["has_output_norm"]:
        y = y * p["norm.gain"]
    if config["has_output_gate"]:
        z = x @ p["gate.weight"].T
        y = y / (1 + np.exp(-z))
        if config.get("gate_activation", "sigmoid") == "silu":
            y = y * z
    return y @ p["output.weight"].T


def main(layer_path, x_path, y_path):
    parameters, metadata = read_safetensors(layer_path)
    if metadata["covariance"] != "diagonal":
        sys.exit("layer.py knows diagonal covariances only")
    expected = layer(parameters, json.loads(metadata["config"]), np.load(x_path).astype("f8"))
    error = np.linalg.norm(np.load(y_path) - expected) / np.linalg.norm(expected)
    print(f"relative error {error:.2g}")
    return 0 if error <= 1e-6 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
