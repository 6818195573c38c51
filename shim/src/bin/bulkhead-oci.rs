//! The `bulkhead-oci` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(bulkhead::oci::run(std::env::args_os().skip(1)))
}
