"""Checks files of a cluster strictly, after you have changed them or the lock: python -m cluster.check KIND FOLDER

`python -m cluster.render` does the same before it writes. Exit code 0: nothing is wrong; 1: each problem is a line.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from cluster.checks import Problem, iam, image, kuberay, slurm
from cluster.checks.common import secret_values
from cluster.checks.settings import settings_problems

KINDS = ("aws", "gcp", "kuberay", "slurm", "image")


def problems_of(kind: str, files: dict[str, str]) -> list[Problem]:
    """Everything that is wrong with the files ({path: text}) of one kind."""
    found = list(secret_values(files))
    if kind == "kuberay":
        documents = []
        for file, text in files.items():
            parsed, wrong = _read(file, text)
            found += wrong
            documents += [(file, document) for document in parsed]
        return found + list(kuberay.problems(documents))
    for file, text in files.items():
        found += _one(kind, file, text)
    return found


def _one(kind: str, file: str, text: str) -> Iterator[Problem]:
    name = Path(file).name
    if name.endswith(".dockerignore"):
        return
    if kind == "image":
        yield from image.problems(name, text)
    elif name.endswith(".sbatch"):
        yield from slurm.problems(file, text)
    elif name == "ray_config.yaml":
        yield from settings_problems(file, text)
    else:
        documents, wrong = _read(file, text)
        yield from wrong
        for document in documents:
            yield from _cloud(kind, file, document)


def _cloud(kind: str, file: str, document: dict) -> Iterator[Problem]:
    if Path(file).stem == kind:
        from cluster.checks import ray_up  # imports Ray, which takes seconds

        yield from ray_up.problems(file, document)
    else:
        yield from (iam.policy if file.endswith(".json") else iam.role)(file, document)


def _read(file: str, text: str) -> tuple[list[dict], list[Problem]]:
    """The mappings in a YAML or JSON file."""
    try:
        documents = [json.loads(text)] if file.endswith(".json") else list(yaml.load_all(text, Loader=Unrepeated))
    except (ValueError, yaml.YAMLError) as error:
        return [], [
            Problem(
                "not-yaml", file, "(the file)", " ".join(str(error).split())[:200], "it cannot be read; render again"
            )
        ]
    return (
        [document for document in documents if isinstance(document, dict)],
        [
            Problem("not-yaml", file, "(the file)", document, "expected keys and values")
            for document in documents
            if not isinstance(document, dict)
        ],
    )


class Unrepeated(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Refuses a key that stands twice: YAML would take the second and say nothing."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"the key {key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


def told(problems: list[Problem]) -> str:
    return "\n".join(f"  {problem}" for problem in problems)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m cluster.check", allow_abbrev=False, description=__doc__.partition("\n")[0]
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args(argv)
    files = {
        str(path.relative_to(arguments.folder)): path.read_text(errors="replace")
        for path in sorted(arguments.folder.rglob("*"))
        if path.is_file()
    }
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
