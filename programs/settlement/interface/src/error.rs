//! Why the program refuses. Numbers are stable: a new reason gets a new number at the end.

macro_rules! errors {
    ($($(#[doc = $doc:literal])+ $name:ident = $number:literal,)+) => {
        /// A refusal. The runtime reports it as `Custom(number)`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u32)]
        pub enum Error {
            $($(#[doc = $doc])+ $name = $number,)+
        }

        /// Number, name and meaning of every refusal.
        pub const ERRORS: &[(u32, &str, &str)] =
            &[$(($number, stringify!($name), concat!($($doc),+)),)+];
    };
}

errors! {
    /// The instruction data begin with no known discriminator.
    UnknownInstruction = 6000,
    /// The arguments are shorter or longer than the instruction's.
    BadArguments = 6001,
    /// An account is missing from the list.
    MissingAccount = 6002,
    /// A required signature is missing.
    MissingSignature = 6003,
    /// The account does not belong to this program.
    ForeignAccount = 6004,
    /// The account is of another kind, version or size.
    WrongAccountKind = 6005,
    /// The account is not at the address its seeds give.
    WrongAddress = 6006,
    /// The account exists already.
    AlreadyExists = 6007,
    /// The signer may not do this.
    NotAuthorized = 6008,
    /// The delegation has ended.
    DelegationExpired = 6009,
    /// The delegate's allowance does not cover the amount.
    AllowanceExceeded = 6010,
    /// The balance does not cover the amount.
    InsufficientFunds = 6011,
    /// An amount or a time does not fit its number.
    Overflow = 6012,
    /// The amount must not be zero.
    ZeroAmount = 6013,
    /// The mint is not accepted here.
    WrongMint = 6014,
    /// The token account is of another owner, mint or program.
    WrongTokenAccount = 6015,
    /// The balance is of another owner or mint.
    WrongBalance = 6016,
    /// New deposits and channels are paused.
    Paused = 6017,
    /// The nonce is not the balance's next one.
    WrongNonce = 6018,
    /// The challenge time is outside the allowed range.
    ChallengeOutOfRange = 6019,
    /// The channel is closing.
    ChannelClosing = 6020,
    /// Nobody asked to close the channel.
    ChannelNotClosing = 6021,
    /// The challenge time is not over.
    ChallengeNotOver = 6022,
    /// The lamports must go back to who paid the rent.
    WrongRentPayer = 6023,
    /// The instruction named is no strict Ed25519 verification.
    NoSignatureCheck = 6024,
    /// The verified statement is no voucher of this channel by its key.
    WrongVoucher = 6025,
    /// A setting is outside its bounds.
    SettingOutOfRange = 6026,
    /// The program's upgrade authority must sign.
    NotUpgradeAuthority = 6027,
    /// An address is zero where a real one is needed.
    ZeroKey = 6028,
    /// A verified statement is no lease of this stake by a key that counts.
    WrongLease = 6029,
    /// The two leases do not let one slot to two payers for one moment.
    NoDoubleSale = 6030,
    /// A lease begins in the future, before the last penalty, or too long ago.
    LeaseOutOfTime = 6031,
    /// The stake is too small for a penalty.
    NothingToSlash = 6032,
    /// The unbonding time is not over.
    UnbondingNotOver = 6033,
    /// The key was changed less than an unbonding time ago.
    RotationTooSoon = 6034,
}

pub type Result<T> = core::result::Result<T, Error>;
