use settlement_interface::{
    event::Settled,
    instruction::{INSTRUCTIONS, Settle},
    layout::Digest,
};
use settlement_tests::{
    Channel, World,
    adversary::attack,
    world::{check, events, voucher},
};

fn channel(world: &mut World) -> Channel {
    let (payer, payee) = (world.depositor(20, 2_000_000), world.depositor(21, 0));
    world.channel(payer, payee, 1_000_000)
}

#[test]
fn a_voucher_becomes_balance_once_less_the_fee() {
    let mut world = World::configured();
    let channel = channel(&mut world);
    let call = world.settle(&channel, 100_001);
    let result = world.ok(&call);
    let payee = world.balance(&channel.payee);
    // 2.5 % of 100,001, rounded up.
    assert_eq!((payee.available(), payee.fees_owed()), (97_500, 2_501));
    let record = world.channel_record(&channel);
    assert_eq!(
        (record.settled(), record.fee_taken(), record.alloc_root),
        (100_001, 2_501, [5; 32])
    );
    let told = Settled {
        channel: channel.address.to_bytes(),
        payee: channel.payee.key(),
        settled: 100_001,
        paid: 97_500,
        fee: 2_501,
        alloc_root: Digest([5; 32]),
    };
    assert_eq!(events(&result), [told.bytes()]);
    let again = world.ok(&call);
    assert!(events(&again).is_empty());
    assert_eq!(world.balance(&channel.payee).available(), 97_500);
}

#[test]
fn three_settle_in_one_transaction_and_each_within_its_units() {
    const GOAL: u64 = 3_000;
    let mut world = World::configured();
    let first = channel(&mut world);
    let more =
        [world.channel(first.payer, first.payee, 5), world.channel(first.payer, first.payee, 6)];
    let channels = [first, more[0], more[1]];
    let mut last = world.settle_entry(&channels[2], 2);
    last.before.push(check(&channels.map(|one| voucher(&one, 4))));
    for (entry, one) in channels[..2].iter().enumerate() {
        let call = world.settle_entry(one, entry as u8);
        last.before.push(solana_instruction::Instruction::new_with_bytes(
            world.program,
            &call.data,
            call.metas(),
        ));
    }
    let result = world.ok(&last);
    assert_eq!(events(&result).len(), 3);
    assert!(result.compute_units_consumed <= 3 * GOAL);
    for one in channels {
        assert_eq!(world.channel_record(&one).settled(), 4);
    }
    let call = world.settle(&first, 9);
    assert!(world.ok(&call).compute_units_consumed <= GOAL);
}

#[test]
fn there_is_no_account_that_every_settlement_writes() {
    // Two transactions that write one account cannot run at one time. These two are the channel and
    // its payee's own Balance; Config, the treasury and the vault are not even read.
    let spec = INSTRUCTIONS.iter().find(|one| one.name == Settle::NAME).expect("it is listed");
    let written = spec.accounts.iter().filter(|one| one.writable).map(|one| one.name);
    assert_eq!(written.collect::<Vec<_>>(), ["channel", "payee_balance"]);

    let mut world = World::configured();
    let payer = world.depositor(20, 100);
    let (one, other) = (world.depositor(21, 0), world.depositor(22, 0));
    let channels = [world.channel(payer, one, 10), world.channel(payer, other, 10)];
    let [first, second] = channels.map(|channel| world.settle(&channel, 5));
    let writes = |call: &settlement_tests::Call| -> Vec<_> {
        call.metas().into_iter().filter(|one| one.is_writable).map(|one| one.pubkey).collect()
    };
    assert!(writes(&first).iter().all(|one| !writes(&second).contains(one)));
    world.ok(&first);
    world.ok(&second);
}

#[test]
fn every_other_account_is_refused() {
    let prepare = |world: &mut World| {
        let channel = channel(world);
        world.settle(&channel, 100_001)
    };
    attack("settle", &[], prepare, World::configured());
}
