use settlement_interface::{event::CloseRequested, state::CLOSING};
use settlement_tests::{
    World,
    adversary::attack,
    world::{NOW, events},
};

#[test]
fn only_the_first_request_starts_the_challenge_time() {
    let mut world = World::configured();
    let (payer, payee) = (world.depositor(20, 100), world.depositor(21, 0));
    let channel = world.channel(payer, payee, 10);
    let call = world.request_close(&channel);
    let result = world.ok(&call);
    let close_at = NOW + 3_600;
    let told = CloseRequested { channel: channel.address.to_bytes(), payee: payee.key(), close_at };
    assert_eq!(events(&result), [told.bytes()]);
    world.set_time(NOW + 50);
    assert!(events(&world.ok(&call)).is_empty());
    let record = world.channel_record(&channel);
    assert_eq!((record.header.state, record.close_at()), (CLOSING, close_at));
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let (payer, payee) = (world.depositor(20, 100), world.depositor(21, 0));
        let channel = world.channel(payer, payee, 10);
        world.request_close(&channel)
    };
    attack("request_close", &[], prepare, World::configured());
}
