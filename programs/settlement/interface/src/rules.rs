//! The rules about money and time, free of accounts.
//!
//! Multiplications are arranged so that they cannot overflow: the BPF back end of LLVM 22 compiles
//! no overflow check of a 64-bit product.

use crate::{
    BPS, Key, MAX_CHALLENGE_S, MAX_FEE_BPS, MAX_SLASH_BPS, MAX_UNBOND_S,
    error::{Error, Result},
    state::{Balance, CLOSING, Channel, OPEN},
    statement::Voucher,
};

/// `a + b`, or a refusal.
#[inline(always)]
pub fn add(a: u64, b: u64) -> Result<u64> {
    a.checked_add(b).ok_or(Error::Overflow)
}

/// `ceil(amount × bps / 10 000)`, for rates up to [`MAX_FEE_BPS`].
#[inline(always)]
pub fn fee(amount: u64, bps: u16) -> Result<u64> {
    if bps > MAX_FEE_BPS {
        return Err(Error::SettingOutOfRange);
    }
    let (whole, rest) = (amount / BPS, amount % BPS);
    let bps = u64::from(bps);
    // whole × bps ≤ 2⁶⁴ / 10⁴ × 500 and rest × bps < 10⁴ × 500.
    add(whole.wrapping_mul(bps), rest.wrapping_mul(bps).div_ceil(BPS))
}

/// What a settlement moves. `paid + fee` leaves the channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    pub settled: u64,
    pub paid: u64,
    pub fee: u64,
}

/// What is due of a channel, or `None` where nothing is left to settle.
///
/// The fee is always that of the total so far, so that splitting a claim changes no fee.
#[inline(always)]
pub fn due(channel: &Channel, cumulative: u64, claim: u64) -> Result<Option<Due>> {
    let target = claim.min(cumulative).min(channel.deposit());
    if target <= channel.settled() {
        return Ok(None);
    }
    let delta = target - channel.settled();
    let fee = fee(target, channel.header.fee_bps())?
        .checked_sub(channel.fee_taken())
        .ok_or(Error::Overflow)?;
    let paid = delta.checked_sub(fee).ok_or(Error::Overflow)?;
    Ok(Some(Due { settled: target, paid, fee }))
}

/// Move what is due from the channel to its payee.
#[inline(always)]
pub fn credit(
    channel: &mut Channel,
    payee: &mut Balance,
    due: &Due,
    root: &[u8; 32],
) -> Result<()> {
    payee.set_available(add(payee.available(), due.paid)?);
    payee.set_fees_owed(add(payee.fees_owed(), due.fee)?);
    channel.set_fee_taken(add(channel.fee_taken(), due.fee)?);
    channel.set_settled(due.settled);
    channel.alloc_root = *root;
    Ok(())
}

/// What a closed channel gives back to its payer.
#[inline(always)]
pub fn remainder(channel: &Channel) -> Result<u64> {
    channel.deposit().checked_sub(channel.settled()).ok_or(Error::Overflow)
}

/// Take `amount` out of what is available.
#[inline(always)]
pub fn spend(balance: &mut Balance, amount: u64) -> Result<()> {
    let left = balance.available().checked_sub(amount).ok_or(Error::InsufficientFunds)?;
    balance.set_available(left);
    Ok(())
}

/// Who acts for a Balance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Actor {
    Owner,
    Delegate,
}

/// Whether `key` may act for `balance` at `now`.
#[inline(always)]
pub fn actor(balance: &Balance, key: &Key, now: i64) -> Result<Actor> {
    if *key == balance.owner {
        return Ok(Actor::Owner);
    }
    if *key != balance.delegate || *key == [0; 32] {
        return Err(Error::NotAuthorized);
    }
    if now >= balance.delegate_expires() {
        return Err(Error::DelegationExpired);
    }
    Ok(Actor::Delegate)
}

/// Set `amount` aside on behalf of `actor`: the allowance bounds all that a delegate ever commits.
#[inline(always)]
pub fn commit(balance: &mut Balance, actor: Actor, amount: u64) -> Result<()> {
    if amount == 0 {
        return Err(Error::ZeroAmount);
    }
    if actor == Actor::Delegate {
        let left = balance.allowance().checked_sub(amount).ok_or(Error::AllowanceExceeded)?;
        balance.set_allowance(left);
    }
    spend(balance, amount)
}

/// Whether a challenge time may be agreed on.
#[inline(always)]
pub fn check_challenge(challenge_s: u64, min_challenge_s: u64) -> Result<()> {
    if challenge_s < min_challenge_s || challenge_s > MAX_CHALLENGE_S {
        return Err(Error::ChallengeOutOfRange);
    }
    Ok(())
}

/// Start the challenge time. Only the first call changes anything; returns whether it was this one.
#[inline(always)]
pub fn request_close(channel: &mut Channel, now: i64) -> Result<bool> {
    if channel.header.state != OPEN {
        return Ok(false);
    }
    let challenge = i64::try_from(channel.challenge_s()).map_err(|_| Error::Overflow)?;
    channel.set_close_at(now.checked_add(challenge).ok_or(Error::Overflow)?);
    channel.header.state = CLOSING;
    Ok(true)
}

/// Whether anybody may close the channel at `now`.
#[inline(always)]
pub fn check_challenge_over(channel: &Channel, now: i64) -> Result<()> {
    if channel.header.state != CLOSING {
        return Err(Error::ChannelNotClosing);
    }
    if now < channel.close_at() {
        return Err(Error::ChallengeNotOver);
    }
    Ok(())
}

/// Whether settings are inside the bounds no admin can pass.
#[inline(always)]
pub fn check_settings(
    fee_bps: u16,
    slash_bps: u16,
    unbond_s: u64,
    min_challenge_s: u64,
) -> Result<()> {
    let times = unbond_s <= MAX_UNBOND_S && min_challenge_s <= MAX_CHALLENGE_S;
    if fee_bps > MAX_FEE_BPS || slash_bps > MAX_SLASH_BPS || !times {
        return Err(Error::SettingOutOfRange);
    }
    Ok(())
}

/// One verified statement inside the data of an Ed25519 instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified<'a> {
    pub key: &'a [u8],
    pub message: &'a [u8],
}

const OFFSETS: usize = 14;
const SIGNATURE: usize = 64;
const KEY: usize = 32;

/// Entry `entry` of an Ed25519 instruction whose every message has `length` bytes.
///
/// Only the canonical layout counts: `n, 0`, then `n` offset records, then `n` times signature, key
/// and message without gap or overlap, all inside this very instruction, and nothing after them.
/// Looking only at the instruction indices would let two entries share bytes.
#[inline(always)]
pub fn verified(data: &[u8], entry: u8, length: usize) -> Result<Verified<'_>> {
    let [count, 0, ..] = *data else { return Err(Error::NoSignatureCheck) };
    let (count, entry) = (count as usize, entry as usize);
    let block = SIGNATURE + KEY + length;
    // Each factor is below 2¹⁶.
    let head = 2 + count.wrapping_mul(OFFSETS);
    if entry >= count || data.len() != head + count.wrapping_mul(block) {
        return Err(Error::NoSignatureCheck);
    }
    let at = head + entry.wrapping_mul(block);
    let record = 2 + entry.wrapping_mul(OFFSETS);
    let field = |i: usize| u16::from_le_bytes([data[record + 2 * i], data[record + 2 * i + 1]]);
    let here = u16::MAX;
    let want = [
        at,
        here as usize,
        at + SIGNATURE,
        here as usize,
        at + SIGNATURE + KEY,
        length,
        here as usize,
    ];
    let mut i = 0;
    while i < want.len() {
        if field(i) as usize != want[i] {
            return Err(Error::NoSignatureCheck);
        }
        i += 1;
    }
    let (key, message) = data[at + SIGNATURE..at + block].split_at(KEY);
    Ok(Verified { key, message })
}

/// The voucher that `statement` is, provided it is one of this channel, signed by its key.
#[inline(always)]
pub fn voucher(statement: &Verified, address: &Key, channel: &Channel) -> Result<Voucher> {
    let voucher = Voucher::read(statement.message)?;
    if statement.key != channel.voucher_key || voucher.channel != *address {
        return Err(Error::WrongVoucher);
    }
    Ok(voucher)
}
