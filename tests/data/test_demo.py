"""The demo data set from made pictures: no network, no detector. What people look like does not matter here."""

import csv
import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations

import av
import cv2
import numpy as np
import pytest

from robust.config import DatasetConfig
from robust.data import demo
from robust.data.demo import make_demo
from robust.data.demo_footage import Footage, Portrait, camera_path, film_portrait, read_clip, read_portrait
from robust.data.demo_plan import plan_demo, takes_of
from robust.data.demo_sources import people
from robust.data.face_swap import TEMPLATE, transform
from robust.data.fetch import PACKAGES, safe_member_path
from robust.data.h264 import decode_h264, encode_h264
from robust.data.layouts import LAYOUTS
from robust.data.tree import FileTree
from robust.errors import UserError

SIZE, FRAMES, FPS = 96, 4, 10
SMALL = {"identities": 30, "fakes_per_kind": 10, "takes": 1, "frames": FRAMES, "size": SIZE, "fps": FPS}


def made_face(seed: int, size: int = 128) -> Portrait:
    """A blurred texture of its own colour with a darker oval where the landmarks say that a face is."""
    rng = np.random.default_rng(seed)
    noise = cv2.GaussianBlur(rng.standard_normal((size, size, 3)).astype(np.float32), (0, 0), 2)
    image = rng.uniform(80, 170, 3) + 60 * noise / np.abs(noise).max()
    landmarks = (TEMPLATE - (56, 70)) * 0.6 * size / 128 + size / 2
    oval = cv2.ellipse(np.zeros((size, size)), (size // 2, size // 2), (size // 4, size // 3), 0, 0, 360, 1, -1)
    image = image + (oval * rng.uniform(-50, 50))[..., None]
    return Portrait(np.clip(image, 0, 255).astype(np.uint8), landmarks.astype(np.float64))


def made_people(everyone, *, frames, size, fps, takes, cache):
    """Stands for read_people: the same number of takes for each person, clips as footage."""
    material = {}
    for number, person in enumerate(everyone):
        face = made_face(number)
        clip = film_portrait(face, frames=frames, size=size, rng=np.random.default_rng(number))
        material[person.name] = [clip if person.filmed else face] * takes_of(person, takes)
    return material


@pytest.fixture(autouse=True)
def no_downloads(monkeypatch):
    monkeypatch.setattr(demo, "read_people", made_people)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One small data set for the tests that only read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "read_people", made_people)
        root = tmp_path_factory.mktemp("demo") / "data"
        return root, make_demo(root, seed=24, **SMALL)


def contents(root) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def kinds_of(root) -> dict[str, str]:
    with (root / "methods.csv").open() as stream:
        return {row["video"]: row["method"] for row in csv.DictReader(stream)}


# ------------------------------------------------------------------------------------------------------- the data set


def test_one_seed_gives_the_same_bytes_and_another_seed_other_ones(made, tmp_path):
    root, _ = made
    make_demo(tmp_path / "again", seed=24, **SMALL, workers=1)
    first, again = contents(root), contents(tmp_path / "again")
    assert first.keys() == again.keys()
    assert [name for name in first if first[name] != again[name]] == []
    make_demo(tmp_path / "other", seed=25, **SMALL)
    other = contents(tmp_path / "other")
    assert sum(first.get(name) == content for name, content in other.items()) == 0


def test_the_layout_is_read_without_a_complaint_and_counts_agree(made):
    root, summary = made
    result = LAYOUTS["celeb_df_v2"](FileTree.open(str(root)), DatasetConfig(layout="celeb_df_v2", uri=str(root)))
    assert result.problems == []
    assert Counter(row.method for row in result.rows if row.label) == summary.fakes == dict.fromkeys(kinds(), 10)
    assert sum(not row.label for row in result.rows) == summary.real
    assert sum(row.split == "test" for row in result.rows) == summary.test_videos
    assert json.loads((root / "demo.json").read_text())["summary"]["real"] == summary.real


def kinds():
    return ("coarse", "blended", "fine")


def test_no_identity_is_in_two_splits(made):
    root, summary = made
    result = LAYOUTS["celeb_df_v2"](FileTree.open(str(root)), DatasetConfig(layout="celeb_df_v2", uri=str(root)))
    train, val, test = (
        {identity for row in result.rows if row.split == split for identity in row.identities}
        for split in ("train", "val", "test")
    )
    assert not train & test and not train & val and not val & test
    assert {row.label for row in result.rows if row.split == "val"} == {0, 1}
    plan = plan_demo(people(), seed=24, identities=30, fakes_per_kind=10)
    assert len(test) == summary.test_identities >= 0.2 * sum(person.shoot is None for person in plan.cast)


def test_fakes_are_named_for_target_source_kind_and_take(made):
    root, _ = made
    swaps = plan_demo(people(), seed=24, identities=30, fakes_per_kind=10).swaps
    assert any(swap.take for swap in swaps)
    names = {
        f"Celeb-synthesis/id{swap.target}_id{swap.source}_{100 * number + swap.take:04d}.mp4": kind
        for swap in swaps
        for number, kind in enumerate(kinds())
    }
    assert kinds_of(root) == names


def test_each_pair_is_made_in_all_three_kinds_from_the_real_video_of_its_name(made):
    root, _ = made
    of_pair = {}
    for video, kind in kinds_of(root).items():
        target, source, number = video.removeprefix("Celeb-synthesis/").removesuffix(".mp4").split("_")
        real = root / "Celeb-real" / f"{target}_{int(number) % 100:04d}.mp4"
        assert real.is_file() and target != source
        of_pair.setdefault((real, source), {})[kind] = root / video
    assert len(of_pair) == 10 and all(set(videos) == set(kinds()) for videos in of_pair.values())
    for (real, _), videos in of_pair.items():
        frames = {kind: decode_h264(path.read_bytes()).astype(int) for kind, path in videos.items()}
        assert all(not np.array_equal(frames[a], frames[b]) for a, b in combinations(frames, 2))
        original = decode_h264(real.read_bytes()).astype(int)
        for shown in frames.values():  # far from the face only the encoder differs
            corner = np.abs(shown - original)[:, :12, :12]
            assert corner.mean() < 4 < np.abs(shown - original)[:, 38:58, 38:58].mean() + 4


def test_real_and_fake_are_encoded_alike(made):
    root, _ = made
    shapes = set()
    for path in root.rglob("*.mp4"):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            code = stream.codec_context
            count = sum(1 for _ in container.decode(video=0))
            shapes.add((code.name, code.profile, code.pix_fmt, code.width, code.height, stream.average_rate, count))
    assert len(shapes) == 1
    name, _, pixels, width, height, rate, count = shapes.pop()
    assert (name, pixels, width, height, rate, count) == ("h264", "yuv420p", SIZE, SIZE, FPS, FRAMES)


def test_every_video_is_encoded_twice(monkeypatch, tmp_path):
    """What is written last was read from a first encode: whole, or (swapped after it) away from the face."""
    encoded, decoded = [], []

    def encode(frames, **how):
        encoded.append((frames, how["crf"]))
        return encode_h264(frames, **how)

    def decode(video):
        decoded.append(decode_h264(video))
        return decoded[-1]

    monkeypatch.setattr(demo, "encode_h264", encode)
    monkeypatch.setattr(demo, "decode_h264", decode)
    source, paths = made_face(1), {kind: tmp_path / f"{kind}.mp4" for kind in kinds()}
    shape = demo.FaceShape.jittered(np.random.default_rng(0))
    take = demo.Take(tmp_path / "real.mp4", made_face(2), (1,))
    demo.render(take, [demo.Fake(paths, source, shape)], frames=FRAMES, size=SIZE, fps=FPS)
    captured, of_fine = decoded
    real, coarse, blended, fine = (frames for frames, crf in encoded if crf == demo.SECOND_CRF)
    assert np.array_equal(real, captured) and np.array_equal(fine, of_fine)
    for swapped in (coarse, blended):
        assert np.array_equal(swapped[:, :12], captured[:, :12]) and not np.array_equal(swapped, captured)


def test_a_second_call_does_nothing(made, monkeypatch):
    root, summary = made
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(demo, "read_people", lambda *a, **k: pytest.fail("read again"))
    assert make_demo(root, seed=24, **SMALL) == summary
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_other_settings_are_refused_and_told(made):
    root, _ = made
    before = contents(root)
    with pytest.raises(UserError, match=r"frames 4 \(now 5\)"):
        make_demo(root, seed=24, **{**SMALL, "frames": 5})
    assert contents(root) == before


def test_an_unfinished_data_set_is_made_anew(made, tmp_path, monkeypatch):
    root = tmp_path / "data"

    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(demo, "_write_lists", stop)
        with pytest.raises(KeyboardInterrupt):
            make_demo(root, seed=23, **SMALL)
    (root / "Celeb-real" / "id99_0000.mp4").write_bytes(b"half")
    make_demo(root, seed=24, **SMALL)
    assert contents(root) == contents(made[0])


def test_a_folder_with_something_else_is_left_alone(tmp_path):
    (tmp_path / "Celeb-real").mkdir()
    (tmp_path / "Celeb-real" / "id0_0000.mp4").write_bytes(b"the official one")
    with pytest.raises(UserError, match="not empty"):
        make_demo(tmp_path, seed=24, **SMALL)
    assert contents(tmp_path) == {"Celeb-real/id0_0000.mp4": b"the official one"}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"identities": 500}, "identities"), ({"fakes_per_kind": 9999}, "fakes_per_kind"), ({"size": 97}, "even")],
)
def test_impossible_settings_name_their_key(tmp_path, wrong, message):
    with pytest.raises(UserError, match=message):
        make_demo(tmp_path / "x", seed=24, **{**SMALL, **wrong})
    assert not (tmp_path / "x").exists()


# ----------------------------------------------------------------------------------------------------------- the plan


@pytest.mark.parametrize("seed", range(5))
def test_plan_swaps_inside_groups_and_holds_whole_groups_out(seed):
    plan = plan_demo(people(), seed=seed, identities=72, fakes_per_kind=150, group_size=6, takes=3)
    group_of = {member: number for number, group in enumerate(plan.groups) for member in group}
    assert sorted(group_of) == list(range(72))
    assert len(set(plan.swaps)) == len(plan.swaps) == 150
    for swap in plan.swaps:
        assert swap.source != swap.target and group_of[swap.source] == group_of[swap.target]
        assert plan.cast[swap.source].look == plan.cast[swap.target].look
        assert swap.take < takes_of(plan.cast[swap.target], 3)
    for held_out in (plan.test, plan.val):
        assert all(set(group) <= held_out or not set(group) & held_out for group in plan.groups)
    assert not plan.test & plan.val
    assert 0.15 <= len(plan.test) / 72 <= 0.3 and 0.08 <= len(plan.val) / 72 <= 0.25
    assert 0.1 <= sum(swap.target in plan.test for swap in plan.swaps) / 150 <= 0.35
    for held_out in (plan.test, plan.val):
        assert {plan.cast[i].look for i in held_out} == {"man", "woman"}


@pytest.mark.parametrize("seed", range(5))
def test_plan_spreads_the_filmed_and_keeps_people_of_a_shoot_in_training(seed):
    plan = plan_demo(people(), seed=seed, identities=72, fakes_per_kind=60)
    filmed = {i for i, person in enumerate(plan.cast) if person.filmed}
    assert filmed & plan.test and filmed - plan.test and len(filmed) == 5
    assert all(len(filmed & set(group)) <= 1 for group in plan.groups)
    assert not any(plan.cast[i].shoot for i in plan.test | plan.val)


def test_plan_depends_on_the_seed_alone():
    plans = [plan_demo(people(), seed=seed, identities=40, fakes_per_kind=20) for seed in (1, 1, 2)]
    assert plans[0] == plans[1] != plans[2]


def test_the_table_of_people_is_sound():
    everyone = people()
    faces = [(s.package, s.member, getattr(s, "face", None)) for person in everyone for s in person.sources]
    assert len(everyone) >= 72 and len({person.name for person in everyone}) == len(everyone)
    assert len(set(faces)) == len(faces)  # nobody is two people
    for package, member, _ in faces:
        assert package in PACKAGES and safe_member_path(member)


# -------------------------------------------------------------------------------------------------------- the footage


def test_the_camera_stays_inside_the_photograph_and_on_the_face():
    face = made_face(1)
    for seed in range(20):
        views = camera_path(face, frames=20, size=SIZE, rng=np.random.default_rng(seed))
        shown = np.stack([transform(view, face.landmarks) for view in views])
        assert shown.min() > 0.15 * SIZE and shown.max() < 0.85 * SIZE
        corners = np.array([[0, 0], [SIZE, 0], [0, SIZE], [SIZE, SIZE]], float)
        seen = np.stack([transform(cv2.invertAffineTransform(view), corners) for view in views])
        assert seen.min() > -6 and seen.max() < 128 + 6  # of a tilted view a corner may stick out
        step = np.abs(np.diff(shown, axis=0)).max(axis=(1, 2))
        assert 0 < step.max() < 0.05 * SIZE  # it moves, smoothly


def test_landmarks_of_a_filmed_photograph_follow_the_picture():
    face = made_face(1)
    face.image[:] = 0
    for x, y in face.landmarks:
        cv2.circle(face.image, (round(x * 16), round(y * 16)), 2 * 16, (255, 255, 255), -1, shift=4)
    footage = film_portrait(face, frames=6, size=192, rng=np.random.default_rng(3))
    for frame, landmarks in zip(footage.frames, footage.landmarks, strict=True):
        bright = frame[..., 0].astype(float)
        ys, xs = np.mgrid[:192, :192]
        for x, y in landmarks:
            near = bright * (np.hypot(xs - x, ys - y) < 8)
            assert abs((near * xs).sum() / near.sum() - x) < 1 and abs((near * ys).sum() / near.sum() - y) < 1


def test_clip_parts_begin_where_asked_and_hold_the_face_in_the_middle(tmp_path):
    frames = np.zeros((40, 120, 200, 3), np.uint8)
    frames += (np.arange(40) * 6)[:, None, None, None].astype(np.uint8)  # brightness tells the time
    path = tmp_path / "clip.mp4"
    path.write_bytes(encode_h264(frames, fps=20, crf=10))

    def detect(image):
        scale = 2.0 if max(image.shape) == 400 else image.shape[0] / SIZE
        middle = (120 * scale, 60 * scale) if max(image.shape) == 400 else (image.shape[1] / 2, image.shape[0] / 2)
        return [(TEMPLATE - (56, 64)) * 0.4 * scale + middle]

    takes = read_clip(path, (0.0, 1.0), frames=5, fps=10, size=SIZE, detect=detect)
    brightness = [[float(frame.mean()) for frame in take.frames] for take in takes]
    assert np.allclose(brightness, [[0, 12, 24, 36, 48], [120, 132, 144, 156, 168]], atol=3)
    assert all(take.frames.shape == (5, SIZE, SIZE, 3) and take.landmarks.shape == (5, 5, 2) for take in takes)
    with pytest.raises(UserError, match="ends before"):
        read_clip(path, (1.9,), frames=5, fps=10, size=SIZE, detect=detect)
    with pytest.raises(UserError, match="no face"):
        read_clip(path, (0.0,), frames=5, fps=10, size=SIZE, detect=lambda image: [])


def test_the_face_at_the_point_is_taken(tmp_path):
    picture = np.full((600, 900, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / "two.png"), picture)
    left, right = (TEMPLATE + (100, 200)).astype(float), (TEMPLATE * 1.5 + (600, 200)).astype(float)

    def detect(image):
        beside = left + (40, 0)  # nearly as good as the one asked for
        return [face * image.shape[1] / 900 for face in (beside, left, right)]

    biggest = read_portrait(tmp_path / "two.png", None, 224, detect)
    asked = read_portrait(tmp_path / "two.png", (156, 270), 224, detect)
    assert np.allclose(asked.landmarks, left, atol=0.1)  # near the picture's corner: neither moved nor shrunk
    spread = [np.ptp(portrait.landmarks[:, 0]) / portrait.image.shape[1] for portrait in (biggest, asked)]
    assert biggest.image.shape != asked.image.shape and all(0.05 < share < 0.5 for share in spread)
    with pytest.raises(UserError, match="no face found at"):
        read_portrait(tmp_path / "two.png", (450, 20), 224, detect)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="not a picture"):
        read_portrait(tmp_path / "broken.png", None, 224, detect)


def test_h264_keeps_the_frames():
    footage = film_portrait(made_face(4), frames=6, size=SIZE, rng=np.random.default_rng(0))
    video = encode_h264(footage.frames, fps=FPS, crf=18)
    back = decode_h264(video)
    assert back.shape == footage.frames.shape
    assert np.abs(back.astype(int) - footage.frames).mean() < 5
    assert len(encode_h264(footage.frames, fps=FPS, crf=30)) < len(video)


def test_encoding_in_threads_gives_the_same_bytes_every_time():
    rngs = [np.random.default_rng(i) for i in range(6)]
    films = [film_portrait(made_face(i), frames=FRAMES, size=SIZE, rng=rng).frames for i, rng in enumerate(rngs)]
    alone = [encode_h264(frames, fps=FPS, crf=18) for frames in films]
    with ThreadPoolExecutor(2) as pool:
        for _ in range(20):
            assert list(pool.map(lambda frames: encode_h264(frames, fps=FPS, crf=18), films)) == alone


def test_a_clip_is_its_own_footage():
    footage = Footage(np.zeros((2, 8, 8, 3), np.uint8), np.zeros((2, 5, 2)))
    assert demo.film(footage, frames=2, size=8, rng=np.random.default_rng(0)) is footage
