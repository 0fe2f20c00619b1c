"""Which box a spec asks for. Standard library only."""

from __future__ import annotations

from robocompute_node.executor.box import Box, Bubblewrap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from robocompute_node.executor.spec import Spec


def box_for(spec: Spec, name: str) -> Box:
    """Return the box for ``spec``, called ``name`` wherever boxes have names."""
    if spec.container is None:
        return Bubblewrap(spec, name)
    # Here alone: its HTTP would be a third of the time that a sandbox takes to start.
    from robocompute_node.executor.container_box import Container

    return Container(spec, spec.container, name)
