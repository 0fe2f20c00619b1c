"""A real container engine for tests: Podman's service on a socket of its own, with an image."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from robocompute_node.executor.engine import Engine, EngineError

if TYPE_CHECKING:
    from collections.abc import Generator

IMAGE: Final = "localhost/python:test"
START_S: Final = 60.0
LEFT_OUT: Final = ("test", "idlelib", "ensurepip", "lib2to3", "pydoc_data", "dist-packages")


def missing() -> str:
    """What keeps this machine from running containers in tests; nothing when they can."""
    if os.geteuid() != 0:
        return "containers are tested as root, with an engine of the tests' own"
    absent = [name for name in ("podman", "runc", "conmon") if shutil.which(name) is None]
    return f"not installed: {', '.join(absent)}" if absent else ""


@contextmanager
def podman() -> Generator[str]:
    """Run Podman's service; its socket. All it keeps is in a folder that goes with it."""
    # With a short name: Podman takes no longer one.
    folder = Path(tempfile.mkdtemp(prefix="rc-engine-"))
    config = folder / "containers.conf"
    # What a container may do at most is what this process may.
    config.write_text(
        '[engine]\nruntime = "runc"\ncgroup_manager = "cgroupfs"\nevents_logger = "file"\n'
        '[containers]\ndefault_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]\n'
    )
    socket = folder / "engine.sock"
    command = [
        "podman", "--root", str(folder / "root"), "--runroot", str(folder / "run"),
        "--log-level", "error", "system", "service", "--time", "0", f"unix://{socket}",
    ]  # fmt: skip
    with (folder / "engine.log").open("wb") as errors:
        service = subprocess.Popen(
            command,
            env={**os.environ, "CONTAINERS_CONF": str(config)},
            cwd=folder,  # where its monitors leave notes
            stdout=errors,
            stderr=errors,
        )
    try:
        _wait(str(socket), service, folder / "engine.log")
        yield str(socket)
    finally:
        service.terminate()
        service.wait(START_S)
        # What it mounted for its storage would keep the folder from being deleted.
        subprocess.run(["umount", "-l", str(folder / "root" / "overlay")], capture_output=True)
        shutil.rmtree(folder, ignore_errors=True)


def _wait(socket: str, service: subprocess.Popen[bytes], errors: Path) -> None:
    give_up = time.monotonic() + START_S
    while True:
        try:
            Engine(socket).call("GET", "/info")
        except EngineError:
            assert service.poll() is None, errors.read_text()
            assert time.monotonic() < give_up, errors.read_text()
            time.sleep(0.05)  # another process, and nothing to wait on
        else:
            return


def import_python(socket: str) -> None:
    """Make ``IMAGE``: a shell and this machine's Python, with the libraries they need."""
    engine = Engine(socket)
    said = [
        *engine.stream(
            "POST",
            "/images/create",
            query={"fromSrc": "-"},
            body=_root_tar(),
            timeout_s=START_S,
        )
    ]
    digest = next(str(word["id"]) for word in reversed(said) if "id" in word)
    name, _, tag = IMAGE.rpartition(":")
    engine.call("POST", f"/images/{digest}/tag", query={"repo": name, "tag": tag})


def refusal(socket: str) -> str:
    """Why Podman itself runs no container on this machine; nothing where it does."""
    tried = subprocess.run(
        ["podman", "--url", f"unix://{socket}", "run", "--rm", "--network", "none", IMAGE, "true"],
        check=False, capture_output=True, text=True, timeout=START_S,
    )  # fmt: skip
    if tried.returncode == 0:
        return ""
    return f"Podman runs no container here: {tried.stderr.strip()[-500:]}"


def _root_tar() -> bytes:
    python = Path(shutil.which("python3.11", path="/usr/bin") or "/usr/bin/python3").resolve()
    library = Path("/usr/lib") / python.name
    wanted = {python, Path("/bin/sh").resolve(), Path("/bin/true").resolve()}
    binaries = [*wanted, *library.glob("lib-dynload/*.so")]
    for each in binaries:
        listed = subprocess.run(
            ["ldd", str(each)],
            check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        words = [word for line in listed.splitlines() for word in line.split()]
        wanted |= {Path(word) for word in words if word.startswith("/")}
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("bin", "lib", "lib64"):
            _link(tar, name, f"usr/{name}")
        for path in sorted(wanted):
            tar.add(path.resolve(), arcname=_inside(path), recursive=False)
        _link(tar, "usr/bin/python", python.name)
        if Path("/bin/sh").resolve().name != "sh":
            _link(tar, "usr/bin/sh", Path("/bin/sh").resolve().name)
        tar.add(library, arcname=str(library)[1:], filter=_kept)
    return data.getvalue()


def _inside(path: Path) -> str:
    """The place in the image: /bin, /lib and /lib64 are links there."""
    text = str(path)
    return text[1:] if text.startswith("/usr/") else f"usr{text}"


def _kept(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    parts = Path(entry.name).parts
    return None if "__pycache__" in parts or set(parts) & set(LEFT_OUT) else entry


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = tarfile.SYMTYPE, target
    tar.addfile(link)
