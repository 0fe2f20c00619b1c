use settlement_interface::{
    error::Error, event::AdminChanged, instruction::AcceptAdmin, state::Config,
};

use crate::{
    Call,
    access::{load_mut, signed},
    chain::emit,
    fault::Outcome,
};

/// Take the administration over.
///
/// # Accounts expected
/// 0. `[signer]` new_admin: whom the admin offered it to
/// 1. `[writable]` config
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    AcceptAdmin::read(call.arguments)?;
    let [new_admin, config, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(new_admin)?;
    let mut record = load_mut::<Config>(config, call.program)?;
    let key = *new_admin.address().as_array();
    // No offer is a zero key, which is the system program's address: nobody can sign for it.
    if record.pending_admin != key {
        return Err(Error::NotAuthorized.into());
    }
    let previous = record.admin;
    record.admin = key;
    record.pending_admin = [0; 32];
    emit(&AdminChanged { previous, admin: key }.bytes());
    Ok(())
}
