"""The keeper: starts the zygote, and ends all that is below it when it has to end. `python -m worker.keeper`.

A zygote that was killed, or stands still, tidies up nothing. What agents started can leave its group and outlive its
parent; but who loses its parent below the keeper becomes the keeper's child. So the keeper kills its children, again
and again until it has none, as soon as

    the zygote is gone, for whatever reason · the worker says so (`END`) · the worker is gone (the kernel sends `END`)

Only then is its end of the control socket closed, which is the zygote's too: to the worker the end of that socket means
that nothing is left. At last it removes the sandboxes' folder. It listens to nobody else, and runs nothing of an agent.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from shared import linux
from worker.folders import remove
from worker.walls import account

# Not SIGTERM, which whoever stops a service may send to all of its processes: the worker tells when to end.
END = signal.SIGUSR1
REMOVE_TIMEOUT_S = 10.0
LOOK_EVERY_S = 0.1
KILLED = 128  # and the signal that ended the zygote: our exit status, as shells do it


def main() -> None:
    """Starts from an exec: the arguments are the worker's pid, the sandboxes' folder, their `Confinement` as JSON.

    Exits with the zygote's status; if a signal ended it, with `KILLED` and that.
    """
    worker, folder, confinement = sys.argv[1:]
    signal.pthread_sigmask(signal.SIG_BLOCK, {END, signal.SIGCHLD})
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    linux.die_with_parent(int(worker), END)
    linux.hide_memory()
    linux.become_subreaper()
    argv = [sys.executable, "-m", "worker.zygote", str(os.getpid()), folder, confinement]
    zygote = os.posix_spawn(sys.executable, argv, os.environ, setsigmask=())
    while signal.sigwait({END, signal.SIGCHLD}) != END and not _has_exited(zygote):
        pass  # it was stopped, or goes on
    code = _end_all(zygote)
    os.close(sys.stdin.fileno())
    remove(folder, REMOVE_TIMEOUT_S)
    os._exit(code if code >= 0 else KILLED - code)


def kill_group(pid: int, signum: int) -> None:
    """Signals a child that is not reaped yet, so that the pid is still its own, and the group that it may lead."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signum)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)  # it may not have made its group yet


def _has_exited(pid: int) -> bool:
    """Tells whether a child has exited, leaving it to be reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _end_all(zygote: int) -> int:
    """Kills and reaps our children until there are none, and returns how the zygote ended, negative: its signal.

    It takes as long as it takes: what is left would be nobody's.
    """
    code, ended = 0, set()
    while True:
        for pid in linux.children():
            kill_group(pid, signal.SIGKILL)
            if (uid := account.of(pid)) is not None and uid not in ended:
                with contextlib.suppress(OSError):
                    account.kill_all(uid)
                    ended.add(uid)
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == zygote:
            code = os.waitstatus_to_exitcode(status)
        elif pid == 0:
            signal.sigtimedwait({signal.SIGCHLD}, LOOK_EVERY_S)


if __name__ == "__main__":
    main()
