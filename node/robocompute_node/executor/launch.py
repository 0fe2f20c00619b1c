"""Forks the process that becomes bubblewrap. Standard library only."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import stat

from robocompute_node.executor import sandbox
from robocompute_node.executor.spec import Bind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from robocompute_node.executor.cgroups import Group
    from robocompute_node.executor.spec import Spec

STAGE = "/tmp"  # noqa: S108 (covered, in a mount namespace of its own, by a tmpfs of root's)
"""Where root shows a job's folders to the job's user, who may not pass through their parents."""
FAILED = 125
"""The exit status of a launch that did not get as far as bubblewrap."""
_NICE = 5
"""Below the daemon, which has ticks to sign in time."""
_OPEN_FILES = 65_536
_LOCKED_BYTES = 67_108_864
"""Pinned memory: CUDA and NCCL ask for some."""
_FILE_SLACK = 16_777_216
"""One file may go over the disk limit by this much: that it did is then seen, and is the cause."""
_OOM_SCORE = "900"
"""When the host runs out of memory, jobs go before daemons."""
_HIGH_FD = 64
"""Above every descriptor a shell redirects."""
_CLONE_NEWNS = 0x00020000
_MS_BIND, _MS_REC, _MS_PRIVATE = 4096, 16384, 1 << 18


def launch(
    spec: Spec, group: Group, *, stdout: int, stderr: int, status: int, started: int
) -> int:
    """Return the process id of bubblewrap, in a session of its own.

    What keeps the child from becoming bubblewrap is on ``stderr``; it then exits with ``FAILED``.
    """
    pid = os.fork()
    if pid:
        return pid
    try:
        _become(spec, group, stdout=stdout, stderr=stderr, status=status, started=started)
    except BaseException as exc:  # noqa: BLE001 (a forked child may not return into its parent)
        os.write(2, f"the sandbox could not be started: {exc}\n".encode())
    finally:
        os._exit(FAILED)


def _become(
    spec: Spec, group: Group, *, stdout: int, stderr: int, status: int, started: int
) -> None:
    signal.set_wakeup_fd(-1)
    for number in range(1, signal.NSIG):
        # Ignored signals are inherited through exec: a job's Ctrl-C would be dead.
        try:
            signal.signal(number, signal.SIG_DFL)
        except (OSError, ValueError):
            continue
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.setsid()
    status = fcntl.fcntl(status, fcntl.F_DUPFD, _HIGH_FD)
    started = fcntl.fcntl(started, fcntl.F_DUPFD_CLOEXEC, _HIGH_FD)
    null = os.open("/dev/null", os.O_RDONLY)
    for fd, number in ((null, 0), (stdout, 1), (stderr, 2), (started, sandbox.STARTED_FD)):
        os.dup2(fd, number)
    group.join()
    _set_limits(spec)
    binds = spec.binds
    if spec.uid is not None:
        binds = _stage(binds)
        os.setgroups([])
        os.setresgid(spec.uid, spec.uid, spec.uid)
        os.setresuid(spec.uid, spec.uid, spec.uid)
    os.umask(0o022)
    argv = sandbox.command(spec, binds, status_fd=status)
    # An empty environment: what bubblewrap is given, the job reads in its /proc/1/environ.
    os.execve(argv[0], argv, {})  # noqa: S606 (no shell is the point)


def _set_limits(spec: Spec) -> None:
    for what, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, _OPEN_FILES),
        (resource.RLIMIT_MEMLOCK, _LOCKED_BYTES),
        (resource.RLIMIT_FSIZE, spec.limits.disk_bytes + _FILE_SLACK),
    ):
        _, hard = resource.getrlimit(what)
        top = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(what, (top, top))
        except (OSError, ValueError):
            continue
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as file:
            file.write(_OOM_SCORE)
    except OSError:
        pass
    os.nice(_NICE)


def _stage(binds: list[Bind]) -> list[Bind]:
    """Show each source at a path its new user can reach: parents may be root's alone.

    In a mount namespace of this process's own, which goes away with it.
    """
    import ctypes  # here alone: only root needs it, and it is a tenth of the time to start

    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result: int, what: str) -> None:
        if result != 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"{what}: {os.strerror(errno)}")

    checked(libc.unshare(_CLONE_NEWNS), "unshare")
    checked(libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None), "mount --make-rprivate /")
    sources = [os.open(bind.source, os.O_PATH | os.O_CLOEXEC) for bind in binds]
    checked(libc.mount(b"stage", STAGE.encode(), b"tmpfs", 0, b"mode=0755"), "mount tmpfs")
    staged: list[Bind] = []
    for number, (bind, fd) in enumerate(zip(binds, sources, strict=True)):
        place = f"{STAGE}/{number}"
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            os.mkdir(place)
        else:
            os.close(os.open(place, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))
        flags = _MS_BIND | _MS_REC
        source = f"/proc/self/fd/{fd}".encode()
        checked(libc.mount(source, place.encode(), None, flags, None), f"bind {bind.source}")
        os.close(fd)
        staged.append(Bind(place, bind.target, writable=bind.writable))
    return staged
