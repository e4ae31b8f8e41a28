"""EOT against PGD and APGD at equal gradient passes, on a small detector that works behind random transformations.

    python -m benchmarks.eot_views [--images 64] [--epsilon 6] [--json FILE]

The share of random views (resizing, blur, noise, JPEG), drawn otherwise than any attack's, that are called the wrong
class. One CPU thread, a minute.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.small_detector import SIZE, SmallDetector, make_images
from robust.attacks.apgd import apgd
from robust.attacks.eot import Expectation, eot
from robust.attacks.losses import margin_loss
from robust.attacks.noise import ImageNoise
from robust.attacks.pgd import pgd
from robust.attacks.threat import Linf
from robust.attacks.transformations import TRANSFORMATIONS, Draw

STEPS, SAMPLES = 10, 8  # of EOT; the others take STEPS * SAMPLES steps


def striped_images(count: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """(N, 3, 32, 32) 8-bit images in [0, 1], fakes with stripes coarse enough to outlive compression; (N,) labels."""
    generator = torch.Generator().manual_seed(seed)
    x = 0.2 + 0.6 * make_images(count, generator=generator)[0]
    y = torch.randint(2, (count,), generator=generator)
    phase = 6.28 * torch.rand(count, 1, 1, 1, generator=generator)
    stripes = torch.sin(2 * torch.pi * torch.arange(SIZE).view(-1, 1) / 5 + phase)
    return ((x + 0.06 * y.view(-1, 1, 1, 1) * stripes).clamp(0, 1) * 255).round() / 255, y


def train_hardy_detector(*, steps: int = 80) -> SmallDetector:
    """A detector that works behind the transformations, as it was trained there."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = SmallDetector()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        x, y = striped_images(32, seed=step)
        z, noise = x, ImageNoise.of(x)
        for kind, transformation in enumerate(TRANSFORMATIONS):
            z = transformation(z, Draw(noise, 0, 1, kind))
        optimizer.zero_grad()
        nn.functional.binary_cross_entropy_with_logits(model(torch.cat([x, z])), y.repeat(2).float()).backward()
        optimizer.step()
    return model.eval()


@torch.no_grad()
def turned_behind(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, *, views: int = 32) -> float:
    """Share of views, drawn otherwise than any attack's, in which the images are called the wrong class."""
    expectation = Expectation(model, TRANSFORMATIONS, views, ImageNoise.of(x, generator=torch.Generator().manual_seed(999)))
    wrong = torch.stack([margin_loss(expectation.view(x_adv, sample=sample), y) > 0 for sample in range(views)])
    return wrong.float().mean().item()


def compare(model: nn.Module, x: Tensor, y: Tensor, *, epsilon: float) -> dict[str, float]:
    """The share of views turned, by the attack's name; epsilon in 0-255 units."""
    threat, passes = Linf.from_255(epsilon), STEPS * SAMPLES
    seeded = torch.Generator().manual_seed
    images = {
        "no attack": x,
        f"EOT-{STEPS} ({SAMPLES} views)": eot(model, x, y, threat, steps=STEPS, samples=SAMPLES, generator=seeded(0)),
        f"PGD-{passes}": pgd(model, x, y, threat, steps=passes, generator=seeded(0)),
        f"APGD-{passes}": apgd(model, x, y, threat, steps=passes, generator=seeded(0)),
    }
    return {name: turned_behind(model, x, x_adv, y) for name, x_adv in images.items()}


def main(argv: list[str] | None = None) -> dict[str, float]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--epsilon", type=float, default=6, help="0-255 units, Linf")
    parser.add_argument("--json", default="outputs/benchmarks/eot_views.json", help="where the figures go")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(1)
    x, y = striped_images(arguments.images, seed=1000)
    shares = compare(train_hardy_detector(), x, y, epsilon=arguments.epsilon)
    print(f"{arguments.images} images, epsilon {arguments.epsilon:g}: % of unseen views that are called the wrong class")
    for name, share in shares.items():
        print(f"  {name:<16} {100 * share:5.1f}")
    path = Path(arguments.json)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": vars(arguments), "turned": shares}, indent=2) + "\n")
    return shares


if __name__ == "__main__":
    main()
