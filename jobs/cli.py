"""The shared entry of all jobs: arguments, cluster, result.json, exit code and the last line.

    if __name__ == "__main__":
        sys.exit(run_job("train", main))

Exit codes: 0 the job did what was asked; 2 the configuration is wrong; 3 an evaluation whose figures cannot be believed
(docs/gates.md), with its report written; 1 anything else.
"""

import argparse
import dataclasses
import os
import signal
import sys
import textwrap
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone

from cluster.local import LocalCluster
from jobs.errors import find_user_error
from jobs.run_folder import RunFolder
from jobs.telemetry import stage_watched
from robust.config import Config
from robust.config_file import default_config, load_config
from robust.config_identity import describe
from robust.errors import ConfigError
from robust.storage import Storage

Main = Callable[[Config, Storage], dict]
NOT_CREDIBLE = 3
"""Exit code of a job whose result says "credible": false."""


@dataclasses.dataclass(frozen=True)
class Variant:
    """What a job does instead when its command line has a certain flag.

    Args:
        main: as of `run_job`.
        help: for --help.
        writes: False: neither the run's configuration nor result.json is written.
        needs_ray: False: no Ray is started for it.
    """

    main: Main
    help: str
    writes: bool = True
    needs_ray: bool = True


def run_job(stage: str, main: Main, *, needs_ray: bool = True, in_run_folder: bool = True,
            first: Callable[[Config, Storage], None] | None = None, argv: Sequence[str] | None = None,
            variants: Mapping[str, Variant] | None = None) -> int:
    """Runs a job from its command line and returns its exit code.

    Args:
        main: does the work with cluster and storage up; returns the content of result.json. Its "summary", if any, is
            the last line shown. "credible": false in it makes the exit code 3.
        in_run_folder: open the run's folder first and write result.json to the stage's part of it.
        first: may refuse the settings before the run's name belongs to them.
        variants: {flag without its dashes: what the job does instead}.
    """
    arguments = parse_arguments(stage, argv, variants)
    if arguments.variant is not None:
        main, in_run_folder = arguments.variant.main, in_run_folder and arguments.variant.writes
        needs_ray = needs_ray and arguments.variant.needs_ray
    try:
        config = load_config(arguments.config, arguments.overrides, profile=arguments.profile)
        _stop_on_signals()
        with LocalCluster(config, needs_ray=needs_ray):
            _stop_on_signals()  # Ray installs handlers of its own
            storage = Storage.from_config(config.storage)
            storage.check()
            if first is not None:
                first(config, storage)
            if in_run_folder:
                RunFolder(storage, config).open(stage)
                result = run_stage(stage, main, config, storage)
            else:
                result = main(config, storage)
    except BaseException as error:
        return report_failure(stage, error, show_traceback=arguments.traceback)
    credible = result.get("credible") is not False
    print(f"{stage}: {result.get('summary', 'done')}", file=sys.stdout if credible else sys.stderr, flush=True)
    return 0 if credible else NOT_CREDIBLE


def run_stage(stage: str, main: Main, config: Config, storage: Storage) -> dict:
    """Runs a stage inside a job that has its cluster already, and writes the stage's result.json."""
    began, clock = datetime.now(timezone.utc), time.monotonic()
    with stage_watched(config.run.name, stage):
        result = main(config, storage)
    times = {"started": began.isoformat(timespec="seconds"), "seconds": round(time.monotonic() - clock, 1)}
    RunFolder(storage, config).write_result(stage, {**times, **result})
    return result


def parse_arguments(
    stage: str, argv: Sequence[str] | None = None, variants: Mapping[str, Variant] | None = None
) -> argparse.Namespace:
    """Reads `[--config FILE] [--profile NAME] [--traceback] [section.key=value ...]`; exits with 2 if it cannot.

    `variant` of the result is the one of `variants` whose flag was given, or None.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m jobs.{stage}", allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=settings_help())
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file")
    parser.add_argument("--config", default=default_config(), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--profile", metavar="NAME", help="one of the file's profiles, laid over it")
    parser.add_argument("--traceback", action="store_true", default=bool(os.environ.get("JOBS_TRACEBACK")),
                        help="show where an error arose (also: JOBS_TRACEBACK=1)")
    for flag, variant in (variants or {}).items():
        parser.add_argument(f"--{flag}", dest="variants", action="append_const", const=variant, help=variant.help)
    arguments = parser.parse_intermixed_args(argv)
    chosen = getattr(arguments, "variants", None) or [None]
    if len(chosen) > 1:
        parser.error(f"give one of {', '.join(f'--{flag}' for flag in variants)}")
    arguments.variant = chosen[0]
    return arguments


def settings_help() -> str:
    """All settings with default and meaning, a line or two each."""
    lines = ["settings (default, meaning):"]
    for key, default, meaning in describe():
        lines += textwrap.wrap(f"  {key} ({default}) {meaning}", width=118, subsequent_indent="      ")
    return "\n".join(lines)


def report_failure(stage: str, error: BaseException, *, show_traceback: bool = False) -> int:
    """Says on stderr what went wrong, the last line being what to do; returns the exit code."""
    known = find_user_error(error)
    if isinstance(error, (KeyboardInterrupt, SystemExit)):
        message = "stopped; the same command again goes on where it was"
    elif known is not None:
        message = str(known)
    else:
        show_traceback = True
        message = f"unexpected {type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[-1][:300]}"
    if show_traceback:
        traceback.print_exception(error)
    print(f"{stage}: error: {message}", file=sys.stderr, flush=True)
    return 2 if isinstance(known, ConfigError) else 1


@contextmanager
def sigint_handler_kept() -> Iterator[None]:
    """Puts the handler back that was there before: Ray Train leaves its own, which asks a finished run to stop and eats Ctrl-C."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop_on_signals() -> None:
    """Ctrl-C, SIGTERM (`ray job stop`, a cluster's preemption) and a closed terminal all unwind the job cleanly."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, signal.default_int_handler)
