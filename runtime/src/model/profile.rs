//! What each stage of the model costs on this machine.

use std::time::Duration;

use super::{
    FRAME_VALUES, FRAMES, FrameInput, Input, MEL_VALUES, Model, NodeCost, Prompt, SNIPPET_SECONDS,
    window::WINDOW,
};
use crate::{
    Result,
    clock::{Clock, MonoTime},
};

/// One stage's cost.
#[derive(Clone, Debug)]
pub struct StageCost {
    /// The stage.
    pub stage: &'static str,
    /// Calls per snippet (0: not part of every snippet).
    pub calls: u32,
    /// Multiply-accumulates per call.
    pub macs: u64,
    /// Median time of one call.
    pub median: Duration,
}

impl Model {
    /// Times each graph over `iterations` calls with a full window. The state is reset before and after.
    pub fn profile(&mut self, iterations: usize, clock: &dyn Clock) -> Result<Vec<StageCost>> {
        self.fill_window()?;
        let graphs = self.manifest.graphs.clone();
        let mut costs = Vec::new();
        {
            let mut time = |stage, calls, macs, run: &mut dyn FnMut() -> Result<()>| -> Result<()> {
                let median = median_time(iterations, clock, run)?;
                costs.push(StageCost { stage, calls, macs, median });
                Ok(())
            };
            time("video_encoder", 2, graphs.video_encoder.macs, &mut || self.video.run().map(drop))?;
            time("audio_encoder", 2, graphs.audio_encoder.macs, &mut || self.audio.run().map(drop))?;
            time("combiner", 1, graphs.combiner.macs, &mut || self.combiner.run().map(drop))?;
            time("latent", 1, graphs.latent.macs, &mut || self.latent.run().map(drop))?;
            // Once a text, and each of its tokens.
            let graph = &mut self.decoder.graph;
            let held = graph.hold()?;
            time("decoder_window", 0, 0, &mut || graph.hold().map(drop))?;
            time("decoder", 0, graphs.decoder.macs, &mut || graph.run_on(&held).map(drop))?;
        }
        let label = self.manifest.labels.audible[0].id.clone();
        let mut run = || self.write(&Prompt::Heard(&label)).map(drop);
        let median = median_time(iterations.div_ceil(4), clock, &mut run)?;
        costs.push(StageCost { stage: "sentence", calls: 0, macs: 0, median });
        self.reset()?;
        Ok(costs)
    }

    /// Times each node of each graph over `iterations` runs with a full window. The state is reset before and after.
    pub fn profile_nodes(&mut self, iterations: usize, clock: &dyn Clock) -> Result<Vec<NodeCost>> {
        self.fill_window()?;
        let mut costs = Vec::new();
        for graph in [&mut self.video, &mut self.audio, &mut self.combiner, &mut self.latent] {
            costs.extend(graph.profile(iterations, clock)?);
        }
        costs.extend(self.decoder.graph.profile(iterations, clock)?);
        self.reset()?;
        Ok(costs)
    }

    fn fill_window(&mut self) -> Result<()> {
        self.reset()?;
        let (mel, frame) = (vec![-3.0; MEL_VALUES], vec![0.1; FRAME_VALUES]);
        for index in 0..WINDOW + 1 {
            let seconds = f64::from(SNIPPET_SECONDS) * index as f64;
            // The encoders know no past: they need to run in the last snippet only.
            let last = index == WINDOW;
            self.step(&Input {
                start: MonoTime::from_secs_f64(seconds),
                dt: SNIPPET_SECONDS,
                mel: last.then_some(&mel),
                frames: [last.then_some(FrameInput::Values(&frame)); FRAMES],
                frame_offset: [0.24, 0.72],
            })?;
        }
        Ok(())
    }
}

/// Median duration of `run`.
pub fn median_time(
    iterations: usize,
    clock: &dyn Clock,
    run: &mut dyn FnMut() -> Result<()>,
) -> Result<Duration> {
    let mut times = Vec::with_capacity(iterations.max(1));
    for _ in 0..iterations.max(1) {
        let start = clock.now();
        run()?;
        times.push(u64::try_from(clock.now().since(start)).unwrap_or(0));
    }
    times.sort_unstable();
    Ok(Duration::from_nanos(times[times.len() / 2]))
}
