# SPDX-License-Identifier: MIT
"""export_onnx.py LAYER.safetensors MODEL.onnx [--onnxruntime]: an attention layer of gma as an ONNX graph, opset 27.

Reads what gma::io::write_layer() writes. The graph takes x [B, N, D], float32, and gives y of the same shape, for any
number B of sequences and N of tokens. The graph of a causal layer is a stream: it also takes past_... and gives
present_..., the layer's state before and after these tokens. A stream begins with zeros: see first_states().

--onnxruntime names ONNX Runtime's own kernels (domain com.microsoft) instead of the operators of opset 27, which ONNX
Runtime 1.32 expands into loops. That is faster, and runs nowhere else.

Needs NumPy and onnx 1.23. Letters in shapes: B sequences, N tokens, D columns of a token, H key heads of G query heads
each, d and e columns of a head's queries and values, K slots, W tokens of the window."""
from __future__ import annotations

import json
import math
import struct
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET = 27
TINY = 2.0**-40  # under every division by a mass
STORED = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
EARLIER = {"slot_forgetting_rank": 0, "window": 0, "gate_activation": "sigmoid"}  # what older files mean
CHOICES = {"normalization": ("slot", "row", "none"), "gate_activation": ("silu", "sigmoid")}
MEMBERS = {"width", "heads", "key_value_heads", "head_width", "value_width", "components", "is_causal", "normalization",
           "convolution", "has_forgetting", "slot_forgetting_rank", "window", "has_output_norm", "has_output_gate",
           "gate_activation", "shortest_time", "longest_time"}
COVARIANCES = ("diagonal", "isotropic", "tied", "full")


def read_safetensors(path):
    """Tensors in float64, and the metadata: a header of JSON after its length, then the numbers."""
    with open(path, "rb") as file:
        data = file.read()
    (size,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        if entry["dtype"] not in STORED:
            raise ValueError(f"{path}: tensor {name} is of the type {entry['dtype']}, expected one of {', '.join(STORED)}")
        begin, end = (8 + size + offset for offset in entry["data_offsets"])
        numbers = np.frombuffer(data[begin:end], STORED[entry["dtype"]])
        if entry["dtype"] == "BF16":  # the upper half of a float32
            numbers = (numbers.astype("<u4") << 16).view("<f4")
        tensors[name] = numbers.astype("f8").reshape(entry["shape"])
    return tensors, metadata


def checked_config(metadata):
    """The config of a file, complete. Names what has no ONNX form here."""
    if metadata.get("gma_format", metadata.get("format")) != "gma attention layer 1":
        raise ValueError("the file is not one layer of gma::io::write_layer()")
    config = {**EARLIER, **json.loads(metadata["config"])}
    if config.keys() - MEMBERS:
        raise ValueError(f"the option {min(config.keys() - MEMBERS)} is not known here, so it cannot be exported")
    for name, known in CHOICES.items():
        if config[name] not in known:
            raise ValueError(f"the option {name} is {config[name]}, expected {', '.join(known)}: it cannot be exported")
    if metadata["covariance"] not in COVARIANCES:
        raise ValueError(f"the covariance is {metadata['covariance']}, expected {', '.join(COVARIANCES)}: layers of fixed "
                         "features and of other families cannot be exported")
    return config


class Graph:
    """Nodes and constants, with names made up."""

    def __init__(self):
        self.nodes, self.constants, self.inputs, self.outputs = [], [], [], []
        self.type = {"f": TensorProto.FLOAT, "i": TensorProto.INT64}

    def __call__(self, op, *inputs, outputs=1, domain="", **attributes):
        """The outputs of a new node. Arrays and lists become constants; None is an input that is left out."""
        names = ["" if i is None else i if isinstance(i, str) else self.constant(i) for i in inputs]
        results = [f"{op}_{len(self.nodes)}" + (f"_{i}" if outputs > 1 else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, names, results, domain=domain, **attributes))
        return results[0] if outputs == 1 else results

    def constant(self, values):
        values = np.asarray(values)
        values = values.astype("i8" if values.dtype.kind == "i" else "f8" if values.dtype == "f8" else "f4")
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def input(self, name, shape, kind="f"):
        self.inputs.append(helper.make_tensor_value_info(name, self.type[kind], shape))
        return name

    def output(self, name, value, shape, kind="f"):
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, self.type[kind], shape))

    def state(self, name, shape, advance, kind="f"):
        """advance(past) -> a result and the state after the tokens; returns the result."""
        result, present = advance(self.input("past_" + name, shape, kind))
        self.output("present_" + name, present, shape, kind)
        return result


def f4(values):
    return np.asarray(values, "f4")


class Layer:
    def __init__(self, tensors, config, covariance, onnxruntime):
        self.p, self.c, self.covariance = tensors, config, covariance
        self.domain = "com.microsoft" if onnxruntime else ""
        self.g = Graph()
        self.h = config["key_value_heads"] or config["heads"]
        self.group = config["heads"] // self.h
        self.d = config["head_width"] or config["width"] // config["heads"]
        self.e = config["value_width"] or self.d
        self.slots = math.prod(config["components"])

    def merged(self, parts):
        """parts [H ..., m] of the queries of a head, its key and its value -> rows in this order, head by head; then all
        values."""
        queries, keys, values = (self.p[f"{part}"] for part in parts)
        queries = queries.reshape(self.h, self.group * self.d, -1)
        keys = keys.reshape(self.h, self.d, -1)
        m = keys.shape[-1]
        return np.concatenate([np.concatenate([queries, keys], 1).reshape(-1, m), values.reshape(-1, m)])

    def projected(self, x):
        """One product makes everything; then the convolution. Queries and keys [B, N, H, G + 1, d], values [B, N, H e],
        and the logits of the gates by name."""
        g, c = self.g, self.c
        gates = [name for name in ("forget", "slot_forget", "window", "gate") if f"{name}.weight" in self.p]
        weights = [self.merged(("query.weight", "key.weight", "value.weight"))] + [self.p[f"{n}.weight"] for n in gates]
        sizes = [len(w) for w in weights]
        z = g("MatMul", x, f4(np.concatenate(weights).T))
        pieces = g("Split", z, sizes, axis=-1, outputs=len(sizes)) if gates else [z]
        tokens = pieces[0]
        if c["convolution"] > 1:
            channels = g("Transpose", tokens, perm=[0, 2, 1])
            filters = f4(self.merged(("query.filter", "key.filter", "value.filter")))[:, None]
            if c["is_causal"]:
                channels = g.state("history", ["B", sizes[0], c["convolution"] - 1], lambda past: g(
                    "CausalConvWithState", channels, filters, None, past, outputs=2, domain=self.domain))
            else:
                channels, _ = g("CausalConvWithState", channels, filters, outputs=2, domain=self.domain)
            tokens = g("Transpose", channels, perm=[0, 2, 1])
        routed = self.h * (self.group + 1) * self.d
        q_k, v = g("Split", tokens, [routed, self.h * self.e], axis=-1, outputs=2)
        q_k = g("Reshape", q_k, [0, 0, self.h, self.group + 1, self.d])
        q_k = g("RMSNormalization", q_k, f4(np.ones(self.d)), axis=-1, epsilon=1e-5)
        return q_k, v, dict(zip(gates, pieces[1:]))

    def logits(self, x, factor):
        """x [B, H, M, d of the factor] -> [B, H, M, K of the factor], without what is the same for all slots."""
        g = self.g
        names = ("weight_logits", "means", "log_scales", "log_temperature")
        log_pi, mu, s, log_tau = (
            np.stack([self.p[f"mixtures.{h}.factors.{factor}.{name}"] for h in range(self.h)]) for name in names)
        k, d = mu.shape[1:]
        tau = np.exp(log_tau.reshape(-1, 1))
        if self.covariance == "full":  # s are the factors L of the precisions L L^T, their diagonals as logarithms
            entries = s.reshape(self.h, k, d, d)
            diagonal = np.diagonal(entries, axis1=-2, axis2=-1)
            lower = np.tril(entries, -1) + np.exp(diagonal)[..., None] * np.eye(d)
            weight = lower.transpose(0, 2, 1, 3).reshape(self.h, d, k * d)  # x^T L of all slots, side by side
            offset = np.einsum("hkd,hkde->hke", mu, lower).reshape(self.h, 1, k * d)
            z = g("Sub", g("MatMul", x, f4(weight)), f4(offset))
            z = g("Reshape", g("Mul", z, z), [0, 0, -1, k, d])
            squares = g("ReduceSum", z, [-1], keepdims=0)
            constant = (log_pi + diagonal.sum(-1)) / tau
            return g("Add", g("Mul", squares, f4(-0.5 / tau[:, None])), f4(constant[:, None]))
        s = np.broadcast_to(s.reshape(self.h, -1, s.shape[-1]), mu.shape)
        precision = np.exp(-2 * s)
        weight = np.concatenate([precision * mu, -precision / 2], -1) / tau[..., None]
        constant = (log_pi - (precision * mu**2 / 2 + s).sum(-1)) / tau
        features = g("Concat", x, g("Mul", x, x), axis=-1)
        return g("Add", g("MatMul", features, f4(weight.transpose(0, 2, 1))), f4(constant[:, None]))

    def responsibilities(self, q_k):
        """[B, N, H, G + 1, d] -> [B, H, N (G + 1), K]: products of the factors' posteriors, the last one's slots fastest."""
        g, counts = self.g, self.c["components"]
        x = g("Reshape", g("Transpose", q_k, perm=[0, 2, 1, 3, 4]), [0, self.h, -1, self.d])
        parts = g("Split", x, [self.d // len(counts)] * len(counts), axis=-1, outputs=len(counts))
        result = None
        for i, part in enumerate([parts] if len(counts) == 1 else parts):
            r = g("Softmax", self.logits(part, i), axis=-1)
            if result is not None:
                r = g("Mul", g("Unsqueeze", result, [-1]), g("Unsqueeze", r, [-2]))
                r = g("Reshape", r, [0, 0, 0, -1])
            result = r
        return result

    def log_forgetting(self, gates):
        """g [B, N, H], or s of every slot [B, N, H K], or None without forgetting."""
        g, result = self.g, None
        if "forget" in gates:
            z = g("Softplus", g("Add", gates["forget"], f4(self.p["forget.bias"])))
            result = g("Mul", z, f4(-np.exp(self.p["forget.rate"])))
        if "slot_forget" in gates:
            rank = self.c["slot_forgetting_rank"]
            amounts = g("Reshape", g("Softplus", gates["slot_forget"]), [0, 0, self.h, 1, rank])
            rates = -np.exp(self.p["slot_forget.rate"]).reshape(self.h, rank, self.slots)
            s = g("MatMul", amounts, f4(rates))  # [B, N, H, 1, K]
            if result is not None:
                s = g("Add", s, g("Reshape", result, [0, 0, self.h, 1, 1]))
            result = g("Reshape", s, [0, 0, self.h * self.slots])
        return result

    def scan(self, name, q, k, v, decay, heads, query_heads, shape):
        """M = exp(decay) M + k v^T and q^T M, token by token, for every head. `shape` is that of M."""
        rule = {"update_rule": "linear"} if decay is None else {"update_rule": "gated"}
        return self.g.state(name, ["B", heads, *shape], lambda past: self.g(
            "LinearAttention", q, k, v, past, decay, outputs=2, domain=self.domain, scale=1.0, q_num_heads=query_heads,
            kv_num_heads=heads, **rule))

    def causal(self, r, v, gates):
        """[B, N, H, G, e]. Masses are a scan of their own, of the responsibilities as values; row normalisation has them
        as one more column of the values."""
        g, h, n, e = self.g, self.h, self.slots, self.e
        decay = self.log_forgetting(gates)
        r = g("Transpose", g("Reshape", r, [0, h, -1, self.group + 1, n]), perm=[0, 2, 1, 3, 4])
        r_q, r_k = g("Split", r, [self.group, 1], axis=3, outputs=2)
        r_k = g("Reshape", r_k, [0, 0, h * n])
        normalization = self.c["normalization"]
        if normalization == "slot":
            by_slot = "slot_forget" in gates  # then every slot is one head
            heads = h * n if by_slot else h
            batch = g("Concat", g("Shape", v, start=0, end=2), [heads], axis=0)
            ones = g("ConstantOfShape", batch, value=numpy_helper.from_array(f4([1])))
            mass = self.scan("mass", ones, ones, r_k, decay, heads, heads, [1, 1 if by_slot else n])
            mass = g("Reshape", g("Max", mass, f4(TINY)), [0, 0, h, 1, n])
            r_q = g("Div", r_q, mass)
        if normalization == "row":
            values = g("Reshape", v, [0, 0, h, e])
            v = g("Reshape", g("Pad", values, [0, 0, 0, 0, 0, 0, 0, 1], f4(1)), [0, 0, h * (e + 1)])
        width = e + (normalization == "row")
        q = g("Reshape", r_q, [0, 0, h * self.group * n])
        y = self.scan("memory", q, r_k, v, decay, h, h * self.group, [n, width])
        y = g("Reshape", y, [0, 0, h, self.group, width])
        if normalization == "row":
            y, mass = g("Split", y, [e, 1], axis=-1, outputs=2)
            y = g("Div", y, g("Max", mass, f4(TINY)))
        return y

    def bidirectional(self, r, v):
        """[B, N, H, G, e], of products and sums over all tokens."""
        g, h, n, e = self.g, self.h, self.slots, self.e
        r = g("Reshape", r, [0, h, -1, self.group + 1, n])
        r_q, r_k = g("Split", r, [self.group, 1], axis=3, outputs=2)
        r_q, r_k = (g("Reshape", z, [0, h, -1, n]) for z in (r_q, r_k))
        v = g("Transpose", g("Reshape", v, [0, 0, h, e]), perm=[0, 2, 1, 3])
        memory = g("MatMul", g("Transpose", r_k, perm=[0, 1, 3, 2]), v)
        mass = g("ReduceSum", r_k, [2], keepdims=1)  # [B, H, 1, K]
        if self.c["normalization"] == "slot":
            r_q = g("Div", r_q, g("Max", mass, f4(TINY)))
        y = g("MatMul", r_q, memory)
        if self.c["normalization"] == "row":
            of_row = g("ReduceSum", g("Mul", r_q, mass), [-1], keepdims=1)
            y = g("Div", y, g("Max", of_row, f4(TINY)))
        return g("Transpose", g("Reshape", y, [0, h, -1, self.group, e]), perm=[0, 2, 1, 3, 4])

    def rotated(self, x, positions):
        """x [B, H, ., P, d], positions [P] of its rows, int64."""
        g, half = self.g, self.d // 2
        frequency = 10000.0 ** (-np.arange(half) / half)
        angle = g("Mul", g("Unsqueeze", g("Cast", positions, to=TensorProto.DOUBLE), [-1]), frequency)
        angle = g("Cast", g("Mod", angle, np.float64(2 * np.pi), fmod=1), to=TensorProto.FLOAT)
        cos, sin = g("Cos", angle), g("Sin", angle)
        a, b = g("Split", x, [half, half], axis=-1, outputs=2)
        return g("Concat", g("Sub", g("Mul", a, cos), g("Mul", b, sin)),
                 g("Add", g("Mul", a, sin), g("Mul", b, cos)), axis=-1)

    def window(self, q_k, v):
        """[B, N, H, G, e]: softmax attention over the last W tokens, as N x (W - 1 + N) scores under a mask."""
        g, w, h = self.g, self.c["window"], self.h
        q, k = g("Split", q_k, [self.group, 1], axis=3, outputs=2)
        q = g("Transpose", q, perm=[0, 2, 3, 1, 4])  # [B, H, G, N, d]
        k = g("Transpose", k, perm=[0, 2, 3, 1, 4])
        v = g("Transpose", g("Reshape", v, [0, 0, h, 1, self.e]), perm=[0, 2, 3, 1, 4])
        tokens = g("Shape", q, start=3, end=4)  # [1]
        count = self.g.input("past_window_count", [1], "i")  # of tokens in the past keys, at most W - 1
        self.g.output("present_window_count", g("Min", g("Add", count, tokens), [w - 1]), [1], "i")

        def with_past(new):
            def advance(past):
                whole = g("Concat", past, new, axis=3)
                return whole, g("Slice", whole, tokens, [2**62], [3])
            return advance

        k = g.state("window_keys", ["B", h, 1, w - 1, self.d], with_past(k))
        v = g.state("window_values", ["B", h, 1, w - 1, self.e], with_past(v))
        last = g("Squeeze", g("Add", tokens, [w - 1]), [0])
        at = g("Range", np.int64(0), last, np.int64(1))
        of_queries = g("Slice", at, [w - 1], [2**62], [0])
        scores = g("MatMul", self.rotated(q, of_queries), g("Transpose", self.rotated(k, at), perm=[0, 1, 2, 4, 3]))
        distance = g("Sub", g("Unsqueeze", of_queries, [1]), g("Unsqueeze", at, [0]))
        is_near = g("And", g("GreaterOrEqual", distance, [0]), g("Less", distance, [w]))
        is_token = g("GreaterOrEqual", g("Unsqueeze", at, [0]), g("Sub", [w - 1], count))
        scores = g("Where", g("And", is_near, is_token), g("Mul", scores, f4(1 / math.sqrt(self.d))), f4(-np.inf))
        y = g("MatMul", g("Softmax", scores, axis=-1), v)
        return g("Transpose", y, perm=[0, 3, 1, 2, 4])

    def build(self):
        g, c = self.g, self.c
        x = g.input("x", ["B", "N", c["width"]])
        q_k, v, gates = self.projected(x)
        r = self.responsibilities(q_k)
        y = self.causal(r, v, gates) if c["is_causal"] else self.bidirectional(r, v)
        if c["window"]:
            share = g("Sigmoid", g("Add", gates["window"], f4(self.p["window.bias"])))
            share = g("Reshape", share, [0, 0, self.h, self.group, 1])
            y = g("Add", y, g("Mul", share, g("Sub", self.window(q_k, v), y)))
        if c["has_output_norm"]:
            y = g("RMSNormalization", y, f4(np.ones(self.e)), axis=-1, epsilon=1e-5)
        y = g("Reshape", y, [0, 0, c["heads"] * self.e])
        if c["has_output_norm"]:
            y = g("Mul", y, f4(self.p["norm.gain"]))
        if c["has_output_gate"]:
            activation = g("Sigmoid", gates["gate"])
            if c["gate_activation"] == "silu":
                activation = g("Mul", activation, gates["gate"])
            y = g("Mul", y, activation)
        y = g("MatMul", y, f4(self.p["output.weight"].T))
        g.output("y", y, ["B", "N", c["width"]])
        g.outputs.insert(0, g.outputs.pop())
        return g


def export(path, onnxruntime=False):
    """The ModelProto of a layer in a file. Throws ValueError, with the option's name, for a layer that has no such form."""
    tensors, metadata = read_safetensors(path)
    graph = Layer(tensors, checked_config(metadata), metadata["covariance"], onnxruntime).build()
    opsets = [helper.make_opsetid("", OPSET)] + ([helper.make_opsetid("com.microsoft", 1)] if onnxruntime else [])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "gma_attention_layer", graph.inputs, graph.outputs, graph.constants),
        opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets[:1]), producer_name="gma")
    helper.set_model_props(model, {name: metadata[name] for name in ("covariance", "config")})
    onnx.checker.check_model(model, full_check=not onnxruntime)
    return model


def first_states(model, batch=1):
    """The states before the first token, by the names of the graph's inputs: zeros. The outputs of a call after y are the
    states after its tokens, in the same order."""
    states = {}
    for value in model.graph.input:
        if value.name.startswith("past_"):
            shape = [batch if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim]
            states[value.name] = np.zeros(shape, "i8" if value.type.tensor_type.elem_type == TensorProto.INT64 else "f4")
    return states


def main(arguments):
    paths = [a for a in arguments if a != "--onnxruntime"]
    if len(paths) != 2 or any(a.startswith("-") for a in paths):
        sys.exit(__doc__.splitlines()[0])
    try:
        model = export(paths[0], "--onnxruntime" in arguments)
    except ValueError as error:
        sys.exit(f"export_onnx.py: {paths[0]}: {error}")
    onnx.save(model, paths[1])
    print(f"{paths[1]}: {len(model.graph.node)} nodes")


if __name__ == "__main__":
    main(sys.argv[1:])
