"""The two Ray Serve deployments of jobs.serve: one takes requests, decodes and finds faces, the other has the model.

Faces ask for CPU time, memory and a child process a file, the model for a GPU where there is one: so there may be several of
the first for one of the second, which takes the crops of all of them together. What passes between them are encoded crops,
never frames.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import Callable, Sequence

import numpy as np
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from robust.config import Config
from robust.detection import Threshold
from robust.errors import UserError
from robust.serving.errors import ServiceError
from robust.storage import Storage

SPARE = 16
"""Requests beside those that hold a seat: the page, health, and those that are refused by the endpoint itself."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """Everything that the deployments are made from; no secret among it.

    Args:
        place, key: the checkpoint's; card: as it was read when the endpoint was made.
        about: what `robust.serving.answer.About` holds.
        open_here: there is no token and nobody but this machine reaches the endpoint.
    """

    config: Config
    place: Storage
    key: str
    card: dict
    thresholds: dict[str, Threshold]
    about: dict
    open_here: bool


@serve.ingress()
class Faces:
    """The endpoint of robust/serving, its crops scored by the other deployment."""

    def __init__(self, plan: Plan, model: DeploymentHandle):
        import cv2
        import torch

        from robust.data.faces import build_detector
        from robust.serving.access import Access
        from robust.serving.answer import About
        from robust.serving.app import build_app
        from robust.serving.judging import UploadJudge

        config, own = plan.config, plan.config.serve.faces
        threads = max(1, int(own.cpus))
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        self.model, self.most = model, config.serve.batch_crops
        detector = build_detector(config.extract, device="cuda" if own.gpus else "cpu", threads=threads)
        access = Access.from_environment(config.serve, os.environ, local=plan.open_here)
        judge = UploadJudge(config.extract, config.detect.frames, plan.thresholds, detector, self.score)
        self.application = build_app(judge, About(**plan.about), config.serve, access)

    def __serve_build_asgi_app__(self):
        return self.application

    async def score(self, crops: list[bytes]) -> np.ndarray:
        """(N,) logits of N encoded crops. Raises: ServiceError: the model's process is gone."""
        try:
            return await score_in_parts(self.model.score.remote, crops, most=self.most)
        except (RayActorError, DeploymentUnavailableError) as error:
            raise ServiceError(503, "the model is not ready; try again in some seconds", retry_after="10") from error


class Model:
    """Scores face crops, those of several requests together."""

    def __init__(self, plan: Plan):
        import torch

        from robust.models.checkpoint import load_checkpoint

        own = plan.config.serve.model
        torch.set_num_threads(max(1, int(own.cpus)))
        model, card = load_checkpoint(plan.place, plan.key)
        if card != plan.card:
            raise UserError(f"the checkpoint {plan.place.uri(plan.key)} was changed since the endpoint started; start it again")
        self.on_gpu = own.gpus > 0
        self.model = model.to("cuda" if self.on_gpu else "cpu")
        self.score.set_max_batch_size(plan.config.serve.batch_crops)
        self.score.set_batch_wait_timeout_s(plan.config.serve.batch_wait_s)

    @serve.batch(batch_size_fn=lambda requests: sum(map(len, requests)))
    async def score(self, requests: list[list[bytes]]) -> list[np.ndarray]:
        return await asyncio.to_thread(score_together if self.on_gpu else score_apart, self.model, requests)


async def score_in_parts(ask: Callable, crops: list[bytes], *, most: int) -> np.ndarray:
    """(N,) logits of N crops, asked for by at most so many; if it is given up, so is what was asked."""
    answers = [ask(crops[start:start + most]) for start in range(0, len(crops), most)]
    try:
        return np.concatenate(await asyncio.gather(*answers))
    except BaseException:  # Serve does not tell those whom a request asked that its time is up
        for answer in answers:
            answer.cancel()
        raise


def score_together(model, requests: Sequence[list[bytes]]) -> list[np.ndarray]:
    """All crops as one: what a GPU is fast at. The last bits of a logit may depend on the others."""
    from robust.serving.judging import score_encoded

    logits = score_encoded(model, [crop for crops in requests for crop in crops])
    return np.split(logits, np.cumsum([len(crops) for crops in requests])[:-1])


def score_apart(model, requests: Sequence[list[bytes]]) -> list[np.ndarray]:
    """Request by request, to the last bit as jobs.detect does: a CPU gains nothing from more than a video's crops at once."""
    from robust.serving.judging import score_encoded

    return [score_encoded(model, crops) for crops in requests]


def bind(plan: Plan) -> serve.Application:
    """The application, as `serve.run` and serveConfigV2 take it."""
    settings = plan.config.serve
    model = serve.deployment(Model).options(
        name="model", **_replicas(settings.model), graceful_shutdown_timeout_s=settings.timeout_s, max_ongoing_requests=max(64, settings.queue * settings.faces.most))
    faces = serve.deployment(Faces).options(
        name="faces", **_replicas(settings.faces), graceful_shutdown_timeout_s=settings.timeout_s, max_ongoing_requests=settings.queue + SPARE, max_queued_requests=SPARE)
    return faces.bind(plan, model.bind(plan))


def _replicas(own) -> dict:
    actor = {"ray_actor_options": {"num_cpus": own.cpus, "num_gpus": own.gpus}}
    if own.least == own.most:
        return {"num_replicas": own.least, **actor}
    return {"autoscaling_config": {"min_replicas": own.least, "max_replicas": own.most}, **actor}
