"""Which container images a stranger's job may have, and getting them.

An image of the owner's own is nobody else's to read: a job gets what the engine pulls for it, or
what the owner put on a list. A stranger's word decides no address that the engine connects to.
"""

from __future__ import annotations

import json
import logging
import posixpath
import re
import threading
import time
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import trio

from robocompute_node.executor.engine import Engine, EngineError
from robocompute_node.executor.port import PrepareFailed
from robocompute_node.executor.shelf import Kept, to_remove
from robocompute_node.executor.spec import write_durably
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from robocompute_node.executor.port import Progress

log = logging.getLogger(__name__)

_REFERENCE: Final = re.compile(
    r"(?:(?P<host>[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::[0-9]{1,5})?)/)?"
    r"(?P<path>[a-z0-9]+(?:(?:[._/]|__|-+)[a-z0-9]+)*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}))?"
)
_NUMBER: Final = re.compile("[0-9a-f]{6,64}")
"""An engine may take this for the number of any image that is here."""
_LOCAL: Final = "localhost"
_SILENT_S: Final = 60.0
"""An engine that says nothing of a pull for this long is given up; it reports several times a second."""
_PULL_S: Final = 3_600.0
"""The largest images take half an hour on an ordinary line; the client pays for none of it."""
_TELL_S: Final = 1.0
"""Between two words to the client about a pull."""
_LARGEST_SHARE: Final = 4
"""One image may take one part in this many of the room for all."""
_NOTE: Final = ".json"
_MAX_VOLUMES: Final = 16
"""Folders that an image may want to write to beside a job's own: each is a mount."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """An image that is here."""

    digest: str
    """What the engine calls it by, whatever its names come to mean."""
    working_folder: str
    volumes: tuple[str, ...] = ()
    """Folders in it for which an engine makes a place on disk, unless a job brings one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The owner's word on images."""

    registries: tuple[str, ...] = ()
    """Hosts that may be named in an image; names without a host go where the engine looks."""
    local: tuple[str, ...] = ()
    """Images of the owner's own that jobs may use as they are here, and that nobody pulls."""


class ImageRefused(Exception):
    """A job cannot have this image; the text says why."""


def objection(reference: str, allowed: Allowed) -> str:
    """Return why nobody may pull ``reference`` for a job, or nothing."""
    found = _REFERENCE.fullmatch(reference)
    if found is None:
        return f"{reference!r} is not the name of an image"
    host = found["host"]
    if host is None or not _is_host(host):
        name = found["path"] if host is None else host
        if name != name.lower() or _NUMBER.fullmatch(reference):
            return f"{reference!r} is not the name of an image"
        return ""
    if host not in allowed.registries:
        return (
            f"this provider pulls no images from {host}; "
            "name one without a host, or find a provider that does"
        )
    return ""


def _is_host(first: str) -> bool:
    """Whether the first part of a name is a host: engines tell by these signs."""
    return "." in first or ":" in first or first == _LOCAL


def _pinned(reference: str) -> bool:
    return "@sha256:" in reference


@dataclass(slots=True)
class Images:
    """The images of jobs in one engine, and a record of them in ``root``."""

    engine: Engine
    root: Path
    room_bytes: int
    allowed: Allowed
    in_use: Callable[[], frozenset[str]]
    """Digests of the images that jobs here were prepared with."""
    _noting: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Several jobs are prepared at once, each in a thread; the record is one."""

    async def get(self, reference: str, progress: Progress) -> Image:
        """Find or pull what ``reference`` means now.

        Raises:
            PrepareFailed: the job cannot have it.
        """
        try:
            if reference in self.allowed.local:
                return await trio.to_thread.run_sync(self._here, reference)
            return await trio.to_thread.run_sync(self._pulled, reference, progress)
        except (EngineError, ImageRefused, OSError) as exc:
            raise PrepareFailed(
                f"the image {reference} cannot be had: {exc}", cause=Cause.ENVIRONMENT_FAILED
            ) from exc

    def _here(self, reference: str) -> Image:
        known = self.engine.call("GET", f"/images/{reference}/json")
        config: dict[str, Any] = known.get("Config") or {}
        return Image(
            digest=known["Id"],
            working_folder=config.get("WorkingDir") or "",
            volumes=volumes_of(config),
        )

    def _pulled(self, reference: str, progress: Progress) -> Image:
        """Pull, unless the name holds a digest and this node pulled that before."""
        if fault := objection(reference, self.allowed):
            raise ImageRefused(fault)
        trio.from_thread.run(progress, "image", f"Pulling {reference}")
        if _pinned(reference) and (self.root / _file_name(reference)).exists():
            try:
                return self._noted(reference)
            except EngineError as exc:
                if not exc.absent:
                    raise
        self._pull(reference, progress)
        return self._noted(reference)

    def _pull(self, reference: str, progress: Progress) -> None:
        sizes: dict[str, int] = {}
        largest = self.room_bytes // _LARGEST_SHARE
        give_up = time.monotonic() + _PULL_S
        told = 0.0
        name, _, tag = reference.partition("@") if _pinned(reference) else _tagged(reference)
        # No credentials of the owner's: what is private stays so.
        query = {"fromImage": name, "tag": tag}
        for word in self.engine.stream("POST", "/images/create", query=query, timeout_s=_SILENT_S):
            trio.from_thread.check_cancelled()
            detail = word.get("progressDetail")
            if isinstance(detail, dict):
                sizes[str(word.get("id"))] = _whole(detail.get("total"))  # pyright: ignore[reportUnknownArgumentType, reportUnknownMemberType]
            if sum(sizes.values()) > largest:
                raise ImageRefused(_too_large(largest))
            now = time.monotonic()
            if now > give_up:
                raise ImageRefused(f"it took more than {_PULL_S:g} s")
            if now >= told + _TELL_S:
                told = now
                trio.from_thread.run(progress, "image", _words(word))

    def _noted(self, reference: str) -> Image:
        """Note that a job asked for an image, and make room for it."""
        known = self.engine.call("GET", f"/images/{reference}/json")
        size = _whole(known.get("Size"))
        if size > self.room_bytes // _LARGEST_SHARE:
            self._remove(str(known["Id"]))
            raise ImageRefused(_too_large(self.room_bytes // _LARGEST_SHARE))
        image = self._here(reference)
        note = json.dumps({"digest": image.digest, "size": size, "name": reference})
        with self._noting:
            self.root.mkdir(parents=True, exist_ok=True)
            write_durably(str(self.root / _file_name(reference)), note)
            self._make_room(image.digest)
        return image

    def _make_room(self, wanted: str) -> None:
        notes: dict[str, list[Path]] = {}
        kept: dict[str, Kept] = {}
        for path in self.root.glob("*" + _NOTE):
            note: dict[str, Any] = json.loads(path.read_text())
            digest, used = str(note["digest"]), path.stat().st_mtime_ns
            notes.setdefault(digest, []).append(path)
            before = kept.get(digest)
            kept[digest] = Kept(digest, note["size"], max(used, before.used_ns if before else 0))
        in_use = self.in_use() | {wanted}
        for digest in to_remove(kept.values(), in_use=in_use, room_bytes=self.room_bytes):
            log.info("the image %s is removed to make room", digest)
            self._remove(digest)
            for path in notes[digest]:
                path.unlink()

    def _remove(self, digest: str) -> None:
        try:
            self.engine.call("DELETE", f"/images/{digest}", query={"force": "0"})
        except EngineError as exc:
            log.warning("the image %s stays: %s", digest, exc)


def _tagged(reference: str) -> tuple[str, str, str]:
    """Split name and tag; a host's port is no tag."""
    name, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag:
        return reference, "", "latest"
    return name, colon, tag


def _file_name(reference: str) -> str:
    """Return the name of a note; a reference itself may be too long for one."""
    return sha256(reference.encode()).hexdigest() + _NOTE


def volumes_of(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the folders that an image declares to be volumes.

    Raises:
        ImageRefused: there are too many, or one would take the place of the whole image.
    """
    named: dict[str, Any] = config.get("Volumes") or {}
    found = sorted({posixpath.normpath(f"/{name}").replace("//", "/") for name in named})
    if "/" in found or len(found) > _MAX_VOLUMES:
        raise ImageRefused(f"of its {len(found)} volumes there may be {_MAX_VOLUMES}, none at /")
    return tuple(found)


def _whole(number: object) -> int:
    return number if isinstance(number, int) and number > 0 else 0


def _too_large(largest: int) -> str:
    return f"it is larger than the {largest >> 30} GiB that this provider keeps of one"


def _words(word: dict[str, Any]) -> str:
    """Return what an engine says of its progress, in one line."""
    parts = (word.get("id"), word.get("status") or word.get("stream"), word.get("progress"))
    return " ".join(str(part).strip() for part in parts if part)
