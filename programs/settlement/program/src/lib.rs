//! The settlement program on the chain: one file an instruction.
//!
//! Layouts, numbers and rules are in `settlement-interface`; what is here looks at accounts and
//! moves tokens and lamports. On any target but a Solana one this crate is empty.
#![cfg(any(target_os = "solana", target_arch = "bpf"))]
#![no_std]
#![forbid(unsafe_op_in_unsafe_fn)]

mod access;
mod chain;
mod creation;
mod fault;
#[cfg(target_arch = "bpf")]
mod memory;
mod signatures;
mod token;

mod accept_admin;
mod claim_unbonded;
mod close_by_payee;
mod deposit;
mod finalize_close;
mod init_config;
mod open_channel;
mod propose_admin;
mod register;
mod request_close;
mod rotate_key;
mod set_delegate;
mod settle;
mod slash;
mod stake;
mod sweep_fees;
mod top_up;
mod unstake;
mod update_config;
mod withdraw;

use pinocchio::{AccountView, Address, ProgramResult};
use settlement_interface::{
    error::Error,
    instruction::{
        AcceptAdmin, ClaimUnbonded, CloseByPayee, Deposit, FinalizeClose, InitConfig, OpenChannel,
        ProposeAdmin, Register, RequestClose, RotateKey, SetDelegate, Settle, Slash, Stake,
        SweepFees, TopUp, Unstake, UpdateConfig, Withdraw,
    },
};

use fault::Outcome;

pinocchio::nostd_panic_handler!();
pinocchio::no_allocator!();
pinocchio::program_entrypoint!(process, 32);

/// One call, behind a single pointer: BPF functions take five register arguments, and a result and
/// every slice use some of them up.
pub struct Call<'a> {
    pub program: &'a Address,
    pub accounts: &'a mut [AccountView],
    /// What follows the discriminator.
    pub arguments: &'a [u8],
}

#[inline(always)]
fn process(program: &Address, accounts: &mut [AccountView], data: &[u8]) -> ProgramResult {
    dispatch(program, accounts, data).map_err(Into::into)
}

#[inline(always)]
fn dispatch(program: &Address, accounts: &mut [AccountView], data: &[u8]) -> Outcome {
    let (discriminator, arguments) =
        data.split_first_chunk::<8>().ok_or(Error::UnknownInstruction)?;
    let mut call = Call { program, accounts, arguments };
    // The most frequent first: each comparison costs.
    match *discriminator {
        Settle::DISCRIMINATOR => settle::process(&mut call),
        OpenChannel::DISCRIMINATOR => open_channel::process(&mut call),
        TopUp::DISCRIMINATOR => top_up::process(&mut call),
        CloseByPayee::DISCRIMINATOR => close_by_payee::process(&mut call),
        RequestClose::DISCRIMINATOR => request_close::process(&mut call),
        FinalizeClose::DISCRIMINATOR => finalize_close::process(&mut call),
        Deposit::DISCRIMINATOR => deposit::process(&mut call),
        Withdraw::DISCRIMINATOR => withdraw::process(&mut call),
        SetDelegate::DISCRIMINATOR => set_delegate::process(&mut call),
        Register::DISCRIMINATOR => register::process(&mut call),
        Stake::DISCRIMINATOR => stake::process(&mut call),
        SweepFees::DISCRIMINATOR => sweep_fees::process(&mut call),
        Unstake::DISCRIMINATOR => unstake::process(&mut call),
        ClaimUnbonded::DISCRIMINATOR => claim_unbonded::process(&mut call),
        RotateKey::DISCRIMINATOR => rotate_key::process(&mut call),
        Slash::DISCRIMINATOR => slash::process(&mut call),
        ProposeAdmin::DISCRIMINATOR => propose_admin::process(&mut call),
        AcceptAdmin::DISCRIMINATOR => accept_admin::process(&mut call),
        InitConfig::DISCRIMINATOR => init_config::process(&mut call),
        UpdateConfig::DISCRIMINATOR => update_config::process(&mut call),
        _ => Err(Error::UnknownInstruction.into()),
    }
}
