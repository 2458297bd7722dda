//! `girasol bench`: what each stage costs on this machine, in processor time: what else the machine does hardly matters.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use girasol::{
    Result,
    clock::{Clock, MonoTime, ThreadClock},
    config::Config,
    event::{EventIdentity, Origin},
    frontend::bench as frontend,
    model::{FRAMES, Model, NodeCost, PATCHES, StageCost},
    pipeline::Processor,
    timeline::Snippet,
};
use girasol_model::Bundle;

/// Measure what each stage of the pipeline costs on this machine: processor time of one thread
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(flatten)]
    config: super::ConfigArgs,
    /// Calls of each stage; the median counts
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    iterations: u32,
    /// Measure each operator of each graph instead
    #[arg(long)]
    ops: bool,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = self.config.load()?;
        let clock: Arc<dyn Clock> = Arc::new(ThreadClock);
        let iterations = self.iterations as usize;

        if self.ops {
            let nodes =
                Model::load(&self.config.open_bundle(&config)?)?.profile_nodes(iterations, &*clock)?;
            if self.json {
                print_nodes_json(&nodes)
            } else {
                print_nodes(&nodes)
            }
            return Ok(ExitCode::SUCCESS);
        }
        let (first_snippet, bundle) = first_snippet(|| self.config.open_bundle(&config), &config, &clock)?;
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
fn first_snippet(
    open: impl FnOnce() -> Result<Bundle>,
    config: &Config,
    clock: &Arc<dyn Clock>,
) -> Result<(Duration, Bundle)> {
    let started = clock.now();
    let bundle = open()?;
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

/// How often a graph runs in a snippet; the decoder runs once a token, and only to write.
fn calls(graph: &str) -> u32 {
    match graph {
        "video_encoder" => u32::try_from(FRAMES).unwrap_or(0),
        "audio_encoder" => u32::try_from(PATCHES).unwrap_or(0),
        "decoder" => 0,
        _ => 1,
    }
}

/// The nodes' share of a snippet's work in the graphs, in percent; of a token's for the decoder.
fn share(node: &NodeCost, nodes: &[NodeCost]) -> f64 {
    let weight = |n: &NodeCost| ms(n.median) * f64::from(calls(n.graph).max(1));
    let of = |n: &&NodeCost| (calls(n.graph) == 0) == (calls(node.graph) == 0);
    100.0 * weight(node) / nodes.iter().filter(of).map(weight).sum::<f64>()
}

fn print_nodes(nodes: &[NodeCost]) {
    let mut graph = "";
    for node in nodes {
        if graph != node.graph {
            graph = node.graph;
            let of = || nodes.iter().filter(|n| n.graph == graph);
            let (macs, time) = (of().map(|n| n.macs).sum::<u64>(), of().map(|n| n.median).sum::<Duration>());
            println!(
                "\n{graph}: {:.2} M MAC, {:.3} ms, {} calls a snippet",
                macs as f64 / 1e6,
                ms(time),
                calls(graph)
            );
            println!(
                "{:<22} {:<12} {:>9} {:>9} {:>9} {:>7}  node",
                "operator", "kernel", "ms", "M MAC", "G MAC/s", "share"
            );
        }
        let mega = node.macs as f64 / 1e6;
        let rate = if node.macs == 0 { "–".into() } else { format!("{:.1}", mega / ms(node.median)) };
        let macs = if node.macs == 0 { "–".into() } else { format!("{mega:.3}") };
        println!(
            "{:<22} {:<12} {:>9.4} {macs:>9} {rate:>9} {:>5.1} %  {}",
            node.operator,
            node.kernel,
            ms(node.median),
            share(node, nodes),
            node.node
        );
    }
}

fn print_nodes_json(nodes: &[NodeCost]) {
    let entry = |n: &NodeCost| {
        serde_json::json!({
            "graph": n.graph, "node": n.node, "operator": n.operator, "kernel": n.kernel, "macs": n.macs,
            "median_ms": ms(n.median), "calls_per_snippet": calls(n.graph), "share": share(n, nodes),
        })
    };
    println!("{}", serde_json::Value::from_iter(nodes.iter().map(entry)));
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
