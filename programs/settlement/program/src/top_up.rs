use settlement_interface::{
    error::Error,
    event::ToppedUp,
    instruction::TopUp,
    rules,
    state::{Balance, Channel, OPEN},
};

use crate::{
    Call,
    access::{check_balance, load_mut, signed},
    chain::{emit, now},
    fault::Outcome,
};

/// Set more aside in an open channel.
///
/// # Accounts expected
/// 0. `[signer]` authority: the payer, or the delegate of its Balance
/// 1. `[writable]` payer_balance
/// 2. `[writable]` channel: not closing
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = TopUp::read(call.arguments)?;
    let [authority, payer_balance, channel, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(authority)?;
    let address = channel.address().to_bytes();
    let mut record = load_mut::<Channel>(channel, call.program)?;
    if record.header.state != OPEN {
        return Err(Error::ChannelClosing.into());
    }
    let mut balance = load_mut::<Balance>(payer_balance, call.program)?;
    check_balance(&balance, &record.payer, &record.mint)?;
    let actor = rules::actor(&balance, authority.address().as_array(), now()?)?;
    rules::commit(&mut balance, actor, args.amount)?;
    let deposit = rules::add(record.deposit(), args.amount)?;
    record.set_deposit(deposit);
    emit(&ToppedUp { channel: address, amount: args.amount, deposit }.bytes());
    Ok(())
}
