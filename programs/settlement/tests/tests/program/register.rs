use settlement_interface::event::Registered;
use settlement_tests::{
    Call, World,
    adversary::{Attack, attack},
    world::events,
};

fn registering(world: &mut World) -> Call {
    let (owner, node, rent_payer) = (world.wallet(20), world.wallet(21), world.wallet(22));
    world.register(&owner, &node).with("rent_payer", rent_payer.address)
}

#[test]
fn an_owner_gets_one_empty_stake() {
    let mut world = World::configured();
    let call = registering(&mut world);
    let result = world.ok(&call);
    let [owner, node, rent_payer] = [20, 21, 22].map(|n| world.wallet(n));
    let stake = world.stake_record(&owner);
    assert_eq!(
        (stake.owner, stake.node_key, stake.rent_payer),
        (owner.key(), node.key(), rent_payer.key())
    );
    assert_eq!((stake.prev_key, stake.bonded(), stake.unbonding()), ([0; 32], 0, 0));
    assert_eq!((stake.rotated_at(), stake.watermark(), stake.slashed()), (0, 0, 0));
    let told = Registered {
        stake: world.stake_of(&owner).to_bytes(),
        owner: owner.key(),
        mint: world.mints[0].to_bytes(),
        node_key: node.key(),
    };
    assert_eq!(events(&result), [told.bytes()]);
    assert_eq!(world.refused(&call), "AlreadyExists 6007");
}

#[test]
fn every_other_account_is_refused() {
    let allowed = [
        ("rent_payer", Attack::Stranger, "whoever signs may pay the rent"),
        ("rent_payer", Attack::Alias("owner"), "whoever signs may pay the rent"),
    ];
    attack("register", &allowed, registering, World::configured());
}
