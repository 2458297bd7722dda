//! `girasol bench`: what each stage costs on this machine.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use girasol::{
    Result,
    clock::{Clock, RealClock},
    frontend::bench as frontend,
    model::{Model, StageCost},
};
use girasol_model::Bundle;

/// Measure what each stage of the pipeline costs on this machine, one thread
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Calls of each stage; the median counts
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    iterations: u32,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = self.config.load()?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let iterations = self.iterations as usize;

        let started = clock.now();
        let bundle = Bundle::open(&config.model.bundle, env!("CARGO_PKG_VERSION"))?;
        let mut model = Model::load(&bundle)?;
        let load = Duration::from_nanos(u64::try_from(clock.now().since(started)).unwrap_or(0));

        let mut stages = frontend::profile(iterations, &*clock)?;
        stages.extend(model.profile(iterations, &*clock)?);
        let snippet: Duration = stages.iter().map(|s| s.median * s.calls).sum();
        if self.json {
            print_json(&stages, load, snippet);
        } else {
            print_table(&stages, load, snippet);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn print_table(stages: &[StageCost], load: Duration, snippet: Duration) {
    println!("{:<16} {:>6} {:>10} {:>10} {:>9} {:>7}", "stage", "calls", "ms/call", "M MAC", "G MAC/s", "share");
    for s in stages {
        let mega = s.macs as f64 / 1e6;
        let rate = if s.macs == 0 { "–".into() } else { format!("{:.1}", mega / ms(s.median)) };
        let macs = if s.macs == 0 { "–".into() } else { format!("{mega:.1}") };
        let share = match s.calls {
            0 => "–".into(),
            calls => format!("{:.0} %", 100.0 * ms(s.median * calls) / ms(snippet)),
        };
        println!("{:<16} {:>6} {:>10.3} {macs:>10} {rate:>9} {share:>7}", s.stage, s.calls, ms(s.median));
    }
    println!("one snippet (0.96 s): {:.2} ms = {:.1} % of one core", ms(snippet), ms(snippet) / 9.6);
    println!("load and optimise the model: {:.0} ms", ms(load));
}

fn print_json(stages: &[StageCost], load: Duration, snippet: Duration) {
    let stages: Vec<_> = stages
        .iter()
        .map(|s| {
            serde_json::json!({
                "stage": s.stage, "calls_per_snippet": s.calls, "macs": s.macs, "median_ms": ms(s.median),
            })
        })
        .collect();
    println!("{}", serde_json::json!({ "stages": stages, "snippet_ms": ms(snippet), "load_ms": ms(load) }));
}
