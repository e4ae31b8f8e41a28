"""The contact sheet of an extraction: one page on which a person sees in a minute whether the crops are right."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa

from robust.config import Config
from robust.config_identity import fingerprint, flattened_tree, science
from robust.data.people import count_unnamed
from robust.data.quality import REASONS
from robust.data.rows import SPLITS
from robust.data.shard_plan import MOST_VIDEOS, SHARD_BYTES, videos_of_a_shard, videos_that_weigh
from robust.data.shards import STATUSES, Committed
from robust.data.sheet_crops import Bounds, Group, Sample, sample_crops
from robust.data.sheet_rejected import choose_rejected, count_kinds, with_pictures
from robust.evaluation.pages import style, template, webp_uri

VERSION = 2
"""Raised when the page shows something else, so that runs that have one get it anew."""
MOST_KINDS, MOST_REJECTED, MOST_DECODED = 20, 24, 12
NAME_LENGTH = 100
NETWORK_BYTES = 64e6, 256e6
"""Of a shard: more requests below, and above a task that is lost costs much."""
COLUMNS = ("video_id", "uri", "dataset", "method", "label", "identities", "split", "status", "reason", "frames_asked",
           "frames_decoded", "frames_found", "refused", "shard", "source_bytes")
MEASURES = {
    "score": ("Least sure", "probability of the detector, lowest first", "extract.min_score"),
    "size": ("Smallest", "root of the box's area in pixels of the frame", "extract.filter.min_size, extract.min_face"),
    "sharpness": ("Most blurred", "variance of the Laplacian, lowest first", "extract.filter.min_sharpness"),
    "yaw": ("Most turned", "degrees to the picture's left (−) or right", "extract.filter.max_yaw"),
}
"""Title, what the figure is, and which settings leave such faces out."""


def mark_of(committed: Committed, status: pa.Table, config: Config) -> str:
    """The beginning of a page: a hash of what decides it. Args: status: committed.current()."""
    facts = ["shard", "video_id", "split", "label", "method", "status", "reason", "frames_asked", "frames_found"]
    about = [VERSION, config.run.name, fingerprint(config, ["extract"]), len(committed.stale)]
    digest = hashlib.sha256(json.dumps(about).encode())
    for name in facts:
        digest.update(json.dumps(status.column(name).to_pylist()).encode())
    return f"<!doctype html>\n<!-- {digest.hexdigest()[:32]} -->\n"


def contact_sheet(storage, config: Config, committed: Committed, status: pa.Table, mark: str, *, bounds: Bounds = Bounds()) -> str:
    """The page as HTML that refers to nothing outside itself; the same every time.

    Args:
        status: committed.current(); mark: of it, from `mark_of`: each is a walk over all rows.

    Raises:
        UserError: a shard that is read is gone or damaged, or the storage cannot be reached.
    """
    records = status.select(list(COLUMNS)).to_pylist()
    counts = count_groups(records)
    shown = [row["group"] for row in sorted(counts, key=lambda row: (-row["videos"], row["group"]))[:bounds.groups]]
    shown.sort(key=_in_order)
    sample = sample_crops(storage, config.run.name, _shards(records), shown, seed=config.run.seed, bounds=bounds)
    chosen = choose_rejected(records, count=MOST_REJECTED, seed=config.run.seed)
    rejected = with_pictures(chosen, config.extract, storage_config=config.storage, most=MOST_DECODED)
    kinds = count_kinds(records)
    page = template(
        "extraction.html", plain=plain, last=last_part, uri=webp_uri, points=_points, count=_count_text, share=_share, size=_size
    ).render(
        run=config.run.name, style=style(), totals=totals(records), counts=[
            row for row in counts if row["group"] in set(shown)], hidden=len(counts) - len(shown), splits=count_splits(records),
        statuses=Counter(record["status"] for record in records), known=STATUSES, sample=sample, shown=shown, measures=MEASURES,
        kinds=kinds[:MOST_KINDS], more_kinds=kinds[MOST_KINDS:], rejected=rejected, refused=_refused(records),
        stale=len(committed.stale), hash=fingerprint(config, ["extract"]), settings=_settings(config), seed=config.run.seed,
        shards=_shard_sizes(sample, records, videos_of_a_shard(config.extract)))
    return mark + page


# ---------------------------------------------------------------------------------------------------- figures


def count_groups(records: Iterable[Mapping]) -> list[dict]:
    """Videos, those with a face, frames asked for, faces and people of each group, ordered as splits are; reals first."""
    groups: dict[Group, dict] = {}
    for record in records:
        group = _group(record)
        row = groups.setdefault(group, {"group": group, "videos": 0, "with_faces": 0, "asked": 0, "faces": 0, "people": set()})
        _count(row, record)
    return [{**groups[group], "people": len(groups[group]["people"])} for group in sorted(groups, key=_in_order)]


def count_splits(records: Iterable[Mapping]) -> list[dict]:
    """The same of each split as a whole."""
    splits: dict[str, dict] = {}
    for record in records:
        row = splits.setdefault(record["split"] or "", {"videos": 0, "with_faces": 0, "asked": 0, "faces": 0, "people": set()})
        _count(row, record)
    return [{"split": name, **splits[name], "people": len(splits[name]["people"])} for name in sorted(splits, key=_split_order)]


def totals(records: Sequence[Mapping]) -> dict:
    """Of all videos; `shared` counts people who are in more than one split, `unnamed` videos whose people nobody named."""
    places = {(person, record["split"]) for record in records for person in record["identities"]}
    return {"videos": len(records), "faces": sum(record["frames_found"] for record in records),
            "not_ok": sum(record["status"] != "ok" for record in records), "unnamed": count_unnamed(records),
            "shared": sum(count > 1 for count in Counter(person for person, _ in places).values())}


def _count(row: dict, record: Mapping) -> None:
    row["videos"] += 1
    row["with_faces"] += record["frames_found"] > 0
    row["asked"] += record["frames_asked"]
    row["faces"] += record["frames_found"]
    row["people"].update(record["identities"])


def _group(record: Mapping) -> Group:
    return Group(record["split"] or "", record["label"], record["dataset"], record["method"])


def _split_order(split: str) -> tuple[int, str]:
    return (SPLITS.index(split) if split in SPLITS else len(SPLITS)), split


def _in_order(group: Group) -> tuple:
    return _split_order(group.split), group.label, group.dataset, group.method


def _shards(records: Iterable[Mapping]) -> dict[str, dict[str, Group]]:
    shards: dict[str, dict[str, Group]] = defaultdict(dict)
    for record in records:
        if record["frames_found"]:
            shards[record["shard"]][record["video_id"]] = _group(record)
    return shards


def _refused(records: Iterable[Mapping]) -> dict[str, int]:
    """Faces that extract.filter refused, by reason."""
    sums = dict.fromkeys(REASONS, 0)
    for record in records:
        for name in REASONS:
            sums[name] += (record["refused"] or {}).get(name) or 0
    return {name: count for name, count in sums.items() if count}


def _shard_sizes(sample: Sample, records: Sequence[Mapping], videos_per_shard: int) -> dict | None:
    """How large the shards that were looked at are, and how large a full one is on average.

    Returns:
        their `count`, bytes `of_crop`, `full` and `largest`, `videos` of a full shard, and `better`, how many would bring
        it nearer to SHARD_BYTES where it is outside NETWORK_BYTES; None: no crops.
    """
    crops, size = sum(sample.shard_crops), sum(sample.shard_bytes)
    if not crops:
        return None
    with_face = sum(record["frames_found"] > 0 for record in records) / len(records)
    of_video = size / sum(sample.shard_videos) * with_face
    full = of_video * videos_per_shard
    better = min(MOST_VIDEOS, videos_that_weigh(SHARD_BYTES, of_each=of_video))
    least, most = NETWORK_BYTES
    helps = (full > most and better < videos_per_shard) or (full < least and better > videos_per_shard)
    return {"count": len({record["shard"] for record in records}), "largest": max(sample.shard_bytes), "of_crop": size / crops,
            "full": full, "videos": videos_per_shard, "better": better if helps else None}


def _settings(config: Config) -> list[dict]:
    """The settings that decide what crops look like, and their defaults; the shards' size is none of them."""
    now, default = flattened_tree(science(config.extract)), flattened_tree(science(type(config.extract)()))
    return [{"key": f"extract.{key}", "value": json.dumps(value), "default": json.dumps(default.get(key))}
            for key, value in now.items() if key != "videos_per_shard"]


# ---------------------------------------------------------------------------------------------------- the page


def plain(text: str | None, length: int = NAME_LENGTH) -> str:
    """A name as text that cannot disturb the page: nothing unprintable or that turns the direction, its middle left out."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text or "")
    if len(clean) <= length:
        return clean
    return f"{clean[:length // 3]}…{clean[len(clean) - (length - length // 3 - 1):]}"


def last_part(video_id: str) -> str:
    """The video's own name, without data set and method."""
    return plain(video_id.rpartition("/")[2] or video_id, 40)


def _points(points: Iterable[tuple[float, float]]) -> str:
    """As the path of an SVG in whose viewBox the crop is 100 x 100."""
    return "".join(f"M{100 * x:.1f} {100 * y:.1f}h0" for x, y in points if -1 < x < 2 and -1 < y < 2)


def _count_text(value: int) -> str:
    return f"{value:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def _share(part: int, whole: int) -> str:
    """A percentage that says 0 and 100 only where it is true."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < part < whole:
        percent = min(max(percent, 0.1), 99.9)
        return f"{percent:.1f} %"
    return f"{percent:.0f} %"


def _size(size: float) -> str:
    """Bytes in kB or MB."""
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} kB"
