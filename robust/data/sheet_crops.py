"""Which crops a person looks at to judge a run: a seeded sample of each group, and the worst detections.

What is read is bounded however many videos there are: the status table says in which shards a group's crops are; of some
shards some row groups are looked at without their images; of these the images of a few row groups are fetched. Small
runs are looked at whole.
"""

from __future__ import annotations

import dataclasses
import math
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from robust.data.shard_file import ShardFile
from robust.data.shards import READ_THREADS
from robust.data.sheet_pictures import Picture, picture_of

QUALITY = ("video_id", "frame_index", "track", "box", "score", "sharpness", "yaw")
IMAGE = ("image", "landmarks", "window", "matrix", "height", "width")
IMAGE_THREADS = 4
"""Each holds the images of one row group."""


@dataclasses.dataclass(frozen=True)
class Bounds:
    """What a sheet may read and show.

    Args:
        groups: the largest are shown.
        crops_of_group, worst: pictures of a group, and of a measure; at most `crops` of groups altogether.
        shards: opened.
        crops_seen: looked at without their images.
        row_groups: whose images are fetched for the groups, and `image_bytes` of images altogether.
    """

    groups: int = 96
    crops: int = 360
    crops_of_group: int = 12
    worst: int = 12
    shards: int = 96
    crops_seen: int = 65536
    row_groups: int = 128
    image_bytes: int = 2**29


@dataclasses.dataclass(frozen=True, order=True)
class Group:
    """Crops that are shown side by side."""

    split: str
    label: int
    dataset: str
    method: str


@dataclasses.dataclass(frozen=True)
class Seen:
    """A crop without its image: where it is (offset in a row group of a shard), and how good; size in pixels of the frame."""

    shard: str
    row_group: int
    offset: int
    video_id: str
    group: Group
    frame_index: int
    track: int
    score: float | None
    size: float | None
    sharpness: float | None
    yaw: float | None

    @property
    def row(self) -> tuple[str, int, int]:
        return self.shard, self.row_group, self.offset


MEASURES: dict[str, Callable[[Seen], float | None]] = {
    "score": lambda crop: crop.score,
    "size": lambda crop: crop.size,
    "sharpness": lambda crop: crop.sharpness,
    "yaw": lambda crop: None if crop.yaw is None else -abs(crop.yaw),
}
"""How bad a detection is in each respect: low is bad."""


@dataclasses.dataclass(frozen=True)
class Shown:
    crop: Seen
    picture: Picture


@dataclasses.dataclass(frozen=True)
class Sample:
    """What the sheet shows, and what it was chosen from.

    Args:
        groups: crops of each group that is shown; those of a group without a face are none.
        worst: {measure: crops, the worst first, one a video}.
        shards, seen: how many shards were opened, and crops looked at.
        shard_bytes, shard_crops: of each opened shard; shard_videos: those in it with a face.
        left_out: crops that were chosen and not fetched, because `image_bytes` was reached.
    """

    groups: Mapping[Group, Sequence[Shown]]
    worst: Mapping[str, Sequence[Shown]]
    shards: int
    seen: int
    shard_bytes: Sequence[int]
    shard_crops: Sequence[int]
    shard_videos: Sequence[int]
    left_out: int


def sample_crops(
    storage, run: str, shards: Mapping[str, Mapping[str, Group]], groups: Sequence[Group], *, seed: int, bounds: Bounds
) -> Sample:
    """
    Args:
        shards: {shard: {video_id: its group}} of the videos with a face.
        groups: those to show.
    Raises:
        UserError: a shard that is read is gone or damaged.
    """
    opened = choose_shards(shards, groups, most=bounds.shards, seed=seed)
    each = max(1, bounds.crops_seen // max(1, len(opened)))
    with ThreadPoolExecutor(READ_THREADS) as pool:
        scans = list(pool.map(lambda shard: _scan(storage, run, shard, shards[shard], most=each, seed=seed), opened))
    seen = [crop for scan in scans for crop in scan.crops]
    worst = {name: worst_of(seen, measure, bounds.worst) for name, measure in MEASURES.items()}
    sampled = _sampled(seen, groups, bounds=bounds, seed=seed)
    costs = {(scan.shard, number): size for scan in scans for number, size in scan.image_bytes.items()}
    wanted = list(_in_turns([list(_in_turns(worst.values())), list(_in_turns(sampled.values()))]))
    fetched = _affordable(wanted, costs, bounds.image_bytes)
    pictures = _pictures(storage, run, fetched)

    def shown(crops: Iterable[Seen]) -> list[Shown]:
        return [Shown(crop, pictures[crop.row]) for crop in crops if crop.row in pictures]

    return Sample(
        {group: shown(crops) for group, crops in sampled.items()}, {name: shown(crops) for name, crops in worst.items()},
        len(opened), len(seen), [scan.size for scan in scans], [scan.total for scan in scans],
        [len(shards[scan.shard]) for scan in scans], len({crop.row for crop in wanted} - pictures.keys()))


def choose_shards(
    shards: Mapping[str, Mapping[str, Group]], groups: Sequence[Group], *, most: int, seed: int
) -> list[str]:
    """At most `most` shards: of each group one, drawn by lot, then of each a second, and so on."""
    having: dict[Group, set[str]] = {group: set() for group in groups}
    for shard, videos in shards.items():
        for group in set(videos.values()):
            if group in having:
                having[group].add(shard)
    queues = [_shuffled(sorted(names), seed, group) for group, names in having.items()]
    return sorted(_first(_in_turns(queues), most))


def worst_of(seen: Iterable[Seen], measure: Callable[[Seen], float | None], count: int) -> list[Seen]:
    """The crops with the lowest figures, one a video."""
    known = [(figure, crop.video_id, crop.frame_index, crop.track, crop) for crop in seen
             if (figure := measure(crop)) is not None and not math.isnan(figure)]
    kept: dict[str, Seen] = {}
    for *_, crop in sorted(known, key=lambda one: one[:4]):
        kept.setdefault(crop.video_id, crop)
        if len(kept) == count:
            break
    return list(kept.values())


def _sampled(seen: Sequence[Seen], groups: Sequence[Group], *, bounds: Bounds, seed: int) -> dict[Group, list[Seen]]:
    """Crops of each group from few row groups: a frame of each video in turn, drawn by lot."""
    count = min(bounds.crops_of_group, max(1, bounds.crops // max(1, len(groups))))
    row_groups = max(1, bounds.row_groups // max(1, len(groups)))
    places: dict[Group, dict[tuple[str, int], list[Seen]]] = {group: defaultdict(list) for group in groups}
    for crop in seen:
        if crop.group in places:
            places[crop.group][crop.shard, crop.row_group].append(crop)
    chosen = {}
    for group, where in places.items():
        videos: dict[str, list[Seen]] = defaultdict(list)
        for place in _shuffled(sorted(where), seed, group)[:row_groups]:
            for crop in where[place]:
                videos[crop.video_id].append(crop)
        queues = [_shuffled(videos[video_id], seed, video_id) for video_id in _shuffled(sorted(videos), seed, group)]
        chosen[group] = sorted(_first(_in_turns(queues), count), key=lambda crop: (crop.video_id, crop.frame_index, crop.track))
    return chosen


def _affordable(crops: Iterable[Seen], costs: Mapping[tuple[str, int], int], most_bytes: int) -> dict[str, dict[int, list[int]]]:
    """{shard: {row group: offsets}} of the first crops whose row groups have no more bytes of images than that."""
    spent, taken = 0, set()
    chosen: dict[str, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for crop in crops:
        place = crop.shard, crop.row_group
        if place not in taken:
            if taken and spent + costs[place] > most_bytes:
                continue
            spent += costs[place]
            taken.add(place)
        if crop.offset not in chosen[crop.shard][crop.row_group]:
            chosen[crop.shard][crop.row_group].append(crop.offset)
    return chosen


# ---------------------------------------------------------------------------------------------------- reading


@dataclasses.dataclass(frozen=True)
class _Scan:
    shard: str
    size: int
    total: int
    crops: list[Seen]
    image_bytes: dict[int, int]


def _scan(storage, run: str, shard: str, videos: Mapping[str, Group], *, most: int, seed: int) -> _Scan:
    """About `most` crops of a shard without their images, and of each group in it at least a row group's."""
    members: dict[Group, list[str]] = defaultdict(list)
    for video_id, group in videos.items():
        members[group].append(video_id)
    with ShardFile(storage, run, shard) as file:
        sizes = file.crops_of_groups()
        queues = [_shuffled(file.groups_with(members[group]), seed, f"{shard} {group}") for group in sorted(members)]
        chosen, crops = [], 0
        for number in dict.fromkeys(_in_turns(queues)):
            if len(chosen) >= len(members) and crops + sizes[number] > most:
                break
            chosen.append(number)
            crops += sizes[number]
        chosen.sort()
        columns = [column.to_pylist() for column in file.read(chosen, QUALITY).columns]
        places = ((number, offset) for number in chosen for offset in range(sizes[number]))
        seen = [
            Seen(shard, number, offset, video_id, videos[video_id], frame, track or 0, score, _size(box), sharp, yaw)
            for (number, offset), video_id, frame, track, box, score, sharp, yaw in zip(places, *columns, strict=True)
            if video_id in videos
        ]
        return _Scan(shard, file.size, file.crops, seen, {number: file.image_bytes(number) for number in chosen})


def _size(box: Sequence[float] | None) -> float | None:
    """The root of a box's area, as extract.filter.min_size counts."""
    return None if box is None else math.sqrt(max(0.0, (box[2] - box[0]) * (box[3] - box[1])))


def _pictures(storage, run: str, wanted: Mapping[str, Mapping[int, Sequence[int]]]) -> dict[tuple[str, int, int], Picture]:
    def of_shard(shard: str) -> list[tuple[tuple[str, int, int], Picture]]:
        made = []
        with ShardFile(storage, run, shard) as file:
            for number, offsets in sorted(wanted[shard].items()):
                rows = file.read([number], IMAGE).take(sorted(offsets)).to_pylist()
                made += [((shard, number, offset), picture_of(row)) for offset, row in zip(sorted(offsets), rows, strict=True)]
        return made

    with ThreadPoolExecutor(IMAGE_THREADS) as pool:
        return dict(pair for pairs in pool.map(of_shard, sorted(wanted)) for pair in pairs)


# ---------------------------------------------------------------------------------------------------- by lot


def _shuffled(items: Sequence, seed: int, what: object) -> list:
    """In an order that depends on the seed and `what` alone."""
    order = list(items)
    random.Random(f"{seed} {what}").shuffle(order)
    return order


def _in_turns(queues: Iterable[Sequence]) -> Iterator:
    """The first of each queue, then the second of each, and so on."""
    waiting = [iter(queue) for queue in queues]
    while waiting:
        going = []
        for queue in waiting:
            for item in queue:
                yield item
                going.append(queue)
                break
        waiting = going


def _first(items: Iterable, count: int) -> list:
    """The first `count` that differ."""
    kept: dict = {}
    for item in items:
        if len(kept) >= count:
            break
        kept.setdefault(item)
    return list(kept)
