"""What a training step costs: ours beside the same step written plainly, and beside its own floor.

    python -m benchmarks.training [--rounds N] [--batch-norm train|frozen] [NETWORK:SIZE:BATCH ...]

The step is PGD-7, the loss on its examples and the Lipschitz term at them, one update. Written plainly (as in locuslab's
fast_adversarial, torchattacks and the implementation that this project grew from): contiguous tensors, an attack by
loss.backward(), which also computes the gradients of all weights, and the term by a forward of its own and double backward. The
floor is the passes that our step cannot do without, each timed alone. Both ratios come from one process on the same images,
taking turns; times are CPU seconds of one thread, so that other work on the machine disturbs them little (wall time on a GPU).
"""
from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robust.attacks.gradients import attack_mode, value_and_input_gradient
from robust.config import PIXEL, ModelConfig, RecipeConfig, TrainConfig
from robust.models.detector import build_detector
from robust.training.loop import Training, start_training
from robust.training.modes import evaluation_mode, set_training
from robust.training.step import take_step

CASES = ("tf_efficientnet_lite0:128:8", "legacy_xception:299:2")
STEPS, EPSILON, WEIGHT = 7, 1.0, 1e-4  # epsilon in 0-255 units
BARS = {"plain / ours": 2.0, "ours / floor": 1.10}
RECIPE = RecipeConfig.model_validate({
    "attack": {"epsilon": EPSILON, "steps": STEPS}, "lipschitz": {"weight": WEIGHT, "kind": "finite_difference"},
})


def network_of(name: str, size: int) -> nn.Module:
    """The same random weights at each call."""
    torch.manual_seed(0)
    return build_detector(ModelConfig(name=name, input_size=size, weights="none", activation="silu"))[0]


def plain_step(network: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, *, batch_norm: str) -> None:
    """PGD-7 by loss.backward(), cross-entropy on the examples, squared input gradient by double backward in its own pass."""
    targets, epsilon = y.float(), EPSILON * PIXEL
    network.eval()
    delta = torch.empty_like(x).uniform_(-epsilon, epsilon)
    for _ in range(STEPS):
        x_adv = (x + delta).clamp(0, 1).requires_grad_()
        F.binary_cross_entropy_with_logits(network(x_adv), targets, reduction="sum").backward()
        delta = (delta + 2.5 * epsilon / STEPS * x_adv.grad.sign()).clamp(-epsilon, epsilon)
    x_adv = (x + delta).clamp(0, 1).detach()
    set_training(network, batch_norm=batch_norm)
    optimizer.zero_grad()
    loss = F.binary_cross_entropy_with_logits(network(x_adv), targets)
    with evaluation_mode(network):
        point = x_adv.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(network(point).sum(), point, create_graph=True)
    (loss + WEIGHT * gradient.flatten(1).square().sum(1).mean()).backward()
    optimizer.step()


class Case:
    """One network, its images, and the two steps on them."""

    def __init__(self, name: str, size: int, batch: int, *, batch_norm: str, device: torch.device):
        self.settings = TrainConfig(batch_norm=batch_norm)
        self.training: Training = start_training(network_of(name, size), self.settings, RECIPE, device=device)
        set_training(self.training.network, batch_norm=batch_norm)
        self.plain = network_of(name, size).to(device)
        self.optimizer = torch.optim.Adam(self.plain.parameters(), lr=1e-6)
        self.x = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
        self.nhwc = self.x.to(memory_format=torch.channels_last)
        self.y = torch.arange(batch) % 2
        self.batch_norm, self.device = batch_norm, device

    def passes(self) -> dict[str, Callable[[], object]]:
        """What is timed. The network of ours is in its training mode; its attacked form is folded."""
        network, x = self.training.network, self.nhwc
        attacked, y = self.training.attacked(x), self.y.to(self.device)
        return {
            "plain": lambda: plain_step(self.plain, self.optimizer, self.x, y, batch_norm=self.batch_norm),
            "ours": lambda: take_step(self.training, x, self.y, self.settings, RECIPE, rate=1e-6, epsilon=EPSILON, seed=0, now=0),
            "attack gradient": lambda: _input_gradient(attacked, x, y),
            "input gradient": lambda: _input_gradient(network, x, y),
            "forward": lambda: _forward(network, x),
            "full": lambda: _full(network, x),
        }

    def floor(self, seconds: dict[str, float]) -> float:
        """k attack gradients; the loss, forwards and backwards; the term's input gradient and second forward, both backwards.

        With frozen batch norms the loss's forward and backward are those of the term's first point.
        """
        term = seconds["input gradient"] + seconds["full"] + seconds["full"] - seconds["forward"]
        return STEPS * seconds["attack gradient"] + term + (0 if self.batch_norm == "frozen" else seconds["full"])


def _input_gradient(network: nn.Module, x: Tensor, y: Tensor) -> None:
    with attack_mode(network):
        value_and_input_gradient(network, x, y)


def _forward(network: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        network(x)


def _full(network: nn.Module, x: Tensor) -> None:
    network(x).sum().backward()
    network.zero_grad(set_to_none=True)


def timed(passes: dict[str, Callable[[], object]], *, rounds: int, device: torch.device) -> dict[str, float]:
    """The least seconds of each over the rounds, taking turns, after one of each that does not count."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    best: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, run in passes.items():
            before = clock()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
            taken = clock() - before
            if turn:
                best[name] = min(best.get(name, taken), taken)
    return best


def main(arguments: list[str] | None = None) -> list[dict]:
    """Prints a row for each case and writes all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", default=CASES, metavar="NETWORK:SIZE:BATCH")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-norm", choices=("train", "frozen"), nargs="*", default=["train", "frozen"])
    parser.add_argument("--out", type=Path, default=Path("outputs/benchmarks/training.json"))
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device, rows = torch.device("cuda" if torch.cuda.is_available() else "cpu"), []
    for text in options.cases or CASES:
        name, size, batch = text.split(":")
        for batch_norm in options.batch_norm:
            case = Case(name, int(size), int(batch), batch_norm=batch_norm, device=device)
            seconds = timed(case.passes(), rounds=options.rounds, device=device)
            floor = case.floor(seconds)
            ratios = {"plain / ours": seconds["plain"] / seconds["ours"], "ours / floor": seconds["ours"] / floor}
            rows.append({"case": text, "batch_norm": batch_norm, "device": device.type, **seconds, "floor": floor, **ratios})
            print(_line(rows[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(rows, indent=1))
    print(f"written: {options.out}")
    return rows


def _line(row: dict) -> str:
    met = {"plain / ours": row["plain / ours"] >= BARS["plain / ours"], "ours / floor": row["ours / floor"] <= BARS["ours / floor"]}
    told = [f"{name} {row[name]:.2f} (bar {bar:.2f}: {'met' if met[name] else 'missed'})" for name, bar in BARS.items()]
    times = [f"{name} {row[name]:.3f} s" for name in ("plain", "ours", "floor")]
    return f"{row['case']}, batch norm {row['batch_norm']}: {'; '.join(times + told)}"


if __name__ == "__main__":
    main()
