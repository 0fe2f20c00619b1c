//! What is written down in several places says the same in each.

use std::{fs, path::PathBuf};

use settlement_interface::{error::ERRORS, instruction::INSTRUCTIONS};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../..")
}

/// `0. `[signer, writable]` name: what else` of a doc comment, as name, writable and signer.
fn expected_account(line: &str) -> Option<(usize, String, bool, bool)> {
    let (number, rest) = line.strip_prefix("/// ")?.split_once(". `[")?;
    let (rights, rest) = rest.split_once("]` ")?;
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    let has = |right| rights.split(", ").any(|one| one == right);
    Some((number.parse().ok()?, name, has("writable"), has("signer")))
}

#[test]
fn every_handler_names_the_accounts_that_the_interface_lists() {
    for one in INSTRUCTIONS {
        let file = root().join(format!("programs/settlement/program/src/{}.rs", one.name));
        let source = fs::read_to_string(&file).expect("each instruction has a file");
        let named: Vec<_> = source.lines().filter_map(expected_account).collect();
        let listed: Vec<_> = one
            .accounts
            .iter()
            .enumerate()
            .map(|(i, spec)| (i, spec.name.to_owned(), spec.writable, spec.signer))
            .collect();
        // `sweep_fees` has one line more, of the accounts that follow.
        assert_eq!(named[..listed.len()], listed, "{}", one.name);
        assert!(named[listed.len()..].iter().all(|more| more.1 == "and"), "{}", one.name);
    }
}

#[test]
fn every_instruction_has_a_test_file_that_attacks_its_accounts() {
    for one in INSTRUCTIONS {
        let folder = root().join("programs/settlement/tests/tests");
        let file = folder.join(format!("program/{}.rs", one.name));
        let source = fs::read_to_string(&file).expect("each instruction has a test file");
        assert!(source.contains(&format!("attack(\"{}\"", one.name)), "{}", one.name);
        assert!(folder.join(format!("refusals/{}.txt", one.name)).exists(), "{}", one.name);
    }
}

#[test]
fn numbers_names_and_meanings_of_errors_are_those_of_the_specification() {
    let text = fs::read_to_string(root().join("docs/settlement.md")).expect("it is committed");
    let documented: Vec<_> = text.lines().filter(|line| line.starts_with("| 60")).collect();
    let listed: Vec<_> = ERRORS
        .iter()
        .map(|(number, name, meaning)| format!("| {number} | `{name}` | {} |", meaning.trim()))
        .collect();
    assert_eq!(documented, listed);
}
