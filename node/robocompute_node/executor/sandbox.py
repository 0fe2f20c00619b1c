"""The bubblewrap command of one run. Standard library only.

The sandbox sees: the system's /usr read-only, a handful of /etc files, its own /proc, a minimal
/dev, /tmp and /dev/shm in memory, and what the spec binds. No host process, socket or home.
"""

from __future__ import annotations

import os

from robocompute_node.executor import gpus, seccomp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from robocompute_node.executor.spec import Bind, Spec

UID = 1000
"""The user inside."""
STARTED_FD = 9
"""One digit, because dash redirects no more; the launcher says here that the program is next."""
_SYSTEM_FILES = (
    "/etc/ld.so.cache",
    "/etc/alternatives",
    "/etc/localtime",
    "/etc/ssl/certs",
    "/etc/pki/tls/certs",
    "/etc/pki/ca-trust/extracted",
    "/etc/mime.types",
)
_PASSWD = f"job:x:{UID}:{UID}:job:/job:/bin/sh\n"
_GROUP = f"job:x:{UID}:\n"
_HOSTS = "127.0.0.1 localhost job\n::1 localhost\n"
_NSSWITCH = "hosts: files dns\npasswd: files\ngroup: files\n"
_PROC_READ_ONLY = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
_TMPFS_SHARE = 2
"""The memory file systems may each hold this fraction of the job's memory, whose cap they count in."""
_LAUNCHER = f'echo >&{STARTED_FD}; exec {STARTED_FD}>&-; exec "$@"'


def _memory_file(data: bytes) -> str:
    fd = os.memfd_create("sandbox", 0)
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    os.lseek(fd, 0, os.SEEK_SET)
    os.set_inheritable(fd, True)
    return str(fd)


def command(spec: Spec, binds: list[Bind], *, status_fd: int) -> list[str]:
    """Return the argv to execute, with an empty environment, in the process that calls this.

    It refers to descriptors this call opened, to ``status_fd``, and to ``STARTED_FD``. ``binds``
    are the spec's own with sources as this process can reach them.
    """
    options = [
        "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
        "--unshare-net", "--unshare-cgroup-try", "--disable-userns", "--uid", str(UID), "--gid", str(UID),
        "--hostname", "job", "--cap-drop", "ALL", "--die-with-parent", "--new-session",
    ]  # fmt: skip
    options += ["--perms", "0755", "--tmpfs", "/", "--ro-bind", "/usr", "/usr"]
    for name in ("bin", "sbin", "lib", "lib64", "lib32"):
        if os.path.islink(f"/{name}"):
            options += ["--symlink", f"usr/{name}", f"/{name}"]
        else:
            options += ["--ro-bind-try", f"/{name}", f"/{name}"]
    for path in _SYSTEM_FILES:
        options += ["--ro-bind-try", path, path]
    for text, path in (
        (_PASSWD, "/etc/passwd"),
        (_GROUP, "/etc/group"),
        (_NSSWITCH, "/etc/nsswitch.conf"),
    ):
        options += ["--ro-bind-data", _memory_file(text.encode()), path]
    options += ["--ro-bind-data", _memory_file(_HOSTS.encode()), "/etc/hosts"]
    options += ["--proc", "/proc", "--dev", "/dev"]
    size = str(max(1, spec.limits.memory_bytes // _TMPFS_SHARE))
    for path in ("/dev/shm", "/tmp"):  # noqa: S108 (inside)
        options += ["--size", size, "--perms", "1777", "--tmpfs", path]
    options += ["--perms", "0700", "--dir", "/run"]
    for path in _PROC_READ_ONLY:
        options += ["--ro-bind-try", path, path]
    for bind in binds:
        options += ["--bind" if bind.writable else "--ro-bind", bind.source, bind.target]
    options += [*gpus.arguments(spec.gpus), "--remount-ro", "/", "--clearenv"]
    for name, value in spec.env.items():
        options += ["--setenv", name, value]
    options += ["--seccomp", _memory_file(seccomp.build())]
    options += ["--json-status-fd", str(status_fd), "--chdir", spec.cwd]
    # By descriptor, not as words: the job can read its process 1's command line.
    arguments = _memory_file(b"".join(os.fsencode(option) + b"\0" for option in options))
    # Set inside the user namespace, where it counts this job alone.
    nproc = f"--nproc={spec.limits.pids}:{spec.limits.pids}"
    return [
        spec.bwrap, "--args", arguments, "--",
        "/usr/bin/prlimit", nproc, "--", "/bin/sh", "-c", _LAUNCHER, "job", *spec.argv,
    ]  # fmt: skip
