use settlement_interface::event::ToppedUp;
use settlement_tests::{World, adversary::attack, world::events};

#[test]
fn the_deposit_grows_by_what_the_balance_loses_whatever_is_paused() {
    let mut world = World::configured();
    let (payer, payee) = (world.depositor(20, 100), world.depositor(21, 0));
    let channel = world.channel(payer, payee, 10);
    let pause = world.update_config(true);
    world.ok(&pause);
    let call = world.top_up(&channel, 25);
    let result = world.ok(&call);
    assert_eq!(
        (world.channel_record(&channel).deposit(), world.balance(&payer).available()),
        (35, 65)
    );
    let told = ToppedUp { channel: channel.address.to_bytes(), amount: 25, deposit: 35 };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let (payer, payee) = (world.depositor(20, 100), world.depositor(21, 0));
        let channel = world.channel(payer, payee, 10);
        world.top_up(&channel, 25)
    };
    attack("top_up", &[], prepare, World::configured());
}
