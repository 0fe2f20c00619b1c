//! The IDL in the form Anchor's older coders (anchorpy's among them) read.
//!
//! Accounts are left out on purpose: ours begin with a one-byte kind, not with an Anchor
//! discriminator, so those coders could not decode them.

use std::fmt::Write;

use crate::{error::ERRORS, event::EVENTS, instruction::INSTRUCTIONS, layout::FieldSpec};

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
        "{{\n  \"version\": \"{}\",\n  \"name\": \"settlement\",\n  \"instructions\": [\n    {}\n  ],\n  \"events\": [\n    {}\n  ],\n  \"errors\": [\n    {}\n  ]\n}}\n",
        env!("CARGO_PKG_VERSION"),
        join(instructions, ",\n    "),
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
