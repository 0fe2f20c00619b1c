use settlement_interface::event::ChannelClosed;
use settlement_tests::{
    Call, World,
    adversary::attack,
    world::{NOW, events},
};

/// By the payee's delegate, of a channel whose rent somebody else paid.
fn closing(world: &mut World) -> Call {
    let (payer, payee) = (world.depositor(20, 100), world.depositor(21, 0));
    let (node, rent_payer) = (world.wallet(22), world.wallet(23));
    let call = world.set_delegate(&payee, &node, NOW + 9);
    world.ok(&call);
    let call = world.open_channel(&payer, &payee, &node, 40);
    let channel = settlement_tests::Channel {
        address: world.channel_of(&payer, &payee, 0),
        payer,
        payee,
        signer: node,
    };
    world.ok(&call.with("rent_payer", rent_payer.address));
    let call = world.settle(&channel, 15);
    world.ok(&call);
    let call = world.close_by_payee(&channel);
    call.with("authority", node.address).with("rent_payer", rent_payer.address)
}

#[test]
fn the_rest_and_the_rent_go_back_at_once() {
    let mut world = World::configured();
    let call = closing(&mut world);
    let [payer, payee, rent_payer] = [20, 21, 23].map(settlement_tests::Person::numbered);
    let lamports = |world: &World, of| world.svm.get_balance(of).unwrap_or_default();
    let rent = lamports(&world, &call.accounts[1]);
    let before = lamports(&world, &rent_payer.address);
    let result = world.ok(&call);
    assert_eq!(world.balance(&payer).available(), 85);
    assert_eq!(world.svm.get_account(&call.accounts[1]), None);
    assert_eq!(lamports(&world, &rent_payer.address), before + rent);
    let told = ChannelClosed {
        channel: call.accounts[1].to_bytes(),
        payer: payer.key(),
        payee: payee.key(),
        settled: 15,
        refunded: 25,
    };
    assert_eq!(events(&result), [told.bytes()]);
}

#[test]
fn every_other_account_is_refused() {
    attack("close_by_payee", &[], closing, World::configured());
}
