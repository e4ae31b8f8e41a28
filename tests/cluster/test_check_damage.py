"""cluster.check on files that were damaged by hand: problems with names, never an exception."""

from __future__ import annotations

import copy
import json
import os
import random

import pytest
import yaml
from test_render import FILLED_IN, described, documents

from cluster import check, render
from cluster.check import problems_of

OTHERS = (None, True, -1, 2.5, "", "x", [], ["x"], [None], [{}], {}, {"x": "y"}, {"x": {"y": []}})
"""What may stand in the place of anything."""
REMOVED = object()
EVERY = bool(os.environ.get("CHECK_EVERY_NODE"))
"""Every node of every file with each of OTHERS, ten minutes; else a fixed sample."""
STRUCTURED = [
    ("aws", "aws.yaml"),
    ("aws", "iam/head.json"),
    ("gcp", "gcp.yaml"),
    ("gcp", "iam/bucket-role.yaml"),
    ("kuberay", "common.yaml"),
    ("kuberay", "raycluster.yaml"),
    ("kuberay", "rayjob-train.yaml"),
    ("kuberay", "rayservice.yaml"),
    ("slurm", "ray_config.yaml"),
]
PLAIN = [("slurm", "job.sbatch"), ("image", "Dockerfile.cuda")]


@pytest.fixture(scope="module")
def rendered():
    return {kind: render.render(kind, described(kind)) for kind in FILLED_IN}


def nodes(node, path=()):
    """Paths of all nodes of a document, itself first."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in children:
        yield from nodes(value, (*path, key))


def damaged(document, path, value):
    """A copy in which something else stands at the path, or nothing."""
    if not path:
        return value
    document = copy.deepcopy(document)
    holder = document
    for part in path[:-1]:
        holder = holder[part]
    if value is REMOVED:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return document


def check_one(kind, file, whole):
    """Also that each problem can be shown."""
    text = "\n---\n".join(json.dumps(document, indent=1) for document in whole)  # JSON is YAML, and quick
    return [str(problem) for problem in problems_of(kind, {file: text})]


@pytest.mark.parametrize("kind, file", STRUCTURED, ids=[file for _, file in STRUCTURED])
def test_whatever_stands_in_the_place_of_a_node_is_told_and_not_an_exception(rendered, kind, file):
    text = rendered[kind][file]
    whole = [json.loads(text)] if file.endswith(".json") else documents(text)
    cases = [
        (number, path, value)
        for number, document in enumerate(whole)
        for path in nodes(document)
        for value in ((*OTHERS, REMOVED) if path else OTHERS)
    ]
    told = 0
    chosen = cases if EVERY else random.Random(24).sample(cases, 24)
    for number, path, value in chosen:
        changed = [*whole[:number], damaged(whole[number], path, value), *whole[number + 1 :]]
        try:
            told += bool(check_one(kind, file, changed))
        except Exception as error:
            raise AssertionError(f"{file}: {path}: {value!r}: {type(error).__name__}: {error}") from error
    assert told > len(chosen) / 3


@pytest.mark.parametrize("kind, file", PLAIN)
def test_a_text_that_was_cut_or_scrambled_is_told(rendered, kind, file):
    rng, text = random.Random(24), rendered[kind][file]
    lines = text.splitlines()
    for number, line in enumerate(lines):
        words = line.split(" ")
        changed = [
            words[0],
            "",
            line[: len(line) // 2],
            line + " '",
            "\0" + line,
            "²".join(words),
            " ".join(rng.sample(words, len(words))),
        ]
        for other in changed if EVERY else rng.sample(changed, 1):
            for problem in problems_of(kind, {file: "\n".join([*lines[:number], other, *lines[number + 1 :]])}):
                assert str(problem)
    assert problems_of(kind, {file: ""}) and problems_of(kind, {file: "'"})


@pytest.mark.parametrize(
    "text",
    [
        "? [a]\n: b\n",
        "{a: b}: c",
        "1: x",
        "&a [*a]",
        "a: &b {c: *b}",
        "[" * 500,
        "a: 2020-13-45",
        "\t",
        "a: !!python/object:os.system x",
        "\0",
        "- x",
        "7",
        "",
        "--- x\n--- {}",
    ],
)
@pytest.mark.parametrize("kind, file", [("aws", "aws.yaml"), ("kuberay", "common.yaml"), ("slurm", "ray_config.yaml")])
def test_what_is_no_mapping_of_texts_is_told(kind, file, text):
    found = problems_of(kind, {file: text})
    assert (found or text in ("", "--- x\n--- {}")) and all(str(problem) for problem in found)


def test_mistakes_of_every_day_have_their_names(rendered):
    def told(change):
        whole = documents(rendered["kuberay"]["common.yaml"])
        change({document["kind"]: document for document in whole})
        return {
            (problem.name, problem.key)
            for problem in problems_of("kuberay", {"common.yaml": yaml.safe_dump_all(whole)})
        }

    assert told(lambda by: by["NetworkPolicy"]["spec"].pop("podSelector")) == {("missing-key", "spec.podSelector")}
    assert told(lambda by: by["NetworkPolicy"].update(spec=[])) == {("wrong-type", "spec")}
    assert told(lambda by: by["ConfigMap"]["data"].update({"ray_config.yaml": 7})) == {
        ("wrong-type", "data.ray_config.yaml")
    }
    aws = documents(rendered["aws"]["aws.yaml"])[0] | {"docker": "x"}
    assert {("wrong-type", "docker")} < {
        (problem.name, problem.key) for problem in problems_of("aws", {"aws.yaml": yaml.safe_dump(aws)})
    }


def test_a_file_that_cannot_be_opened_is_told(tmp_path, capsys):
    (tmp_path / "aws.yaml").symlink_to(tmp_path / "aws.yaml")
    assert check.main(["aws", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith("check: error: ")
