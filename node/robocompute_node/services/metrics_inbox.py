"""Metrics of this node's jobs, as they arrive: the job's aspara files, grown in the owner's folder.

What a provider sends is untrusted: names are checked, sizes are capped, a file belongs to the first
task that wrote it, and positions make repeats harmless.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Final

from robocompute_node.store import Store, Table

if TYPE_CHECKING:
    from robocompute_protocol.messages import Appended

log = logging.getLogger(__name__)

LIVE_PREFIX: Final = "volume/aspara/"
"""Where live files lie in a job, as the executor names them."""
MAX_FILE_BYTES: Final = 1 << 30
"""One metrics file: what the tracker reads at most."""
MAX_FILES_A_TASK: Final = 1_000
"""A run makes one file; a sweep inside one job makes many."""
_PART: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SUFFIXES: Final = (".jsonl", ".json")

OWNERS: Final = Table("metrics-owners/1", str)


class MetricsInbox:
    """The folder that the owner's tracker reads."""

    def __init__(self, store: Store, folder: Path) -> None:
        self._store = store
        self._folder = folder
        store.declare(OWNERS)
        self._owners = {key.decode(): owner for key, owner in store.all(OWNERS)}

    def held(self, task_id: str) -> tuple[tuple[str, int], ...]:
        """Names as the provider knows them, and how many bytes of each are here."""
        return tuple(
            (LIVE_PREFIX + self._foreign(name, task_id), path.stat().st_size)
            for name, owner in self._owners.items()
            if owner == task_id and (path := self._folder / name).is_file()
        )

    def take(self, task_id: str, grown: Appended) -> None:
        """Append what is new. Anything odd is left out with a word in the log."""
        name = self._name(task_id, grown.path)
        if name is None:
            log.warning("a metrics file of task %s was left out: %r", task_id, grown.path)
            return
        path = self._folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                size = file.tell()
                skip = size - grown.offset
                if skip < 0 or size + len(grown.data) > MAX_FILE_BYTES:
                    log.warning("metrics of task %s skip or exceed bytes of %s", task_id, name)
                    return
                file.write(grown.data[skip:])
        except OSError as exc:  # a file where a folder is due, or no space: the job goes on
            log.warning("metrics of task %s were left out: %s", task_id, exc)

    def replace(self, task_id: str, path: str, data: bytes) -> None:
        """Put a whole small file (a run's meta.json) beside the metrics."""
        name = self._name(task_id, path)
        if name is not None:
            target = self._folder / name
            part = target.with_name(target.name + ".part")
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(data)
                part.replace(target)
            except OSError as exc:
                log.warning("metrics of task %s were left out: %s", task_id, exc)

    def _name(self, task_id: str, path: str) -> str | None:
        if not path.startswith(LIVE_PREFIX) or not path.endswith(_SUFFIXES):
            return None
        parts = PurePosixPath(path.removeprefix(LIVE_PREFIX)).parts
        if not 1 <= len(parts) <= 4 or not all(_PART.fullmatch(part) for part in parts):
            return None
        name = "/".join(parts)
        if self._owners.get(name, task_id) != task_id:
            name = _own_name(name, task_id)
        if name not in self._owners:
            if sum(owner == task_id for owner in self._owners.values()) >= MAX_FILES_A_TASK:
                return None
            with self._store.transaction() as txn:
                txn.put(OWNERS, name.encode(), task_id)
            self._owners[name] = task_id
        return name

    @staticmethod
    def _foreign(name: str, task_id: str) -> str:
        return name.replace(f".{task_id[:8]}.", ".", 1)


def _own_name(name: str, task_id: str) -> str:
    """Another name for a run that another task's run already has: a.jsonl → a.1234abcd.jsonl."""
    stem, dot, suffix = name.partition(".") if "/" not in name else _split_last(name)
    return f"{stem}.{task_id[:8]}{dot}{suffix}"


def _split_last(name: str) -> tuple[str, str, str]:
    folder, _, file = name.rpartition("/")
    stem, dot, suffix = file.partition(".")
    return f"{folder}/{stem}", dot, suffix
