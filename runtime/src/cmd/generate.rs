//! What is made from the command line's own definition: completions, man pages, the configuration reference.

use std::{io::Write, path::PathBuf, process::ExitCode};

use clap::{CommandFactory, Subcommand};
use clap_complete::Shell;
use girasol::{Error, Result, config};

#[derive(Debug, Subcommand)]
pub(super) enum Generate {
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write the man pages into a directory
    Man {
        /// Where to
        dir: PathBuf,
    },
    /// Print the configuration reference as Markdown
    ConfigReference,
}

impl Generate {
    pub(super) fn run(self) -> Result<ExitCode> {
        match self {
            Self::Completions { shell } => {
                let mut script = Vec::new();
                clap_complete::generate(shell, &mut super::Cli::command(), "girasol", &mut script);
                print(&script)?;
            }
            Self::Man { dir } => {
                std::fs::create_dir_all(&dir).map_err(|e| Error::io(&dir, e))?;
                clap_mangen::generate_to(super::Cli::command(), &dir).map_err(|e| Error::io(&dir, e))?;
            }
            Self::ConfigReference => print(config::reference().as_bytes())?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Like `print!`, but a reader that goes away early (`| head`) is not an error.
fn print(bytes: &[u8]) -> Result<()> {
    match std::io::stdout().write_all(bytes) {
        Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => Err(Error::io("standard output", e)),
        _ => Ok(()),
    }
}
