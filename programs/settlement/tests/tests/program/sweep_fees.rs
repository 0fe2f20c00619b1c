use settlement_interface::event::FeesSwept;
use settlement_tests::{
    Call, World,
    adversary::{Attack, attack},
    world::events,
};

/// The treasury has no Balance yet; somebody pays for it.
fn sweeping(world: &mut World) -> Call {
    let (payer, payee) = (world.depositor(20, 1_000_000), world.depositor(21, 0));
    let channel = world.channel(payer, payee, 1_000_000);
    let rent_payer = world.wallet(22);
    let call = world.settle(&channel, 100_000);
    world.ok(&call);
    world.sweep_fees(&[world.balance_of(&payee)]).with("rent_payer", rent_payer.address)
}

#[test]
fn fees_owed_reach_the_treasury_once() {
    let mut world = World::configured();
    let call = sweeping(&mut world);
    let result = world.ok(&call);
    let payee = world.wallet(21);
    let balance = world.balance(&payee);
    assert_eq!((balance.fees_owed(), balance.fees_paid()), (0, 2_500));
    let treasury = world.treasury;
    assert_eq!(world.balance(&treasury).available(), 2_500);
    let mint = world.mints[0].to_bytes();
    let told = FeesSwept { treasury: treasury.key(), mint, amount: 2_500 };
    assert_eq!(events(&result), [told.bytes()]);
    world.ok(&call);
    assert_eq!(world.balance(&treasury).available(), 2_500);
}

#[test]
fn every_other_account_is_refused() {
    let allowed = [("rent_payer", Attack::Stranger, "whoever signs may pay the rent")];
    attack("sweep_fees", &allowed, sweeping, World::configured());
}
