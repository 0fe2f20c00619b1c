//! Looking at accounts: each is borrowed only while its record is used, and borrows are checked at
//! run time, so one account passed twice is seen as one.

use pinocchio::{
    AccountView, Address,
    account::{Ref, RefMut},
};
use settlement_interface::{
    Key,
    error::Error,
    state::{Balance, Record},
};

use crate::fault::Outcome;

/// The record in an account of this program.
#[inline(always)]
pub fn load<'a, R: Record>(account: &'a AccountView, program: &Address) -> Outcome<Ref<'a, R>> {
    if !account.owned_by(program) {
        return Err(Error::ForeignAccount.into());
    }
    Ref::try_map(account.try_borrow()?, R::load).map_err(|(_, error)| error.into())
}

/// The record in an account of this program, in order to change it.
#[inline(always)]
pub fn load_mut<'a, R: Record>(
    account: &'a mut AccountView,
    program: &Address,
) -> Outcome<RefMut<'a, R>> {
    // The owner must be looked at before the data are borrowed.
    if !account.owned_by(program) {
        return Err(Error::ForeignAccount.into());
    }
    RefMut::try_map(account.try_borrow_mut()?, R::load_mut).map_err(|(_, error)| error.into())
}

/// Begin the record of an account that was just created.
#[inline(always)]
pub fn create<R: Record>(account: &mut AccountView, bump: u8) -> Outcome<RefMut<'_, R>> {
    RefMut::try_map(account.try_borrow_mut()?, |data| R::create(data, bump))
        .map_err(|(_, error)| error.into())
}

/// Refuses unless the account signed.
#[inline(always)]
pub fn signed(account: &AccountView) -> Outcome {
    if account.is_signer() { Ok(()) } else { Err(Error::MissingSignature.into()) }
}

/// Refuses a Balance that is not this owner's of this mint.
#[inline(always)]
pub fn check_balance(balance: &Balance, owner: &Key, mint: &Key) -> Outcome {
    if balance.owner != *owner || balance.mint != *mint {
        return Err(Error::WrongBalance.into());
    }
    Ok(())
}
