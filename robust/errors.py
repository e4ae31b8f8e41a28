"""Errors that a person can act on; the jobs turn them into an exit code and one clear last line."""


class UserError(Exception):
    """Something outside the code is wrong: a file, a bucket, a data set, the cluster. Exit code 1."""


class ConfigError(UserError):
    """The configuration is wrong; the message names the key, its value and what is allowed. Exit code 2."""


class StorageError(UserError):
    """The bucket refuses, or cannot be reached."""


class NonFiniteLoss(UserError):
    """A training whose loss is no finite number; nothing that it would do from there on is worth anything.

    Attributes:
        batch: {"epoch", "step", "crops"}: where, and the crops of the whole batch as `CropSet.ids` names them.
    """

    batch: dict | None = None
