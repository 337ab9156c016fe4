"""Who works on a trial: host, process and the moment it began, so that a reused process id is not mistaken."""

import platform

import psutil


def myself() -> str:
    """This process."""
    return _name(psutil.Process())


def child(pid: int) -> str:
    """A process that this one has started and not yet waited for."""
    return _name(psutil.Process(pid))


def is_alive(worker: str) -> bool:
    """Whether a process of this machine still runs; one of another machine counts as dead."""
    try:
        process = psutil.Process(int(worker.split(":")[1]))
        return _name(process) == worker and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _name(process: psutil.Process) -> str:
    return f"{platform.node()}:{process.pid}:{process.create_time():.2f}"
