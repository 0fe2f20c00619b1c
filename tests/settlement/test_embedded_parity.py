"""The embedded chain beside Solana's own test validator: the same requests, the same answers.

What is compared is what a client's code depends on: names and types of every field, numbers and
sentences of every error, and values where they cannot differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from chain_parity import Case, Stage, alike, form, set_stage
from chain_parity_cases import cases
from settlement_chains import embedded_world, validator_binary, validator_world

if TYPE_CHECKING:
    from collections.abc import Iterator

Answers = dict[str, tuple[Case, Any]]


def answers(stage: Stage) -> Answers:
    return {
        case.name: (case, stage.world.call(case.method, *case.params)) for case in cases(stage)
    }


@pytest.fixture(scope="module")
def embedded_answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What the embedded chain says to every request."""
    with embedded_world(tmp_path_factory.mktemp("embedded-parity")) as world:
        yield answers(set_stage(world))


@pytest.fixture(scope="module")
def validator_answers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Answers]:
    """What the validator says to every request."""
    binary = validator_binary()
    if binary is None:
        pytest.skip("no solana-test-validator: name one in ROBOCOMPUTE_VALIDATOR, or install it")
    with validator_world(tmp_path_factory.mktemp("validator-parity"), binary) as world:
        yield answers(set_stage(world))


@pytest.mark.chain
@pytest.mark.timeout(400)
def test_every_request_is_answered_in_the_validators_shape(
    embedded_answers: Answers, validator_answers: Answers
) -> None:
    different: list[str] = []
    for name, (case, theirs) in validator_answers.items():
        ours = embedded_answers[name][1]
        first, second = form(theirs), form(ours)
        same = alike(first, second) if case.loose else first == second
        if case.same_value and same:
            same = theirs["result"] == ours["result"]
        if not same:
            different.append(f"{name}\n  validator {theirs}\n  embedded  {ours}"[:2_000])
    assert not different, "\n".join(different)


def test_no_request_of_the_table_is_one_that_the_embedded_chain_does_not_know(
    embedded_answers: Answers,
) -> None:
    unknown = [
        name
        for name, (_, answer) in embedded_answers.items()
        if answer.get("error", {}).get("code") in (-32601, -32603)
    ]
    assert unknown == ["noSuchMethod"]
