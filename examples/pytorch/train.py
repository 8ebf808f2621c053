# SPDX-License-Identifier: MIT
"""train.py --text FILE... --out FOLDER: trains language models of bytes, one for every learning rate and seed, all at the
same time, and writes each to a file that the C++ program `language_model` reads. The optimiser, its schedule and the order
of the text are those of that program. With a GPU it takes hardly longer to train several models than one."""
from __future__ import annotations

import argparse
import dataclasses
import json
import math
import time
from pathlib import Path

import torch
from torch import Tensor

try:
    from torch.func import functional_call, vmap
except ImportError:  # before PyTorch 2.0
    from functorch import vmap
    from torch.nn.utils.stateless import functional_call

from language_model import LanguageModel, ModelConfig, cross_entropy, group_of, load_model, save_model


@dataclasses.dataclass
class TrainConfig:
    """As the C++ TrainConfig, with a list of rates and of seeds."""

    steps: int = 2000
    batch: int = 4  # sequences per step
    context: int = 256  # tokens per sequence
    learning_rates: list[float] = dataclasses.field(default_factory=lambda: [4e-3])
    seeds: list[int] = dataclasses.field(default_factory=lambda: [1])
    final_learning_rate: float = 0.05  # as a fraction of the learning rate
    warmup_steps: int = 100
    mixture_learning_rate: float = 5.0  # a factor
    weight_decay: float = 0.01  # of matrices
    beta1: float = 0.9
    beta2: float = 0.95
    clip: float = 1.0  # largest norm of a model's gradient


@dataclasses.dataclass
class Text:
    tokens: Tensor  # the training parts of all files, then the last tenth of each, which is held out
    split: int

    @staticmethod
    def load(paths: list[str], context: int) -> Text:
        training, held_out = b"", b""
        for path in paths:
            data = Path(path).read_bytes()
            split = len(data) - len(data) // 10
            training, held_out = training + data[:split], held_out + data[split:]
        if len(held_out) < context + 2:
            raise ValueError(f"the text has {len(training + held_out)} bytes, expected at least {10 * (context + 2)}: a tenth is "
                             f"held out, and the context is {context}")
        return Text(torch.frombuffer(bytearray(training + held_out), dtype=torch.uint8).long(), len(training))


class Ensemble:
    """E models of one shape as stacked parameters, [E, ...] each, with AdamW for every model."""

    def __init__(self, models: list[LanguageModel], rates: list[float], config: TrainConfig, device: str, is_compiled=False):
        self.config, self.model, self.step_count = config, models[0].to(device), 0
        self.rates = torch.tensor(rates, device=device)
        states = [dict(model.named_parameters()) for model in models]
        self.parameters = {name: torch.stack([s[name].detach().to(device) for s in states]).requires_grad_()
                           for name in states[0]}
        self.moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in self.parameters.items()}

        def losses(parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
            """Of one model: [B, T + 1] -> [B, T], nats of every token but the first, given those before it."""
            return cross_entropy(functional_call(self.model, parameters, (tokens[:, :-1],)), tokens[:, 1:])

        self.losses = vmap(losses)  # [E, B, T + 1] -> [E, B, T]
        if is_compiled:
            self.losses = torch.compile(self.losses)

    def step(self, tokens: Tensor) -> Tensor:
        """tokens [E, B, T + 1] -> [E]: the mean losses before the step, nats."""
        c, names = self.config, list(self.parameters)
        means = self.losses(self.parameters, tokens).mean((1, 2))
        gradients = dict(zip(names, torch.autograd.grad(means.sum(), [self.parameters[name] for name in names])))
        norm = sum(g.reshape(len(g), -1).square().sum(1) for g in gradients.values()).sqrt()
        scale = torch.where(norm > c.clip, c.clip / norm, torch.ones_like(norm))
        cosine = 0.5 * (1 + math.cos(math.pi * self.step_count / c.steps))
        warmup = min((self.step_count + 1) / max(c.warmup_steps, 1), 1)
        rates = self.rates * warmup * (c.final_learning_rate + (1 - c.final_learning_rate) * cosine)
        self.step_count += 1
        with torch.no_grad():
            for name in names:
                w, (m, v), group = self.parameters[name], self.moments[name], group_of(name)
                each = (-1,) + (1,) * (w.ndim - 1)
                g = gradients[name] * scale.view(each)
                m.mul_(c.beta1).add_(g, alpha=1 - c.beta1)
                v.mul_(c.beta2).addcmul_(g, g, value=1 - c.beta2)
                move = m / (1 - c.beta1**self.step_count) / ((v / (1 - c.beta2**self.step_count)).sqrt() + 1e-8)
                if group == "matrix":
                    move += c.weight_decay * w
                w -= rates.view(each) * (c.mixture_learning_rate if group == "mixture" else 1) * move
        return means.detach()

    def of(self, i: int) -> dict[str, Tensor]:
        return {name: values[i].detach() for name, values in self.parameters.items()}


def windows(text: Text, config: TrainConfig, step: int, seed: int) -> Tensor:
    """[B]: where the sequences of a step begin in the text."""
    generator = torch.Generator().manual_seed(seed * 2**32 + step)
    return torch.randint(text.split - config.context, (config.batch,), generator=generator)


def evaluate(ensemble: Ensemble, text: Text, context: int) -> list[float]:
    """Bits per held-out byte of every model: windows of C bytes advance by 3C/4, and only the last 3C/4 of each count."""
    lead = context // 4
    nats = torch.zeros(len(ensemble.rates), dtype=torch.float64)
    begins = list(range(text.split, len(text.tokens), context - lead))
    batches = [begins[i : min(i + 32, len(begins) - 1)] for i in range(0, len(begins) - 1, 32)]
    for batch in batches + [begins[-1:]]:  # the last window is shorter
        length = min(context - lead, len(text.tokens) - batch[0])
        tokens = torch.stack([text.tokens[b - 1 - lead : b + length] for b in batch]).to(ensemble.rates.device)
        with torch.no_grad():
            losses = ensemble.losses(ensemble.parameters, tokens.expand(len(nats), *tokens.shape))
        nats += losses[..., -length:].double().sum((1, 2)).cpu()
    return (nats / (len(text.tokens) - text.split) / math.log(2)).tolist()


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--text", nargs="+", required=True, help="files; the last tenth of each is held out")
    parser.add_argument("--out", required=True, help="folder for the models and results.json")
    parser.add_argument("--start", help="file of a model to start from, instead of random parameters")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the model")
    for config in (ModelConfig, TrainConfig):
        for name, default in vars(config()).items():
            option = "--" + name.replace("_", "-")
            if isinstance(default, bool):
                parser.add_argument(option, type=lambda text: {"true": True, "false": False}[text], default=default)
            elif isinstance(default, list):
                parser.add_argument(option, type=type(default[0]), nargs="+", default=default)
            else:
                parser.add_argument(option, type=type(default), default=default)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    options = parse(arguments)
    model_config, config = (c(**{f.name: getattr(options, f.name) for f in dataclasses.fields(c)})
                            for c in (ModelConfig, TrainConfig))
    text = Text.load(options.text, config.context)
    runs = [(rate, seed) for rate in config.learning_rates for seed in config.seeds]
    models = []
    for _, seed in runs:
        torch.manual_seed(seed)
        models.append(load_model(options.start) if options.start else LanguageModel(model_config))
    model_config = models[0].config
    if model_config.vocabulary != 256:
        raise ValueError(f"the model has a vocabulary of {model_config.vocabulary}, expected the 256 bytes")
    ensemble = Ensemble(models, [rate for rate, _ in runs], config, options.device, options.compile)
    out = Path(options.out)
    out.mkdir(parents=True, exist_ok=True)
    span, losses, begin, shown = torch.arange(config.context + 1), [], time.time(), 0.0
    for step in range(config.steps):
        at = torch.stack([windows(text, config, step, seed) for _, seed in runs])
        losses.append(ensemble.step(text.tokens[at[..., None] + span].to(options.device)))
        if time.time() - shown > 5 or step + 1 == config.steps:
            shown = time.time()
            bits = ", ".join(f"{loss / math.log(2):.3f}" for loss in losses[-1].tolist())
            print(f"step {step + 1} of {config.steps}, {time.time() - begin:.0f} s: {bits} bits per byte", flush=True)
    seconds, history = time.time() - begin, torch.stack(losses).T.tolist()
    results = []
    for i, ((rate, seed), bits) in enumerate(zip(runs, evaluate(ensemble, text, config.context))):
        path = out / f"rate_{rate:g}_seed_{seed}.safetensors"
        save_model(path, model_config, ensemble.of(i))
        results.append({"file": path.name, "learning_rate": rate, "seed": seed, "bits_per_byte": bits, "losses": history[i]})
        print(f"{path}: {bits:.4f} bits per held-out byte")
    record = {"model": dataclasses.asdict(model_config), "train": dataclasses.asdict(config), "seconds": seconds,
              "device": options.device, "runs": results}
    (out / "results.json").write_text(json.dumps(record))


if __name__ == "__main__":
    main()
