use settlement_interface::{event::ChannelOpened, state::OPEN};
use settlement_tests::{
    Call, World,
    adversary::{Attack, attack},
    world::{NOW, events},
};

/// By the payer's delegate, with the rent paid by somebody else.
fn opening(world: &mut World) -> Call {
    let (payer, payee) = (world.depositor(20, 700), world.depositor(21, 0));
    let (node, rent_payer) = (world.wallet(22), world.wallet(23));
    let call = world.set_delegate(&payer, &node, NOW + 9);
    world.ok(&call);
    let call = world.open_channel(&payer, &payee, &node, 500);
    call.with("authority", node.address).with("rent_payer", rent_payer.address)
}

#[test]
fn a_delegate_sets_money_aside_within_its_allowance() {
    let mut world = World::configured();
    let call = opening(&mut world);
    let result = world.ok(&call);
    let channel = call.accounts[3];
    let [payer, payee, node, rent_payer] = [20, 21, 22, 23].map(|n| world.wallet(n));
    let record: settlement_interface::state::Channel = world.record(channel);
    assert_eq!(
        (record.payer, record.payee, record.voucher_key),
        (payer.key(), payee.key(), node.key())
    );
    assert_eq!((record.header.state, record.header.fee_bps()), (OPEN, 250));
    assert_eq!((record.deposit(), record.settled(), record.challenge_s()), (500, 0, 3_600));
    assert_eq!((record.rent_payer, record.alloc_root), (rent_payer.key(), [0; 32]));
    assert_eq!((record.nonce(), record.fee_taken(), record.close_at()), (0, 0, 0));
    let rent = world.svm.minimum_balance_for_rent_exemption(248);
    assert_eq!(world.svm.get_balance(&channel), Some(rent));
    let balance = world.balance(&payer);
    assert_eq!((balance.available(), balance.next_nonce()), (200, 1));
    assert_eq!(balance.allowance(), 1_000_000 - 500);
    let told = ChannelOpened {
        channel: channel.to_bytes(),
        payer: payer.key(),
        payee: payee.key(),
        mint: world.mints[0].to_bytes(),
        voucher_key: node.key(),
        nonce: 0,
        deposit: 500,
        challenge_s: 3_600,
        fee_bps: 250,
    };
    assert_eq!(events(&result), [told.bytes()]);
    assert_eq!(world.refused(&call), "WrongNonce 6018");
}

#[test]
fn every_other_account_is_refused() {
    let allowed = [
        ("rent_payer", Attack::Stranger, "whoever signs may pay the rent"),
        ("rent_payer", Attack::Alias("authority"), "whoever signs may pay the rent"),
    ];
    attack("open_channel", &allowed, opening, World::configured());
}
