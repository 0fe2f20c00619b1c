from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from solders.pubkey import Pubkey

if TYPE_CHECKING:
    from settlement_world import World


def test_every_setting_is_replaced(world: World) -> None:
    treasury = Pubkey.new_unique()
    before = world.read_config()
    call = world.update_config(
        treasury=treasury, slot_stake=1, unbond_s=2, min_challenge_s=3, fee_bps=4, slash_bps=5,
        paused=True,
    )  # fmt: skip
    result = world.ok(call, signers=(world.admin,))
    config = world.read_config()
    assert config.treasury == treasury
    assert (config.slot_stake, config.unbond_s, config.min_challenge_s) == (1, 2, 3)
    assert (config.fee_bps, config.slash_bps, config.paused) == (4, 5, 1)
    assert (config.admin, config.mints, config.domain) == (
        before.admin,
        before.mints,
        before.domain,
    )
    assert world.events(result)[0][1]["paused"] is True


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"fee_bps": 501}, "SettingOutOfRange"),
        ({"slash_bps": 5_001}, "SettingOutOfRange"),
        ({"min_challenge_s": 30 * 86_400 + 1}, "SettingOutOfRange"),
        ({"treasury": bytes(32)}, "ZeroKey"),
    ],
)
def test_the_admin_cannot_pass_the_bounds(
    world: World, changes: dict[str, Any], error: str
) -> None:
    assert world.refusal(world.update_config(**changes), signers=(world.admin,)) == error
