"""Makes the files of a cluster from `cluster.deploy` of the configuration, and checks them before they are written.

    python -m cluster.render KIND [--config FILE] [--profile NAME] [--output FOLDER] [section.key=value ...]

Exit code 0: written and right; 2: the configuration is wrong; 1: the rest. docs/cluster has a page for each kind.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.check import problems_of, told
from cluster.description import Description
from cluster.kinds import KINDS
from robust.config_file import default_config, load_config
from robust.errors import ConfigError, UserError


def main(argv: Sequence[str] | None = None) -> int:
    arguments = parse_arguments(argv)
    try:
        description = Description(load_config(arguments.config, arguments.overrides, profile=arguments.profile))
        files = render(arguments.kind, description)
        folder = Path(arguments.output or f"outputs/cluster/{arguments.kind}")
        write(folder, files)
    except UserError as error:
        print(f"render: error: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    if arguments.kind != "image" and description.variant == "cuda" and not description.asks_for_gpus:
        print(
            "render: note: the cluster has GPUs, but no job asks for one; set train.gpus_per_worker=1 "
            "evaluate.gpus_per_task=1 tune.gpus_per_trial=1 extract.detect_gpus=0.25",
            file=sys.stderr,
        )
    print(f"render: {', '.join(files)} in {folder}; next: docs/cluster/{arguments.kind}.md")
    return 0


def render(kind: str, description: Description) -> dict[str, str]:
    """{path: text} of one kind.

    Raises: ConfigError: the configuration asks for what the checks refuse.
    """
    files = importlib.import_module(f"cluster.kinds.{kind}").files(description)
    if problems := problems_of(kind, files):
        raise ConfigError(f"the files for {kind} would be wrong:\n{told(problems)}")
    return files


def write(folder: Path, files: dict[str, str]) -> None:
    try:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    except OSError as error:
        raise UserError(f"--output {folder}: {error.strerror}; give a folder that you may write to") from error


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.render", allow_abbrev=False, description=__doc__.partition("\n")[0]
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value", help="settings that override the file")
    parser.add_argument("--config", default=default_config(), metavar="FILE", help="default: %(default)s")
    parser.add_argument("--profile", metavar="NAME", help="one of the file's profiles, laid over it")
    parser.add_argument("--output", metavar="FOLDER", help="default: outputs/cluster/KIND")
    return parser.parse_intermixed_args(argv)


if __name__ == "__main__":
    sys.exit(main())
