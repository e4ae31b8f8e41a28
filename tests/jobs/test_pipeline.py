"""jobs/pipeline.py apart from its stages; the whole of it is in tests/cluster/test_submit_jobs.py."""

from jobs.pipeline import local_copies
from robust.config_file import parse


def test_event_files_of_all_stages_are_copied_as_they_are_now(local_storage, tmp_path):
    config = parse({"run": {"name": "run"}, "cluster": {"outputs": str(tmp_path / "outputs")}})
    name = "events.out.tfevents.1.host"

    def copied():
        folder = local_copies(config, local_storage) / "tensorboard"
        return {path.relative_to(folder).parent.as_posix(): path.read_bytes() for path in folder.rglob("*.host")}

    for place in ("tensorboard/train/defended", "tensorboard/evaluate", "tune/trials/t1"):
        local_storage.write_bytes(f"run/{place}/{name}", place.encode())
    local_storage.write_bytes("run/faces/shard.parquet", b"no event file")
    trained = {"train/defended": b"tensorboard/train/defended"}
    assert copied() == {**trained, "evaluate": b"tensorboard/evaluate", "tune/t1": b"tune/trials/t1"}
    local_storage.delete_prefix("run/tune")
    local_storage.write_bytes(f"run/tensorboard/evaluate/{name}", b"tensorboard/evaluate and more")
    assert copied() == {**trained, "evaluate": b"tensorboard/evaluate and more"}
    assert not (tmp_path / "outputs/run/sheet.html").exists()
    local_storage.write_bytes("run/faces/sheet.html", b"<!doctype html>")
    assert copied() and (tmp_path / "outputs/run/sheet.html").read_bytes() == b"<!doctype html>"
