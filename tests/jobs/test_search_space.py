"""jobs/search_space.py: a search varies what the config lists, and a config that lists nothing new draws what it always drew."""

import pytest
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from jobs.search_space import param_space, require_recipes
from jobs.tuned import with_settings
from robust.config import RecipeConfig, TuneConfig
from robust.config_file import parse
from robust.errors import ConfigError


def draws(space, count=4, seed=24):
    """What random search draws, as Ray's own generator resolves a space."""
    import numpy as np

    state = np.random.RandomState(seed)
    return [next(generate_variants({"config": space}, random_state=state))[1]["config"] for _ in range(count)]


def test_the_default_draws_what_it_drew_before_there_was_more_to_search():
    before = {"epsilon": tune.loguniform(0.25, 8.0), "steps": tune.choice([1, 2, 5, 7, 10]),
              "lipschitz_weight": tune.loguniform(1e-6, 1e-2)}
    assert draws(param_space(TuneConfig())) == draws(before)


def test_what_is_listed_is_drawn_and_a_range_of_one_value_is_fixed():
    settings = TuneConfig(epsilon=(1, 1), lipschitz_weight=(0, 0), step_size=(1, 4),
                          lipschitz_kind=["exact", "finite_difference"], activation=["silu"], recipe=["madry", "trades"])
    drawn = draws(param_space(settings), count=40)
    assert {(d["epsilon"], d["lipschitz_weight"], d["activation"]) for d in drawn} == {(1, 0, "silu")}
    assert {d["recipe"] for d in drawn} == {"madry", "trades"}
    assert {d["lipschitz_kind"] for d in drawn} == {"exact", "finite_difference"}
    assert all(1 <= d["step_size"] <= 4 for d in drawn) and len({d["step_size"] for d in drawn}) == 40
    assert param_space(TuneConfig(step_size=(1, 1)))["step_size"] == 1


def test_every_drawn_setting_reaches_the_recipe():
    base = RecipeConfig(attack={"step_size": 0.1, "targets": "fake"}, lipschitz={"norm": "l1"}, activation="gelu")
    every = with_settings(base, epsilon=2.0, steps=4, lipschitz_weight=0.01, step_size=1.5, lipschitz_kind="finite_difference",
                          activation="silu", recipe="trades")
    assert (every.attack.epsilon, every.attack.steps, every.attack.step_size, every.attack.targets) == (2.0, 4, 0.75, "fake")
    assert (every.lipschitz.weight, every.lipschitz.kind, every.lipschitz.norm) == (0.01, "finite_difference", "l1")
    assert (every.activation, every.recipe) == ("silu", "trades")
    few = with_settings(base, epsilon=2.0, steps=4, lipschitz_weight=0.01)
    assert (few.attack.step_size, few.lipschitz.kind, few.activation, few.recipe) == (None, "exact", "gelu", "madry")


@pytest.mark.parametrize("tune, told", [
    ({"step_size": [0, 1]}, "tune.step_size.0: 0: input should be greater than 0"),
    ({"step_size": [3, 2]}, "low <= high"),
    ({"lipschitz_kind": ["double"]}, "tune.lipschitz_kind.0: 'double'"),
    ({"activation": []}, "tune.activation"),
    ({"budget_hours": 0}, "tune.budget_hours"),
])
def test_what_cannot_be_searched_is_told(tune, told):
    with pytest.raises(ConfigError) as caught:
        parse({"tune": tune})
    assert told in str(caught.value)


def test_an_unknown_recipe_is_an_error_before_the_first_trial():
    with pytest.raises(ConfigError, match="'madri' is not a recipe; there are"):
        require_recipes(parse({"tune": {"recipe": ["madry", "madri"]}}))
    require_recipes(parse({"tune": {"recipe": ["madry", "flagship"]}}))
