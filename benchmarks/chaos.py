"""A whole pipeline on a cluster of several nodes, undisturbed and under chaos: is the summary the same?

    python -m benchmarks.chaos --profile demo [section.key=value ...]

Both times the pipeline is one command, `python -m jobs.submit pipeline --follow`, to a Ray head without CPUs and NODES nodes of
one CPU with token authentication, on data and an S3 server (SeaweedFS) of its own. The second time a node that works is killed
(kill -9 to all its processes) in every stage and another takes its place, the S3 server is killed in two stages and the head's
dashboard in one. Moments and victims are drawn by run.seed from the time that each stage took undisturbed. A job that ends
with an error is submitted again, as its user would. Then both summary.json are compared, times aside. All on one
machine: nodes share its cores, and a node's disk and clock are the others'.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.ray_nodes import RayNodes
from cluster.environment import environment
from cluster.s3_server import S3Server
from jobs.cli import report_failure
from robust.config import Config
from robust.config_file import default_config, load_config
from robust.errors import UserError
from robust.evaluation.summary import without_timing
from robust.object_stores.address import bucket_of
from robust.storage import Storage, is_s3

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "outputs/benchmarks/chaos"
"""Where both summaries go."""
NODES = 3
STAGES = ("extract", "train baseline", "tune", "train defended", "evaluate")
BEGUN = re.compile(r"^pipeline: ([a-z ]+) \.\.\.$")
ENDED = re.compile(r"^pipeline: ([a-z ]+): .* \((\d+) s\)$")
MIDDLE = (0.2, 0.8)
"""Of a stage's time: where moments are drawn."""
S3_AWAY_S, NODE_AWAY_S = 10.0, 5.0
SUBMISSIONS = 4
POLL_S = 0.5
JOB_LIMIT_S = 5400.0
TOLD_LINES = 20


@dataclasses.dataclass
class Event:
    """Something to be broken `delay_s` after a stage began; `hit` is the stage in which it was."""

    what: str
    stage: str
    delay_s: float
    hit: str | None = None


def plan(seconds: dict[str, float], rng: random.Random) -> list[Event]:
    """A node in every stage, the S3 server in two, the dashboard in one."""
    stages = [stage for stage in STAGES if stage in seconds]

    def event(what: str, stage: str) -> Event:
        return Event(what, stage, rng.uniform(*MIDDLE) * seconds[stage])

    return [*(event("node", stage) for stage in stages), *(event("s3", stage) for stage in rng.sample(stages, 2)), event("dashboard", rng.choice(stages))]


class Pipeline:
    """`python -m jobs.submit pipeline --follow` as a process, and what it has said."""

    def __init__(self, cluster: RayNodes, log: Path, arguments: Sequence[str]):
        self.log, self.start = log, log.stat().st_size if log.exists() else 0
        command = [sys.executable, "-u", "-m", "jobs.submit", "pipeline", "--follow", "--address", cluster.address, *arguments]
        with open(log, "ab") as output:
            self.process = subprocess.Popen(command, cwd=ROOT, env=cluster.environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)

    def lines(self) -> list[str]:
        with open(self.log, "rb") as log:
            log.seek(self.start)
            return log.read().decode(errors="replace").splitlines()

    def stage(self) -> str | None:
        """That which is under way."""
        current = None
        for line in self.lines():
            if begun := BEGUN.match(line):
                current = begun[1]
            elif (ended := ENDED.match(line)) and ended[1] == current:
                current = None
        return current

    def seconds(self) -> dict[str, float]:
        return {ended[1]: float(ended[2]) for line in self.lines() if (ended := ENDED.match(line))}


class Chaos:
    """Breaks what is planned, each at its moment in its stage, or later if there was nothing to break."""

    def __init__(self, events: Sequence[Event], cluster: RayNodes, server: S3Server, rng: random.Random):
        self.events, self.cluster, self.server, self.rng = events, cluster, server, rng
        self.began: dict[str, float] = {}

    def act(self, stage: str | None) -> None:
        if stage is None:
            return
        now = time.monotonic()
        self.began.setdefault(stage, now)
        for event in self.events:
            if event.hit is None and event.stage == stage and now - self.began[stage] >= event.delay_s and getattr(self, f"_{event.what}")():
                event.hit = stage
                print(f"{stage}, second {time.monotonic() - self.began[stage]:.0f}: {event.what} lost", flush=True)

    def _node(self) -> bool:
        busy = self.cluster.busy_nodes()
        if not busy:
            return False
        self.cluster.kill_node(self.rng.choice(busy))
        time.sleep(NODE_AWAY_S)
        self.cluster.add_node()
        return True

    def _s3(self) -> bool:
        self.server.kill()
        time.sleep(S3_AWAY_S)
        self.server.start_again()
        return True

    def _dashboard(self) -> bool:
        self.cluster.restart_dashboard()
        return True


def follow(submit: Callable[[], Pipeline], chaos: Chaos | None) -> tuple[Pipeline, int]:
    """Submits until the job ends well; returns the last one and how many there were."""
    for count in range(1, SUBMISSIONS + 1):
        job = submit()
        deadline = time.monotonic() + JOB_LIMIT_S
        try:
            while job.process.poll() is None:
                if chaos:
                    chaos.act(job.stage())
                if time.monotonic() > deadline:
                    raise UserError(f"the pipeline hung for {JOB_LIMIT_S:.0f} s after: {job.lines()[-1]}")
                time.sleep(POLL_S)
        finally:
            job.process.kill()
        if job.process.returncode == 0:
            return job, count
        print(f"submission {count} ended with {job.process.returncode}:", *job.lines()[-TOLD_LINES:], sep="\n  ", flush=True)
        if chaos is None:
            break
    raise UserError("the pipeline does not end well")


def run_arm(config: Config, arguments: Sequence[str], folder: Path, events: Sequence[Event] = (), rng: random.Random | None = None) -> tuple[dict, dict]:
    """One pipeline on a new cluster and an empty bucket; returns its summary.json and what it took."""
    logs = folder / f"logs-{'chaos' if events else 'undisturbed'}"
    logs.mkdir(parents=True)
    with S3Server(logs / "s3", bucket=bucket_of(config.storage.uri)) as server, environment(server.environment), RayNodes(logs, server.environment) as cluster:
        for _ in range(NODES):
            cluster.add_node()
        chaos = Chaos(events, cluster, server, rng) if events else None
        began = time.monotonic()
        job, submissions = follow(lambda: Pipeline(cluster, logs / "pipeline.log", arguments), chaos)
        facts = {"seconds": round(time.monotonic() - began), "submissions": submissions, "stages": job.seconds()}
        return Storage.from_config(config.storage).read_json(f"{config.run.name}/report/summary.json"), facts


def differences(one, other, place: str = "") -> list[str]:
    """Where two JSON values differ, by their place."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [found for key in sorted(one.keys() | other.keys()) for found in differences(one.get(key), other.get(key), f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [found for number, pair in enumerate(zip(one, other)) for found in differences(*pair, f"{place}[{number}]")]
    return [] if one == other else [f"{place or '.'}: {str(one)[:80]} / {str(other)[:80]}"]


def measure(argv: Sequence[str], folder: Path, *, seed: int | None = None) -> dict:
    parser = argparse.ArgumentParser()
    parser.add_argument("--config", default=str(default_config()))
    parser.add_argument("--profile")
    arguments, overrides = parser.parse_known_args(argv)
    # The same folder for both, since a summary tells settings; the second finds the first one's demo data there.
    fixed = ["cluster.address=auto", "cluster.local_s3=false", "cluster.wait_for_nodes_s=300", f"cluster.outputs={folder / 'outputs'}"]
    config = load_config(arguments.config, overrides, profile=arguments.profile)
    if not is_s3(config.storage.uri):
        raise UserError(f"storage.uri is {config.storage.uri!r}; give s3://bucket/prefix, of which a server is started here")
    if config.data.demo.enabled:
        fixed.append(f"data.datasets=[{{layout: celeb_df_v2, uri: {folder / 'demo-data'}, name: demo}}]")
    given = ["--config", arguments.config, *(["--profile", arguments.profile] if arguments.profile else []), *overrides, *fixed]
    config = load_config(arguments.config, [*overrides, *fixed], profile=arguments.profile)
    first, undisturbed = run_arm(config, given, folder)
    print(f"undisturbed, head and {NODES} nodes: {undisturbed['seconds']} s, {json.dumps(undisturbed['stages'])}", flush=True)
    rng = random.Random(config.run.seed if seed is None else seed)
    events = plan(undisturbed["stages"], rng)
    second, disturbed = run_arm(config, given, folder, events, rng)
    found = differences(without_timing(first), without_timing(second))
    OUT.mkdir(parents=True, exist_ok=True)
    for name, summary in (("undisturbed", first), ("chaos", second)):
        (OUT / f"{name}.json").write_text(json.dumps(summary) + "\n")
    return {"undisturbed": undisturbed, "chaos": disturbed, "events": [dataclasses.asdict(event) for event in events], "differences": found}


def main(argv: Sequence[str] | None = None) -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped, too
    try:
        with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as folder:
            result = measure(sys.argv[1:] if argv is None else argv, Path(folder))
    except UserError as error:
        return report_failure("chaos", error)
    missed = [f"{event['what']} in {event['stage']}" for event in result["events"] if event["hit"] is None]
    print(f"under chaos: {result['chaos']['seconds']} s, {json.dumps(result['chaos']['stages'])}, {result['chaos']['submissions']} submission(s); "
          f"{len(result['events']) - len(missed)} of {len(result['events'])} losses" + (f" (did not come: {', '.join(missed)})" if missed else ""))
    print("\n".join(result["differences"][:20]) or "summary.json: the same, times aside", f"\nboth are in {OUT}")
    return 1 if result["differences"] or missed else 0


if __name__ == "__main__":
    sys.exit(main())
