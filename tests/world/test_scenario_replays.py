"""Whatever was said once on the chain may be said again: it changes nothing."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

import pytest
import trio
from scene_chain import STRANGER
from solders.instruction import AccountMeta, Instruction
from solders.transaction import VersionedTransaction

from robocompute_node.localnet.chains import LOCAL
from robocompute_protocol.errors import ChainRefused
from robocompute_settlement.instructions import ED25519_PROGRAM, discriminator

if TYPE_CHECKING:
    from scene_world import Scene


pytestmark = [pytest.mark.world, pytest.mark.timeout(300)]

SETTLE: Final = discriminator("settle")
FOREIGN_ACCOUNT: Final = 6004
SETTLEMENTS: Final = 2
"""Enough that one of them is older than another."""


def instructions_of(wire: bytes) -> list[Instruction]:
    message = VersionedTransaction.from_bytes(wire).message
    keys = message.account_keys
    return [
        Instruction(
            keys[each.program_id_index],
            bytes(each.data),
            [
                AccountMeta(keys[at], is_signer=message.is_signer(at), is_writable=True)
                for at in bytes(each.accounts)
            ],
        )
        for each in message.instructions
    ]


def send_anew(scene: Scene, wire: bytes) -> int | None:
    """Vouchers and claims of a transaction that settled, in a new one of a stranger's.

    Returns the program's error number where it refused.
    """
    calls = [
        call
        for call in instructions_of(wire)
        if call.program_id == ED25519_PROGRAM or bytes(call.program_id) == LOCAL.program_id
    ]

    async def send() -> int | None:
        async with scene.chain.adapter(STRANGER) as stranger:
            try:
                await stranger.send(*calls)
            except ChainRefused as exc:
                return exc.number or 0
        return None

    return trio.run(send)


def settles(wire: bytes) -> bool:
    return any(bytes(call.data).startswith(SETTLE) for call in instructions_of(wire))


def test_replayed_transactions_vouchers_and_claims_change_nothing(scene: Scene) -> None:
    while sum(map(settles, seen := scene.chain.rpc.transactions())) < SETTLEMENTS:
        scene.ended(scene.order(1))
        scene.settled()
    scene.settled()
    before = scene.chain.accounts()
    for wire in seen:
        text = base64.b64encode(wire).decode("ascii")
        for careless in (False, True):
            options = {"encoding": "base64", "skipPreflight": careless}
            answer = scene.chain.call("sendTransaction", text, options)
            assert careless or "error" in answer, answer
    assert scene.chain.accounts() == before
    answers = {send_anew(scene, wire) for wire in filter(settles, seen)}
    assert None in answers
    assert answers <= {None, FOREIGN_ACCOUNT}  # the channel of some was closed meanwhile
    assert scene.chain.accounts() == before
    assert scene.chain.books().surplus == 0


def test_a_voucher_that_was_changed_on_its_way_is_refused(scene: Scene) -> None:
    wire = next(wire for wire in scene.chain.rpc.transactions() if settles(wire))
    check, settle = [
        call for call in instructions_of(wire)
        if call.program_id == ED25519_PROGRAM or bytes(call.data).startswith(SETTLE)
    ][:2]  # fmt: skip
    more = bytearray(bytes(check.data))
    more[-40] ^= 1  # a bit of its total
    before = scene.chain.accounts()

    async def send() -> None:
        async with scene.chain.adapter(STRANGER) as stranger:
            forged = Instruction(check.program_id, bytes(more), check.accounts)
            await stranger.send(forged, settle)

    with pytest.raises(ChainRefused):
        trio.run(send)
    assert scene.chain.accounts() == before
