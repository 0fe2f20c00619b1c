"""The embedded chain beside Solana's own test validator: the same requests, the same answers.

What is compared is what a client's code depends on: names and types of every field, numbers and
sentences of every error, and values where they cannot differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
from chain_parity import Case, Stage, alike, form, set_stage, shape
from chain_parity_cases import cases
from settlement_chains import deposit, embedded_world, validator_binary, validator_world
from websocket_clients import websocket

from robocompute_protocol.identifiers import to_base58

if TYPE_CHECKING:
    from collections.abc import Iterator

    from settlement_chains import ChainWorld

Answers = dict[str, tuple[Case, Any]]


def answers(stage: Stage) -> Answers:
    """What a chain says to every request."""
    if stage.world.name == "embedded":
        stage.world.call("embeddedFaults", {"finality_slots": 1_000})  # as slow as we may be
    stage.recent = stage.land(stage.legacy(stage.pay(5_000_000)))
    return {
        case.name: (case, stage.world.call(case.method, *case.params)) for case in cases(stage)
    }


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The embedded chain, after what happened on the validator."""
    with embedded_world(tmp_path_factory.mktemp("embedded-parity")) as world:
        yield set_stage(world)


@pytest.fixture(scope="module")
def validator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The validator, after what happened on the embedded chain."""
    binary = validator_binary()
    if binary is None:
        pytest.skip("no solana-test-validator: name one in ROBOCOMPUTE_VALIDATOR, or install it")
    with validator_world(tmp_path_factory.mktemp("validator-parity"), binary) as world:
        yield set_stage(world)


@pytest.mark.chain
@pytest.mark.timeout(400)
def test_every_request_is_answered_in_the_validators_shape(
    embedded: Stage, validator: Stage
) -> None:
    ours, different = answers(embedded), list[str]()
    for name, (case, theirs) in answers(validator).items():
        answer = ours[name][1]
        first, second = form(theirs), form(answer)
        same = alike(first, second) if case.loose else first == second
        if case.same_value and same:
            same = theirs["result"] == answer["result"]
        if not same:
            different.append(f"{name}\n  validator {theirs}\n  embedded  {answer}"[:2_000])
    assert not different, "\n".join(different)


def test_no_request_of_the_table_is_one_that_the_embedded_chain_does_not_know(
    embedded: Stage,
) -> None:
    unknown = [
        name
        for name, (_, answer) in answers(embedded).items()
        if answer.get("error", {}).get("code") in (-32601, -32603)
    ]
    assert unknown == ["noSuchMethod"]


# --- news ----------------------------------------------------------------------------------------


async def news(world: ChainWorld) -> dict[str, Any]:
    """What a chain's websocket says of a deposit, and of requests that make no sense."""
    person = world.person()
    owner, program = to_base58(person.address), to_base58(world.plan.program_id)
    raw = {"encoding": "base64", "commitment": "confirmed"}
    told: dict[str, Any] = {}
    async with websocket(world.ws_port) as client:
        for level in ("processed", "confirmed", "finalized"):
            options = {"encoding": "base64", "commitment": level}
            await client.subscribe("account", owner, options)
            signature = await trio.to_thread.run_sync(deposit, world, person, 5)
            told[f"account {level}"] = await client.told("account")
            number = told[f"account {level}"]["subscription"]
            told[f"unsubscribe {level}"] = await client.call("accountUnsubscribe", number)
            await client.subscribe("signature", signature, {"commitment": level})
            told[f"signature {level}"] = await client.told("signature")
        for encoding in ("base58", "base64", "base64+zstd", "jsonParsed"):
            number = await client.subscribe("account", owner, {**raw, "encoding": encoding})
            await trio.to_thread.run_sync(deposit, world, person, 6)
            told[f"account {encoding}"] = await client.told("account")
            await client.call("accountUnsubscribe", number)
        await client.subscribe("program", program, {**raw, "filters": [{"dataSize": 152}]})
        await client.subscribe("logs", {"mentions": [owner]}, {"commitment": "confirmed"})
        await client.subscribe("slot")
        await client.subscribe("root")
        await trio.to_thread.run_sync(deposit, world, person, 7)
        for kind in ("program", "logs", "slot", "root"):
            told[kind] = await client.told(kind)
        for name, method, params in (
            ("unknown", "noSuchSubscribe", []),
            ("request", "getSlot", []),
            ("no number", "slotUnsubscribe", [10**9]),
            ("no address", "accountSubscribe", ["x"]),
            ("no parameters", "accountSubscribe", []),
            ("two mentions", "logsSubscribe", [{"mentions": [owner, program]}]),
            ("no signature", "signatureSubscribe", ["x"]),
        ):
            told[name] = await client.call(method, *params)
    return told


@pytest.mark.chain
@pytest.mark.timeout(400)
async def test_news_are_told_in_the_validators_shape(embedded: Stage, validator: Stage) -> None:
    embedded.world.call("embeddedFaults", {"finality_slots": 2})
    ours, theirs = await news(embedded.world), await news(validator.world)
    different = [
        f"{name}\n  validator {theirs[name]}\n  embedded  {ours[name]}"[:1_500]
        for name in theirs
        if shape(ours[name]) != shape(theirs[name])
        or ours[name].get("error", {}).get("code") != theirs[name].get("error", {}).get("code")
    ]
    assert not different, "\n".join(different)
