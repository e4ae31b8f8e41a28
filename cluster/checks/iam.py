"""IAM policies and Google's roles: their structure, and that they give single actions on single things."""

from __future__ import annotations

import re
from collections.abc import Iterator

from cluster.checks import Problem, against_schema

LIST = {"type": "array", "items": {"type": "string"}, "minItems": 1}
STATEMENT = {
    "type": "object",
    "required": ["Effect", "Action"],
    "additionalProperties": False,
    "properties": {
        "Sid": {"type": "string"},
        "Effect": {"enum": ["Allow", "Deny"]},
        "Action": {"anyOf": [{"type": "string"}, LIST]},
        "Resource": LIST,
        "Principal": {"type": "object"},
        "Condition": {"type": "object", "additionalProperties": {"type": "object"}},
    },
}
POLICY = {
    "type": "object",
    "required": ["Version", "Statement"],
    "additionalProperties": False,
    "properties": {
        "Version": {"const": "2012-10-17"},
        "Statement": {"type": "array", "minItems": 1, "items": STATEMENT},
    },
}
ROLE = {
    "type": "object",
    "required": ["title", "stage", "includedPermissions"],
    "additionalProperties": False,
    "properties": {
        "title": {"type": "string", "maxLength": 100},
        "stage": {"enum": ["ALPHA", "BETA", "GA"]},
        "includedPermissions": LIST,
    },
}
ACTION = re.compile(r"[a-z0-9-]+:[A-Z][A-Za-z]+")
ARN = re.compile(
    r"arn:aws:(s3:::[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[\w!.'()/=+@:*-]*)?"
    r"|ec2:[a-z0-9-]+:[\d*]*:[a-z-]+/\*|iam::[\d*]*:role/[\w+=,.@-]+)"
)
PERMISSION = re.compile(r"(compute|storage)\.[A-Za-z]+\.[A-Za-z]+")


def policy(file: str, document: dict) -> Iterator[Problem]:
    found = list(against_schema(file, document, POLICY))
    yield from found
    if found:
        return
    for number, statement in enumerate(document["Statement"]):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in actions:
            if not ACTION.fullmatch(action):
                yield Problem(
                    "too-wide",
                    file,
                    f"Statement.{number}.Action",
                    action,
                    "name single actions of one service, no wildcard",
                )
        only_looks = all(action.startswith("ec2:Describe") for action in actions)
        for resource in statement.get("Resource", []):
            if not ARN.fullmatch(resource) and not (resource == "*" and only_looks):
                yield Problem(
                    "too-wide",
                    file,
                    f"Statement.{number}.Resource",
                    resource,
                    "name one bucket, this region's machines or one role",
                )
        if "Resource" not in statement and "Principal" not in statement:
            yield Problem("missing-key", file, f"Statement.{number}.Resource", None, "is required")


def role(file: str, document: dict) -> Iterator[Problem]:
    found = list(against_schema(file, document, ROLE))
    yield from found
    for permission in [] if found else document["includedPermissions"]:
        if not PERMISSION.fullmatch(permission) or "IamPolicy" in permission:
            yield Problem(
                "too-wide",
                file,
                "includedPermissions",
                permission,
                "only single permissions of compute and storage belong here",
            )
