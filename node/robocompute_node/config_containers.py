"""The settings of containers, for providers that let jobs bring an image."""

from __future__ import annotations

from dataclasses import dataclass, field

from robocompute_node import settings
from robocompute_node.settings import about


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSettings:
    """Which engine runs jobs that bring a container image, and which images they may bring."""

    engine: str = field(
        default="auto",
        metadata=about(
            "`auto`: the first engine that runs a probe (`DOCKER_HOST`, then the usual places of "
            "Podman and Docker). `off`: none. Else the path of an engine's unix socket.",
            settings.text(high=256),
        ),
    )
    registries: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Hosts that may stand in an image's name. A name without a host goes where the engine "
            "looks by itself; a stranger's word decides nothing else that this machine connects to.",
            settings.list_of(settings.text(high=256)),
        ),
    )
    local_images: tuple[str, ...] = field(
        default=(),
        metadata=about(
            "Images of this machine's own that jobs may use as they are. All others that a job "
            "names are pulled anew, so that nobody reads what is yours.",
            settings.list_of(settings.text(high=256)),
        ),
    )
    room_gib: int = field(
        default=128,
        metadata=about(
            "Room for all images that jobs brought, in GiB; the longest unused go first. One may "
            "take a quarter.",
            settings.integer(1, 65_536),
        ),
    )
