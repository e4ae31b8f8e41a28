"""Outlives a job by a moment and sees to it that nothing else does: kills what the job left, removes its folder.

Ray's agents notice only after a minute that their cluster was killed with the job. A process of its own, started as
`python guardian.py NAME FOLDER PSUTIL` with a pipe as stdin: when the pipe closes, the job has ended or died, and the
processes of the session in FOLDER get a short time to end, too.
"""

import os
import select
import shutil
import signal
import sys
import time

GRACE_S = 5


def wait_for_the_job(parent: int) -> None:
    """Returns when stdin closes, or the parent is another (a fork of the job may hold the pipe open)."""
    while os.getppid() == parent:
        if select.select([sys.stdin], [], [], 1.0)[0] and not os.read(sys.stdin.fileno(), 1):
            return


def session_processes(psutil, name: str, folder: str) -> list:
    """The processes that were started with NAME=FOLDER in the environment, and Ray's that log into FOLDER.

    Both are asked because Ray's agents overwrite their environment with their title.
    """
    found, own = [], (os.getpid(), os.getppid())
    for process in psutil.process_iter():
        try:
            if process.pid not in own and (process.environ().get(name) == folder or logs_into(process, folder)):
                found.append(process)
        except (psutil.Error, OSError):
            continue  # another user's, a zombie, or gone
    return found


def logs_into(process, folder: str) -> bool:
    """Whether it is a process of Ray that has a file below the folder open."""
    is_rays = process.cmdline()[:1] and process.cmdline()[0].startswith("ray::")
    return bool(is_rays) and any(file.path.startswith(f"{folder}/") for file in process.open_files())


def end_session(psutil, name: str, folder: str, grace_s: float) -> None:
    """Waits at most grace_s for the session's processes to end, then kills them."""
    deadline = time.monotonic() + grace_s
    while (left := session_processes(psutil, name, folder)) and time.monotonic() < deadline:
        time.sleep(0.1)
    while left:
        for process in left:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(left, timeout=GRACE_S)
        left = session_processes(psutil, name, folder)


def main(name: str, folder: str, psutil_path: str) -> None:
    parent = os.getppid()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.path.insert(0, psutil_path)
    import psutil  # Ray's own copy; importing Ray itself would take seconds

    sys.stdout.write("ready\n")
    sys.stdout.flush()
    wait_for_the_job(parent)
    end_session(psutil, name, folder, GRACE_S)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
