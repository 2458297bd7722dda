//! The `girasol` program: one module per subcommand in `cmd/`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the command-line program")]

mod cmd;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    let cli = cmd::Cli::parse();
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("girasol: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}
