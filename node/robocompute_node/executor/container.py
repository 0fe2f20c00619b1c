"""The executor that runs jobs in containers, by Docker or Podman, over the engine's unix socket."""

from __future__ import annotations

import io
import logging
import os
import tarfile
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from robocompute_node.executor.engine import Engine, EngineError
from robocompute_node.executor.images import Allowed, Image, Images
from robocompute_node.executor.port import PrepareFailed
from robocompute_node.executor.spec import Bind, ContainerSpec, Spec
from robocompute_node.executor.supervised import (
    SupervisedJobs,
    chosen_environment,
    given_environment,
    probe_task,
)
from robocompute_protocol.causes import Cause

if TYPE_CHECKING:
    from collections.abc import Mapping

    from robocompute_node.executor.port import JobOrder, Progress
    from robocompute_node.executor.supervised import Laid

log = logging.getLogger(__name__)

NAME: Final = "container"
_PROBE: Final = "probe"
_TRIED: Final = ((65_536, True), (65_536, False), (1_024, True), (1_024, False))
"""Open files of one job (what training asks for, or what any engine may give), and whether the
engine has a process 1 to lend: the first that a probe runs with is what jobs get."""
_LOOK_S: Final = 10.0
_IMPORT_S: Final = 60.0


def engine_sockets(chosen: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return where the ``chosen`` engine may listen, the likeliest first: see its setting."""
    if chosen == "off":
        return ()
    if chosen != "auto":
        return (chosen,)
    named = environment.get("DOCKER_HOST", "")
    places = [named.removeprefix("unix://")] if named.startswith("unix://") else []
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        places += [f"{runtime}/podman/podman.sock", f"{runtime}/docker.sock"]
    return (*places, "/run/podman/podman.sock", "/var/run/docker.sock")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Found:
    """An engine that answers."""

    engine: Engine
    rootless: bool
    most: int
    init: bool


@dataclass
class ContainerExecutor(SupervisedJobs):
    """Runs jobs in containers of the first engine that answers on ``sockets``."""

    sockets: tuple[str, ...] = field(kw_only=True)
    allowed: Allowed = field(default_factory=Allowed, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.objection = "no engine's socket was found"
        """Why nothing can be offered; for the engine that was tried last."""
        self._found: _Found | None = None
        self._images: Images | None = None
        self._probe_image = ""

    async def probe(self) -> tuple[str, ...]:
        """Find an engine and run a tiny job with it. Call this before the first real one."""
        for path in self.sockets:
            if not await trio.Path(path).exists():
                continue
            self.objection = await self._try(Engine(path))
            if not self.objection:
                return (NAME,)
            self._found = None
            log.warning("the container engine at %s cannot be used: %s", path, self.objection)
        return ()

    @property
    def engine(self) -> str:
        """The socket of the engine that is used; empty where there is none."""
        return "" if self._found is None else self._found.engine.path

    @property
    def heeds_signals(self) -> bool:
        """Whether the engine lends jobs a process 1, so that they end when they are asked to."""
        return self._found is not None and self._found.init

    async def _try(self, engine: Engine) -> str:
        """Use ``engine`` from now on; what stands against it, or nothing."""
        try:
            known = await trio.to_thread.run_sync(
                lambda: engine.call("GET", "/info", timeout_s=_LOOK_S)
            )
            self._probe_image = await trio.to_thread.run_sync(_import_probe, engine)
        except EngineError as exc:
            return str(exc)
        rootless = any("rootless" in word for word in known.get("SecurityOptions") or ())
        fault = ""
        try:
            for most, init in _TRIED:
                self._found = _Found(engine=engine, rootless=rootless, most=most, init=init)
                task = probe_task(NAME, ("/bin/sh", "-c", "echo 42"), image=_PROBE)
                fault = await self.fault(task, says=b"42")
                if not fault:
                    break
        finally:
            image, self._probe_image = self._probe_image, ""
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(_forget, engine, image)
        self._images = Images(
            engine,
            self.data / "images",
            self.caps.image_bytes,
            self.allowed,
            self._images_in_use,
        )
        return fault

    async def equip(self, order: JobOrder, job: Laid, progress: Progress) -> None:
        """See ``SupervisedJobs``: the image is found, or pulled."""
        task, found = order.task, self._found
        if found is None:
            raise PrepareFailed(
                "this provider has no container engine any more", cause=Cause.SANDBOX_FAILED
            )
        if task.image is None:
            raise PrepareFailed("a job in a container names its image", cause=Cause.UPLOAD_INVALID)
        if task.requirements_file is not None:
            raise PrepareFailed(
                "a container brings its own packages: leave the requirements file out, "
                "or install them in the image",
                cause=Cause.UPLOAD_INVALID,
            )
        binds = job.binds()
        if self._probe_image:  # links, and what they lead to
            image = Image(digest=self._probe_image, working_folder="")
            binds.append(Bind("/usr", "/usr"))
        else:
            assert self._images is not None
            image = await self._images.get(task.image, progress)
        chosen = chosen_environment(order)
        spec = Spec(
            bwrap="",
            argv=task.argv,
            env=chosen | given_environment(order, chosen),
            binds=binds,
            cwd="/job" if job.upload.files or not image.working_folder else "",
            gpus=order.gpu_uuids,
            limits=self.limits(task),
            measured=[str(job.work), str(job.volume)],
            container=ContainerSpec(
                socket=found.engine.path,
                image=image.digest,
                user=_user(job, rootless=found.rootless),
                most=found.most,
                init=found.init,
                volumes=image.volumes,
            ),
        )
        self.record(job, spec)

    def _images_in_use(self) -> frozenset[str]:
        """The images that the jobs here were prepared with, ended ones too."""
        boxes = (spec.container for spec in self.specs())
        return frozenset(box.image for box in boxes if box is not None)


def _user(job: Laid, *, rootless: bool) -> str:
    """Return whom a job is inside: who owns its files, and never root outside."""
    if job.uid is not None:
        return f"{job.uid}:{job.uid}"
    # Root in a rootless container is the engine's own user, which is the daemon's.
    return "0:0" if rootless else f"{os.getuid()}:{os.getgid()}"


def _import_probe(engine: Engine) -> str:
    """Make an image of nothing but links into /usr, which the probe is shown; its digest."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
    digest = ""
    words = engine.stream(
        "POST",
        "/images/create",
        query={"fromSrc": "-"},
        body=data.getvalue(),
        timeout_s=_IMPORT_S,
    )
    for word in words:
        digest = str(word.get("id") or word.get("status") or digest)
    if not digest:
        raise EngineError("it imported an image and did not say which")
    return digest


def _forget(engine: Engine, image: str) -> None:
    try:
        engine.call("DELETE", f"/images/{image}", query={"force": "1"})
    except EngineError as exc:
        log.warning("the probe's image stays: %s", exc)
