use settlement_interface::event::DelegateSet;
use settlement_tests::{
    World,
    adversary::attack,
    world::{NOW, events},
};

#[test]
fn the_owner_sets_who_acts_for_it() {
    let mut world = World::configured();
    let (owner, node) = (world.depositor(20, 0), world.wallet(21));
    let call = world.set_delegate(&owner, &node, NOW + 9);
    let result = world.ok(&call);
    let balance = world.balance(&owner);
    assert_eq!((balance.delegate, balance.allowance()), (node.key(), 1_000_000));
    assert_eq!(balance.delegate_expires(), NOW + 9);
    let told = DelegateSet {
        owner: owner.key(),
        mint: world.mints[0].to_bytes(),
        delegate: node.key(),
        allowance: 1_000_000,
        expires: NOW + 9,
    };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let (owner, node) = (world.depositor(20, 0), world.wallet(21));
        world.set_delegate(&owner, &node, NOW + 9)
    };
    attack("set_delegate", &[], prepare, World::configured());
}
