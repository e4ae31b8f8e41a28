"""What a pass forward and back costs with malloc as it is, and where it keeps freed memory as in Ray's processes (cluster.local.KEEP_MEMORY).

    python -m benchmarks.kept_memory [--shapes 80x16 96x16 ...]

Each figure is of a process of its own: tf_efficientnet_lite0 with random weights, channels last, one thread that is not the process's first,
as Ray Train has it. Milliseconds of CPU a pass, the kernel's part of them (making pages, mostly), pages made, and the most memory held.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import threading
import time

from cluster.local import KEEP_MEMORY

SHAPES = ("80x16", "48x32", "96x16", "128x32", "128x64", "224x16")
"""Pixels a side x images."""
ROUNDS, PIXELS_A_ROUND = 6, 2**21
"""The last round counts."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        return _one(*map(int, arguments.one.split("x")))
    print("| pixels x images | ms a pass | of the kernel | pages | MiB | keeping memory: ms | of the kernel | pages | MiB | ratio |\n|---" + 9 * "|---" + "|")
    for shape in arguments.shapes:
        rows = [_in_process(shape, extra) for extra in ({}, KEEP_MEMORY)]
        cells = [f"{row['ms']:.0f} | {row['kernel_ms']:.0f} | {row['pages']:.0f} | {row['mib']}" for row in rows]
        print(f"| {shape} | {' | '.join(cells)} | {rows[0]['ms'] / rows[1]['ms']:.2f} |", flush=True)
    return 0


def _in_process(shape: str, extra: dict[str, str]) -> dict:
    environment = {name: value for name, value in os.environ.items() if name not in KEEP_MEMORY} | extra
    told = subprocess.run([sys.executable, "-m", "benchmarks.kept_memory", "--one", shape], env=environment, capture_output=True, text=True, check=True)
    return json.loads(told.stdout.splitlines()[-1])


def _one(size: int, images: int) -> int:
    import timm
    import torch

    torch.set_num_threads(1)
    figures = {}

    def work() -> None:
        torch.manual_seed(0)
        network = timm.create_model("tf_efficientnet_lite0", num_classes=1).to(memory_format=torch.channels_last)
        x = torch.rand(images, 3, size, size).to(memory_format=torch.channels_last)
        passes = max(2, PIXELS_A_ROUND // (size * size * images))
        for _ in range(ROUNDS):
            before, began = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
            for _ in range(passes):
                network(x.clone().requires_grad_()).sum().backward()
            after, ended = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
        figures.update(ms=1000 * (ended - began) / passes, kernel_ms=1000 * (after.ru_stime - before.ru_stime) / passes,
                       pages=(after.ru_minflt - before.ru_minflt) / passes, mib=after.ru_maxrss >> 10)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
