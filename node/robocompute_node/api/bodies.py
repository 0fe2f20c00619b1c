"""What requests may say. Unknown fields, wrong types and values out of bounds are refused."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from robocompute_node.api.port import InvalidRequest, NewTask
from robocompute_node.core.hardware import UnknownHardware, requirements_of
from robocompute_protocol import limits
from robocompute_protocol.identifiers import Digest
from robocompute_protocol.messages import FileEntry, Manifest
from robocompute_protocol.money import MicroUnits, Millis, parse_amount

MAX_SECONDS = 30 * 86_400
"""A job of more than a month is a service: not something to be paid by one agreement."""
MAX_CHUNKS = 200_000
"""Chunks asked about in one request: 200 GB, and 13 MB of hex."""

Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
"""A SHA-256 digest in lower-case hex."""
Argument = Annotated[str, Field(max_length=limits.MAX_ARG_BYTES, pattern=r"^[^\x00]*$")]


class Body(BaseModel):
    """Base of all bodies: exact."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MissingBody(Body):
    """Which of these chunks are not here?"""

    chunks: Annotated[list[Hex], Field(max_length=MAX_CHUNKS)]


class FileBody(Body):
    """One file of an upload."""

    path: Annotated[str, Field(min_length=1, max_length=limits.MAX_PATH_BYTES)]
    mode: Annotated[int, Field(ge=0, le=0o777)] = 0o644
    size: Annotated[int, Field(ge=0, le=2**53)]
    chunks: list[Hex]

    @field_validator("path")
    @classmethod
    def _stays_inside(cls, path: str) -> str:
        parts = path.split("/")
        if (
            path.startswith("/")
            or "\x00" in path
            or any(part in {"", ".", ".."} for part in parts)
        ):
            raise ValueError("must be a plain relative path, without . or .. in it")
        return path

    @model_validator(mode="after")
    def _has_chunks(self) -> FileBody:
        if self.size > len(self.chunks) * limits.MAX_CHUNK_BYTES or len(self.chunks) > self.size:
            raise ValueError(
                f"{self.path}: {len(self.chunks)} chunks cannot make {self.size} bytes"
            )
        return self


class UploadBody(Body):
    """The files a job starts with."""

    files: Annotated[list[FileBody], Field(max_length=limits.MAX_FILES)] = []

    @model_validator(mode="after")
    def _names_each_once(self) -> UploadBody:
        if len({file.path for file in self.files}) != len(self.files):
            raise ValueError("a path occurs twice")
        return self


class ResourcesBody(Body):
    """What the job needs besides its GPUs. Left out: see docs/rest.md."""

    cpu_cores: Annotated[int, Field(ge=0)] | None = None
    gpu_memory_gb: Annotated[float, Field(ge=0)] | None = None
    ram_gb: Annotated[float, Field(ge=0)] | None = None
    storage_gb: Annotated[float, Field(ge=0)] | None = None


class TaskBody(Body):
    """A task as its owner asks for it."""

    name: Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^/\x00-\x1f]+$")]
    type: Literal["gpu", "cpu"] = "gpu"
    command: Annotated[list[Argument], Field(min_length=1, max_length=limits.MAX_ARGV)]
    env: Annotated[dict[str, Argument], Field(max_length=1_024)] = {}
    gpu: Annotated[str, Field(max_length=64)] | None = None
    resource_requirements: ResourcesBody = ResourcesBody()
    upload: UploadBody = UploadBody()
    requirements_file: Annotated[str, Field(max_length=limits.MAX_PATH_BYTES)] | None = None
    docker_image: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    max_price_per_hour: Annotated[str, Field(max_length=32)] | None = None
    timeout_seconds: Annotated[float, Field(gt=0, le=MAX_SECONDS)] = 3_600
    wait: bool = False
    provider: Annotated[str, Field(max_length=64)] | None = None

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if name in {".", ".."}:
            raise ValueError("names the job's folder: . and .. cannot be used")
        return name

    @field_validator("env")
    @classmethod
    def _has_plain_names(cls, env: dict[str, str]) -> dict[str, str]:
        for name in env:
            if not name or len(name) > 256 or "=" in name or "\x00" in name:
                raise ValueError(f"{name!r} is not a name for an environment variable")
        return env

    @field_validator("max_price_per_hour", mode="before")
    @classmethod
    def _takes_numbers_too(cls, price: object) -> object:
        return str(price) if isinstance(price, int | float) else price

    @field_validator("max_price_per_hour")
    @classmethod
    def _is_an_amount(cls, price: str | None) -> str | None:
        if price is not None:
            parse_amount(price)
        return price

    def new_task(self, *, idempotency_key: str | None) -> NewTask:
        """Return the task for the node.

        Raises:
            InvalidRequest: the parts do not fit together.
        """
        named = self.requirements_file
        if named is not None and all(file.path != named for file in self.upload.files):
            raise InvalidRequest(
                f"requirements_file {named!r} is not among the uploaded files",
                details={"field": "requirements_file"},
            )
        if named is not None and self.docker_image is not None:
            raise InvalidRequest(
                "docker_image brings its own packages: leave requirements_file out, "
                "or install them in the image",
                details={"field": "requirements_file"},
            )
        asked = self.resource_requirements
        try:
            requirements = requirements_of(
                kind=self.type,
                gpu=self.gpu,
                cpu_cores=asked.cpu_cores,
                gpu_memory_gb=asked.gpu_memory_gb,
                ram_gb=asked.ram_gb,
                storage_gb=asked.storage_gb,
            )
        except UnknownHardware as exc:
            raise InvalidRequest(str(exc), details={"field": "gpu"}) from None
        if self.docker_image is not None:
            requirements = msgspec.structs.replace(requirements, executor="container")
        price = self.max_price_per_hour
        return NewTask(
            name=self.name,
            argv=tuple(self.command),
            env=tuple(sorted(self.env.items())),
            requirements=requirements,
            upload=Manifest(files=tuple(_entry(file) for file in self.upload.files)),
            requirements_file=named,
            image=self.docker_image,
            max_price_per_hour=None if price is None else MicroUnits(parse_amount(price)),
            timeout=Millis(max(1, int(self.timeout_seconds * 1_000))),
            wait=self.wait,
            idempotency_key=idempotency_key,
            provider=self.provider,
        )


def _entry(file: FileBody) -> FileEntry:
    return FileEntry(
        path=file.path,
        mode=file.mode,
        size=file.size,
        chunks=tuple(Digest(bytes.fromhex(chunk)) for chunk in file.chunks),
    )
