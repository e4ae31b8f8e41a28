"""A search that is killed twice, on faces of a finished run: is a trial lost or run twice, and is the winner better than the default?

    python -m benchmarks.search_kills --profile demo [section.key=value ...]

Some faces of the run (and its baseline, where training starts from it) become a small run of their own, `<run>-search-kills`,
in the same storage. There `python -m jobs.tune` looks through 24 small trials; at two random moments every process of the job
gets kill -9, and the same command is started again. Then the table of trials is compared with what the search knew at each
kill, and the winner with the defended recipe as it is configured, trained alike, at the search's fixed threat: on the
validation faces, among which the winner was chosen, and on test faces, which the search has not seen.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import ray  # noqa: F401  makes psutil importable: it must come first
import torch

# isort: split
import psutil

from jobs.cli import run_job
from jobs.known_trials import KnownTrial, newest_state, trials_of
from jobs.run_folder import RunFolder
from jobs.tune import EXPERIMENT, trial_recipe
from robust.attacks.pgd import pgd
from robust.attacks.subset import attack_chosen
from robust.attacks.threat import Linf
from robust.config import Config, ValidationConfig
from robust.config_file import parse
from robust.config_identity import dump_yaml
from robust.data.crops import CropSet
from robust.data.face_table import read_faces
from robust.data.inputs import to_tensor
from robust.data.shards import read_status, shard_key, write_shard
from robust.errors import UserError
from robust.evaluation.bootstrap import draw, intervals
from robust.models.checkpoint import CARD, WEIGHTS, load_blob
from robust.storage import Storage
from robust.training.loop import Place
from robust.training.session import COLUMNS, initial_detector, limit_threads, load_crops, run_epochs

ROOT = Path(__file__).resolve().parents[1]
VIDEOS = {"train": 128, "val": 48, "test": 128}
"""At most so many of each split, half of them fake, a frame of each."""
SEARCH = {
    "samples": 24, "search": "optuna", "epochs": 2, "grace_epochs": 1, "reduction_factor": 2, "budget_hours": None, "winner": "report",
    "epsilon": [0.5, 4], "steps": [1, 2], "lipschitz_weight": [0, 0], "step_size": [1, 4], "recipe": ["madry", "fast", "trades"],
    "activation": None, "cpus_per_trial": 1, "gpus_per_trial": 0, "max_concurrent": None,
}
TRAINING = {"batch_size": 16, "workers": 1, "loader_threads": 0, "warmup_steps": 4, "accumulate": 1}
KILLS = ((0.15, 0.4), (0.5, 0.8))
"""Each comes when a random share of the trials, in this range, has ended, and a random moment later."""
MOMENT_S = 10.0
JOB_LIMIT_S = 1500.0


def main(config: Config, storage: Storage) -> dict:
    """Raises: UserError: a trial was lost or run twice, or the winner is not better than the default."""
    small = f"{config.run.name}-search-kills"
    storage.delete_prefix(small)  # of a benchmark that was stopped
    with tempfile.TemporaryDirectory(prefix="search-kills-") as folder:
        child = search_config(config, small, outputs=Path(folder) / "out")
        copy_faces(storage, config, small)
        began = time.monotonic()
        known, starts = search_killed(child, storage, Path(folder), random.Random(config.run.seed))
        seconds = time.monotonic() - began
    result = RunFolder(storage, child).result("tune")
    found = problems(result["trials"], known, samples=child.tune.samples)
    told = [f"{len(result['trials'])} trials, {starts} starts, {seconds:.0f} s; at the kills "
            + " and ".join(f"{sum(trial.ended for trial in state)} of {len(state)} trials had ended" for state in known)]
    told += [compare(child, storage, result["winner"])]
    storage.delete_prefix(small)
    print("\n".join(told), flush=True)
    if found:
        raise UserError("; ".join(found))
    return {"summary": "no trial lost, none run twice"}


# ------------------------------------------------------------------------------------------------ the small run


def search_config(config: Config, run: str, *, outputs: Path) -> Config:
    """The run's configuration with a small search of its own; the S3 server, if any, is this process's."""
    tree = config.model_dump(mode="json")
    tree["run"]["name"] = run
    tree["cluster"] |= {"address": "local", "local_s3": False, "dashboard": False, "outputs": str(outputs)}
    tree["train"] |= TRAINING
    tree["train"]["defended"] |= {"epsilon_warmup": 0, "refit": min(4, config.train.defended.refit)}
    threat = {"epsilon": config.tune.threat.epsilon, "steps": 5, "targets": config.tune.threat.targets, "max_images": VIDEOS["val"]}
    tree["tune"] |= SEARCH | {"threat": threat}
    return parse(tree)


def copy_faces(storage: Storage, config: Config, to: str) -> None:
    """One face of each of VIDEOS videos, and the model that training starts from."""
    copy_some(storage, config.run.name, storage, to, VIDEOS)
    if start := config.train.defended.init_from:
        for name in (WEIGHTS, CARD):
            storage.write_bytes(f"{to}/train/{start}/{name}", storage.read_bytes(f"{config.run.name}/train/{start}/{name}"))


def copy_some(storage: Storage, run: str, into: Storage, to: str, videos: Mapping[str, int]) -> None:
    """One face of each of so many videos of each split, half of them fake."""
    status = read_status(storage, run)
    for split, most in videos.items():
        faces = read_faces(storage, run, split=split, max_frames_per_video=1, subject_only=True)
        labels = dict(zip(faces.column("video_id").to_pylist(), faces.column("label").to_pylist()))
        chosen = [name for label in (0, 1) for name in evenly(sorted(name for name in labels if labels[name] == label), most // 2)]
        faces = faces.filter(pc.field("video_id").isin(chosen))
        rows = [row | {"frames_found": 1} for row in status.filter(pc.field("video_id").isin(chosen)).to_pylist()]
        write_shard(into, to, shard_key(rows[0]["dataset"], sorted(chosen), split), faces, rows)


def evenly(names: Sequence[str], count: int) -> list[str]:
    take = min(count, len(names))
    return [names[number * len(names) // take] for number in range(take)]


# ------------------------------------------------------------------------------------------------ kills


def search_killed(config: Config, storage: Storage, folder: Path, rng: random.Random) -> tuple[list[list[KnownTrial]], int]:
    """Runs the search to its end, killed on the way; returns what it knew at each kill, and how often it was started."""
    settings, log = folder / "search.yaml", folder / "search.log"
    settings.write_text(dump_yaml(config))
    known, starts = [], 0
    for least, most in [*KILLS, (2, 2)]:
        starts += 1
        due = rng.uniform(least, most) * config.tune.samples
        with open(log, "ab") as output:
            job = subprocess.Popen([sys.executable, "-m", "jobs.tune", "--config", str(settings)], cwd=ROOT, stdout=output, stderr=output,
                                   start_new_session=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
        try:
            code = _until(job, lambda: sum(trial.ended for trial in state_of(config, storage)) >= due)
            if code is None:
                code = _until(job, _clock(rng.uniform(0, MOMENT_S)))
        finally:
            if job.poll() is None:
                kill(job)
        if code == 0:
            return known, starts
        if code is not None:
            raise UserError(f"the search ended with {code} by itself: {log.read_text()[-2000:]}")
        known.append(state_of(config, storage))
        print(f"killed: {sum(trial.ended for trial in known[-1])} of {len(known[-1])} trials had ended", flush=True)
    raise UserError(f"the search does not come to its end: {log.read_text()[-2000:]}")


def _until(job: subprocess.Popen, reached) -> int | None:
    """The job's exit code, or None once `reached` says so."""
    deadline = time.monotonic() + JOB_LIMIT_S
    while time.monotonic() < deadline:
        try:
            return job.wait(1.0)
        except subprocess.TimeoutExpired:
            if reached():
                return None
    raise UserError(f"the search hung for {JOB_LIMIT_S:.0f} s")


def _clock(seconds: float):
    end = time.monotonic() + seconds
    return lambda: time.monotonic() >= end


def state_of(config: Config, storage: Storage) -> list[KnownTrial]:
    """What the search would go on from if it were killed now."""
    top = RunFolder(storage, config).key("tune", EXPERIMENT)
    state = newest_state(key.removeprefix(f"{top}/") for key in storage.list(top))
    return [] if state is None else trials_of(storage.read_bytes(f"{top}/{state}"))


def kill(job: subprocess.Popen) -> None:
    """kill -9 to the job and all its processes but the guardian, which removes Ray's folder; waits for all of them."""
    family = [child for child in psutil.Process(job.pid).children(recursive=True)]
    guardians = [child for child in family if "guardian.py" in " ".join(_words(child))]
    for process in [psutil.Process(job.pid), *(child for child in family if child not in guardians)]:
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    job.wait()
    psutil.wait_procs(family, timeout=60)


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


# ------------------------------------------------------------------------------------------------ what came out


def problems(table: Sequence[dict], known: Sequence[Sequence[KnownTrial]], *, samples: int) -> list[str]:
    """What is wrong with a table of trials, given what was known at each kill; [] if nothing is.

    A trial that had ended must have the very figures that it had then, its seconds among them: one that ran again has others.
    """
    found, rows = [], {row["trial"]: row for row in table}
    if len(table) != samples:
        found.append(f"{len(table)} trials in place of {samples}")
    found += [f"trial {name} is there {count} times" for name, count in Counter(row["trial"] for row in table).items() if count > 1]
    found += [f"trial {row['trial']} failed: {row['error']}" for row in table if row["status"] != "done"]
    drawn = Counter(repr(sorted(row["settings"].items())) for row in table)
    found += [f"{count} trials have the settings {settings}" for settings, count in drawn.items() if count > 1]
    for number, state in enumerate(known, 1):
        found += [f"trial {trial.trial_id} was known at kill {number} and is lost" for trial in state if trial.trial_id not in rows]
        for trial in state:
            row = rows.get(trial.trial_id)
            if row and trial.ended and (row["seconds"], row["robust_auc"]) != (trial.result["time_total_s"], trial.result["robust_auc"]):
                found.append(f"trial {trial.trial_id} had ended at kill {number} and was run again")
    return found


def compare(config: Config, storage: Storage, winner: dict) -> str:
    """The winner beside the defended recipe as configured, trained as long.

    Raises:
        UserError: the winner is less robust on the validation faces.
    """
    threat = config.tune.threat
    limit_threads(config.tune.cpus_per_trial)
    torch.manual_seed(config.run.seed)
    recipe = config.train.defended.model_copy(update={"epochs": config.tune.epochs})
    network, _ = initial_detector(config, recipe, storage)
    crops = load_crops(config, storage)
    *_, (training, _, scores) = run_epochs(config, recipe, threat, network, crops, place=Place())
    best, _ = initial_detector(config, trial_recipe(config, winner["settings"]), storage)
    load_blob(best, storage.read_bytes(f"{winner['checkpoint']}/{WEIGHTS}"), None, winner["checkpoint"])

    faces = read_faces(storage, config.run.name, split="test", columns=[*COLUMNS, "identities"], subject_only=True)
    test = CropSet.from_table(faces, config.model.input_size)
    logits = {name: attacked_logits(model.eval(), test, threat, seed=config.run.seed) for name, model in (("winner", best), ("default", training.scored))}
    resamples = draw(test.video_ids.tolist(), faces.column("identities").to_pylist(), count=1000, seed=config.run.seed)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        values = {name: weighted_auc(of, test.labels, weights) for name, of in logits.items()}
        return values | {"difference": values["winner"] - values["default"]}

    spread, here = intervals(resamples, test.video_ids, figures), figures(np.ones((1, len(test))))
    on_test = ", ".join(f"{name} {here[name][0]:.3f} [{spread[name].low:.3f}, {spread[name].high:.3f}]" for name in here)
    told = (f"AUC under PGD-{threat.steps} at epsilon {threat.epsilon:g}: on {VIDEOS['val']} validation faces winner {winner['robust_auc']:.3f}, "
            f"default {scores['robust_auc']:.3f} (clean {winner['auc']:.3f}, {scores['auc']:.3f}); on {len(test)} test faces {on_test}")
    if winner["robust_auc"] < scores["robust_auc"]:
        raise UserError(f"the winner is worse than the default; {told}")
    return told


@torch.no_grad()
def attacked_logits(model: torch.nn.Module, crops: CropSet, threat: ValidationConfig, *, seed: int) -> np.ndarray:
    """(N,) logits of the crops under the threat."""
    ball, logits = Linf.from_255(threat.epsilon), []
    for part in np.array_split(np.arange(len(crops)), -(-len(crops) // 32)):
        x, y = to_tensor(crops.batch(part)).to(memory_format=torch.channels_last), torch.from_numpy(crops.labels[part])

        def attack(x, y):
            return pgd(model, x, y, ball, steps=threat.steps, generator=torch.Generator().manual_seed(seed))

        x_adv = attack_chosen(attack, x, y, y == 1) if threat.targets == "fake" else attack(x, y)
        logits.append(model(x_adv).numpy())
    return np.concatenate(logits)


def weighted_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(B,) AUC of (n,) scores, samples counted by (B, n) weights; ties count half, nan without either label."""
    fake, real = labels == 1, labels == 0
    wins = np.sign(scores[fake][:, None] - scores[real][None]) / 2 + 0.5
    top = np.einsum("bi,ij,bj->b", weights[:, fake], wins, weights[:, real], optimize=True)
    pairs = weights[:, fake].sum(1) * weights[:, real].sum(1)
    return np.divide(top, pairs, out=np.full(len(top), np.nan), where=pairs > 0)


if __name__ == "__main__":
    sys.exit(run_job("search_kills", main, needs_ray=False, in_run_folder=False))
