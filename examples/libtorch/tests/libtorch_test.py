# SPDX-License-Identifier: MIT
"""Tests of gma in PyTorch: libtorch_test.py [NAME of a class ...]"""
import itertools
import sys
import time
import unittest
from pathlib import Path

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

sys.path.insert(0, str(Path(__file__).parents[1]))
from gma_torch import Attention, AttentionLayer

TINY = 2.0**-40


def dense(q, k, v, mixtures, g=None, is_causal=True, normalization="slot") -> Tensor:
    """The definition of torch.ops.gma.attention, query by query: sum_j a_ij v_j for all pairs of tokens."""
    group = q.shape[1] // k.shape[1]
    r = []
    for x, repeats in ((q, group), (k, 1)):
        product, begin = torch.ones(1, dtype=q.dtype), 0
        for log_pi, mu, s, log_tau in zip(*[iter(t.repeat_interleave(repeats, 0) for t in mixtures)] * 4):
            part = x[..., begin : begin + mu.shape[-1]]
            begin += mu.shape[-1]
            z = (part[:, :, :, None] - mu[:, None]) * torch.exp(-s)[:, None]  # [B, H, N, K, w]
            logits = log_pi[:, None] - s.sum(-1)[:, None] - z.square().sum(-1) / 2
            posterior = torch.softmax(logits * torch.exp(-log_tau)[:, None, None], -1)
            product = (product[..., None] * posterior[..., None, :]).flatten(-2)
        r.append(product)
    r_q, r_k, v = r[0], r[1].repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    outputs = []
    for i in range(q.shape[2]):
        seen = i + 1 if is_causal else k.shape[2]
        kept = r_k[:, :, :seen]
        if g is not None:  # the product of the decays after token j
            later = [g[:, :, j + 1 : i + 1].sum(-1) for j in range(seen)]
            kept = kept * torch.stack(later, -1).exp().repeat_interleave(group, 1)[..., None]
        c, mass = r_q[:, :, i], kept.sum(2)
        if normalization == "slot":
            c = c / mass.clamp(min=TINY)
        elif normalization == "row":
            c = c / (c * mass).sum(-1, keepdim=True).clamp(min=TINY)
        outputs.append(torch.einsum("bhk,bhjk,bhje->bhe", c, kept, v[:, :, :seen]))
    return torch.stack(outputs, 2)


def inputs(n=37, heads=2, group=2, d=6, e=4, components=(3, 4), forgets=True, dtype=torch.float64, n_keys=None, seed=1):
    """[queries, keys, values, mixtures ..., log_forgetting]"""
    gen = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=gen, dtype=torch.float64)

    n_keys = n_keys or n
    result = [random(2, heads * group, n, d), random(2, heads, n_keys, d), random(2, heads, n_keys, e)]
    for k in components:
        w = d // len(components)
        result += [random(heads, k), random(heads, k, w), 0.3 * random(heads, k, w), 0.3 * random(heads)]
    if forgets:
        result.append(-0.2 * random(2, heads, n_keys).abs())
    return [t.to(dtype).requires_grad_() for t in result]


def split(tensors):
    """The operator's arguments from a list of inputs()."""
    forgetting = tensors[-1] if len(tensors) % 4 == 0 else None
    return tensors[0], tensors[1], tensors[2], tensors[3 : 3 + (len(tensors) - 3) // 4 * 4], forgetting


def attention(*tensors, is_causal=True, normalization="slot"):
    return torch.ops.gma.attention(*split(list(tensors)), is_causal, normalization)


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found - expected).abs().max() / expected.abs().max()).item()


def with_gradients(function, tensors, seed=0, **options):
    """The output and all gradients of a random linear loss."""
    own = [t.detach().clone().requires_grad_() if t.is_contiguous() else t.detach().requires_grad_() for t in tensors]
    y = function(*own, **options)
    gen = torch.Generator().manual_seed(seed)
    d_y = torch.randn(y.shape, generator=gen, dtype=torch.float64).to(y.dtype)
    return [y.detach(), *torch.autograd.grad(y, own, d_y)]


class Operator(unittest.TestCase):
    def test_equals_the_definition(self):
        worst = [0.0, 0.0]
        kinds = itertools.product((True, False), (True, False), ("slot", "row", "none"), (1, 3))
        for is_causal, forgets, normalization, group in (k for k in kinds if k[0] or not k[1]):
            own = inputs(group=group, forgets=forgets, n_keys=None if is_causal else 29)
            options = {"is_causal": is_causal, "normalization": normalization}
            found = with_gradients(attention, own, **options)
            expected = with_gradients(lambda *t, **o: dense(*split(list(t)), **o), own, **options)
            errors = [relative_error(a, b) for a, b in zip(found, expected)]
            worst = [max(worst[0], errors[0]), max(worst[1], *errors[1:])]
            self.assertLessEqual(max(errors), 1e-12, options)
        print(f"largest error relative to the largest number: outputs {worst[0]:.1e}, gradients {worst[1]:.1e}")

    def test_gradients_are_differences(self):
        for forgets in (True, False):
            own = inputs(n=5, d=4, e=2, components=(2, 3), forgets=forgets)
            self.assertTrue(gradcheck(attention, own))
        own = inputs(n=5, n_keys=4, d=4, e=2, components=(3,), forgets=False)
        self.assertTrue(gradcheck(lambda *t: attention(*t, is_causal=False), own))

    def test_any_strides(self):
        own = inputs(n=70, d=4, e=4, components=(2, 2))
        expected = with_gradients(attention, own)
        q, k, v = own[:3]
        fused = torch.cat([t.detach().transpose(1, 2).flatten(2) for t in (q, k, v)], -1)  # [B, N, (Hq + 2 H) d]
        strided = [t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in fused.split([16, 8, 8], -1)]
        backwards = [t.flip(2).contiguous().flip(2).transpose(2, 3).contiguous().transpose(2, 3) for t in own[:3]]
        for changed in (strided, backwards):
            self.assertFalse(any(t.is_contiguous() for t in changed))
            found = with_gradients(attention, changed + own[3:])
            for a, b in zip(found, expected):
                self.assertTrue(torch.equal(a, b))
        one = own[2].detach()[:1, :, :1].expand(2, 2, 70, 4)  # strides 0
        ones = [own[0], own[1], one, *own[3:]]
        for a, b in zip(with_gradients(attention, ones), with_gradients(attention, [t.contiguous() for t in ones])):
            self.assertTrue(torch.equal(a, b))

    def test_output_lies_as_queries_do(self):
        own = inputs(n=9, d=4, e=4, components=(2, 2))
        by_token = own[0].detach().transpose(1, 2).contiguous().transpose(1, 2)
        self.assertEqual(attention(by_token, *own[1:]).stride(), by_token.stride())

    def test_16_bits(self):
        for dtype, bound in ((torch.bfloat16, 2**-7), (torch.half, 2**-10)):
            own = inputs(dtype=torch.float32)
            short = [t.to(dtype) for t in own[:3]] + own[3:]
            exact = with_gradients(attention, [t.float() for t in short])
            found = with_gradients(attention, short)
            self.assertEqual([t.dtype for t in found[:4]], [dtype] * 4)
            errors = [relative_error(a.float(), b) for a, b in zip(found, exact)]
            print(f"{dtype}: {max(errors):.1e}")
            self.assertLessEqual(max(errors), bound)

    def test_gradients_that_are_wanted(self):
        all_of_them = with_gradients(attention, inputs())[1:]
        for wanted in ([0], [1, 2], [2], [4], [len(all_of_them) - 1], [0, 3, len(all_of_them) - 1]):
            own = [t.detach().requires_grad_(i in wanted) for i, t in enumerate(inputs())]
            y = attention(*own)
            y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
            for i, t in enumerate(own):
                self.assertEqual(t.grad is not None, i in wanted)
                self.assertTrue(i not in wanted or torch.equal(t.grad, all_of_them[i]), (wanted, i))

    def test_shapes_of_meta_tensors(self):
        own = inputs(e=4)
        y = attention(*[t.detach().to("meta").requires_grad_() for t in own])
        self.assertEqual((y.shape, y.device.type), ((2, 4, 37, 4), "meta"))

    def test_trains(self):
        """The value of the token before: to be found among the neighbours in time by forgetting, and in space."""
        torch.manual_seed(0)
        q, v = torch.randn(4, 2, 60, 8), torch.randn(4, 2, 60, 3)
        target = torch.cat([torch.zeros(4, 2, 1, 3), v[:, :, :-1]], 2)
        model = Attention(2, 8, (4, 4))
        decay = torch.nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.AdamW([*model.parameters(), decay], lr=0.05)
        losses = []
        for _ in range(60):
            y = model(q, q, v, -torch.nn.functional.softplus(decay)[None, :, None].expand(4, 2, 60))
            losses.append((y - target).square().mean())
            optimizer.zero_grad()
            losses[-1].backward()
            optimizer.step()
        print(f"loss {losses[0].item():.3f} -> {losses[-1].item():.3f}")
        self.assertLess(losses[-1].item(), 0.8 * losses[0].item())


class Threads(unittest.TestCase):
    def test_same_bits(self):
        own = inputs(n=500, heads=3, group=1, d=16, e=16, dtype=torch.float32)
        layer, x = AttentionLayer(width=32, heads=4), torch.randn(2, 300, 32)
        results = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(with_gradients(attention, own) + with_gradients(lambda z, *_: layer(z), [x]))
        for other in results[1:]:
            self.assertTrue(all(torch.equal(a, b) for a, b in zip(results[0], other)))

    def test_really_several(self):
        """The calling thread does all the work of a call on one thread, and not of a call on two."""
        own = [t.detach() for t in inputs(n=20000, heads=4, group=1, d=32, e=32, dtype=torch.float32)]
        shares = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            attention(*own)
            begin = time.process_time(), time.thread_time()
            for _ in range(5):
                attention(*own)
            shares.append((time.thread_time() - begin[1]) / (time.process_time() - begin[0]))
        print(f"share of the calling thread: {shares[0]:.2f} with one thread, {shares[1]:.2f} with two")
        self.assertGreater(shares[0], 0.95)
        self.assertLess(shares[1], 0.85)


class Errors(unittest.TestCase):
    def refuses(self, error, message, change, **options):
        own = [t.detach() for t in inputs()]
        change(own)
        with self.assertRaisesRegex(error, message):
            attention(*own, **options)

    def test_shapes(self):
        def cut(i, *index):
            return lambda own: own.__setitem__(i, own[i][index])

        every = slice(None)
        def check(message, *change):
            self.refuses(ValueError, "gma::attention: " + message, cut(*change))

        check("queries has 3 dimensions, expected 4", 0, 0)
        check(r"keys is \[2, 2, 36, 6\], expected \[2, 2, 37, 6\]", 1, every, every, slice(1, 99))
        check(r"values is \[1, 2, 37, 4\], expected \[2, 2, 37, 4\]", 2, slice(1))
        check("queries has 3 heads, expected a multiple of 2", 0, every, slice(3))
        check(r"weight_logits of factor 0 is \[2, 2\], expected \[2, 3\]", 3, every, slice(2))
        check(r"log_forgetting is \[2, 1, 37\], expected \[2, 2, 37\]", -1, every, slice(1))
        self.refuses(ValueError, "gma::attention: mixtures have 5 columns, expected 6", lambda own: own.__setitem__(
            slice(8, 10), [own[8][..., :2], own[9][..., :2]]))
        own = [t.detach() for t in inputs()]
        with self.assertRaisesRegex(ValueError, "gma::attention: mixtures has 7 tensors, expected four per factor"):
            torch.ops.gma.attention(*own[:3], own[3:10])

    def test_types_and_devices(self):
        def to(i, kind):
            return lambda own: own.__setitem__(i, own[i].to(kind))

        self.refuses(TypeError, "gma::attention: queries is Int, expected float, double, bfloat16 or half", to(0, torch.int32))
        self.refuses(TypeError, "gma::attention: keys is Float, expected Double", to(1, torch.float32))
        self.refuses(TypeError, "gma::attention: means of factor 0 is Half, expected Double", to(4, torch.half))
        self.refuses(ValueError, "gma::attention: keys is on meta, expected cpu", to(1, "meta"))
        with self.assertRaisesRegex((NotImplementedError, RuntimeError), "Could not run 'gma::attention'.*Sparse"):
            own = [t.detach() for t in inputs()]
            attention(own[0].to_sparse(), *own[1:])

    def test_numbers_and_options(self):
        self.refuses((ValueError, RuntimeError), "gma::causal: inputs.log_forgetting is .*expected a number <= 0",
                     lambda own: own[-1].neg_())  # an exception of gma itself: RuntimeError in newer versions of torch
        self.refuses(ValueError, "gma::attention: normalization is 'rows', expected 'slot', 'row' or 'none'", lambda _: None,
                     normalization="rows")
        self.refuses(ValueError, "gma::attention: log_forgetting is given, expected none", lambda _: None, is_causal=False)

    def test_second_derivatives(self):
        own = inputs(n=5)
        gradient = torch.autograd.grad(attention(*own).sum(), own[0], create_graph=True)[0]
        with self.assertRaisesRegex(RuntimeError, "gma::attention_backward.* not implemented"):
            gradient.sum().backward()
        layer, x = AttentionLayer(width=8, heads=1, components=(2, 2)), torch.randn(1, 5, 8, requires_grad=True)
        with self.assertRaisesRegex(RuntimeError, "gma::AttentionLayer has no second derivative"):
            torch.autograd.grad(layer(x).sum(), x, create_graph=True)

    def test_layer(self):
        layer, x = AttentionLayer(width=8, heads=2, components=(2, 2)), torch.randn(2, 5, 8)
        with self.assertRaisesRegex(ValueError, r"gma::AttentionLayer: x is \[2, 5, 7\], expected \[..., tokens, 8\]"):
            layer(x[..., :7])
        with self.assertRaisesRegex(TypeError, "gma::AttentionLayer: x is Double on cpu, expected Float"):
            layer(x.double())
        with self.assertRaisesRegex(ValueError, "LayerConfig.*heads"):
            AttentionLayer(width=8, heads=3)
        y = layer(x).sum()
        with torch.no_grad():
            layer.output.weight.mul_(2)
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            y.backward()
        layer.norm.gain = torch.nn.Parameter(torch.ones(8))
        with self.assertRaisesRegex(ValueError, "gma::AttentionLayer: the parameter norm.gain is another tensor now"):
            layer(x)
        with self.assertRaisesRegex(ValueError, "gma::AttentionLayer: the parameter query.weight is another tensor now"):
            AttentionLayer(width=8, heads=2, components=(2, 2), dtype=torch.float64).float()(x.double())


KINDS = [{}, {"key_value_heads": 1, "window": 6}, {"slot_forgetting_rank": 2, "convolution": 1, "has_output_norm": False},
         {"is_causal": False, "has_forgetting": False, "has_output_gate": False}]


class Layer(unittest.TestCase):
    def test_gradients_are_differences(self):
        torch.manual_seed(1)
        for kind in KINDS:
            layer = AttentionLayer(width=8, heads=2, components=(2, 2), dtype=torch.float64, **kind)
            x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)
            self.assertTrue(gradcheck(lambda x, *_: layer(x), [x, *layer.parameters()]), kind)

    def test_is_the_module_of_plain_pytorch(self):
        folder = Path(__file__).parents[2] / "pytorch"
        if not folder.exists():
            self.skipTest("examples/pytorch is not beside this example")
        sys.path.insert(0, str(folder))
        import gma_layer

        worst = 0.0
        for kind in KINDS:
            layer = AttentionLayer(width=16, heads=2, dtype=torch.float64, **kind)
            plain = gma_layer.AttentionLayer(gma_layer.LayerConfig(width=16, heads=2, **kind)).double()
            shapes = [{name: p.shape for name, p in model.state_dict().items()} for model in (layer, plain)]
            self.assertEqual(*shapes)
            layer.load_state_dict(plain.state_dict())
            x, results = torch.randn(3, 70, 16, dtype=torch.float64), []
            for model in (layer, plain):
                own = x.clone().requires_grad_()
                y = model(own)
                y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
                results.append([y.detach(), own.grad] + [dict(model.named_parameters())[n].grad for n in layer.names])
            worst = max(worst, *(relative_error(a, b) for a, b in zip(*results)))
        print(f"largest error relative to the largest number of a tensor: {worst:.1e}")
        self.assertLessEqual(worst, 1e-11)

    def test_every_optimizer_steps_the_layer(self):
        torch.manual_seed(2)
        x, target = torch.randn(2, 50, 16), torch.randn(2, 50, 16)
        for make in (torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop):
            layer = AttentionLayer(width=16, heads=2, components=(2, 2))
            optimizer = make(layer.parameters(), lr=0.01)
            losses = []
            for _ in range(20):
                optimizer.zero_grad()
                loss = (layer(x) - target).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            self.assertLess(losses[-1], losses[0])
            again = AttentionLayer(width=16, heads=2, components=(2, 2), seed=5)
            self.assertFalse(torch.equal(again(x), layer(x)))
            again.load_state_dict(layer.state_dict())
            self.assertTrue(torch.equal(again(x), layer(x)))  # so the layer computes with the stepped numbers

    def test_passes_are_apart(self):
        """Several graphs of one layer at a time, one of them used twice, give what single passes give."""
        layer = AttentionLayer(width=16, heads=2)
        xs = [torch.randn(2, n, 16, requires_grad=True) for n in (30, 50, 10)]
        alone = [with_gradients(lambda x: layer(x), [x])[1] for x in xs]
        ys = [layer(x) for x in xs]
        for i in (1, 0, 2, 1):
            d_y = torch.randn(ys[i].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).float()
            self.assertTrue(torch.equal(torch.autograd.grad(ys[i], xs[i], d_y, retain_graph=True)[0], alone[i]))

    def test_every_entry_is_a_sequence(self):
        layer, x = AttentionLayer(width=16, heads=2), torch.randn(3, 2, 40, 16)
        self.assertTrue(torch.equal(layer(x)[1, 0], layer(x[1, 0])))
        self.assertTrue(torch.equal(layer(x.transpose(0, 1)), layer(x).transpose(0, 1)))


@unittest.skipUnless(hasattr(torch, "compile"), f"torch.compile needs PyTorch 2, this is {torch.__version__}")
class Compile(unittest.TestCase):
    def check(self, **options):
        own = inputs(n=64, dtype=torch.float32)

        def model(*tensors):
            return attention(*[t * 2 if i < 2 else t for i, t in enumerate(tensors)]).tanh()

        expected = with_gradients(model, own)
        torch._dynamo.reset()
        for a, b in zip(with_gradients(torch.compile(model, fullgraph=True, **options), own), expected):
            self.assertLessEqual(relative_error(a, b), 1e-6)

    def test_is_one_graph(self):
        self.check(backend="aot_eager")

    def test_inductor(self):
        self.check()

    def test_any_length(self):
        compiled = torch.compile(attention, fullgraph=True, dynamic=True, backend="aot_eager")
        for n in (20, 33, 64):
            own = [t.detach() for t in inputs(n=n)]
            self.assertTrue(torch.equal(compiled(*own), attention(*own)))

    def test_follows_the_rules_of_operators(self):
        torch.library.opcheck(torch.ops.gma.attention.default, split(inputs()))
        torch.library.opcheck(torch.ops.gma.attention.default, (*split(inputs(forgets=False)), False, "row"))


if __name__ == "__main__":
    result = unittest.main(exit=False).result
    if result.skipped and result.testsRun <= len(result.skipped):
        print(f"Skipped: {result.skipped[0][1]}")
    sys.exit(not result.wasSuccessful())
