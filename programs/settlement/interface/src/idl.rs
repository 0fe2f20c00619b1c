//! The IDL in the form Anchor's older coders (anchorpy's among them) read.
//!
//! Our accounts begin with a one-byte kind and not with an Anchor discriminator, so they are listed
//! among the types: a coder told which one it is reads the whole of it, header included.

use std::fmt::Write;

use crate::{error::ERRORS, event::EVENTS, instruction::INSTRUCTIONS, layout::FieldSpec};

const KEY: &str = r#""publicKey""#;
const DIGEST: &str = r#"{"array": ["u8", 32]}"#;
const U8: &str = r#""u8""#;
const U16: &str = r#""u16""#;
const U64: &str = r#""u64""#;
const I64: &str = r#""i64""#;

type Fields = &'static [(&'static str, &'static str)];

/// What every account begins with.
const HEADER: Fields = &[
    ("kind", U8),
    ("version", U8),
    ("bump", U8),
    ("state", U8),
    ("fee_bps", U16),
    ("reserved", U16),
];

/// Every field of every account behind the header, in order. The vectors hold this against the
/// records of [`crate::state`].
const ACCOUNTS: &[(&str, Fields)] = &[
    (
        "Config",
        &[
            ("admin", KEY),
            ("treasury", KEY),
            ("mint0", KEY),
            ("mint1", KEY),
            ("domain", DIGEST),
            ("pending_admin", KEY),
            ("slot_stake", U64),
            ("unbond_s", U64),
            ("min_challenge_s", U64),
            ("slash_bps", U16),
            ("paused", U8),
            ("auth_bump", U8),
            ("vault_bump0", U8),
            ("vault_bump1", U8),
            ("reserved_end", U16),
        ],
    ),
    (
        "Balance",
        &[
            ("owner", KEY),
            ("mint", KEY),
            ("delegate", KEY),
            ("available", U64),
            ("fees_owed", U64),
            ("fees_paid", U64),
            ("next_nonce", U64),
            ("allowance", U64),
            ("delegate_expires", I64),
        ],
    ),
    (
        "Stake",
        &[
            ("owner", KEY),
            ("mint", KEY),
            ("node_key", KEY),
            ("prev_key", KEY),
            ("rent_payer", KEY),
            ("bonded", U64),
            ("unbonding", U64),
            ("unbond_at", I64),
            ("rotated_at", I64),
            ("watermark", I64),
            ("slashed", U64),
        ],
    ),
    (
        "Channel",
        &[
            ("payer", KEY),
            ("payee", KEY),
            ("voucher_key", KEY),
            ("mint", KEY),
            ("rent_payer", KEY),
            ("nonce", U64),
            ("deposit", U64),
            ("settled", U64),
            ("fee_taken", U64),
            ("challenge_s", U64),
            ("close_at", I64),
            ("alloc_root", DIGEST),
        ],
    ),
];

/// The whole IDL, one line an entry, ending in a newline. The same input gives the same text.
pub fn json() -> String {
    let instructions = INSTRUCTIONS.iter().map(|one| {
        let accounts = one.accounts.iter().map(|account| {
            format!(
                r#"{{"name": "{}", "isMut": {}, "isSigner": {}}}"#,
                camel(account.name),
                account.writable,
                account.signer
            )
        });
        let docs = one.docs.iter().map(|line| format!("\"{}\"", line.trim()));
        format!(
            "{{\"name\": \"{}\",\n     \"docs\": [{}],\n     \"accounts\": [\n       {}],\n     \"args\": [{}]}}",
            camel(one.name),
            join(docs, ", "),
            join(accounts, ",\n       "),
            fields(one.arguments, ""),
        )
    });
    let types = ACCOUNTS.iter().map(|(name, own)| {
        let fields = HEADER
            .iter()
            .chain(*own)
            .map(|(field, kind)| format!(r#"{{"name": "{}", "type": {kind}}}"#, camel(field)));
        format!(
            "{{\"name\": \"{name}\", \"type\": {{\"kind\": \"struct\",\n     \"fields\": [{}]}}}}",
            join(fields, ", ")
        )
    });
    let events = EVENTS.iter().map(|one| {
        format!(
            "{{\"name\": \"{}\",\n     \"fields\": [{}]}}",
            one.name,
            fields(one.fields, r#", "index": false"#)
        )
    });
    let errors = ERRORS.iter().map(|(number, name, meaning)| {
        format!(r#"{{"code": {number}, "name": "{name}", "msg": "{}"}}"#, meaning.trim())
    });
    format!(
        "{{\n  \"version\": \"{}\",\n  \"name\": \"settlement\",\n  \"instructions\": [\n    {}\n  ],\n  \"types\": [\n    {}\n  ],\n  \"events\": [\n    {}\n  ],\n  \"errors\": [\n    {}\n  ]\n}}\n",
        env!("CARGO_PKG_VERSION"),
        join(instructions, ",\n    "),
        join(types, ",\n    "),
        join(events, ",\n    "),
        join(errors, ",\n    "),
    )
}

fn fields(specs: &[FieldSpec], more: &str) -> String {
    let items = specs
        .iter()
        .map(|one| format!(r#"{{"name": "{}", "type": {}{more}}}"#, camel(one.name), one.idl));
    join(items, ", ")
}

fn join(items: impl Iterator<Item = String>, separator: &str) -> String {
    items.collect::<Vec<_>>().join(separator)
}

/// `rent_payer` as `rentPayer`.
fn camel(name: &str) -> String {
    let mut out = String::new();
    for (i, part) in name.split('_').enumerate() {
        let (first, rest) = part.split_at(1.min(part.len()));
        let first = if i == 0 { first.to_owned() } else { first.to_uppercase() };
        write!(out, "{first}{rest}").expect("writing to a String cannot fail");
    }
    out
}
