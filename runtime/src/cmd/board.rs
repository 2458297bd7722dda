//! `girasol board`: what was recognised of the board.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;
use girasol::{Error, ErrorKind, Result};

/// Show what board this is: model, processor, memory, temperatures, power warnings, and the profile in use
#[derive(Debug, Args)]
pub(super) struct Board {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// As JSON
    #[arg(long)]
    json: bool,
    /// Read /proc and /sys below this folder instead of /
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Board {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = self.config.load()?;
        let board = girasol_board::Board::recognise(&self.root, &config.board.profiles()?);
        if self.json {
            let json = serde_json::to_string_pretty(&board)
                .map_err(|e| Error::new(ErrorKind::Internal, "the board as JSON").cause(e))?;
            println!("{json}");
        } else {
            println!("{board}");
        }
        Ok(ExitCode::SUCCESS)
    }
}
