//! The `girasol` program: one module per subcommand in `cmd/`.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "this is the command-line program")]

mod cmd;

use std::process::ExitCode;

use clap::Parser;
use girasol::ErrorKind;

/// Blocks from 64 KiB up are mapped one by one and go back whole when freed. Loading the graphs frees tens of megabytes
/// between what stays; in one heap that leaves holes (measured: 5 MiB of 51).
fn tune_allocator() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt takes two integers and no pointer; no other thread runs yet.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, 64 * 1024);
    }
}

fn main() -> ExitCode {
    tune_allocator();
    let cli = match cmd::Cli::try_parse() {
        Ok(cli) => cli,
        // Help and version arrive here, too, and are no fault. If they cannot be printed, nothing can be said.
        Err(error) => {
            let _ = error.print();
            let code = if error.use_stderr() { ErrorKind::Usage.exit_code() } else { 0 };
            return ExitCode::from(code);
        }
    };
    match cmd::run(cli) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("girasol: {error}");
            ExitCode::from(error.kind().exit_code())
        }
    }
}
