use settlement_interface::{
    error::Error,
    event::ChannelClosed,
    instruction::CloseByPayee,
    rules,
    state::{Balance, Channel},
};

use crate::{
    Call,
    access::{check_balance, load, signed},
    chain::{emit, now},
    fault::Outcome,
    finalize_close::close_channel,
};

/// Close at once: the payee gives up what it has not settled.
///
/// # Accounts expected
/// 0. `[signer]` authority: the payee, or the delegate of its Balance
/// 1. `[writable]` channel
/// 2. `[]` payee_balance: read only when a delegate signs
/// 3. `[writable]` payer_balance
/// 4. `[writable]` rent_payer: who paid the channel's rent
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    CloseByPayee::read(call.arguments)?;
    let [authority, channel, payee_balance, payer_balance, rent_payer, ..] = &mut *call.accounts
    else {
        return Err(Error::MissingAccount.into());
    };
    signed(authority)?;
    {
        let record = load::<Channel>(channel, call.program)?;
        let key = authority.address().as_array();
        if record.payee != *key {
            let balance = load::<Balance>(payee_balance, call.program)?;
            check_balance(&balance, &record.payee, &record.mint)?;
            rules::actor(&balance, key, now()?)?;
        }
    }
    let closed: ChannelClosed = close_channel(channel, payer_balance, rent_payer, call.program)?;
    emit(&closed.bytes());
    Ok(())
}
