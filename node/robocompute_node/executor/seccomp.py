"""A seccomp filter for jobs, assembled by hand: no library, 0.2 ms.

A deny list. Calls newer than ``NEWEST`` and clone3 answer ENOSYS (libc then falls back to clone,
whose flags can be inspected), namespaces, mounts, tracing, bpf, io_uring, keys and perf answer
EPERM, and sockets of unlisted families EAFNOSUPPORT: AF_VSOCK would reach the host otherwise.
"""

from __future__ import annotations

import platform
from struct import pack

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _FAIL = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS, _EAFNOSUPPORT = 1, 38, 97
_NUMBER_AT, _ARCH_AT = 0, 4
_ARG0_AT, _ARG1_AT, _ARG2_AT = 16, 24, 32
"""Offsets of the low halves in struct seccomp_data, on little-endian machines."""

NEWEST = 463
"""The first call number nobody has read the meaning of yet."""
CLONE3 = 435
_X32_BIT = 0x40000000
_NAMESPACES = (
    0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
)
"""CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET."""
_TERMINAL_TRICKS = (0x5412, 0x541C, 0x5423)
"""TIOCSTI, TIOCLINUX and TIOCSETD: typing on, and rewiring, somebody else's terminal."""
_FAMILIES = (1, 2, 10)
"""AF_UNIX, AF_INET, AF_INET6."""
_NETLINK = 16
"""Only with protocol 0 (routes): getaddrinfo and torch's rendezvous ask for interfaces."""

_EVERYWHERE = {
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "pidfd_getfd": 438, "mount_setattr": 442, "quotactl_fd": 443,
}  # fmt: skip
_X86_64 = {
    "syslog": 103, "ptrace": 101, "personality": 135, "ustat": 136, "sysfs": 139, "vhangup": 153,
    "modify_ldt": 154, "pivot_root": 155, "_sysctl": 156, "adjtimex": 159, "chroot": 161,
    "acct": 163, "settimeofday": 164, "mount": 165, "umount2": 166, "swapon": 167, "swapoff": 168,
    "reboot": 169, "sethostname": 170, "setdomainname": 171, "iopl": 172, "ioperm": 173,
    "create_module": 174, "init_module": 175, "delete_module": 176, "get_kernel_syms": 177,
    "query_module": 178, "quotactl": 179, "nfsservctl": 180, "uselib": 134,
    "lookup_dcookie": 212, "clock_settime": 227, "kexec_load": 246, "add_key": 248,
    "request_key": 249, "keyctl": 250, "migrate_pages": 256, "unshare": 272, "move_pages": 279,
    "perf_event_open": 298, "fanotify_init": 300, "fanotify_mark": 301, "name_to_handle_at": 303,
    "open_by_handle_at": 304, "clock_adjtime": 305, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "kexec_file_load": 320,
    "bpf": 321, "userfaultfd": 323,
}  # fmt: skip
_AARCH64 = {
    "lookup_dcookie": 18, "umount2": 39, "mount": 40, "pivot_root": 41, "chroot": 51,
    "vhangup": 58, "quotactl": 60, "acct": 89, "personality": 92, "unshare": 97,
    "kexec_load": 104, "init_module": 105, "delete_module": 106, "clock_settime": 112,
    "syslog": 116, "ptrace": 117, "reboot": 142, "sethostname": 161, "setdomainname": 162,
    "settimeofday": 170, "adjtimex": 171, "add_key": 217, "request_key": 218, "keyctl": 219,
    "swapon": 224, "swapoff": 225, "migrate_pages": 238, "move_pages": 239,
    "perf_event_open": 241, "fanotify_init": 262, "fanotify_mark": 263, "name_to_handle_at": 264,
    "open_by_handle_at": 265, "clock_adjtime": 266, "setns": 268, "process_vm_readv": 270,
    "process_vm_writev": 271, "kcmp": 272, "finit_module": 273, "bpf": 280, "userfaultfd": 282,
    "kexec_file_load": 294,
}  # fmt: skip


class UnknownMachine(Exception):
    """No call table for this processor: no filter, so no sandbox."""


def _step(code: int, value: int, when_true: int = 0, when_false: int = 0) -> bytes:
    return pack("=HBBI", code, when_true, when_false, value & 0xFFFFFFFF)


def _fail(errno: int) -> bytes:
    return _step(_RETURN, _FAIL | errno)


def _refuse_if_equal(value: int, errno: int) -> list[bytes]:
    return [_step(_EQUAL, value, 0, 1), _fail(errno)]


def _for_call(number: int, body: list[bytes]) -> list[bytes]:
    """Run ``body``, which returns a verdict on every path, for one call number only."""
    return [_step(_EQUAL, number, 0, len(body)), *body]


def build(machine: str | None = None) -> bytes:
    """Return the filter as bubblewrap's ``--seccomp`` reads it.

    Raises:
        UnknownMachine: not x86_64 or aarch64.
    """
    machine = machine or platform.machine()
    if machine == "x86_64":
        audit, denied, clone, ioctl, socket = 0xC000003E, _X86_64, 56, 16, 41
    elif machine == "aarch64":
        audit, denied, clone, ioctl, socket = 0xC00000B7, _AARCH64, 220, 29, 198
    else:
        raise UnknownMachine(f"no seccomp filter for {machine}")
    allow, kill = _step(_RETURN, _ALLOW), _step(_RETURN, _KILL)
    program = [_step(_LOAD, _ARCH_AT), _step(_EQUAL, audit, 1, 0), kill]
    program.append(_step(_LOAD, _NUMBER_AT))
    if machine == "x86_64":
        program += [_step(_AT_LEAST, _X32_BIT, 0, 1), kill]
    program += [_step(_AT_LEAST, NEWEST, 0, 1), _fail(_ENOSYS)]
    program += _refuse_if_equal(CLONE3, _ENOSYS)
    for number in sorted({**denied, **_EVERYWHERE}.values()):
        program += _refuse_if_equal(number, _EPERM)
    program += _for_call(
        clone,
        [_step(_LOAD, _ARG0_AT), _step(_ANY_BIT, _NAMESPACES, 0, 1), _fail(_EPERM), allow],
    )
    tricks = [_step(_LOAD, _ARG1_AT)]
    for request in _TERMINAL_TRICKS:
        tricks += _refuse_if_equal(request, _EPERM)
    program += _for_call(ioctl, [*tricks, allow])
    families = [_step(_LOAD, _ARG0_AT)]
    for family in _FAMILIES:
        families += [_step(_EQUAL, family, 0, 1), allow]
    families += [
        _step(_EQUAL, _NETLINK, 0, 3),
        _step(_LOAD, _ARG2_AT),
        _step(_EQUAL, 0, 0, 1),
        allow,
        _fail(_EAFNOSUPPORT),
    ]
    program += _for_call(socket, families)
    program.append(allow)
    return b"".join(program)
