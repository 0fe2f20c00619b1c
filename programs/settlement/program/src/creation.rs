//! The beginning and the end of the program's accounts.

use pinocchio::{
    AccountView, Address,
    cpi::{Seed, Signer},
};
use pinocchio_system::instructions::{Allocate, Assign, Transfer};
use settlement_interface::error::Error;

use crate::{access::signed, chain, fault::Outcome};

/// An account to be created at the address that its seeds give.
pub struct Creation<'a> {
    pub program: &'a Address,
    /// Signs, and pays what the account lacks.
    pub rent_payer: &'a AccountView,
    pub account: &'a AccountView,
    /// Without the bump; seven at most.
    pub seeds: &'a [&'a [u8]],
    pub size: usize,
    pub owner: &'a Address,
}

impl Creation<'_> {
    /// Create the account and return its bump, which is the canonical one.
    ///
    /// The address can be known and paid to by anybody beforehand, and `CreateAccount` refuses an
    /// account with lamports. So lamports are topped up, then the space is allocated and assigned.
    #[inline(never)]
    pub fn perform(&self) -> Outcome<u8> {
        signed(self.rent_payer)?;
        let (address, bump) = Address::find_program_address(self.seeds, self.program);
        if address != *self.account.address() {
            return Err(Error::WrongAddress.into());
        }
        if !self.account.owned_by(&pinocchio_system::ID) || !self.account.is_data_empty() {
            return Err(Error::AlreadyExists.into());
        }
        let lacking = chain::rent(self.size as u64).saturating_sub(self.account.lamports());
        if lacking > 0 {
            Transfer { from: self.rent_payer, to: self.account, lamports: lacking }.invoke()?;
        }
        let bumps = [bump];
        let seed = |i: usize| Seed::from(self.seeds.get(i).copied().unwrap_or(&bumps));
        let seeds: [Seed; 8] = core::array::from_fn(seed);
        let count = self.seeds.len();
        let signers = [Signer::from(&seeds[..=count])];
        Allocate { account: self.account, space: self.size as u64 }.invoke_signed(&signers)?;
        Assign { account: self.account, owner: self.owner }.invoke_signed(&signers)?;
        Ok(bump)
    }
}

/// End an account of this program: its data are zeroed, it belongs to the system again, and its
/// lamports go to `rent_payer`. No record may be borrowed.
#[inline(always)]
pub fn close(account: &mut AccountView, rent_payer: &mut AccountView) -> Outcome {
    let lamports = rent_payer.lamports().checked_add(account.lamports()).ok_or(Error::Overflow)?;
    account.try_borrow_mut()?.fill(0);
    account.set_lamports(0);
    rent_payer.set_lamports(lamports);
    account.close()?;
    Ok(())
}
