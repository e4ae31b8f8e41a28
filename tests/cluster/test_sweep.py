"""The search for secrets finds planted ones."""

import subprocess
import sys

from sweep import ProcessList, in_files, in_storage

SECRET = "a-planted-secret-of-some-length"


def test_a_planted_secret_is_found_in_a_file_an_object_and_a_command_line(tmp_path, local_storage):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "worker.log").write_bytes(b"\x00\x01 key=" + SECRET.encode() + b"\xff")
    (tmp_path / "harmless").write_text("nothing")
    (tmp_path / "credentials").write_text(SECRET)
    assert in_files(tmp_path, [SECRET], besides=[tmp_path / "credentials"]) == ([str(tmp_path / "deep" / "worker.log")], 2)
    local_storage.write_bytes("run/config.yaml", SECRET.encode())
    local_storage.write_bytes("run/other.yaml", b"nothing")
    assert in_storage(local_storage, [SECRET]) == (["run/config.yaml"], 2)
    wait = "import sys; sys.stdin.read()"
    with ProcessList([SECRET]) as seen, subprocess.Popen([sys.executable, "-c", wait, SECRET], stdin=subprocess.PIPE) as process:
        while not seen.hits:
            assert process.poll() is None
        process.stdin.close()
    assert len(seen.hits) == 1 and str(process.pid) in seen.looked_at
    with ProcessList([f"another-{SECRET}"]) as unseen, subprocess.Popen([sys.executable, "-c", wait], stdin=subprocess.PIPE) as process:
        while str(process.pid) not in unseen.looked_at:
            assert process.poll() is None
        process.stdin.close()
    assert not unseen.hits
