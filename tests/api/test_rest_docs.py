from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from robocompute_node.api.errors import CODE_OF, STATUS_OF

if TYPE_CHECKING:
    import httpx

TEXT = (Path(__file__).parents[2] / "docs" / "rest.md").read_text()


async def test_every_route_is_documented_and_every_documented_route_is_there(
    client: httpx.AsyncClient,
) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    served = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert set(re.findall(r"^\| `([A-Z]+ /[^`]*)`", TEXT, flags=re.MULTILINE)) == served


def test_every_error_code_is_documented() -> None:
    codes = {kind.code for kind, _ in STATUS_OF} | set(CODE_OF.values())
    assert sorted(code for code in codes if f"`{code}`" not in TEXT) == []
