"""jobs/searchers.py: seeded, limited, within a budget, and the same search after a kill as without one."""

import json
import shutil

import pytest
from ray import tune

from jobs.budget import Budget
from jobs.known_trials import known_trials, newest_state
from jobs.search_space import param_space
from jobs.searchers import Tpe, search_algorithm
from robust.config_file import parse

SAMPLES = 12


def config_of(search, **more):
    tune = {"samples": SAMPLES, "search": search, "epsilon": [0.5, 4], "steps": [1, 2, 5], **more}
    return parse({"run": {"seed": 5}, "tune": tune})


class Driver:
    """A search without Ray's processes: trials end at once, or when told to."""

    def __init__(self, config, concurrent=2):
        self.algorithm = search_algorithm(config, concurrent=concurrent)
        space = param_space(config.tune)
        self.algorithm.set_search_properties("robust_auc", "max", space)
        self.experiment = {"search": {"run": "trial", "config": space, "num_samples": config.tune.samples}}
        self.trials, self.ended = {}, {}

    def begin(self):
        trial = self.algorithm.next_trial()
        if trial is not None:
            self.trials[trial.trial_id] = trial.config
        return trial

    def end(self, trial, seconds=60.0):
        epsilon = trial.config["epsilon"]
        result = {"robust_auc": epsilon / 8, "auc": 1 - epsilon / 8, "cost": float(trial.config["steps"])}
        result |= {"time_total_s": seconds, "training_iteration": 1}
        self.algorithm.on_trial_result(trial.trial_id, result)
        self.algorithm.on_trial_complete(trial.trial_id, result=result)
        self.ended[trial.trial_id] = result

    def run(self, most=SAMPLES):
        while len(self.ended) < most and (trial := self.begin()) is not None:
            self.end(trial)
        return list(self.trials.values())

    def save(self, folder, session="0"):
        """As Ray writes it: each trial as two JSON texts."""
        folder.mkdir(exist_ok=True)
        self.algorithm.save_to_dir(str(folder), session_str=session)
        data = [(json.dumps({"trial_id": name, "config": settings, "status": "TERMINATED" if name in self.ended else "RUNNING"}),
                 json.dumps({"last_result": self.ended.get(name, {})})) for name, settings in self.trials.items()]
        (folder / f"experiment_state-{session}.json").write_text(json.dumps({"trial_data": data}))


@pytest.fixture(autouse=True)
def trainable():
    tune.register_trainable("trial", lambda config: None, warn=False)


def new(config, **keywords):
    driver = Driver(config, **keywords)
    driver.algorithm.add_configurations(driver.experiment)
    return driver


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_the_same_seed_searches_the_same_and_stops_at_its_samples(search):
    config = config_of(search)
    first, again = new(config).run(), new(config).run()
    assert first == again and len(first) == SAMPLES and len({json.dumps(settings) for settings in first}) == SAMPLES
    assert new(parse({**config.model_dump(), "run": {"seed": 6}})).run() != first


def test_optuna_draws_nearer_to_what_was_good_than_random_does():
    """One objective, robust_auc = epsilon / 8: the later trials of TPE are at the upper end."""
    space = {"samples": 40, "objectives": ["robust_auc"], "epsilon": [0.01, 8], "steps": [1]}

    def later(search):
        return sum(settings["epsilon"] for settings in new(config_of(search, **space)).run(40)[20:]) / 20

    assert later("optuna") > 2 * later("random")


def test_no_more_trials_at_once_than_there_is_room_for():
    for search in ("random", "optuna"):
        driver = new(config_of(search), concurrent=2)
        one, two = driver.begin(), driver.begin()
        assert one and two and driver.begin() is None
        driver.end(one)
        assert driver.begin() is not None and driver.begin() is None


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_no_trial_begins_after_the_budget_is_spent(search):
    # 4 CPUs for 60 s each: two trials are within 0.1 CPU-hours (0.067 each), the third would begin at 0.133.
    driver = new(config_of(search, budget_hours=0.1, cpus_per_trial=4))
    assert len(driver.run()) == 2 and driver.algorithm.is_finished()
    running = new(config_of(search, budget_hours=0.1, cpus_per_trial=4, gpus_per_trial=1))  # one GPU: 0.0167 GPU-hours each
    assert len(running.run()) == 6 and running.algorithm.is_finished()


@pytest.mark.parametrize("search", ["random", "optuna"])
def test_a_killed_search_goes_on_as_if_it_had_not_been(search, tmp_path):
    config = config_of(search)
    whole = new(config).run()
    killed = new(config)
    killed.run(7)
    killed.save(tmp_path / "state")
    other = Driver(config)
    other.algorithm.restore_from_dir(str(tmp_path / "state"))
    assert list(killed.trials.values()) + other.run(SAMPLES) == whole
    assert len(killed.trials.keys() | other.trials.keys()) == SAMPLES


@pytest.mark.parametrize("search", ["random", "optuna"])
@pytest.mark.parametrize("searcher_is", ["ahead", "behind"])
def test_no_trial_is_lost_or_run_twice_where_the_searchers_file_is_of_another_moment(search, searcher_is, tmp_path):
    """A search is killed between its two files: the trials of one and the searcher of the other."""
    config = config_of(search)
    driver = new(config)
    driver.run(4)
    running = driver.begin()
    driver.save(tmp_path / "early")
    driver.end(running)
    driver.run(7)
    driver.save(tmp_path / "late")
    searcher, trials = ("late", "early") if searcher_is == "ahead" else ("early", "late")
    mixed = shutil.copytree(tmp_path / searcher, tmp_path / "mixed")
    shutil.copy(tmp_path / trials / "experiment_state-0.json", mixed)
    other = Driver(config)
    other.algorithm.restore_from_dir(str(mixed))
    known = {trial.trial_id for trial in known_trials(mixed)}
    assert len(known) == (5 if searcher_is == "ahead" else 7)
    if searcher_is == "ahead":  # the running one is run again by Ray, under its own name
        other.end(running)
    while (trial := other.begin()) is not None:
        other.end(trial)
    assert other.algorithm.is_finished() and len(other.trials) == SAMPLES - len(known) and not known & other.trials.keys()
    seen = [config for name, config in driver.trials.items() if name in known] + list(other.trials.values())
    assert len({json.dumps(settings) for settings in seen}) == SAMPLES


def test_a_figure_that_is_no_number_is_a_failure_to_optuna():
    tpe = Tpe(Budget(None, 1), ["robust_auc", "auc"], samples=3, seed=1)
    tpe.set_search_properties("robust_auc", "max", {"epsilon": tune.loguniform(1, 2)})
    for name, auc in (("a", 0.5), ("b", float("nan"))):
        tpe.suggest(name)
        tpe.on_trial_complete(name, result={"robust_auc": auc, "auc": 0.9})
    assert [trial.state.name for trial in tpe._ot_study.trials] == ["COMPLETE", "FAIL"]


def test_a_search_in_which_nothing_varies_is_a_search():
    fixed = {"epsilon": [1, 1], "lipschitz_weight": [0, 0], "steps": [2]}
    driver = new(config_of("optuna", **fixed))
    assert len(driver.run()) == SAMPLES and len({json.dumps(settings) for settings in driver.trials.values()}) == 1


def test_a_search_is_gone_on_with_where_its_trials_and_its_searcher_are_written_down(tmp_path):
    for search in ("random", "optuna"):
        driver = new(config_of(search))
        driver.run(2)
        driver.save(tmp_path / search, session="1")
        driver.save(tmp_path / search, session="2")
        names = {path.name for path in (tmp_path / search).iterdir()}
        assert newest_state(names) == "experiment_state-2.json"
        for gone in ("experiment_state", "basic-variant-state" if search == "random" else "searcher-state"):
            assert newest_state({name for name in names if not name.startswith(gone)}) is None
