"""What is fetched of the shards: those of one split, of them the row groups of the wanted videos, of these the wanted columns."""

import io
import os
from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq
import pytest

from robust.data import shards
from robust.data.face_table import read_faces, read_shard
from robust.data.shard_check import check_shard
from robust.data.shards import face_key, plan_of, shard_key, status_key, write_shard
from tests.data.test_shards import face, status

VIDEOS, FRAMES, IMAGE_BYTES = 16, 8, 40_000


class CountedFile(io.RawIOBase):
    def __init__(self, path: str, counted: dict[str, int]):
        self.file, self.path, self.counted = open(path, "rb"), path, counted
        counted[path] += 0

    def read(self, size: int = -1) -> bytes:
        data = self.file.read(size)
        self.counted[self.path] += len(data)
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        self.file.close()
        super().close()


class CountingFiles(pyarrow.fs.FileSystemHandler):
    """Local files; `counted` tells the bytes that were read of each that was opened."""

    def __init__(self):
        self.local, self.counted = pyarrow.fs.LocalFileSystem(), defaultdict(int)

    def open_input_file(self, path):
        return pa.PythonFile(CountedFile(path, self.counted), "r")

    def get_file_info(self, paths):
        return self.local.get_file_info(paths)

    def get_type_name(self):
        return "counting"

    def normalize_path(self, path):
        return path


def _refused(self, *_):
    raise NotImplementedError


for _name in ("copy_file", "create_dir", "delete_dir", "delete_dir_contents", "delete_file", "delete_root_dir_contents",
              "get_file_info_selector", "move", "open_append_stream", "open_input_stream", "open_output_stream"):
    setattr(CountingFiles, _name, _refused)
CountingFiles.__abstractmethods__ = frozenset()


@pytest.fixture
def counted(local_storage, monkeypatch) -> dict[str, int]:
    """{path: bytes read} of every shard that is opened for its crops."""
    files = CountingFiles()
    monkeypatch.setattr(local_storage, "arrow",
                        lambda key="": (pyarrow.fs.PyFileSystem(files), os.path.join(local_storage.root, key)))
    return files.counted


def write(storage, prefix: str, split: str) -> tuple[str, list[str]]:
    """A shard of large crops that no compression makes smaller; its name and its videos."""
    videos = [f"d/m/{prefix}{number:02d}" for number in range(VIDEOS)]
    noise = np.random.default_rng(0).bytes(IMAGE_BYTES)
    faces = [{**face(video_id, frame, split), "image": noise} for video_id in videos for frame in range(FRAMES)]
    return write_shard(storage, "r", shard_key("d", videos, "f"), faces, [status(one, FRAMES, split) for one in videos]), videos


def test_training_opens_the_shards_of_its_split_alone(local_storage, counted):
    train, _ = write(local_storage, "a", "train")
    write(local_storage, "b", "val")
    write(local_storage, "c", "test")
    assert len(read_faces(local_storage, "r", split="train")) == VIDEOS * FRAMES
    opened = [path for path in counted if "status" not in path]
    assert opened == [os.path.join(local_storage.root, face_key("r", train))]


def test_of_some_videos_only_their_row_groups_are_fetched(local_storage, counted):
    shard, videos = write(local_storage, "a", "train")
    path = os.path.join(local_storage.root, face_key("r", shard))
    size, group = os.path.getsize(path), shards.ROWS_OF_A_GROUP * IMAGE_BYTES
    assert size > 3.9 * group  # 128 crops in groups of 32
    footer = 70_000  # what is fetched in the hope that the footer is in it
    for wanted, groups in [(videos[:1], 1), (videos[:4], 1), (videos[3:5], 2), ([videos[0], videos[-1]], 2), (videos, 4)]:
        counted.clear()
        assert len(read_shard(local_storage, "r", shard, wanted)) == len(wanted) * FRAMES
        assert groups * group <= counted[path] < groups * group * 1.02 + footer
    counted.clear()
    assert len(read_shard(local_storage, "r", shard, videos, columns=["video_id", "label", "sharpness"])) == VIDEOS * FRAMES
    assert counted[path] < 2 * footer < group / 8


def test_shards_without_a_format_are_read_beside_others_and_a_later_format_is_named(local_storage, monkeypatch):
    now, videos = write(local_storage, "a", "train")
    table = pq.read_table(io.BytesIO(local_storage.read_bytes(face_key("r", now)))).replace_schema_metadata(None)
    sink = io.BytesIO()
    pq.write_table(table, sink)  # as format 1: nothing about it in the footer
    local_storage.write_bytes(face_key("r", plan_of(now)), sink.getvalue())
    rows = local_storage.read_table(status_key("r", now))
    old = rows.set_column(rows.schema.get_field_index("shard"), "shard", pa.array([plan_of(now)] * len(rows)))
    local_storage.write_table(status_key("r", now), old)
    other, _ = write(local_storage, "b", "train")
    assert len(read_faces(local_storage, "r")) == 2 * VIDEOS * FRAMES
    assert check_shard(local_storage, "r", plan_of(now)) == check_shard(local_storage, "r", plan_of(other)) == []
    monkeypatch.setattr(shards, "FORMAT", shards.FORMAT + 1)
    later, _ = write(local_storage, "c", "train")
    (told,) = check_shard(local_storage, "r", plan_of(later))
    assert "of format 3, this version knows formats up to 2" in told and local_storage.uri(face_key("r", later)) in told
