//! Prints the IDL: `settlement-idl > idl/settlement.json`.

fn main() {
    print!("{}", settlement_interface::idl::json());
}
