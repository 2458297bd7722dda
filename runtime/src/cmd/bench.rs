//! `girasol bench`: what each stage costs on this machine.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use girasol::{
    Result,
    clock::{Clock, MonoTime, RealClock},
    config::Config,
    event::{EventIdentity, Origin},
    frontend::bench as frontend,
    model::{FRAMES, Model, StageCost},
    pipeline::Processor,
    timeline::Snippet,
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

        let (first_snippet, bundle) = first_snippet(&config, &clock)?;
        let started = clock.now();
        let mut model = Model::load(&bundle)?;
        let load = elapsed(&*clock, started);

        let mut stages = frontend::profile(iterations, &*clock)?;
        stages.extend(model.profile(iterations, &*clock)?);
        let snippet: Duration = stages.iter().map(|s| s.median * s.calls).sum();
        let program = std::env::current_exe().and_then(std::fs::metadata).map_or(0, |m| m.len());
        let weights = bundle.manifest().graphs.all().iter().map(|(_, g)| g.bytes).sum();
        let totals = Totals { load, first_snippet, snippet, program, weights };
        if self.json {
            print_json(&stages, &totals);
        } else {
            print_table(&stages, &totals);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// What a start costs: opening and checking the bundle, loading, and the first snippet done.
fn first_snippet(config: &Config, clock: &Arc<dyn Clock>) -> Result<(Duration, Bundle)> {
    let started = clock.now();
    let bundle = Bundle::open(&config.model.bundle, env!("CARGO_PKG_VERSION"))?;
    let identity = |bundle: &str| EventIdentity {
        device: config.device.name.clone(),
        origin: Origin::Replay { clip: "bench".into(), bundle: bundle.to_owned() },
    };
    let mut processor = Processor::new(&bundle, config.event_settings(), identity, Arc::clone(clock))?;
    let mut snippet = Snippet::new();
    snippet.audio_present = true;
    snippet.frame_present = [true; FRAMES];
    processor.step(&snippet, &mut drop)?;
    Ok((elapsed(&**clock, started), bundle))
}

fn elapsed(clock: &dyn Clock, since: MonoTime) -> Duration {
    Duration::from_nanos(u64::try_from(clock.now().since(since)).unwrap_or(0))
}

/// Figures of the whole.
struct Totals {
    /// Reading and optimising the graphs.
    load: Duration,
    /// From the start to the first snippet done.
    first_snippet: Duration,
    /// Work of one snippet.
    snippet: Duration,
    /// Size of this program's file in bytes.
    program: u64,
    /// Size of the bundle's graphs in bytes.
    weights: u64,
}

fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn print_table(stages: &[StageCost], totals: &Totals) {
    let snippet = totals.snippet;
    println!(
        "{:<16} {:>6} {:>10} {:>10} {:>9} {:>7}",
        "stage", "calls", "ms/call", "M MAC", "G MAC/s", "share"
    );
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
    println!(
        "load and optimise the graphs: {:.0} ms; start to first snippet done: {:.0} ms = {:.2} times that",
        ms(totals.load),
        ms(totals.first_snippet),
        ms(totals.first_snippet) / ms(totals.load)
    );
    println!("program: {:.1} MB, graphs: {:.2} MB", totals.program as f64 / 1e6, totals.weights as f64 / 1e6);
}

fn print_json(stages: &[StageCost], totals: &Totals) {
    let stages: Vec<_> = stages
        .iter()
        .map(|s| {
            serde_json::json!({
                "stage": s.stage, "calls_per_snippet": s.calls, "macs": s.macs, "median_ms": ms(s.median),
            })
        })
        .collect();
    let report = serde_json::json!({
        "stages": stages, "snippet_ms": ms(totals.snippet), "load_ms": ms(totals.load),
        "first_snippet_ms": ms(totals.first_snippet),
        "program_bytes": totals.program, "graph_bytes": totals.weights,
    });
    println!("{report}");
}
