"""Hostile uploads, drawn from a seed: each is answered in the one shape, and the endpoint lives on."""

import asyncio

import numpy as np

from benchmarks import mutated_videos
from benchmarks.serving import hostile_requests
from robust.data.decoder_process import shared_decoder
from tests import clips
from tests.serving.asgi import ask

COUNT = 300


def test_three_hundred_hostile_uploads_end_in_a_verdict_or_a_typed_4xx(endpoint, judge, open_files, monkeypatch):
    few = {"h264": ("mp4", clips.noisy(12)), "avi": ("avi", clips.noisy(8, container="avi", codec="mpeg4")),
           "vp8": ("webm", clips.noisy(8, container="webm", codec="libvpx")), "song": ("mp4", clips.audio_only(cover=True)),
           "variable-rate": ("mp4", clips.variable_rate()[0])}
    monkeypatch.setattr(mutated_videos, "base_clips", lambda: few)

    face = clips.noisy(8)

    async def attack():
        app = endpoint(max_upload_mb=0.05)
        found = []
        before = None
        for number, request in enumerate(hostile_requests(COUNT, seed=7, limit=int(0.05 * 2**20))):
            response = await ask(app, request.path, method=request.method, body=request.body, headers=request.headers)
            if number == 50:
                before = open_files()
            found.append(response.status if response.status == 200 else (response.status, response.error))
        assert open_files() <= before + 2
        alive = await ask(app, body=face)
        assert alive.status == 200 and alive.json["verdict"]["score"] is not None
        return found

    found = asyncio.run(attack())
    statuses = {one if isinstance(one, int) else one[0] for one in found}
    assert len(found) == COUNT and statuses <= {200, 400, 403, 404, 405, 411, 413, 415, 422}
    assert {200, 400, 413, 415, 422} <= statuses
    assert shared_decoder(judge._limits).pid is not None and np.mean([one == 200 for one in found]) > 0.1
