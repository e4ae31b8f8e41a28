"""The endpoint in this process: the verdicts of jobs.detect, every error with its type, nothing left behind."""

import asyncio
import base64
import hashlib
import io
import json
import os
import signal
import stat
import tempfile
import threading
import time
import zlib

import numpy as np
import pytest
from PIL import Image

from robust.data.decoder_process import DecodeLimits, shared_decoder
from robust.detection import IMAGE, VIDEO
from robust.errors import UserError
from robust.serving.errors import TYPES, ServiceError
from robust.serving.judging import FILES_IN_MEMORY, UploadJudge
from robust.serving.page import page
from robust.serving.upload import Upload, clean_name, kind_of_upload
from tests import clips
from tests.serving.asgi import CARD, TOKEN, ask, asked


def png(image, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, **({"format": "PNG"} | options))
    return file.getvalue()


# ---------------------------------------------------------------------------------------------------- verdicts


def test_a_verdict_is_that_of_detect_to_the_last_bit(endpoint, examiner, about, video, noise, tmp_path):
    app = endpoint()
    dark = clips.clip(np.zeros((4, 64, 80, 3), np.uint8))
    files = {"a.mp4": video, "cut.mp4": video[:-len(video) // 4], "dark.mp4": dark, "b.png": png(noise[0]),
             "c.jpg": png(noise[1], format="JPEG")}
    seen = set()
    for name, content in files.items():
        path = tmp_path / name
        path.write_bytes(content)
        expected = examiner.examine(name, str(path), VIDEO if name.endswith("mp4") else IMAGE).verdict
        response = asked(app, f"/v1/detect?name={name}", body=content)
        assert response.status == 200, response.body
        document = response.json
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        assert document["verdict"] == json.loads(json.dumps({**expected.as_dict(), "uri": digest}))
        assert {name: document[name] for name in ("checkpoint", "settings", "warnings")} == {
            "checkpoint": about.checkpoint, "settings": about.settings, "warnings": about.warnings}
        assert document["thresholds"]["video"] == {"logit": CARD["threshold"], "rule": "made up, video scores"}
        assert document["schema"] == 1 and document["pictures"] is None
        seen.add((expected.status, expected.verdict == "undecided"))
    assert {("ok", False), ("partial", False), ("no_face", True)} <= seen


def test_what_the_name_does_not_tell_the_content_does(endpoint, noise, video):
    app = endpoint()
    for options in ({}, {"format": "JPEG"}, {"format": "WEBP"}, {"format": "BMP"}, {"format": "TIFF"}):
        assert asked(app, body=png(noise[0], **options)).json["verdict"]["kind"] == "image", options
    verdict = asked(app, body=video).json["verdict"]
    assert (verdict["kind"], verdict["name"]) == ("video", "upload")
    assert kind_of_upload("a.mp4", b"\xff\xd8\xff") == VIDEO and kind_of_upload("a.jpg", b"") == IMAGE  # as jobs.detect


@pytest.mark.parametrize(("given", "called"), [
    (None, "upload"), ("", "upload"), ("../../etc/passwd", "passwd"), ("C:\\a\\b.mp4", "b.mp4"), ("ä b.mp4", "ä b.mp4"),
    ("a\x00\n\u202eb.mp4", "ab.mp4"), ("x" * 400, "x" * 255), ("a/", "upload")])
def test_a_name_is_only_what_a_file_is_called(given, called):
    assert clean_name(given) == called


def test_pictures_are_the_frames_with_the_boxes_where_the_faces_are(endpoint):
    frame = np.zeros((400, 1000, 3), np.uint8)
    frame[80:320, 300:700] = (255, 0, 0)  # where Middle finds the face
    document = asked(endpoint(), "/v1/detect?pictures=true", body=clips.clip([frame] * 6)).json
    assert len(document["pictures"]) == len(document["verdict"]["frames"]) == 4
    for picture, scored in zip(document["pictures"], document["verdict"]["frames"]):
        head, data = picture["image"].split(",")
        shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))).astype(int)
        assert head == "data:image/jpeg;base64" and shown.shape == (picture["height"], picture["width"], 3) == (144, 360, 3)
        assert picture["frame_index"] == scored["frame_index"] and scored["box"] == [300, 80, 700, 320]
        assert picture["box"] == pytest.approx([108, 28.8, 252, 115.2], abs=0.06)
        rows, columns = np.nonzero(shown[..., 0] > 128)
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx(picture["box"], abs=2)
        assert picture["other_boxes"] == [pytest.approx([0, 0, 54, 21.6], abs=0.06)]
    photograph = asked(endpoint(), "/v1/detect?pictures=1", body=png(frame)).json["pictures"]
    assert [one["width"] for one in photograph] == [960]


# ---------------------------------------------------------------------------------------------------- errors


def test_what_is_wrong_with_a_request_has_its_type(endpoint, video):
    app = endpoint(max_upload_mb=0.01)
    long = b"x" * 20000
    cases = {
        "empty": (400, dict(body=b"")),
        "no number": (400, dict(body=b"abc", headers={"content-length": "ten"})),
        "bad parameter": (400, dict(path="/v1/detect?pictures=maybe", body=b"abc")),
        "long name": (400, dict(path="/v1/detect?name=" + "a" * 1001, body=b"abc")),
        "no length": (411, dict(pieces=[b"abc"], headers={"transfer-encoding": "chunked"})),
        "form": (415, dict(body=b"--x", headers={"content-type": "multipart/form-data; boundary=x"})),
        "large": (413, dict(body=long)),
        "enormous": (413, dict(body=b"abc", headers={"content-length": "9" * 400})),
        "text as curl sends it": (422, dict(body=b"no video", headers={"content-type": "application/x-www-form-urlencoded"})),
        "text": (422, dict(body=b"these are the videos of last year\n" * 40)),
        "no image": (422, dict(body=b"\xff\xd8\xff" + b"x" * 400)),
        "nowhere": (404, dict(path="/v2/detect", body=b"abc")),
        "docs": (404, dict(path="/docs", method="GET", body=None)),
        "method": (405, dict(method="GET", body=None)),
    }
    for name, (status, request) in cases.items():
        response = asked(app, **request)
        assert (response.status, response.error) == (status, TYPES[status]), name
        assert response.headers["x-content-type-options"] == "nosniff", name


def test_a_body_longer_than_it_said_is_not_taken_in(endpoint):
    pieces = [b"x" * 5000] * 100
    response = asked(endpoint(max_upload_mb=0.01), pieces=pieces, headers={"content-length": "5"})
    assert response.status == 413 and response.error == "too_large" and response.pieces_taken <= 3


def test_an_image_bomb_is_unreadable(endpoint, monkeypatch):
    bomb = bytearray(png(np.zeros((2, 2, 3), np.uint8)))
    bomb[16:24] = (60000).to_bytes(4, "big") * 2
    bomb[29:33] = zlib.crc32(bytes(bomb[12:29])).to_bytes(4, "big")
    response = asked(endpoint(), body=bytes(bomb))
    assert response.status == 422 and "pixels" in response.json["error"]["message"]


@pytest.mark.parametrize("headers", [
    {}, {"authorization": "Bearer wrong-token-of-twenty-letters"}, {"authorization": TOKEN}, {"authorization": f"Basic {TOKEN}"},
    {"authorization": f"Bearer {TOKEN[:-1]}"}, {"authorization": f"Bearer {TOKEN}x"}, {"authorization": "Bearer é"}])
def test_without_the_token_nothing_is_received(endpoint, video, headers, caplog):
    response = asked(endpoint(TOKEN), body=video, headers=headers)
    assert (response.status, response.error, response.pieces_taken) == (401, "unauthorized", 0)
    assert response.headers["www-authenticate"] == "Bearer" and TOKEN not in str(response) + caplog.text


def test_with_the_token_it_answers_and_needs_no_name_of_this_machine(endpoint, video):
    headers = {"authorization": f"bearer {TOKEN}", "host": "detect.example.org", "origin": "https://elsewhere.example"}
    assert asked(endpoint(TOKEN), body=video, headers=headers).status == 200
    for path in ("/", "/healthz", "/openapi.json"):
        assert asked(endpoint(TOKEN), path, method="GET", body=None, headers=headers).status == 200


@pytest.mark.parametrize(("headers", "status"), [
    ({"host": "evil.example:8000"}, 403), ({"host": "127.0.0.1.evil.example"}, 403), ({"host": ""}, 403), ({"host": "[::"}, 403),
    ({"origin": "https://evil.example"}, 403), ({"origin": "null"}, 403), ({"origin": "http://127.0.0.1:9999"}, 403),
    ({"origin": "http://127.0.0.1:8000"}, 200), ({"host": "localhost"}, 200), ({"host": "[::1]:8000"}, 200)])
def test_without_a_token_foreign_pages_do_not_reach_it(endpoint, video, headers, status):
    response = asked(endpoint(), body=video, headers=headers)
    assert response.status == status and (status == 200 or response.error == "forbidden")


class Slow:
    """A judge that waits until it is let go."""

    def __init__(self):
        self.go, self.began = asyncio.Event(), 0

    async def examine(self, upload, **_):
        self.began += 1
        await self.go.wait()
        raise ServiceError(422, "seen")


def test_one_too_many_is_told_to_come_again_and_a_seat_is_free_afterwards(endpoint, video):
    async def crowd():
        slow = Slow()
        app = endpoint(judge=slow, queue=2)
        sitting = [asyncio.create_task(ask(app, body=video)) for _ in range(2)]
        while slow.began < 2:
            await asyncio.sleep(0.01)
        refused = await ask(app, body=video)
        assert (refused.status, refused.error, refused.pieces_taken) == (503, "busy", 0) and refused.headers["retry-after"]
        assert (await ask(app, "/healthz", method="GET", body=None)).status == 200
        slow.go.set()
        assert [one.status for one in await asyncio.gather(*sitting)] == [422, 422]
        assert (await ask(app, body=video)).status == 422
        gone = await ask(app, pieces=[b"a"], headers={"content-length": "9"}, hang_up=True)
        assert gone.status == 400
        assert [(await ask(app, body=video)).status for _ in range(3)] == [422] * 3

    asyncio.run(crowd())


def test_frames_of_few_files_are_in_memory_however_many_wait(endpoint, examiner, video):
    class Held:
        let_go, looked_at = threading.Event(), 0

        def detect(self, frames):
            self.looked_at += 1
            assert self.let_go.wait(60)
            return [[] for _ in frames]

    held = Held()
    judge = UploadJudge(examiner.extract, 2, examiner.thresholds, held, None)
    decoded, original = [], judge._decode
    judge._decode = lambda *arguments: decoded.append(original(*arguments)) or decoded[-1]

    async def crowd():
        app = endpoint(judge=judge)
        waiting = [asyncio.create_task(ask(app, body=video)) for _ in range(FILES_IN_MEMORY + 3)]
        while len(decoded) < FILES_IN_MEMORY:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.3)
        assert len(decoded) == FILES_IN_MEMORY and held.looked_at == 1
        held.let_go.set()
        assert {one.json["verdict"]["status"] for one in await asyncio.gather(*waiting)} == {"no_face"}

    asyncio.run(crowd())
    assert len(decoded) == FILES_IN_MEMORY + 3


def test_a_slow_upload_ends_with_the_time_limit(endpoint):
    began = time.monotonic()
    response = asked(endpoint(timeout_s=0.3), pieces=[b"x"] * 1000, pause_s=0.05, headers={"content-length": "1000"})
    assert (response.status, response.error) == (408, "upload_timeout") and time.monotonic() - began < 20


def test_judging_ends_with_the_time_limit_and_the_next_request_is_served(endpoint, examiner, about, video):
    class Stuck:
        def __init__(self):
            self.wait_s = 1.0

        def detect(self, frames):
            time.sleep(self.wait_s)
            return examiner.face_detector.detect(frames)

    async def none(_):
        raise AssertionError("scored after the time was up")

    stuck = Stuck()
    slow = UploadJudge(examiner.extract, 4, examiner.thresholds, stuck, none)

    async def two():
        app = endpoint(judge=slow, timeout_s=0.5)
        first = await ask(app, body=video)
        assert (first.status, first.error) == (504, "timeout")
        stuck.wait_s = 0.0
        patient = endpoint(judge=slow, timeout_s=60)
        assert (await ask(patient, body=b"no video")).status == 422
        dark = clips.clip(np.zeros((2, 64, 80, 3), np.uint8))
        assert (await ask(patient, body=dark)).json["verdict"]["verdict"] == "undecided"

    asyncio.run(two())


def test_decoding_ends_with_the_request_that_it_is_for(examiner, endpoint, video):
    extract = examiner.extract.model_copy(update={"decode_memory_mb": 128})  # a process of its own
    judge = UploadJudge(extract, 4, examiner.thresholds, examiner.face_detector, None)
    decoder = shared_decoder(DecodeLimits.of(extract))
    assert decoder.read_frames(video, count=1).status == "ok"
    os.kill(decoder.pid, signal.SIGSTOP)  # hangs, as on a crafted file
    began = time.monotonic()
    response = asked(endpoint(judge=judge, timeout_s=0.5), body=video)
    assert (response.status, response.error) == (504, "timeout")
    while decoder.pid is not None and time.monotonic() < began + 30:
        time.sleep(0.05)
    assert decoder.pid is None  # it did not go on until extract.decode_timeout_s


def test_a_failure_of_the_server_is_a_500_that_tells_nothing(endpoint, examiner, video, caplog):
    async def diverged(crops):
        raise UserError("secret path /home/me")

    broken = UploadJudge(examiner.extract, 4, examiner.thresholds, examiner.face_detector, diverged)
    response = asked(endpoint(judge=broken), body=video)
    assert (response.status, response.error) == (500, "internal") and b"secret" not in response.body
    assert "secret path" in caplog.text and response.headers["cache-control"] == "no-store"


# ---------------------------------------------------------------------------------------------------- what is left


def test_files_have_no_name_are_private_and_go_with_their_request(endpoint, video, open_files, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    app, facts = endpoint(), []
    original = Upload.add

    def watched(self, piece):
        facts.append((stat.S_IMODE(os.stat(self.path).st_mode), os.stat(self.path).st_nlink, os.listdir(tmp_path)))
        original(self, piece)

    monkeypatch.setattr(Upload, "add", watched)
    asked(app, body=video)
    before = open_files()
    for content in (video, b"no video at all", video[:500]):
        asked(app, body=content)
        asked(app, pieces=[content[:100]], headers={"content-length": "999"}, hang_up=True)
    assert set((mode, links) for mode, links, _ in facts) == {(0o600, 0)} and all(names == [] for *_, names in facts)
    assert open_files() == before


def test_every_answer_has_the_headers_of_safety(endpoint, video):
    app = endpoint()
    answers = [asked(app, body=video), asked(app, body=b"x"), asked(app, "/x", method="GET", body=None),
               asked(app, "/healthz", method="GET", body=None), asked(app, "/", method="GET", body=None)]
    for response in answers:
        assert response.headers["x-content-type-options"] == "nosniff" and response.headers["cache-control"] == "no-store"
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'") and "frame-ancestors 'none'" in policy and "unsafe" not in policy
        assert "access-control-allow-origin" not in response.headers


def test_the_page_holds_all_that_it_needs_and_its_policy_lets_it(endpoint):
    response = asked(endpoint(), "/", method="GET", body=None)
    text = response.body.decode()
    assert text == page() and response.headers["content-type"].startswith("text/html")
    for element in ("style", "script"):
        content = text.partition(f"<{element}>")[2].partition(f"</{element}>")[0]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{element}-src 'sha256-{digest}'" in response.headers["content-security-policy"]
    outside = text.replace("http://www.w3.org/2000/svg", "")
    assert "//" not in outside.replace("// ", "") and "innerHTML" not in text and " on" not in "".join(
        tag for tag in text.partition("<script>")[0].split("<") if "=" in tag and " on" in tag.partition(">")[0])


def test_openapi_tells_verdict_limits_and_errors(endpoint):
    document = asked(endpoint(), "/openapi.json", method="GET", body=None).json
    detect = document["paths"]["/v1/detect"]["post"]
    assert set(map(int, detect["responses"])) == {200, 400, 401, 403, 408, 411, 413, 415, 422, 503, 504}
    schemas = document["components"]["schemas"]
    verdict = asked(endpoint(), body=png(np.zeros((64, 64, 3), np.uint8))).json["verdict"]
    assert set(schemas["Verdict"]["properties"]) == set(verdict)
    assert "ErrorFacts" in schemas and "schema" in schemas["Answer"]["properties"]
    assert "application/octet-stream" in detect["requestBody"]["content"]
