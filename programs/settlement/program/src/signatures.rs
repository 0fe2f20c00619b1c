//! What the transaction's Ed25519 instructions verified.

use pinocchio::{AccountView, Address, account::Ref, sysvars::instructions::Instructions};
use settlement_interface::{error::Error, rules};

use crate::fault::Outcome;

const ED25519: Address = Address::from_str_const("Ed25519SigVerify111111111111111111111111111");

/// The transaction's instructions, from the sysvar and from no other account.
#[inline(always)]
pub fn instructions(sysvar: &AccountView) -> Outcome<Instructions<Ref<'_, [u8]>>> {
    Ok(Instructions::try_from(sysvar).map_err(|_| Error::NoSignatureCheck)?)
}

/// Hand `judge` the verified statements of `length` bytes at `entries` of the Ed25519 instruction at
/// `index`, all in the one form that counts.
#[inline(always)]
pub fn statements<const N: usize, T>(
    instructions: &Instructions<Ref<'_, [u8]>>,
    index: u8,
    entries: [u8; N],
    length: usize,
    judge: impl FnOnce([rules::Verified; N]) -> Outcome<T>,
) -> Outcome<T> {
    let check =
        instructions.load_instruction_at(index as usize).map_err(|_| Error::NoSignatureCheck)?;
    if *check.get_program_id() != ED25519 {
        return Err(Error::NoSignatureCheck.into());
    }
    let data = check.get_instruction_data();
    let mut found = [rules::Verified { key: &[], message: &[] }; N];
    for (one, entry) in found.iter_mut().zip(entries) {
        *one = rules::verified(data, entry, length)?;
    }
    judge(found)
}
