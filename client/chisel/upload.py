"""What of a folder is sent, as content-addressed chunks, and what is left at home and why."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from time import time_ns
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

CHUNK_BYTES: Final = 1_048_576
"""Size of every chunk but a file's last: the network's bound for one."""
MAX_FILES: Final = 100_000
"""Files the network takes in one upload; more is nearly always a cache that should be ignored."""
SETTLED_NS: Final = 2_000_000_000
"""A file changed more recently than this is hashed again next time: its time stamp is too coarse
to tell a second change from the first."""
IGNORE_FILES: Final = (".gitignore", ".chiselignore")
"""Rules of the second kind win over the first; ``!name`` there sends even what looks secret."""

_TOOL_FOLDERS = frozenset(
    {
        ".git", ".hg", ".svn", "__pycache__", ".venv", "venv", "node_modules", ".tox", ".nox",
        ".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis", ".ipynb_checkpoints",
        ".cache", ".idea", ".vscode", ".localnet", "chisel-out",
    }
)  # fmt: skip
_TOOL_FILES = ("*.pyc", "*.pyo", ".DS_Store", "*.swp", "*~")
_SECRETS = (
    ".env", ".env.*", "*.pem", "*.key", "*.p12", "*.pfx", "*.kdbx", "id_rsa*", "id_dsa*",
    "id_ecdsa*", "id_ed25519*", ".netrc", ".pypirc", ".npmrc", ".git-credentials", "wallet.json",
    "credentials.json", "api_key", ".ssh", ".aws", ".gnupg", ".kube", ".docker", ".chisel",
    ".robocompute",
)  # fmt: skip
_NOT_SECRET = (".env.example", ".env.sample", ".env.template", "*.pub")


class UploadError(Exception):
    """The folder cannot be sent as it is; the text says what to do."""


@dataclass(frozen=True, slots=True)
class LocalFile:
    """One file of the upload. ``path`` is relative, with forward slashes."""

    path: str
    source: Path
    mode: int
    size: int
    chunks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Upload:
    """Everything that will be sent, in the order of the paths."""

    root: Path
    files: tuple[LocalFile, ...]
    left_out: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """Reason → paths; reasons are short words for a person."""

    @property
    def size(self) -> int:
        return sum(file.size for file in self.files)

    def manifest(self) -> dict[str, Any]:
        """The form in which a task names its files."""
        return {
            "files": [
                {"path": f.path, "mode": f.mode, "size": f.size, "chunks": list(f.chunks)}
                for f in self.files
            ]
        }

    def chunks(self) -> list[str]:
        """Every chunk once, in order of first use."""
        return list(dict.fromkeys(chunk for file in self.files for chunk in file.chunks))

    def read(self, wanted: set[str]) -> Iterator[bytes]:
        """The bytes of the wanted chunks, each once.

        Raises:
            UploadError: a file has changed since it was hashed.
        """
        left = set(wanted)
        for file in self.files:
            if left.isdisjoint(file.chunks):
                continue
            with file.source.open("rb") as source:
                for index, chunk in enumerate(file.chunks):
                    if chunk not in left:
                        continue
                    source.seek(index * CHUNK_BYTES)
                    data = source.read(min(CHUNK_BYTES, file.size - index * CHUNK_BYTES))
                    if hashlib.sha256(data).hexdigest() != chunk:
                        raise UploadError(f"{file.path} changed while it was being sent")
                    left.discard(chunk)
                    yield data


def scan(root: Path, *, cache: DigestCache | None = None) -> Upload:
    """Walk ``root`` and hash what is to be sent.

    Raises:
        UploadError: ``root`` is no folder, or holds more files than the network takes.
    """
    root = root.resolve()
    if not root.is_dir():
        raise UploadError(f"{root} is not a folder")
    cache = cache or DigestCache(None)
    walk = _Walk(root)
    files: list[LocalFile] = []
    for path, source in walk.files(root, ""):
        if len(files) == MAX_FILES:
            raise UploadError(
                f"{root} holds more than {MAX_FILES} files: "
                "name what need not be sent in .chiselignore"
            )
        try:
            about = source.stat()
            chunks = cache.chunks(source, about)
        except OSError as error:
            walk.leave("cannot be read", f"{path} ({error.strerror})")
            continue
        files.append(
            LocalFile(path, source, stat.S_IMODE(about.st_mode) & 0o777, about.st_size, chunks)
        )
    cache.save()
    left_out = {reason: tuple(paths) for reason, paths in walk.left_out.items()}
    return Upload(root, tuple(sorted(files, key=lambda file: file.path)), left_out)


class DigestCache:
    """Chunk digests of files that have not changed. A wrong or missing cache only costs time."""

    def __init__(self, path: Path | None, *, now_ns: Callable[[], int] = time_ns) -> None:
        self._path = path
        self._now_ns = now_ns
        self._known: dict[str, list[Any]] = {}
        self._used: dict[str, list[Any]] = {}
        if path is not None:
            with contextlib.suppress(OSError, ValueError):
                loaded: Any = json.loads(path.read_text(encoding="utf-8"))
                if isinstance(loaded, dict):
                    self._known = loaded

    @classmethod
    def of(cls, root: Path, environment: Mapping[str, str]) -> DigestCache:
        """The cache of one upload folder, below the user's cache folder."""
        base = environment.get("XDG_CACHE_HOME")
        folder = (Path(base) if base else Path.home() / ".cache") / "chisel"
        name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:32]
        return cls(folder / f"{name}.json")

    def chunks(self, source: Path, about: os.stat_result) -> tuple[str, ...]:
        """The digests of ``source``, read only if it may have changed. Raises: OSError."""
        key = os.fspath(source)
        mark = [about.st_size, about.st_mtime_ns, about.st_ino]
        known = self._known.get(key)
        if isinstance(known, list) and known[:3] == mark:
            self._used[key] = known
            return tuple(known[3:])
        digests: list[str] = []
        with source.open("rb") as file:
            for start in range(0, about.st_size, CHUNK_BYTES):
                data = file.read(min(CHUNK_BYTES, about.st_size - start))
                digests.append(hashlib.sha256(data).hexdigest())
        if about.st_mtime_ns < self._now_ns() - SETTLED_NS:
            self._used[key] = [*mark, *digests]
        return tuple(digests)

    def save(self) -> None:
        """Keep what was used. A cache that cannot be written is no error."""
        if self._path is None or self._used == self._known:
            return
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
            partial.write_text(json.dumps(self._used), encoding="utf-8")
            partial.replace(self._path)


class _Walk:
    """One walk over a folder: which files, by which rules."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.left_out: dict[str, list[str]] = {}
        self._rules: dict[str, list[tuple[Path, Any]]] = {name: [] for name in IGNORE_FILES}
        for folder in _enclosing_repository(root):
            self._load(folder)

    def leave(self, reason: str, path: str) -> None:
        self.left_out.setdefault(reason, []).append(path)

    def files(self, folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
        """(relative path, file to read) of everything below ``folder`` that is to be sent."""
        depths = {name: len(rules) for name, rules in self._rules.items()}
        self._load(folder)
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            self.leave("cannot be read", f"{prefix or '.'} ({error.strerror})")
            entries = []
        for entry in entries:
            path = prefix + entry.name
            if not entry.name.isprintable() or "\\" in entry.name:
                self.leave("names that not every machine can hold", repr(path))
                continue
            is_folder = entry.is_dir(follow_symlinks=False)
            if self._ignored(Path(entry.path), entry.name, is_folder, path):
                continue
            if is_folder:
                yield from self.files(Path(entry.path), path + "/")
            elif entry.is_symlink():
                target = self._inside(Path(entry.path))
                if target is None:
                    self.leave("links that lead out of the folder, or to folders", path)
                else:
                    yield path, target
            elif entry.is_file(follow_symlinks=False):
                yield path, Path(entry.path)
            else:
                self.leave("neither files nor folders", path)
        for name, depth in depths.items():
            del self._rules[name][depth:]

    def _inside(self, link: Path) -> Path | None:
        try:
            target = link.resolve(strict=True)
        except (OSError, RuntimeError):
            return None
        if not target.is_relative_to(self.root) or not target.is_file():
            return None
        parts = target.relative_to(self.root).parts
        if any(part in _TOOL_FOLDERS or _is_secret(part) for part in parts):
            return None
        return target

    def _ignored(self, path: Path, name: str, is_folder: bool, shown: str) -> bool:
        stated = self._stated(".chiselignore", path, is_folder)
        if stated is not None:
            return stated
        if _is_secret(name):
            self.leave("likely secrets", shown + ("/" if is_folder else ""))
            return True
        if is_folder:
            if name in _TOOL_FOLDERS or (path / "pyvenv.cfg").exists():
                return True
        elif any(fnmatchcase(name, pattern) for pattern in _TOOL_FILES):
            return True
        return bool(self._stated(".gitignore", path, is_folder))

    def _stated(self, kind: str, path: Path, is_folder: bool) -> bool | None:
        """What the ignore files of one kind say, the deepest first; None: nothing."""
        for base, rules in reversed(self._rules[kind]):
            relative = path.relative_to(base).as_posix() + ("/" if is_folder else "")
            stated: bool | None = rules.check_file(relative).include
            if stated is not None:
                return stated
        return None

    def _load(self, folder: Path) -> None:
        for name, rules in self._rules.items():
            try:
                text = (folder / name).read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            from pathspec import GitIgnoreSpec

            rules.append((folder, GitIgnoreSpec.from_lines(text.splitlines())))


def _is_secret(name: str) -> bool:
    if any(fnmatchcase(name, pattern) for pattern in _NOT_SECRET):
        return False
    return any(fnmatchcase(name, pattern) for pattern in _SECRETS)


def _enclosing_repository(root: Path) -> list[Path]:
    """The folders above ``root`` up to its git repository's top, outermost first; or none."""
    if (root / ".git").exists():
        return []
    above: list[Path] = []
    for folder in root.parents:
        above.append(folder)
        if (folder / ".git").exists():
            return above[::-1]
    return []
