"""Slurm: one sbatch file that starts Ray on every node of the allocation, runs a job, and ends with its exit code.

Nothing is installed on the nodes: they run the checkout's own .venv, from a disk that all of them see. `slurm_job.sh`
is the part that is the same for everyone.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from cluster.description import Description
from cluster.tls import VALID_FOR
from robust.deploy_config import SlurmConfig
from robust.errors import ConfigError

BODY = Path(__file__).with_name("slurm_job.sh")


def files(description: Description) -> dict[str, str]:
    slurm = description.deploy.slurm
    description.require_room({slurm.group: slurm.nodes})
    days = int(slurm.time.partition("-")[0]) if "-" in slurm.time else 0
    if description.config.cluster.tls and days >= VALID_FOR.days:
        raise ConfigError(
            f"cluster.deploy.slurm.time: {slurm.time!r}: with cluster.tls give less than {VALID_FOR.days} days: "
            "the job's certificate lasts no longer"
        )
    return {"job.sbatch": sbatch(description, slurm), "ray_config.yaml": description.job_settings}


def sbatch(description: Description, slurm: SlurmConfig) -> str:
    """Slurm reads its own lines without a shell; their values have no space in them (robust/config.py)."""
    group = description.group(slurm.group)
    options = {
        "job-name": f"{description.deploy.name}-{slurm.stage}",
        "nodes": slurm.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": group.cpus,
        "gpus-per-node": group.gpus or None,
        "mem": f"{group.memory_gb}G",
        "time": slurm.time,
        "partition": slurm.partition,
        "account": slurm.account,
        "output": "%x-%j.log",
        "signal": "B:TERM@120",  # two minutes before the limit the job is asked to stop; the same file again goes on
    }
    tls = "yes" if description.config.cluster.tls else "no"
    values = {"folder": slurm.folder, "stage": slurm.stage, "cpus": group.cpus, "gpus": group.gpus, "tls": tls}
    return "\n".join(
        [
            "#!/bin/bash",
            *(f"#SBATCH --{key}={value}" for key, value in options.items() if value is not None),
            "",
            *(f"{key}={shlex.quote(str(value))}" for key, value in values.items()),
            "",
            BODY.read_text(),
        ]
    )
