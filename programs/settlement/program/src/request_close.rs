use settlement_interface::{
    error::Error,
    event::CloseRequested,
    instruction::RequestClose,
    rules,
    state::{Balance, Channel},
};

use crate::{
    Call,
    access::{check_balance, load, load_mut, signed},
    chain::{emit, now},
    fault::Outcome,
};

/// Start the challenge time, in which the payee can still settle.
///
/// # Accounts expected
/// 0. `[signer]` authority: the payer, or the delegate of its Balance
/// 1. `[writable]` channel
/// 2. `[]` payer_balance
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    RequestClose::read(call.arguments)?;
    let [authority, channel, payer_balance, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(authority)?;
    let address = channel.address().to_bytes();
    let now = now()?;
    let mut record = load_mut::<Channel>(channel, call.program)?;
    {
        let balance = load::<Balance>(payer_balance, call.program)?;
        check_balance(&balance, &record.payer, &record.mint)?;
        rules::actor(&balance, authority.address().as_array(), now)?;
    }
    if rules::request_close(&mut record, now)? {
        let (payee, close_at) = (record.payee, record.close_at());
        emit(&CloseRequested { channel: address, payee, close_at }.bytes());
    }
    Ok(())
}
