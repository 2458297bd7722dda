//! The assembler against signals whose samples tell their own time.

#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]

use std::time::Duration;

use proptest::prelude::*;

use super::{
    Assembler, AssemblerConfig, Poll, Push, Snippet,
    snippet::{CARRY_SAMPLES, SNIPPET_NANOS, SNIPPET_SAMPLES},
};
use crate::{
    clock::MonoTime,
    source::{Block, Frame},
};

/// The ramp's period in samples: it tells a sample's time within two seconds.
const PERIOD: f64 = 32_000.0;

/// What a microphone hears at `t` seconds: a saw tooth that rises by one per sample, never 0.
fn ramp(t: f64) -> i16 {
    ((t * 16_000.0 + 0.5).rem_euclid(PERIOD)).floor() as i16 + 1 - i16::MAX / 2 - 1
}

/// How many samples a value is off the place at `t` seconds; `None` near the ramp's fall, where stretching mixes.
fn misplaced(value: i16, t: f64) -> Option<f64> {
    let there = f64::from(value) + f64::from(i16::MAX / 2);
    let off = (there - t * 16_000.0 + PERIOD / 2.0).rem_euclid(PERIOD) - PERIOD / 2.0;
    let near_fall = !(300.0..PERIOD - 300.0).contains(&(t * 16_000.0).rem_euclid(PERIOD));
    (!near_fall).then_some(off)
}

fn block(time: f64, discontinuity: bool, samples: impl Iterator<Item = i16>) -> Block {
    let mut block = Block::new();
    block.time = MonoTime::from_secs_f64(time);
    block.discontinuity = discontinuity;
    block.samples_mut().extend(samples);
    block
}

fn frame(nanos: i64) -> Frame {
    let mut frame = Frame::new();
    frame.time = MonoTime(nanos);
    frame.rgb_mut()[..8].copy_from_slice(&nanos.to_le_bytes());
    frame
}

fn audio_only() -> Assembler {
    let config = AssemblerConfig { audio: true, video: false, ..Default::default() };
    Assembler::new(config).starting_at(MonoTime(0))
}

/// What is compared of a snippet: index, coverage, patch.
type Heard = (u64, f32, Vec<i16>);

fn drain(assembler: &mut Assembler, out: &mut Snippet, into: &mut Vec<Heard>) -> Poll {
    loop {
        match assembler.poll(None, out) {
            Poll::Ready => into.push((out.index, out.audio_coverage, out.patch().to_vec())),
            other => return other,
        }
    }
}

/// Pushes blocks in groups, polls after each group, ends.
fn hear<'a>(assembler: &mut Assembler, groups: impl Iterator<Item = &'a [Block]>) -> Vec<Heard> {
    let (mut out, mut heard) = (Snippet::new(), Vec::new());
    for group in groups {
        for block in group {
            while assembler.push_audio(block) == Push::Full {
                assert_eq!(drain(assembler, &mut out, &mut heard), Poll::Pending);
            }
        }
        drain(assembler, &mut out, &mut heard);
    }
    assembler.audio_ended();
    assert_eq!(drain(assembler, &mut out, &mut heard), Poll::Ended);
    heard
}

/// Exact blocks of the ramp: `sizes` in samples, cycled.
fn exact_blocks(samples: usize, sizes: &[usize]) -> Vec<Block> {
    let (mut blocks, mut at) = (Vec::new(), 0);
    for &size in sizes.iter().cycle() {
        if at >= samples {
            break;
        }
        let n = size.min(samples - at);
        let mut b = block(0.0, false, (at..at + n).map(|i| ramp(i as f64 / 16_000.0)));
        b.time = MonoTime(at as i64 * 62_500);
        blocks.push(b);
        at += n;
    }
    blocks
}

#[test]
fn exact_sound_comes_through_bit_by_bit() {
    let blocks = exact_blocks(3 * SNIPPET_SAMPLES, &[320]);
    let heard = hear(&mut audio_only(), blocks.chunks(1));
    assert_eq!(heard.len(), 3);
    for (index, coverage, patch) in heard {
        assert_eq!(coverage, 1.0);
        let first = index as i64 * SNIPPET_SAMPLES as i64 - CARRY_SAMPLES as i64;
        for (i, &value) in patch.iter().enumerate() {
            let position = first + i as i64;
            let want = if position < 0 { 0 } else { ramp(position as f64 / 16_000.0) };
            assert_eq!(value, want, "snippet {index}, sample {i}");
        }
    }
}

#[test]
fn the_last_snippet_is_delivered_when_half_of_it_is_there() {
    for (samples, snippets, partial) in [(15_360 + 7_680, 2, 0), (15_360 + 7_679, 1, 1), (15_360, 1, 0)] {
        let mut assembler = audio_only();
        let heard = hear(&mut assembler, exact_blocks(samples, &[320]).chunks(1));
        assert_eq!((heard.len(), assembler.counters().partial), (snippets, partial), "{samples} samples");
    }
}

#[test]
fn a_long_hole_brings_no_snippets_and_dt_tells() {
    let mut assembler = audio_only();
    let mut blocks = exact_blocks(2 * SNIPPET_SAMPLES, &[320]);
    for b in &mut blocks[48..] {
        b.time = b.time + Duration::from_secs(3_600);
    }
    let (mut out, mut dts) = (Snippet::new(), Vec::new());
    for b in &blocks {
        loop {
            let full = assembler.push_audio(b) == Push::Full;
            while assembler.poll(None, &mut out) == Poll::Ready {
                dts.push(out.dt);
            }
            if !full {
                break;
            }
        }
    }
    assembler.audio_ended();
    while assembler.poll(None, &mut out) == Poll::Ready {
        dts.push(out.dt);
    }
    assert_eq!(dts.len(), 2, "{dts:?} {:?}", assembler.counters());
    assert!((dts[1] - 3_600.96).abs() < 0.97, "{dts:?}");
    assert!(assembler.counters().empty > 3_000 || assembler.next_index() > 3_700);
}

/// Real time: sound every 20 ms and pictures every 100 ms until `lost`, then only sound.
#[test]
fn a_lost_source_does_not_hold_the_other_back() {
    let mut assembler = Assembler::new(AssemblerConfig::default());
    let mut out = Snippet::new();
    let mut seen = Vec::new();
    for (i, b) in exact_blocks(6 * SNIPPET_SAMPLES, &[320]).iter().enumerate() {
        let now = b.end();
        assembler.push_audio(b);
        if i.is_multiple_of(5) && i < 150 {
            assembler.push_frame(&frame(b.time.0));
        }
        if i == 230 {
            assembler.video_lost();
        }
        if assembler.poll(Some(now), &mut out) == Poll::Ready {
            seen.push((out.index, out.frame_present, now.since(out.end())));
        }
    }
    let present: Vec<_> = seen.iter().map(|s| s.1).collect();
    assert_eq!(present[..4], [[true, true], [true, true], [true, true], [true, false]]);
    assert_eq!(seen.len(), 6);
    // At once, after the grace, and at once again.
    assert!(seen[0].2 <= 20_000_000 && seen[5].2 <= 20_000_000, "{seen:?}");
    assert!((250_000_000..300_000_000).contains(&seen[3].2), "{seen:?}");
}

#[test]
fn a_late_consumer_skips_to_the_newest() {
    let mut assembler = audio_only();
    for b in &exact_blocks(5 * SNIPPET_SAMPLES, &[1_600]) {
        assert_eq!(assembler.push_audio(b), Push::Accepted);
    }
    let mut out = Snippet::new();
    let now = Some(MonoTime(5 * SNIPPET_NANOS + 300_000_000));
    assert_eq!(assembler.poll(now, &mut out), Poll::Ready);
    assert_eq!((out.index, out.audio_coverage, assembler.counters().skipped), (4, 1.0, 4));
    assert_eq!(assembler.poll(now, &mut out), Poll::Pending);
}

#[test]
fn nothing_at_all_is_pending_or_ended() {
    let mut assembler = Assembler::new(AssemblerConfig::default());
    let mut out = Snippet::new();
    assert_eq!(assembler.poll(Some(MonoTime(1 << 50)), &mut out), Poll::Pending);
    assembler.audio_lost();
    assembler.video_lost();
    assert_eq!(assembler.poll(None, &mut out), Poll::Pending);
    assembler.audio_ended();
    assembler.video_ended();
    assert_eq!(assembler.poll(None, &mut out), Poll::Ended);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_split_into_blocks_does_not_matter(
        sizes in prop::collection::vec(1_usize..1_600, 1..8),
        samples in 20_000_usize..60_000,
    ) {
        let reference = hear(&mut audio_only(), exact_blocks(samples, &[320]).chunks(1));
        let heard = hear(&mut audio_only(), exact_blocks(samples, &sizes).chunks(1));
        prop_assert!(heard == reference);
    }

    #[test]
    fn repeated_and_reordered_blocks_change_nothing(
        swaps in prop::collection::vec(any::<bool>(), 40),
        repeats in prop::collection::vec(any::<bool>(), 40),
        size in 320_usize..1_600,
    ) {
        let reference = hear(&mut audio_only(), exact_blocks(50_000, &[size]).chunks(1));
        let mut blocks = exact_blocks(50_000, &[size]);
        for (pair, swap) in blocks.chunks_mut(2).zip(swaps.iter().cycle()) {
            if *swap {
                pair.reverse();
            }
        }
        let mut assembler = audio_only();
        let (mut out, mut heard) = (Snippet::new(), Vec::new());
        for (pair, repeat) in blocks.chunks(2).zip(repeats.iter().cycle()) {
            for b in pair.iter().chain(pair.iter().filter(|_| *repeat)) {
                assembler.push_audio(b);
            }
            drain(&mut assembler, &mut out, &mut heard);
        }
        assembler.audio_ended();
        drain(&mut assembler, &mut out, &mut heard);
        prop_assert!(heard == reference, "{:?}", assembler.counters());
    }

    #[test]
    fn drifting_jittering_gapped_sound_is_at_the_right_time(
        ppm in -500.0..500.0_f64,
        jitter in prop::collection::vec(-3e-3..3e-3_f64, 499),
        size in 160_usize..1_600,
        gap_at in 2.0..8.0_f64,
        gap in 0.05..2.5_f64,
        flagged in any::<bool>(),
    ) {
        let (mut assembler, mut out) = (audio_only(), Snippet::new());
        let rate = 16_000.0 * (1.0 + ppm * 1e-6);
        let (mut count, mut i, mut gapped) = (0_usize, 0_usize, None);
        loop {
            let mut start = count as f64 / rate;
            let mut discontinuity = false;
            if start >= gap_at && gapped.is_none() {
                gapped = Some(start);
                count += (gap * rate) as usize;
                start = count as f64 / rate;
                discontinuity = flagged;
            }
            if start > 16.0 {
                break;
            }
            let stamp = (start + jitter[i * 31 % 499]).max(0.0);
            let b = block(stamp, discontinuity, (count..count + size).map(|n| ramp(n as f64 / rate)));
            prop_assert_eq!(assembler.push_audio(&b), Push::Accepted);
            count += size;
            i += 1;
            while assembler.poll(None, &mut out) == Poll::Ready {
                let from = out.start.as_secs_f64();
                let hole = gapped.map_or(0.0, |g| {
                    ((g + gap).min(from + 0.96) - g.max(from)).max(0.0)
                });
                let coverage = 1.0 - hole / 0.96;
                // A stamp's jitter at either edge of the hole, and at the very start.
                prop_assert!((f64::from(out.audio_coverage) - coverage).abs() < 0.015,
                    "snippet {} covers {}, want {}", out.index, out.audio_coverage, coverage);
                prop_assert_eq!(out.audio_present, out.audio_coverage >= 0.5);
                let since_run = match gapped {
                    Some(g) if from + 0.96 > g => (from - g - gap).max(0.0),
                    _ => from,
                };
                // 3 ms of jitter in the first stamp of a run, and what 500 ppm make of it before they are known.
                let limit = if since_run > 6.0 { 40.0 } else { 80.0 };
                for (n, &value) in out.patch().iter().enumerate() {
                    let t = from + (n as f64 - CARRY_SAMPLES as f64) / 16_000.0;
                    if value != 0 && let Some(off) = misplaced(value, t) {
                        prop_assert!(off.abs() < limit, "snippet {}, sample {n} is {off} samples off", out.index);
                    }
                }
            }
        }
        prop_assert!(assembler.counters().audio_resyncs <= 1);
        if let Some(drift) = assembler.sound_drift() {
            prop_assert!((drift.ppm - ppm).abs() < 5.0 * drift.sigma_ppm + 5.0, "{drift:?}, want {ppm}");
        }
    }

    #[test]
    fn the_nearest_frames_are_chosen(
        mut times in prop::collection::vec(0..5_760_000_000_i64, 1..80),
        reorder in any::<bool>(),
    ) {
        if !reorder {
            times.sort_unstable();
        }
        let config = AssemblerConfig { audio: false, video: true, ..Default::default() };
        let (mut assembler, mut out) = (Assembler::new(config).starting_at(MonoTime(0)), Snippet::new());
        let mut snippets = Vec::new();
        let mut take = |assembler: &mut Assembler| {
            while assembler.poll(None, &mut out) == Poll::Ready {
                let seen: [Option<i64>; 2] = std::array::from_fn(|k| {
                    out.frame(k).map(|f| i64::from_le_bytes(f.rgb()[..8].try_into().unwrap()))
                });
                snippets.push((out.index, seen));
            }
        };
        for &t in &times {
            prop_assert_eq!(assembler.push_frame(&frame(t)), Push::Accepted);
            if !reorder {
                take(&mut assembler);
            }
        }
        assembler.video_ended();
        take(&mut assembler);
        for (index, seen) in snippets {
            let start = index as i64 * SNIPPET_NANOS;
            for (k, seen) in seen.iter().enumerate() {
                let (from, target) = (start + k as i64 * 480_000_000, start + 240_000_000 + k as i64 * 480_000_000);
                let mine = times.iter().filter(|&&t| (from..from + 480_000_000).contains(&t));
                let nearest = mine.map(|t| (t - target).abs()).min();
                prop_assert_eq!(seen.map(|t| (t - target).abs()), nearest);
            }
        }
    }

    #[test]
    fn any_nonsense_is_survived(
        stamps in prop::collection::vec((any::<i64>(), 0_usize..1_600, any::<bool>()), 1..40),
        near in prop::collection::vec((-2_000_000_000..9_000_000_000_i64, 0_usize..1_600, any::<bool>()), 1..60),
        nows in prop::collection::vec(0..20_000_000_000_i64, 60),
    ) {
        for stamps in [&near, &stamps] {
            let mut assembler = Assembler::new(AssemblerConfig::default());
            let mut out = Snippet::new();
            for (&(time, len, flag), &now) in stamps.iter().zip(&nows) {
                let mut b = block(0.0, flag, std::iter::repeat_n(5, len));
                b.time = MonoTime(time);
                assembler.push_audio(&b);
                assembler.push_frame(&frame(time / 2));
                for _ in 0..3 {
                    assembler.poll(Some(MonoTime(now)), &mut out);
                    prop_assert!((0.0..=1.0).contains(&out.audio_coverage));
                }
            }
        }
    }
}
