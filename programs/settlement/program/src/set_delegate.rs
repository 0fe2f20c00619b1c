use settlement_interface::{
    error::Error, event::DelegateSet, instruction::SetDelegate, state::Balance,
};

use crate::{
    Call,
    access::{load_mut, signed},
    chain::emit,
    fault::Outcome,
};

/// Set or end the delegation of a Balance.
///
/// # Accounts expected
/// 0. `[signer]` owner
/// 1. `[writable]` balance: the owner's
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = SetDelegate::read(call.arguments)?;
    let [owner, balance, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(owner)?;
    let mut record = load_mut::<Balance>(balance, call.program)?;
    if record.owner != *owner.address().as_array() {
        return Err(Error::NotAuthorized.into());
    }
    record.delegate = args.delegate;
    record.set_allowance(args.allowance);
    record.set_delegate_expires(args.expires);
    emit(
        &DelegateSet {
            owner: record.owner,
            mint: record.mint,
            delegate: args.delegate,
            allowance: args.allowance,
            expires: args.expires,
        }
        .bytes(),
    );
    Ok(())
}
