"""Which identities are people whom somebody named, and which only stand for a video because nobody did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

OF_VIDEO = "video:"
"""After the data set's prefix: this person is whoever is in that video."""
DFDC = "dfdc"
"""Prefix of the original videos that stand for DFDC's people."""


def is_named(identity: str) -> bool:
    """Whether an identity of a row ("celeb_df_v2:id3") is a person's, so that all videos of that person share it."""
    prefix, _, name = identity.partition(":")
    return prefix != DFDC and not name.startswith(OF_VIDEO)


def count_unnamed(videos: Iterable[Mapping]) -> int:
    """Videos in which somebody's identity is not a person's; each has `identities`."""
    return sum(not all(map(is_named, video["identities"])) for video in videos)


def note_of(videos: Iterable[Mapping]) -> str:
    """What a report on these videos says where their people are not known; "" where all are.

    Args:
        videos: status rows.
    """
    videos = [video for video in videos if video["frames_found"]]
    unnamed = count_unnamed(videos)
    if not unnamed:
        return ""
    return (f"The people in {unnamed} of {len(videos)} test videos are not known: splits and intervals take each video (of DFDC each original with its fakes) "
            "for a person of its own. Somebody may be in training and in test, so the figures may be too good, and the true intervals are wider.")
