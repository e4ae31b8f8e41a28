"""What a gate returns."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Gate:
    """The outcome of one gate on one model.

    Args:
        name: the gate's, as in docs/gates.md.
        passed: False: figures of robustness of this model are not to be believed.
        measured: the numbers, in words.
        remedy: what to do if it failed.
    """

    name: str
    passed: bool
    measured: str
    remedy: str

    def as_dict(self) -> dict:
        return dataclasses.asdict(self)
