from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio

from robocompute_node.api.port import InsufficientFunds
from robocompute_protocol.errors import ChainBusy, StoreError
from robocompute_protocol.identifiers import digest
from robocompute_protocol.messages import FileEntry, Manifest

if TYPE_CHECKING:
    import httpx

    from conftest import FakeNodeApi

TASK: dict[str, Any] = {"name": "app", "type": "cpu", "command": ["python", "train.py"]}


def framed(*chunks: bytes) -> bytes:
    return b"".join(len(chunk).to_bytes(4) + chunk for chunk in chunks)


def refused(answer: httpx.Response) -> tuple[int, str, str]:
    """Every refusal has exactly this shape."""
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "details"}
    assert body["error"]["message"]
    assert "\n" not in body["error"]["message"]
    return answer.status_code, body["error"]["code"], body["error"]["details"].get("field", "")


async def test_a_task_is_asked_for_and_shown(client: httpx.AsyncClient, node: FakeNodeApi) -> None:
    chunk = digest(b"print(1)\n")
    await node.put_chunk(b"print(1)\n")
    body = TASK | {
        "env": {"B": "2", "A": "1"},
        "upload": {"files": [{"path": "train.py", "size": 9, "chunks": [chunk.hex()]}]},
        "max_price_per_hour": "1.50",
        "timeout_seconds": 60,
    }
    answer = await client.post("/tasks", json=body, headers={"Idempotency-Key": "k"})
    assert answer.status_code == 201
    shown = answer.json()
    assert shown["status"] == "pending"
    assert shown["command"] == ["python", "train.py"]
    assert shown["created_at"] == "2023-11-14T22:13:20.000Z"
    assert shown["prepaid"] == "0.000000"
    assert shown["cost"] is None
    asked = node.asked[0]
    assert asked.env == (("A", "1"), ("B", "2"))
    assert asked.max_price_per_hour == 1_500_000
    assert asked.timeout == 60_000
    assert asked.idempotency_key == "k"
    assert asked.upload.files == (FileEntry(path="train.py", mode=0o644, size=9, chunks=(chunk,)),)
    assert (await client.get(f"/tasks/{shown['task_id']}")).json() == shown
    assert (await client.get("/tasks")).json() == {"tasks": [shown]}
    assert (await client.get("/tasks?status=running")).json() == {"tasks": []}
    assert (await client.delete(f"/tasks/{shown['task_id']}")).json() == shown


async def test_a_gpu_is_asked_for_by_its_name(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    body = TASK | {"type": "gpu", "gpu": "A100-80GB:2", "resource_requirements": {"ram_gb": 1.5}}
    assert (await client.post("/tasks", json=body)).status_code == 201
    wanted = node.asked[0].requirements
    assert (wanted.resource_class, wanted.gpus, wanted.gpu_memory_mib) == ("a100", 2, 80_000)
    assert (wanted.memory_mib, wanted.cpu_cores) == (1_536, 4)


FILE: dict[str, Any] = {"path": "x", "size": 0, "chunks": []}
CHANGES: list[tuple[dict[str, Any], str]] = [
    ({"command": []}, "command"),
    ({"command": ["a\x00b"]}, "command.0"),
    ({"name": "a/b"}, "name"),
    ({"name": ".."}, "name"),
    ({"type": "tpu"}, "type"),
    ({"tpye": "cpu"}, "tpye"),
    ({"type": "gpu"}, "gpu"),
    ({"gpu": "Z80:1", "type": "gpu"}, "gpu"),
    ({"gpu": "H100:1"}, "gpu"),
    ({"max_price_per_hour": "1.2345678"}, "max_price_per_hour"),
    ({"timeout_seconds": 0}, "timeout_seconds"),
    ({"env": {"A=B": "1"}}, "env"),
    ({"requirements_file": "requirements.txt"}, "requirements_file"),
    (
        {"upload": {"files": [FILE | {"path": "../x"}]}},
        "upload.files.0.path",
    ),
    ({"upload": {"files": [FILE | {"path": "/x"}]}}, "upload.files.0.path"),
    ({"upload": {"files": [FILE | {"size": 1}]}}, "upload.files.0"),
    (
        {"upload": {"files": [FILE, FILE]}},
        "upload",
    ),
]


@pytest.mark.parametrize(("change", "field"), CHANGES)
async def test_a_task_that_makes_no_sense_is_refused_by_the_name_of_the_field(
    client: httpx.AsyncClient, node: FakeNodeApi, change: dict[str, Any], field: str
) -> None:
    answer = await client.post("/tasks", json=TASK | change)
    assert refused(answer) == (400, "INVALID_REQUEST", field)
    assert node.asked == []


async def test_what_is_not_json_is_refused(client: httpx.AsyncClient) -> None:
    answer = await client.post(
        "/tasks", content=b"{", headers={"Content-Type": "application/json"}
    )
    assert refused(answer)[:2] == (400, "INVALID_REQUEST")


async def test_errors_of_the_node_keep_their_code_and_details(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    answer = await client.post("/tasks", json=TASK | {"provider": "nobody"})
    assert refused(answer)[:2] == (503, "PROVIDER_UNAVAILABLE")
    assert answer.json()["error"]["details"] == {"provider_id": "nobody"}
    files = [{"path": "a", "size": 1, "chunks": ["00" * 32]}]
    answer = await client.post("/tasks", json=TASK | {"upload": {"files": files}})
    assert refused(answer)[:2] == (409, "MISSING_CHUNKS")
    for error, status in (
        (InsufficientFunds("deposit 1", details={"required": "1"}), 402),
        (ChainBusy("later"), 503),
        (StoreError("disk full"), 500),
    ):
        node.refuse_with = error
        answer = await client.post("/tasks", json=TASK)
        assert refused(answer)[:2] == (status, error.code)


async def test_what_is_not_there_says_so_in_the_same_shape(client: httpx.AsyncClient) -> None:
    for path in ("", "/logs", "/stream", "/artifacts", "/artifacts/x", "/receipt"):
        answer = await client.get(f"/tasks/{'0' * 32}{path}")
        assert refused(answer)[:2] == (404, "TASK_NOT_FOUND")
    assert refused(await client.get("/nothing"))[:2] == (404, "NOT_FOUND")
    answer = await client.put("/node")
    assert refused(answer)[:2] == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET"


async def test_chunks_are_stored_once_and_only_missing_ones_asked_for(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    chunks = [b"a", b"b" * (1 << 20)]
    names = [digest(chunk).hex() for chunk in chunks]
    assert (await client.post("/blobs/missing", json={"chunks": names})).json() == {
        "missing": names
    }
    stored = await client.post("/blobs", content=framed(*chunks))
    assert stored.json() == {"stored": names}
    assert (await client.post("/blobs/missing", json={"chunks": names})).json() == {"missing": []}
    assert list(node.chunks.values()) == chunks


@pytest.mark.parametrize(
    "content", [framed(b""), (1 << 21).to_bytes(4) + b"x", framed(b"abc")[:-1], b"\x00"]
)
async def test_a_malformed_body_of_chunks_is_refused(
    client: httpx.AsyncClient, content: bytes
) -> None:
    assert refused(await client.post("/blobs", content=content))[:2] == (400, "INVALID_REQUEST")


async def test_an_artifact_comes_as_an_attachment_of_its_exact_bytes(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    task_id = (await client.post("/tasks", json=TASK)).json()["task_id"]
    assert (await client.get(f"/tasks/{task_id}/artifacts")).json() == {"files": []}
    parts = [b"x" * 10, b"y" * 5]
    chunks = tuple([await node.put_chunk(part) for part in parts])
    path = "volume/app/é traces/a b.json"
    node.results[task_id] = Manifest(
        files=(FileEntry(path=path, mode=0o644, size=15, chunks=chunks),)
    )
    listed = (await client.get(f"/tasks/{task_id}/artifacts")).json()
    assert listed == {"files": [{"path": path, "size": 15, "mode": 0o644}]}
    answer = await client.get(f"/tasks/{task_id}/artifacts/{path}")
    assert answer.content == b"".join(parts)
    assert answer.headers["content-length"] == "15"
    assert answer.headers["content-disposition"].startswith("attachment;")
    assert answer.headers["content-type"] == "application/octet-stream"
    missing = await client.get(f"/tasks/{task_id}/artifacts/volume/../x")
    assert missing.status_code == 404


async def test_a_receipt_is_there_after_the_end(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    task_id = (await client.post("/tasks", json=TASK)).json()["task_id"]
    assert refused(await client.get(f"/tasks/{task_id}/receipt"))[:2] == (404, "RECEIPT_NOT_READY")
    node.receipts[task_id] = {"amount": "0.000139"}
    assert (await client.get(f"/tasks/{task_id}/receipt")).json() == {"amount": "0.000139"}


async def test_node_offers_wallet_and_key_can_be_asked_about(
    client: httpx.AsyncClient, node: FakeNodeApi
) -> None:
    node.offered = [
        {"provider": "p", "resource_class": "cpu", "age_s": 1},
        {"provider": "q", "resource_class": "h100", "age_s": 2},
    ]
    assert (await client.get("/node")).json()["peer_id"] == "12D3KooFake"
    assert (await client.get("/offers")).json() == {"offers": node.offered}
    few = await client.get("/offers", params={"resource_class": "h100", "limit": 5})
    assert few.json() == {"offers": node.offered[1:]}
    assert (await client.get("/offers", params={"limit": 1})).json() == {
        "offers": node.offered[:1]
    }
    assert (await client.get("/wallet/balance")).json()["usdc_balance"] == "1.000000"
    assert (await client.get("/auth/validate")).json() == {
        "email": None,
        "wallet_address": "Fake1111",
    }


async def test_a_bug_is_a_500_that_tells_nothing_of_the_inside(
    client: httpx.AsyncClient, node: FakeNodeApi, caplog: pytest.LogCaptureFixture
) -> None:
    node.refuse_with = ZeroDivisionError("secret insides")
    answer = await client.post("/tasks", json=TASK)
    assert refused(answer)[:2] == (500, "INTERNAL")
    assert "secret" not in answer.text
    with trio.fail_after(5):
        while "secret insides" not in caplog.text:  # noqa: ASYNC110 - hypercorn logs it when it does
            await trio.sleep(0.005)
