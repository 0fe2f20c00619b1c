use settlement_interface::{ROTATION_GRACE_S, event::KeyRotated};
use settlement_tests::{
    World,
    adversary::attack,
    world::{NOW, UNBOND_S, events},
};

#[test]
fn a_key_is_forgotten_only_when_none_of_its_leases_is_evidence_any_more() {
    let mut world = World::configured();
    let provider = world.provider(20, 100);
    let (second, third) = (world.wallet(30), world.wallet(31));
    let call = world.rotate_key(&provider.owner, &second);
    let result = world.ok(&call);
    let told = KeyRotated {
        stake: provider.stake.to_bytes(),
        node_key: second.key(),
        prev_key: provider.node.key(),
        rotated_at: NOW,
    };
    assert_eq!(events(&result), [told.bytes()]);
    let call = world.rotate_key(&provider.owner, &third);
    let again = NOW + (UNBOND_S + ROTATION_GRACE_S) as i64;
    world.set_time(again - 1);
    assert_eq!(world.refused(&call), "RotationTooSoon 6034");
    world.set_time(again);
    world.ok(&call);
    let stake = world.stake_record(&provider.owner);
    assert_eq!((stake.node_key, stake.prev_key), (third.key(), second.key()));
    assert_eq!(stake.rotated_at(), again);
}

#[test]
fn the_node_key_does_not_choose_its_successor() {
    let mut world = World::configured();
    let provider = world.provider(20, 100);
    let call = world.rotate_key(&provider.owner, &provider.node);
    let call = call.with("owner", provider.node.address);
    assert_eq!(world.refused(&call), "NotAuthorized 6008");
}

#[test]
fn the_zero_key_signs_nothing() {
    let mut world = World::configured();
    let provider = world.provider(20, 100);
    let mut call = world.rotate_key(&provider.owner, &provider.node);
    call.data[8..].fill(0);
    assert_eq!(world.refused(&call), "ZeroKey 6028");
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let provider = world.provider(20, 100);
        let node = world.wallet(30);
        world.rotate_key(&provider.owner, &node)
    };
    attack("rotate_key", &[], prepare, World::configured());
}
