"""One file for each way to a cluster: `files(description)` returns {path: text}, relative to the output folder."""

import yaml

KINDS = ("aws", "gcp", "kuberay", "slurm", "image")


def dumped(*documents: dict) -> str:
    """YAML of one or several documents, keys in the order given."""
    return "---\n".join(yaml.dump(document, Dumper=Plain, sort_keys=False, width=118) for document in documents)


class Plain(yaml.SafeDumper):
    """Writes what is used twice twice (not every reader knows anchors), and several lines of text as lines."""

    def ignore_aliases(self, data) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


Plain.add_representer(str, _text)
