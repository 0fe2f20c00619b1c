use settlement_interface::{
    error::Error,
    event::Settled,
    instruction::Settle,
    layout::Digest,
    rules,
    state::{Balance, Channel},
    statement::Voucher,
};

use crate::{
    Call,
    access::{check_balance, load_mut},
    chain::emit,
    fault::Outcome,
    signatures::{self, statements},
};

/// Turn a voucher into the payee's Balance. Anyone may call: totals only grow, so a small claim or an
/// old voucher harms nobody.
///
/// # Accounts expected
/// 0. `[writable]` channel: open or closing
/// 1. `[writable]` payee_balance
/// 2. `[]` instructions: the sysvar
#[inline(never)]
pub fn process(call: &mut Call) -> Outcome {
    let args = Settle::read(call.arguments)?;
    let [channel, payee_balance, instructions, ..] = &mut *call.accounts else {
        return Err(Error::MissingAccount.into());
    };
    let address = channel.address().to_bytes();
    let mut record = load_mut::<Channel>(channel, call.program)?;
    let voucher = statements(
        &signatures::instructions(instructions)?,
        args.ed_ix,
        [args.entry],
        Voucher::SIZE,
        |[statement]| Ok(rules::voucher(&statement, &address, &record)?),
    )?;
    let mut balance = load_mut::<Balance>(payee_balance, call.program)?;
    check_balance(&balance, &record.payee, &record.mint)?;
    let Some(due) = rules::due(&record, voucher.cumulative, args.claim)? else {
        return Ok(());
    };
    rules::credit(&mut record, &mut balance, &due, &voucher.alloc_root)?;
    emit(
        &Settled {
            channel: address,
            payee: record.payee,
            settled: due.settled,
            paid: due.paid,
            fee: due.fee,
            alloc_root: Digest(voucher.alloc_root),
        }
        .bytes(),
    );
    Ok(())
}
