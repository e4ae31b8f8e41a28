"""Checks files of a cluster strictly, after you have changed them or the lock: python -m cluster.check KIND FOLDER

`python -m cluster.render` does the same before it writes. Exit code 0: nothing is wrong; 1: each problem is a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from cluster.checks import Problem, iam, image, kuberay, slurm
from cluster.checks.common import secret_values
from cluster.checks.reading import read
from cluster.checks.settings import asks_for_tls, settings_problems
from cluster.kinds import KINDS


def problems_of(kind: str, files: dict[str, str]) -> list[Problem]:
    """Everything that is wrong with the files ({path: text}) of one kind."""
    found = list(secret_values(files))
    if kind == "kuberay":
        documents = []
        for file, text in files.items():
            parsed, wrong = read(file, text)
            found += wrong
            documents += [(file, document) for document in parsed]
        return found + list(kuberay.problems(documents))
    tls = any(asks_for_tls(text) for file, text in files.items() if Path(file).name == "ray_config.yaml")
    for file, text in files.items():
        found += _one(kind, file, text, tls)
    return found


def _one(kind: str, file: str, text: str, tls: bool) -> Iterator[Problem]:
    name = Path(file).name
    if name.endswith(".dockerignore"):
        return
    if kind == "image":
        yield from image.problems(name, text)
    elif name.endswith(".sbatch"):
        yield from slurm.problems(file, text, tls=tls)
    elif name == "ray_config.yaml":
        yield from settings_problems(file, text)
    else:
        documents, wrong = read(file, text)
        yield from wrong
        for document in documents:
            yield from _cloud(kind, file, document)


def _cloud(kind: str, file: str, document: dict) -> Iterator[Problem]:
    if Path(file).stem == kind:
        from cluster.checks import ray_up  # imports Ray, which takes seconds

        yield from ray_up.problems(file, document)
    else:
        yield from (iam.policy if file.endswith(".json") else iam.role)(file, document)


def told(problems: list[Problem]) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.check", allow_abbrev=False, description=__doc__.partition("\n")[0]
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    try:
        files = {
            str(path.relative_to(arguments.folder)): path.read_text(errors="replace")
            for path in sorted(arguments.folder.rglob("*"))
            if not path.is_dir()
        }
    except OSError as error:
        print(f"check: error: {error.filename}: {error.strerror}; take it out of the folder", file=sys.stderr)
        return 1
    if not files:
        print(
            f"check: error: {arguments.folder} has no files; make them with python -m cluster.render {arguments.kind}",
            file=sys.stderr,
        )
        return 1
    problems = problems_of(arguments.kind, files)
    if problems:
        print(told(problems), file=sys.stderr)
    print(f"check: {len(files)} files, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
