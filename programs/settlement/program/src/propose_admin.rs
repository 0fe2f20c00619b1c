use settlement_interface::{
    error::Error, event::AdminProposed, instruction::ProposeAdmin, state::Config,
};

use crate::{
    Call,
    access::{load_mut, signed},
    chain::emit,
    fault::Outcome,
};

/// Offer the administration to another key, or take the offer back. The admin stays until the other
/// key has shown that it can sign.
///
/// # Accounts expected
/// 0. `[signer]` admin
/// 1. `[writable]` config
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = ProposeAdmin::read(call.arguments)?;
    let [admin, config, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    signed(admin)?;
    let mut record = load_mut::<Config>(config, call.program)?;
    if record.admin != *admin.address().as_array() {
        return Err(Error::NotAuthorized.into());
    }
    record.pending_admin = args.new_admin;
    emit(&AdminProposed { admin: record.admin, pending_admin: args.new_admin }.bytes());
    Ok(())
}
