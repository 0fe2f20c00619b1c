"""A job may be broken off at any moment: what it held is paid, given back or held, to the unit."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest
from scene_chain import CHALLENGE_S
from whole_world import wait_until

from robocompute_node.cli.main import run_command
from robocompute_protocol.identifiers import to_base58
from robocompute_protocol.money import parse_amount

if TYPE_CHECKING:
    from scene_world import Scene

pytestmark = [pytest.mark.world, pytest.mark.timeout(300)]

BALLAST = secrets.token_bytes(8 * 1_048_576)
"""Its upload takes a while."""
STAGES = ("funding", "uploading", "ordering", "preparing", "starting", "running", "collecting")


class Accounts:
    """What client and provider had, and what has become of it since."""

    def __init__(self, scene: Scene, client: str = "client-1") -> None:
        scene.receipts_in(client)
        scene.settled()
        self._scene = scene
        self._name = client
        self._receipts = scene.receipts(client)
        self._settled = self._settled_now()
        self._client = scene.world.wealth(client)
        self._provider = scene.world.wealth("provider-1")
        self._fees = scene.chain.books().fees_owed

    def _settled_now(self) -> int:
        return sum(channel.settled for channel in self._scene.channels(self._name))

    def agree(self) -> int:
        """Hold all sides against each other; return what was paid."""
        scene, name = self._scene, self._name
        scene.receipts_in(name)
        wait_until("all slots free", lambda: scene.world.provider()["slots_taken"] == 0)
        scene.settled()
        books = scene.chain.books()
        assert books.surplus == 0
        paid = scene.receipts(name) - self._receipts
        assert self._settled_now() - self._settled == paid
        assert self._client - scene.world.wealth(name) == paid
        fees = books.fees_owed - self._fees
        assert scene.world.wealth("provider-1") - self._provider == paid - fees
        held = sum(channel.deposit - channel.settled for channel in scene.channels(name))
        locked = parse_amount(str(scene.world.sdk(name).wallet.get_balance()["locked"]))
        assert locked == held
        return paid


def test_a_job_cancelled_at_any_stage_costs_what_its_receipt_says(scene: Scene) -> None:
    accounts = Accounts(scene)
    queued = scene.order(600, fits=False)
    tasks = {"queued": queued}
    for stage in STAGES:
        tasks[stage] = scene.order(3, ballast=BALLAST if stage == "uploading" else b"")
        scene.until_stage(tasks[stage], stage, "running")
        scene.world.sdk().tasks.cancel(tasks[stage])
    tasks["later"] = scene.order(600)
    scene.until_paid_on(tasks["later"])
    scene.world.sdk().tasks.cancel(tasks["later"])
    scene.world.sdk().tasks.cancel(queued)
    ends = {name: scene.ended(task) for name, task in tasks.items()}
    assert ends["queued"]["cost"] == "0.000000"
    assert {end["cause"] for end in ends.values()} <= {"cancelled", "exited", None}
    assert ends["later"]["cause"] == "cancelled"
    paid = accounts.agree()
    assert paid == sum(parse_amount(end["cost"]) for end in ends.values()) > 0


def test_a_client_killed_with_jobs_in_every_phase_owes_what_it_signed_at_most(
    scene: Scene,
) -> None:
    client = "client-2"
    accounts = Accounts(scene, client)
    later = scene.order(600, client=client)
    scene.until_paid_on(later, client)
    queued = scene.order(600, client=client, fits=False)
    first_tick = scene.order(600, client=client)
    scene.until_stage(first_tick, "running", client=client)
    scene.order(600, client=client, ballast=secrets.token_bytes(len(BALLAST)))
    scene.world.kill(client)
    wait_until(
        "the end of what nobody pays for",
        lambda: scene.world.provider()["slots_taken"] == 0,
    )
    scene.world.start(client)
    tasks = [str(task.task_id) for task in scene.world.sdk(client).tasks.list(limit=4)]
    for task in tasks:
        scene.world.sdk(client).tasks.cancel(task)
        scene.ended(task, client)
    paid = accounts.agree()
    ends = {task: scene.task(task, client) for task in tasks}
    assert ends[later]["cause"] == ends[first_tick]["cause"] == "client_lost"
    assert ends[queued]["cost"] == "0.000000"
    assert paid == sum(parse_amount(end["cost"]) for end in ends.values()) > 0


def test_a_provider_killed_with_jobs_in_every_phase_is_paid_what_it_delivered(
    scene: Scene,
) -> None:
    accounts = Accounts(scene)
    later = scene.order(600)
    scene.until_paid_on(later)
    first_tick = scene.order(600)
    scene.until_stage(first_tick, "running")
    seen = len(scene.chain.rpc.transactions())
    ending = scene.order(1)
    scene.ended(ending)
    # Its settlement is on its way when the process ends.
    wait_until("a transaction", lambda: len(scene.chain.rpc.transactions()) > seen)
    scene.world.kill("provider-1")
    scene.world.start("provider-1")
    for task in (later, first_tick):
        scene.world.sdk().tasks.cancel(task)
        scene.ended(task)
    paid = accounts.agree()
    ends = [scene.task(task) for task in (ending, later, first_tick)]
    assert paid == sum(parse_amount(end["cost"]) for end in ends) > 0


def test_what_a_channel_holds_comes_back_when_it_is_closed(scene: Scene) -> None:
    scene.lets_again()
    assert Accounts(scene).agree() == 0
    before = scene.world.sdk().wallet.get_balance()["available"]
    (channel,) = scene.channels()
    held = channel.deposit - channel.settled
    assert held > 0
    data = str(scene.world.data("client-1"))
    assert (
        run_command(["channels", "close", to_base58(channel.channel), "--yes", "--data", data])
        == 0
    )
    wait_until("the end of the challenge", lambda: not scene.channels(), within_s=3 * CHALLENGE_S)

    def back() -> bool:
        balance = scene.world.sdk().wallet.get_balance()
        return parse_amount(str(balance["available"])) == parse_amount(str(before)) + held

    wait_until("the rest of the channel in the balance", back)
    books = scene.chain.books()
    assert books.surplus == 0
    assert books.channels == sum(
        channel.deposit - channel.settled for channel in scene.channels("client-2")
    )
    scene.lets_again()  # a new channel is opened as if nothing had been
    assert len(scene.channels()) == 1
