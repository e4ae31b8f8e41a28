"""The folder of a run in storage: which configuration it belongs to, where each stage writes, and what is done."""

import yaml

from robust.config import Config
from robust.config_file import parse
from robust.config_identity import differences, dump_yaml, fingerprint
from robust.errors import ConfigError
from robust.storage import Storage

FOLDERS = {"extract": "faces", "train": "train", "tune": "tune", "evaluate": "evaluate", "report": "report",
           "detect_many": "detect", "pipeline": ""}
"""Where each stage writes, below the run's folder."""

SECTIONS = {
    "extract": ("data", "extract"),
    "train": ("data", "extract", "model", "augment", "train"),
    "tune": ("data", "extract", "model", "augment", "train", "tune"),
    "evaluate": ("data", "extract", "model", "augment", "train", "tune", "evaluate"),
    "detect_many": ("extract",),
    "pipeline": ("data", "extract", "model", "augment", "train", "tune", "evaluate"),
}
"""The sections of the configuration that decide a stage's result."""


class RunFolder:
    """Keys and results of one run: `<run name>/{config.yaml, faces/, train/, tune/, evaluate/, report/}`."""

    def __init__(self, storage: Storage, config: Config):
        """Nothing is read or written yet; see `open`."""
        self.storage, self.config = storage, config

    @property
    def config_key(self) -> str:
        return f"{self.config.run.name}/config.yaml"

    def open(self) -> "RunFolder":
        """Claims the run's name for this configuration, or finds that the same one claimed it before.

        Raises:
            ConfigError: the name belongs to a run with other science settings; names the keys that differ.
        """
        text = dump_yaml(self.config)
        if self.storage.write_bytes(self.config_key, text.encode(), if_absent=True):
            return self
        try:
            first = parse(yaml.safe_load(self.storage.read_bytes(self.config_key)))
        except (yaml.YAMLError, ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.storage.uri(self.config_key)} is not a configuration of this version ({error}); "
                              "choose another run.name, or delete the run's folder.") from error
        differ = differences(first, self.config)
        if differ:
            raise ConfigError(f"run.name={self.config.run.name} belongs to a run with other settings "
                              f"({'; '.join(differ)}); choose another run.name, or go back to those settings.")
        return self

    def key(self, stage: str, *parts: str) -> str:
        """Key of something a stage writes: key("train", "defended", "card.json")."""
        return "/".join(part for part in (self.config.run.name, FOLDERS[stage], *parts) if part)

    def result(self, stage: str) -> dict | None:
        """The stage's result.json, or None."""
        key = self.key(stage, "result.json")
        return self.storage.read_json(key) if self.storage.exists(key) else None

    def write_result(self, stage: str, result: dict) -> str:
        """Writes result.json, which marks the stage as done with this configuration; returns its key."""
        key = self.key(stage, "result.json")
        self.storage.write_json(key, {"stage": stage, "run": self.config.run.name, "status": "done",
                                      "fingerprint": self.fingerprint(stage), **result})
        return key

    def is_done(self, stage: str) -> bool:
        """Whether the stage has ended well with settings that would give the same result."""
        result = self.result(stage) or {}
        return result.get("status") == "done" and result.get("fingerprint") == self.fingerprint(stage)

    def fingerprint(self, stage: str) -> str:
        return fingerprint(self.config, SECTIONS[stage])
