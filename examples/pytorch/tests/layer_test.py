# SPDX-License-Identifier: MIT
"""The layer's parts against their definitions, token by token."""
import sys
import tempfile
import unittest
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
import gma_layer
import safetensors_file
from gma_layer import AttentionLayer, LayerConfig, causal_attention, coefficients, window_attention


def recurrence(r_q, r_k, v, g, normalization):
    """The definition of causal_attention(), one token after another."""
    memory, mass, y = 0, 0, []
    for t in range(v.shape[-2]):
        memory = torch.exp(g[..., t, None, None]) * memory + r_k[..., t, :, None] * v[..., t, None, :]
        mass = torch.exp(g[..., t, None]) * mass + r_k[..., t, :]
        y.append((coefficients(r_q[..., t, :], mass, normalization)[..., None, :] @ memory)[..., 0, :])
    return torch.stack(y, -2)


def relative_error(a, b):
    return ((a - b).norm() / b.norm()).item()


def inputs(n, dtype=torch.float64):
    torch.manual_seed(n)
    r_q, r_k = (torch.softmax(torch.randn(2, 3, n, 5, dtype=dtype), -1) for _ in range(2))
    return [r_q, r_k, torch.randn(2, 3, n, 4, dtype=dtype), -torch.rand(2, 3, n, dtype=dtype)]


class CausalAttention(unittest.TestCase):
    def check(self, arguments, tolerance):
        """Outputs and gradients in the arguments' type against the recurrence in double."""
        for normalization in ("slot", "row", "none"):
            results = []
            for function, dtype in ((causal_attention, arguments[0].dtype), (recurrence, torch.float64)):
                own = [z.detach().to(dtype).requires_grad_() for z in arguments]
                y = function(*own, normalization)
                torch.manual_seed(0)
                y.backward(torch.randn(y.shape).to(dtype))
                results.append([y.detach()] + [z.grad for z in own])
            for found, expected in zip(*results):
                self.assertLessEqual(relative_error(found.double(), expected), tolerance)

    def test_equals_the_recurrence(self):
        for n in (2, 63, 64, 65, 200):
            with self.subTest(n=n):
                self.check(inputs(n), 1e-12)

    def test_any_chunk(self):
        for n in (1, 50):
            arguments = inputs(n)
            expected = recurrence(*arguments, "slot")
            for chunk in (1, 7, 50, 1000):
                self.assertLessEqual(relative_error(causal_attention(*arguments, "slot", chunk), expected), 1e-13)

    def test_memory_is_empty_after_a_forgetting_of_minus_infinity(self):
        arguments = inputs(150)
        arguments[3][..., ::17] = -torch.inf
        self.check(arguments, 1e-12)
        last = [z[..., 136:, :] for z in arguments[:3]] + [arguments[3][..., 136:]]
        alone = causal_attention(*last, "slot")
        self.assertLessEqual(relative_error(causal_attention(*arguments, "slot")[..., 136:, :], alone), 1e-13)

    def test_strong_beside_weak_forgetting_in_float(self):
        arguments = inputs(200, torch.float32)
        arguments[3] *= torch.where(torch.arange(200) % 5 == 0, 1e6, 1e-3)
        self.check(arguments, 5e-6)


class Window(unittest.TestCase):
    def test_equals_its_definition(self):
        torch.manual_seed(1)
        q, k, v = (torch.randn(2, 75, d, dtype=torch.float64) for d in (6, 6, 3))
        rotated_q, rotated_k = gma_layer.rotated(q, 0), gma_layer.rotated(k, 0)
        for window in (1, 2, 20, 75, 1000):
            for t in range(75):
                seen = slice(max(0, t - window + 1), t + 1)
                weights = torch.softmax(rotated_k[:, seen] @ rotated_q[:, t, :, None] / 6**0.5, 1)
                expected = (weights * v[:, seen]).sum(1)
                self.assertLessEqual(relative_error(window_attention(q, k, v, window)[:, t], expected), 1e-13)


class Layer(unittest.TestCase):
    config = LayerConfig(width=16, heads=4, key_value_heads=2, components=[3, 2], window=8, has_output_norm=True,
                         has_output_gate=True)

    def test_later_tokens_do_not_matter(self):
        layer = AttentionLayer(self.config).double()
        x = torch.randn(1, 100, 16, dtype=torch.float64)
        changed = x.clone()
        changed[:, 70:] += 1
        a, b = layer(x), layer(changed)
        self.assertLessEqual(relative_error(b[:, :70], a[:, :70]), 1e-14)
        self.assertGreater(relative_error(b[:, 70], a[:, 70]), 1e-3)

    def test_makes_nothing_on_another_device(self):
        layer = AttentionLayer(self.config).to("meta")
        self.assertEqual(layer(torch.empty(2, 80, 16, device="meta")).shape, (2, 80, 16))

    @unittest.skipUnless(hasattr(torch, "compile"), "needs PyTorch 2")
    def test_is_one_graph(self):
        layer, x = AttentionLayer(self.config), torch.randn(2, 80, 16)
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        self.assertLessEqual(relative_error(compiled(x), layer(x)), 1e-6)
        compiled(x).sum().backward()
        self.assertTrue(all(p.grad.isfinite().all() for p in layer.parameters()))

    def test_comes_back_from_a_file(self):
        layer = AttentionLayer(self.config).bfloat16()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "layer.safetensors"
            gma_layer.save_layer(path, layer)
            again = gma_layer.load_layer(path)
            try:
                from safetensors.torch import load_file
            except ImportError:
                load_file = None
            others = load_file(path) if load_file else {}
        self.assertEqual(again.config, layer.config)
        for name, values in layer.state_dict().items():
            self.assertTrue(torch.equal(again.state_dict()[name], values), name)
        if others:
            self.assertEqual(str(layer.load_state_dict(others)), "<All keys matched successfully>")

    def test_refuses_what_does_not_fit(self):
        for change in ({"key_value_heads": 3}, {"components": [2, 2, 2]}, {"is_causal": False}, {"normalization": "rows"}):
            with self.assertRaisesRegex(ValueError, "LayerConfig"):
                LayerConfig(**{"width": 16, "heads": 4, **change})
        with self.assertRaisesRegex(ValueError, "context"):
            AttentionLayer(self.config)(torch.zeros(1, 5, 16), torch.zeros(1, 5, 16))

    def test_a_16_bit_layer_runs(self):
        torch.manual_seed(1)
        layer, x = AttentionLayer(self.config), torch.randn(2, 80, 16)
        self.assertLessEqual(relative_error(layer.bfloat16()(x.bfloat16()).float(), layer.float()(x)), 0.05)


class Files(unittest.TestCase):
    def test_every_type(self):
        tensors = {str(i): torch.arange(6).reshape(2, 3).to(t) for i, t in enumerate(safetensors_file.TYPES.values())}
        tensors.update(number=torch.tensor(2.0), nothing=torch.zeros(0, 3))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "tensors.safetensors"
            safetensors_file.write(path, tensors, {"key": "ä"})
            again, metadata = safetensors_file.read(path)
        self.assertEqual(metadata, {"key": "ä"})
        self.assertEqual(again.keys(), tensors.keys())
        for name, values in tensors.items():
            self.assertEqual((again[name].dtype, again[name].tolist()), (values.dtype, values.tolist()))


if __name__ == "__main__":
    unittest.main()
