"""Connects to a port inside a job's own network, for its supervisor. Standard library only.

The sandbox has no way in: a child of the supervisor goes there, connects, and hands the connected
socket out. The job sees a connection from its own loopback; nothing but its own network can be
reached, because the socket was made there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket

_CONNECT_S = 3.0
"""A program on the same machine takes a connection at once or is too busy to."""
_CLONE_NEWUSER = 0x10000000
_CLONE_NEWNET = 0x40000000
_NS_GET_USERNS = 0xB701
_LOOPBACKS = ("127.0.0.1", "::1")


def network_of(pid: int) -> int | None:
    """Return the number of a process's network, or None where it is this process's own."""
    try:
        found = os.stat(f"/proc/{pid}/ns/net").st_ino
    except OSError:
        return None
    return None if found == os.stat("/proc/self/ns/net").st_ino else found


def answer_with_connection(client: socket.socket, pid: int, network: int, port: int) -> int:
    """Connect to ``port`` in ``network``, which ``pid`` is in; answer ``client`` from a child.

    Returns the child's number at once; the caller waits for it. The answer is a line of JSON,
    with the connected socket beside it unless it says ``error``.
    """
    child = os.fork()
    if child:
        return child
    try:
        signal.set_wakeup_fd(-1)
        try:
            _enter(pid, network)
            inside = _connect(port)
        except OSError as exc:
            client.sendall(json.dumps({"error": str(exc)}).encode() + b"\n")
        else:
            socket.send_fds(client, [b'{"connected": true}\n'], [inside.fileno()])
    finally:
        os._exit(0)


def _enter(pid: int, network: int) -> None:
    """Join the network; the number shows that ``pid`` is still who it was."""
    fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if os.fstat(fd).st_ino != network:
        raise OSError(errno.ESRCH, "the job has ended")
    import ctypes  # here alone: the supervisor's start is a tenth slower with it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(fd, _CLONE_NEWNET) == 0:
        return
    # Not root: whoever made the user namespace that owns the network may do all in it.
    owner = fcntl.ioctl(fd, _NS_GET_USERNS)
    for each, kind in ((owner, _CLONE_NEWUSER), (fd, _CLONE_NEWNET)):
        if libc.setns(each, kind) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"the job's network cannot be entered: {os.strerror(number)}")


def _connect(port: int) -> socket.socket:
    failure = OSError(errno.ECONNREFUSED, "nothing listens there")
    for host in _LOOPBACKS:
        try:
            inside = socket.create_connection((host, port), timeout=_CONNECT_S)
        except OSError as exc:
            failure = exc
        else:
            inside.setblocking(False)
            return inside
    raise failure
