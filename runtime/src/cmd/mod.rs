//! Subcommands, one file each, and the options that they share.

mod account;
mod bench;
mod board;
mod check;
mod devices;
mod eval;
mod generate;
mod operate;
mod replay;
mod run;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};
use girasol::{
    Result,
    config::{Arithmetic, Config, LogFormat, LogLevel},
    service,
};
use girasol_model::Bundle;

/// Turns what a camera and a microphone take in into text events over MQTT. Pictures and sound never leave the process.
#[derive(Debug, Parser)]
#[command(name = "girasol", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Run),
    Devices(devices::Devices),
    Replay(replay::Replay),
    Check(check::Check),
    Bench(bench::Bench),
    Eval(eval::Eval),
    Board(board::Board),
    Watch(watch::Watch),
    #[command(flatten)]
    Generate(generate::Generate),
}

/// Options of every command that needs the configuration.
#[derive(Debug, Args)]
pub(crate) struct ConfigArgs {
    /// Configuration file; without it /etc/girasol/girasol.toml if there is one, else the defaults
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Model bundle; overrides `model.bundle`
    #[arg(long, value_name = "DIR")]
    bundle: Option<PathBuf>,
}

impl ConfigArgs {
    /// Reads the configuration and starts logging as it says.
    fn load(&self) -> Result<Config> {
        let mut config = Config::load(self.config.as_deref())?;
        if let Some(bundle) = &self.bundle {
            config.model.bundle.clone_from(bundle);
        }
        start_logging(&config);
        Ok(config)
    }

    /// Opens the bundle that `config` names and holds the labels in `config` against it.
    fn open_bundle(&self, config: &Config) -> Result<Bundle> {
        let bundle = Bundle::open(&config.model.bundle, env!("CARGO_PKG_VERSION"))?;
        config.check_labels(&bundle.manifest().labels, self.config.as_deref())?;
        Ok(match config.model.arithmetic {
            Arithmetic::Int8 => bundle,
            Arithmetic::F32 => bundle.in_f32(),
        })
    }
}

/// Runs the chosen subcommand.
pub(crate) fn run(cli: Cli) -> Result<ExitCode> {
    match cli.command {
        Command::Run(command) => command.run(),
        Command::Devices(command) => command.run(),
        Command::Replay(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Eval(command) => command.run(),
        Command::Board(command) => command.run(),
        Command::Watch(command) => command.run(),
        Command::Generate(command) => command.run(),
    }
}

/// Logs go to standard error; tract's and the MQTT client's own lines only from warnings up.
fn start_logging(config: &Config) {
    use tracing_subscriber::{EnvFilter, fmt};
    let level = match config.log.level {
        LogLevel::Error => "error",
        LogLevel::Warn => "warn",
        LogLevel::Info => "info",
        LogLevel::Debug => "debug",
        LogLevel::Trace => "trace",
    };
    let filter = EnvFilter::new(format!("warn,girasol={level}"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second start within one process is a test's; the first subscriber stays.
    let _ = match config.log.format {
        LogFormat::Text if service::to_journal() => {
            builder.with_ansi(false).event_format(service::Journal).try_init()
        }
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}

/// Resident memory of this process in KiB; 0 where the kernel does not tell.
fn rss_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let value = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    value.and_then(|v| v.trim().strip_suffix("kB")?.trim().parse().ok()).unwrap_or(0)
}
