"""Which attack outlives sharing? PGD and EOT at equal gradient passes, through H.264 and JPEG, on the models of a run.

    python -m benchmarks.codec_attacks --profile demo [evaluate.codec.videos=40 evaluate.codec.frames_per_video=1 ...]

Attack success in % among the fakes that are caught behind the same channel: the part `codec` of jobs.evaluate, for these
two attacks. Needs the videos of the run. What is done is kept among the run's blocks, and the same command again goes on
from there.
"""

import sys
from collections.abc import Sequence

from jobs.block_tasks import run_task
from jobs.candidates import find_candidates
from jobs.cli import run_job
from jobs.codec_tasks import shared_rows, trials
from robust.config import Config
from robust.data.shards import read_status
from robust.evaluation.attack_block import Cell
from robust.evaluation.codec_table import codec_figures
from robust.storage import Storage

ATTACKS = (Cell("pgd", 8, 40), Cell("eot", 8, 5, samples=8))  # 40 gradient passes each; epsilons: evaluate.codec.epsilons


def main(config: Config, storage: Storage, *, attacks: Sequence[Cell] = ATTACKS) -> dict:
    """Prints the table; writes it below the run's `benchmarks/`."""
    run, candidates, items = config.run.name, find_candidates(config, storage), trials(config, attacks)
    rows = shared_rows(config, storage, candidates, read_status(storage, run), items, run=one_by_one)
    names = [candidate.name for candidate in candidates]
    figures = codec_figures(rows, names, items, resamples=config.evaluate.bootstrap, seed=config.run.seed)
    print_table(figures)
    storage.write_json(f"{run}/benchmarks/codec_attacks.json", figures)
    return {"summary": f"written to {storage.uri(f'{run}/benchmarks/codec_attacks.json')}"}


def one_by_one(config: Config, storage: Storage, tasks: Sequence, *, unit: str) -> None:
    """The tasks of the evaluation in this process."""
    for place, task in enumerate(tasks):
        print(f"{task.candidate.name}: {place + 1} of {len(tasks)} blocks of {unit}", file=sys.stderr, flush=True)
        run_task(config, storage, task)


def print_table(figures: dict) -> None:
    """A line for each model, attack and epsilon, a column for each channel."""
    labels = {one["attack"]: one["label"] for one in figures["attacks"]}
    channels = list(dict.fromkeys((record["codec"], record["quality"]) for record in figures["records"]))
    print(f"\n{figures['videos']} fakes, {figures['frames']} frames; % of the caught ones that are turned\n"
          f"{'':<34}" + "".join(f"{codec} {quality or '':<4}".rjust(10) for codec, quality in channels))
    for line in dict.fromkeys((record["model"], record["attack"], record["epsilon"]) for record in figures["records"]):
        model, attack, epsilon = line
        shares = {(record["codec"], record["quality"]): record["fake_to_real"]["value"] for record in figures["records"]
                  if (record["model"], record["attack"], record["epsilon"]) == line}
        cells = ["-" if shares[channel] is None else f"{100 * shares[channel]:.1f}" for channel in channels]
        name = f"{model}, {labels[attack]}, epsilon {epsilon:g}"
        print(f"{name:<34}" + "".join(cell.rjust(10) for cell in cells))


if __name__ == "__main__":
    sys.exit(run_job("benchmark", main, needs_ray=False, in_run_folder=False))
