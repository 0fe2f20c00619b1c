use pinocchio::{AccountView, Address};
use settlement_interface::{
    error::Error,
    event::ChannelClosed,
    instruction::FinalizeClose,
    rules,
    state::{Balance, Channel},
};

use crate::{
    Call,
    access::{check_balance, load, load_mut},
    chain::{emit, now},
    creation::close,
    fault::Outcome,
};

/// Close after the challenge time. Anyone may call.
///
/// # Accounts expected
/// 0. `[writable]` channel: closing
/// 1. `[writable]` payer_balance
/// 2. `[writable]` rent_payer: who paid the channel's rent
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    FinalizeClose::read(call.arguments)?;
    let [channel, payer_balance, rent_payer, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    rules::check_challenge_over(&*load::<Channel>(channel, call.program)?, now()?)?;
    let closed = close_channel(channel, payer_balance, rent_payer, call.program)?;
    emit(&closed.bytes());
    Ok(())
}

/// Give the rest back to the payer and the lamports to who paid them, and end the channel. Whether
/// it may be closed is the caller's to check.
#[inline(always)]
pub fn close_channel(
    channel: &mut AccountView,
    payer_balance: &mut AccountView,
    rent_payer: &mut AccountView,
    program: &Address,
) -> Outcome<ChannelClosed> {
    let address = channel.address().to_bytes();
    let closed = {
        let record = load::<Channel>(channel, program)?;
        if record.rent_payer != *rent_payer.address().as_array() {
            return Err(Error::WrongRentPayer.into());
        }
        let refunded = rules::remainder(&record)?;
        let mut balance = load_mut::<Balance>(payer_balance, program)?;
        check_balance(&balance, &record.payer, &record.mint)?;
        let available = rules::add(balance.available(), refunded)?;
        balance.set_available(available);
        ChannelClosed {
            channel: address,
            payer: record.payer,
            payee: record.payee,
            settled: record.settled(),
            refunded,
        }
    };
    close(channel, rent_payer)?;
    Ok(closed)
}
