"""The recipe of the implementation that this project grew from, as it was meant: its own numbers, in units of pixels in [0, 1].

Its PGD never moved, its epsilon acted on images in [-1, 1], and the attack's gradients stayed in the parameters, so that it
trained on clean and adversarial loss alike without meaning to. The last is kept, as a mixture that says so.
Source of the numbers: github.com/JungYuna9515/Deepfake-Detection-Robust-on-adversarial-attack, AT_pgd_train.py. Only epsilon (its
1 / 255 of [-1, 1] is 0.5), epochs and the learning rate are read from the configuration.
"""
from __future__ import annotations

from robust.config import AttackConfig, LipschitzConfig, RecipeConfig
from robust.training.recipes.base import Recipe

STEPS = 40
STEP_SIZE = 0.01 / 2 * 255  # 0.01 of [-1, 1]
PSI = 1000  # before a mean over 3 x 299 x 299 squared derivatives in [-1, 1], each a quarter of the one in [0, 1]
LIPSCHITZ = LipschitzConfig(weight=PSI / (4 * 3 * 299 * 299), kind="exact", norm="l2", of="logit", at="adversarial")


def stage(settings: RecipeConfig, epoch: int) -> RecipeConfig:
    """PGD-40 from the image itself, reals and fakes, half clean and half adversarial loss, the term at the adversarial image."""
    attack = AttackConfig(norm="linf", epsilon=settings.attack.epsilon, steps=STEPS, step_size=STEP_SIZE, random_start=False,
                          targets="both")
    own = {"recipe": "madry", "attack": attack, "lipschitz": LIPSCHITZ, "adversarial_share": 0.5, "awp": 0.0}
    return settings.model_copy(update=own)


RECIPE = Recipe(stage=stage)
