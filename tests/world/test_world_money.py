"""Many jobs in a row, and every unit of money where it belongs after each."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from robocompute_protocol.money import parse_amount

if TYPE_CHECKING:
    from whole_world import WholeWorld

pytestmark = pytest.mark.world

JOBS = 50


@pytest.mark.timeout(300)
def test_fifty_jobs_in_a_row_leave_no_unit_unaccounted_for(calm: WholeWorld) -> None:
    sdk = calm.sdk()
    calm.settled()
    client, provider = calm.wealth("client-1"), calm.wealth("provider-1")
    before = calm.books()
    earned = parse_amount(calm.provider()["earnings"]["earned"])
    program = b"import sys; print('job', sys.argv[1])"
    chunk = hashlib.sha256(program).hexdigest()
    sdk.blobs.put(iter([program]))
    file = {"path": "job.py", "mode": 0o644, "size": len(program), "chunks": [chunk]}
    spent = 0
    for number in range(JOBS):
        task = sdk.tasks.create(
            name="fifty",
            type="cpu",
            command=["python", "job.py", str(number)],
            upload={"files": [file]},
        )
        events = list(sdk.tasks.events(task.task_id))
        said = "".join(event.data["text"] for event in events if event.kind == "output")
        assert said == f"job {number}", events
        assert sdk.tasks.get(task.task_id)["status"] == "completed"
        receipt = sdk.tasks.receipt(task.task_id)
        assert receipt is not None
        spent += parse_amount(receipt.amount)
        assert calm.books().surplus == 0
    earnings = calm.settled()
    assert parse_amount(earnings["earned"]) - earned == spent
    assert client - calm.wealth("client-1") == spent
    fee = calm.books().fees_owed - before.fees_owed
    assert calm.wealth("provider-1") - provider == spent - fee
    assert not earnings["refused"]
