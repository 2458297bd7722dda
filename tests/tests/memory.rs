//! Memory stays flat: over thousands of snippets the resident set of the program does not grow.

use std::{io::Write, time::Duration};

use girasol_tests::{Running, json_lines, media, replay};

/// 32 minutes; `GIRASOL_MEMORY_SNIPPETS` sets another number.
const SNIPPETS: u32 = 2_000;
/// Growth that counts as none, in KiB, and as a share of the whole.
const TOLERANCE_KIB: f64 = 2_048.0;
const TOLERANCE: f64 = 0.02;

/// Sound and a tiny picture of `snippets` × 0.96 s.
fn write_clip(dir: &std::path::Path, snippets: u32) -> std::path::PathBuf {
    const RATE: u32 = 8_000;
    let (clip, mut dice) = (dir.join("long.y4m"), media::Dice::new(7));
    let seconds = snippets * 96 / 100 + 1;
    let picture = media::Picture { width: 16, height: 12, fps: 2 };
    let luma = |frame: usize, x: usize, y: usize| ((x * 13 + y * 7 + frame * 5) % 256).to_le_bytes()[0];
    media::write_y4m(&clip, picture, (seconds * 2) as usize, luma);
    let sound: Vec<u8> = (0..seconds * RATE).map(|_| 112 + dice.byte() / 8).collect();
    media::write_pcm(&clip.with_extension("wav"), RATE, 8, &sound);
    clip
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn two_thousand_snippets_leave_memory_as_it_was() {
    let asked = std::env::var("GIRASOL_MEMORY_SNIPPETS").ok().and_then(|n| n.parse().ok());
    let snippets: u32 = asked.unwrap_or(SNIPPETS);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let clip = write_clip(dir.path(), snippets);
    let running = Running::start(replay(&clip).args(["--progress", "json"]));
    let outcome = running.finish_within(Duration::from_secs(1_800)).success();

    let progress: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with('{')).collect();
    let lines = json_lines(&progress.join("\n"));
    let column = |key| -> Vec<f64> { lines.iter().filter_map(|line| line.get(key)?.as_f64()).collect() };
    let (rss, costs) = (column("rss_kb"), column("cost_ms"));
    assert!(rss.len() >= snippets as usize, "{} of {snippets}", rss.len());
    // Halfway everything that is kept has long been filled: windows, pools, the allocator's own lists.
    let half = &rss[rss.len() / 2..];
    let window = (half.len() / 20).max(1);
    let (before, after) = (mean(&half[..window]), mean(&half[half.len() - window..]));
    let growth = after - before;
    // Past the harness, which would swallow it: these are the figures of SPECIFICATION.md.
    let figures = writeln!(
        std::io::stderr(),
        "{} snippets, {:.1} ms each; RSS {:.1} MiB at the first, {:.1} halfway, {:.1} at the end, {:.1} at its highest",
        rss.len(),
        mean(&costs),
        rss[0] / 1024.0,
        before / 1024.0,
        after / 1024.0,
        outcome.high_water_kib as f64 / 1024.0
    );
    assert!(figures.is_ok());
    assert!(growth < TOLERANCE_KIB && growth < TOLERANCE * before, "RSS grows by {growth} KiB of {before}");
    assert!(outcome.high_water_kib as f64 >= after, "the high-water mark was read");
}
