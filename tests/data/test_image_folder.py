"""robust/data/image_folder.py: which file becomes which row, what is kept of it, and what is taken out again."""

import io

import numpy as np
import pytest
from PIL import Image

from robust.config_file import parse
from robust.data import image_folder
from robust.data.face_table import read_faces
from robust.data.images import decode_image
from robust.errors import UserError
from robust.storage import Storage


def picture(seed, size=(20, 24), kind="PNG", mode="RGB"):
    pixels = np.random.default_rng(seed).integers(0, 255, (*size, 3)).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(out, kind)
    return out.getvalue()


FILES = {
    "real/a.png": picture(0), "real/b.jpg": picture(1, kind="JPEG"), "real/clip/2.png": picture(2), "real/clip/1.png": picture(3),
    "fake/c.webp": picture(4, kind="WEBP"), "fake/swap/d.bmp": picture(5, kind="BMP"), "fake/swap/x/y/e.png": picture(6, mode="L"),
}


@pytest.fixture
def place(tmp_path):
    """(folder, storage, import it)."""
    folder = tmp_path / "images"
    for path, data in FILES.items():
        write(folder, path, data)
    config = parse({"run": {"name": "r"}, "storage": {"uri": str(tmp_path / "storage")}, "evaluate": {"images": str(folder)}})
    storage = Storage.from_config(config.storage)
    return folder, storage, lambda: image_folder.import_images(storage, config)[0]


def write(folder, path, data):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(data)


def test_files_become_videos_and_crops(place):
    _, storage, run = place
    status = {row["video_id"]: row for row in run().to_pylist()}
    assert {name.partition("/")[2]: (row["label"], row["frames_found"]) for name, row in status.items()} == {
        "real/a.png": (0, 1), "real/b.jpg": (0, 1), "real/clip": (0, 2), "fake/c.webp": (1, 1), "swap/d.bmp": (1, 1), "swap/x__y": (1, 1)}
    assert {row["split"] for row in status.values()} == {"test"} and {row["status"] for row in status.values()} == {"ok"}
    assert len({tuple(row["identities"]) for row in status.values()}) == 6

    faces = {(row["video_id"].partition("/")[2], row["frame_index"]): row for row in read_faces(storage, "r", split="test").to_pylist()}
    assert faces["real/a.png", 0]["image"] == FILES["real/a.png"] and faces["real/b.jpg", 0]["image"] == FILES["real/b.jpg"]
    assert faces["real/clip", 0]["image"] == FILES["real/clip/1.png"]
    bmp = np.asarray(Image.open(io.BytesIO(FILES["fake/swap/d.bmp"])))
    assert np.array_equal(decode_image(faces["swap/d.bmp", 0]["image"]), bmp)
    assert (faces["swap/d.bmp", 0]["height"], faces["swap/d.bmp", 0]["width"]) == (20, 24)


def test_the_same_folder_again_writes_nothing_and_a_changed_one_leaves_nothing_old(place):
    folder, storage, run = place
    first = run()
    before = {key: storage.read_bytes(key) for key in storage.list("r/faces")}
    assert run() == first and {key: storage.read_bytes(key) for key in storage.list("r/faces")} == before
    write(folder, "real/a.png", picture(9))
    (folder / "real/b.jpg").unlink()
    again = run()
    assert "image_folder/real/b.jpg" not in again.column("video_id").to_pylist() and len(storage.list("r/faces")) == len(before)
    assert picture(9) in read_faces(storage, "r").column("image").to_pylist()


def test_many_images_are_cut_into_shards(place, monkeypatch):
    _, storage, run = place
    whole = run().drop_columns(["shard", "fingerprint"])
    monkeypatch.setattr(image_folder, "IMAGES_OF_A_SHARD", 2)
    assert run().drop_columns(["shard", "fingerprint"]) == whole
    assert len(storage.list("r/faces")) == 2 * 4


def test_people_come_from_a_file(place):
    folder, _, run = place
    write(folder, "identities.csv", b"image,identities\nreal/a.png,anna\nfake/c.webp,anna;bert\nreal/clip,bert\n")
    people = {row["video_id"]: row["identities"] for row in run().to_pylist()}
    assert people["image_folder/fake/c.webp"] == ["image_folder:anna", "image_folder:bert"]
    assert people["image_folder/real/clip"] == ["image_folder:bert"] and people["image_folder/real/a.png"] == ["image_folder:anna"]
    note = image_folder.note_of(run().to_pylist())
    assert note.startswith("The people in 3 images") and "(not in identities.csv)" in note
    every = "".join(f"{name},p\n" for name in ("real/a.png", "real/b.jpg", "real/clip", "fake/c.webp", "fake/swap/d.bmp", "fake/swap/x/y"))
    write(folder, "identities.csv", b"image,identities\n" + every.encode())
    assert image_folder.note_of(run().to_pylist()) == ""


def test_records_that_name_no_image_are_told_and_a_file_of_only_such_is_refused(place):
    folder, storage, run = place
    config = parse({"run": {"name": "r"}, "storage": storage.config.model_dump(), "evaluate": {"images": str(folder)}})
    assert image_folder.import_images(storage, config)[1] == [] and "(no identities.csv)" in image_folder.note_of(run().to_pylist())
    write(folder, "identities.csv", b"image,identities\nreal/a.png,anna\nfaces/fake/c.webp,bert\nreal/clip/1.png,bert\n")
    assert image_folder.import_images(storage, config)[1] == [
        "records of identities.csv that are no image by itself and no folder of frames, left out (2): faces/fake/c.webp, real/clip/1.png"]
    before = storage.list("r")
    write(folder, "identities.csv", b"image,identities\nfaces/real/a.png,anna\n")
    with pytest.raises(UserError, match="identities.csv names no image of the folder: it has 'faces/real/a.png', where the folder has 'fake/c.webp'"):
        run()
    assert storage.list("r") == before


@pytest.mark.parametrize("name, data, told", [
    ("cut.png", picture(1)[:-200], "not a whole image"), ("cut.jpg", picture(1, kind="JPEG")[:-300], "not a whole image"),
    ("text.png", b"no image at all", "not a whole image"), ("empty.png", b"", "not a whole image"),
    ("huge.png", picture(1, size=(1, 1))[:16] + (40_000).to_bytes(4, "big") * 2 + picture(1, size=(1, 1))[24:], ""), ("notes.txt", b"x", "is not named as an image"),
])
def test_a_file_that_is_no_image_is_counted_and_left_out(place, name, data, told):
    folder, _, run = place
    write(folder, f"fake/swap/{name}", data)
    bad = [row for row in run().to_pylist() if row["frames_found"] == 0]
    assert [row["video_id"] for row in bad] == [f"image_folder/swap/{name}"]
    assert bad[0]["status"] == "unreadable" and told in bad[0]["reason"]


def test_too_many_pixels_are_not_unpacked(place, monkeypatch):
    _, _, run = place
    monkeypatch.setattr(image_folder, "MAX_PIXELS", 479)
    assert all("has 24 x 20 pixels" in row["reason"] for row in run().to_pylist())


def test_a_folder_without_both_kinds_is_told(place):
    folder, _, run = place
    for path in list((folder / "real").rglob("*.*")):
        path.unlink()
    with pytest.raises(UserError, match="evaluate.images: no images in .*/real"):
        run()
