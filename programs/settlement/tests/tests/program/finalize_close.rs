use settlement_interface::event::ChannelClosed;
use settlement_tests::{
    Call, Channel, World,
    adversary::attack,
    world::{NOW, events},
};

fn asked(world: &mut World) -> Channel {
    let (payer, payee) = (world.depositor(20, 100), world.depositor(21, 0));
    let channel = world.channel(payer, payee, 10);
    let call = world.request_close(&channel);
    world.ok(&call);
    channel
}

fn over(world: &mut World) -> Call {
    let channel = asked(world);
    world.set_time(NOW + 3_600);
    world.finalize_close(&channel)
}

#[test]
fn anybody_ends_a_channel_when_its_challenge_time_is_over() {
    let mut world = World::configured();
    let channel = asked(&mut world);
    let call = world.finalize_close(&channel);
    world.set_time(NOW + 3_599);
    assert_eq!(world.refused(&call), "ChallengeNotOver 6022");
    world.set_time(NOW + 3_600);
    // A voucher still counts, and a pause stops nothing.
    for more in [world.settle(&channel, 4), world.update_config(true)] {
        world.ok(&more);
    }
    let lamports = |world: &World, of| world.svm.get_balance(of).unwrap_or_default();
    let rent = lamports(&world, &channel.address);
    let before = lamports(&world, &channel.payer.address);
    let result = world.ok(&call);
    assert_eq!(lamports(&world, &channel.payer.address), before + rent);
    assert_eq!(world.balance(&channel.payer).available(), 96);
    assert_eq!(world.svm.get_account(&channel.address), None);
    let told = ChannelClosed {
        channel: channel.address.to_bytes(),
        payer: channel.payer.key(),
        payee: channel.payee.key(),
        settled: 4,
        refunded: 6,
    };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn every_other_account_is_refused() {
    attack("finalize_close", &[], over, World::configured());
}
