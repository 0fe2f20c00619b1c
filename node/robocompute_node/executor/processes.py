"""What /proc says of a job's processes, and of what its folders hold. Standard library only."""

from __future__ import annotations

import os

_PAGE = os.sysconf("SC_PAGE_SIZE")
_TICK = os.sysconf("SC_CLK_TCK")


def tree(root: int | None) -> list[int]:
    """Return ``root`` and all its descendants.

    The namespace's process 1 adopts every orphan, so nobody escapes this walk.
    """
    if root is None:
        return []
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            fields = _stat(int(name))
            if fields:
                children.setdefault(int(fields[1]), []).append(int(name))
    found: list[int] = []
    todo = [root]
    while todo:
        pid = todo.pop()
        found.append(pid)
        todo += children.get(pid, ())
    return found


def session(leader: int) -> list[int]:
    """Return the processes of a session."""
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    return [pid for pid in pids if (fields := _stat(pid)) and int(fields[3]) == leader]


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the state on; none when it is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return file.read().rpartition(")")[2].split()
    except OSError:
        return []


def resident_bytes(pids: list[int]) -> int:
    """Return the resident memory of ``pids``; pages they share count once for each."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/statm", encoding="ascii") as file:
                total += int(file.read().split()[1]) * _PAGE
        except (OSError, IndexError):
            continue
    return total


def cpu_ms(pids: list[int]) -> int:
    """Return the CPU time of ``pids``, and of their children that have been waited for."""
    ticks = 0
    for pid in pids:
        fields = _stat(pid)
        if fields:
            ticks += sum(int(field) for field in fields[11:15])
    return ticks * 1000 // _TICK


def signal_all(pids: list[int], number: int) -> None:
    """Send a signal; a process that is gone, or not ours, is passed over."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def shell_code(status: int) -> int:
    """Return a wait status as a shell shows it: 128 + n after signal n."""
    code = os.waitstatus_to_exitcode(status)
    return 128 - code if code < 0 else code


def disk_bytes(folders: list[str], *, stop_at: int) -> int:
    """Return the bytes allocated below ``folders``; counting ends once over ``stop_at``."""
    total = 0
    todo = list(folders)
    while todo and total <= stop_at:
        try:
            with os.scandir(todo.pop()) as entries:
                for entry in entries:
                    try:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
                        if entry.is_dir(follow_symlinks=False):
                            todo.append(entry.path)
                    except OSError:
                        continue
        except OSError:
            continue
    return total
