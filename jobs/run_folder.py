"""The folder of a run in storage: which settings it belongs to, where each stage writes, and what is done."""

import yaml

from robust.config import Config
from robust.config_file import parse_section
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

KEPT = ("run", "data", "extract", "model", "augment", "train", "tune")
"""The sections that belong to a run as soon as a stage that OWNS them has begun: what it stores depends on them."""
OWNS = {
    "extract": ("run", "data", "extract"),
    "train": ("run", "model", "augment", "train"),
    "tune": ("run", "model", "augment", "train", "tune"),
    "pipeline": KEPT,
}
NEEDS = {"extract": OWNS["extract"], "detect_many": ()}
"""The kept sections in which a stage must agree with the run, by default all: its own, and those of what it takes.

An evaluation's results are named by a hash of its settings and of the weights, those of detect_many are in a folder
named by one, so neither owns anything.
"""


class RunFolder:
    """Keys and results of a run: `<run name>/{config.yaml, settings/, faces/, train/, tune/, evaluate/, report/}`."""

    def __init__(self, storage: Storage, config: Config):
        """Nothing is read or written yet; see `open`."""
        self.storage, self.config = storage, config

    @property
    def config_key(self) -> str:
        return f"{self.config.run.name}/config.yaml"

    def open(self, stage: str) -> "RunFolder":
        """Makes the settings that the stage's results depend on the run's, or finds that they are.

        config.yaml becomes this job's configuration, with the run's own sections where the stage needs none of them.

        Raises:
            ConfigError: the run has other science settings where the stage must agree; names the keys that differ.
        """
        kept = self.require_same(stage)
        for section in self._owned(stage):
            text = yaml.safe_dump(getattr(self.config, section).model_dump(mode="json"), sort_keys=False).encode()
            key = self._settings_key(section)
            if section not in kept and not self.storage.write_bytes(key, text, if_absent=True):
                kept = self.require_same(stage)  # another job was here first
        needed = NEEDS.get(stage, KEPT)
        others = {section: values for section, values in kept.items() if section not in needed}
        told = dump_yaml(self.config.model_copy(update=others)).encode()
        self.storage.write_bytes(self.config_key, told, if_absent=not needed)
        return self

    def require_same(self, stage: str) -> dict:
        """Compares the settings with the run's, and writes nothing; returns the sections that the run has.

        Raises:
            ConfigError: as of `open`.
        """
        needed = NEEDS.get(stage, KEPT)
        if not needed:
            return {}
        there = set(self.storage.list(f"{self.config.run.name}/settings"))
        kept = {section: self._kept(section) for section in KEPT if self._settings_key(section) in there}
        first = self.config.model_copy(update={section: kept[section] for section in needed if section in kept})
        differ = differences(first, self.config)
        if differ:
            raise ConfigError(f"run.name={self.config.run.name} belongs to a run with other settings "
                              f"({'; '.join(differ)}); choose another run.name, or go back to those settings.")
        return kept

    def _owned(self, stage: str) -> tuple[str, ...]:
        """A pipeline without a search leaves its settings to one that comes later."""
        without = ("tune",) if stage == "pipeline" and not self.config.tune.samples else ()
        return tuple(section for section in OWNS.get(stage, ()) if section not in without)

    def _settings_key(self, section: str) -> str:
        return f"{self.config.run.name}/settings/{section}.yaml"

    def _kept(self, section: str):
        key = self._settings_key(section)
        try:
            return parse_section(type(getattr(self.config, section)), yaml.safe_load(self.storage.read_bytes(key)))
        except (yaml.YAMLError, ConfigError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self.storage.uri(key)} is not a configuration of this version ({error}); "
                              "choose another run.name, or delete the run's folder.") from error

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
