//! `girasol eval`: the bundle through the real pipeline over a folder of clips, held against what is known of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
};

use clap::Args;
use girasol::{
    Error, ErrorKind, Result,
    clock::{Clock, MonoTime, RealClock},
    eval::{
        ClipResult, ClipTruth, Counts, Kind, LabelKey, LabelRow, Made, Scoreboard, SnippetScores, SourceRow,
        Truth,
    },
    event::{Event, EventIdentity, EventSettings, EventType, Origin, Sense},
    model::{Output, Prompt},
    pipeline::{Listener, Processor, Product, Replay as Player, Report, Speed},
    source::clip::{Clip, Want},
    timeline::{AssemblerCounters, Snippet},
};
use girasol_model::{Label, Manifest};
use serde_json::{Map, Value, json};

/// What is looked at beside `.wav` and `.y4m`; read through ffmpeg.
const CONTAINERS: [&str; 17] = [
    "aac", "avi", "flac", "flv", "m4a", "m4v", "mkv", "mov", "mp3", "mp4", "mpeg", "mpg", "ogg", "opus",
    "ts", "webm", "wmv",
];

/// Run the bundle over a folder of clips at full speed and score it; formats: reference/eval.md of the documentation
#[derive(Debug, Args)]
pub(super) struct Eval {
    /// The folder, searched with its subfolders
    dir: PathBuf,
    #[command(flatten)]
    config: super::ConfigArgs,
    /// What is heard and seen in the clips; only clips named there are played
    #[arg(long, value_name = "FILE")]
    truth: Option<PathBuf>,
    /// Write a line of JSON per snippet with every label's score to this file; - is standard output
    #[arg(long, value_name = "FILE")]
    predictions: Option<PathBuf>,
    /// Print JSON instead of a table
    #[arg(long)]
    json: bool,
}

impl Eval {
    pub(super) fn run(self) -> Result<ExitCode> {
        let config = self.config.load()?;
        let truth = self.truth.as_deref().map(Truth::open).transpose()?;
        let clips = self.clips(truth.as_ref())?;
        let bundle = self.config.open_bundle(&config)?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock);
        let configured = config.event_settings();
        let every_label = with_every_label(configured.clone(), bundle.manifest());
        let bundle_id = bundle.id().to_owned();
        let device = config.device.name.clone();
        let identity = move |clip: String| EventIdentity {
            device: device.clone(),
            origin: Origin::Replay { clip, bundle: bundle_id.clone() },
        };
        let mut processor =
            Processor::new(&bundle, every_label.clone(), |_| identity(String::new()), Arc::clone(&clock))?;

        let known = truth.clone().unwrap_or_default();
        let mut board = Scoreboard::new(bundle.manifest(), &configured, &known)?;
        let mut total = Totals::default();
        let mut lines = self.predictions.as_deref().map(open_lines).transpose()?;
        for (name, (path, truth)) in &clips {
            let clip = match Clip::open(path, Want::BOTH) {
                Ok(clip) => clip,
                Err(fault) => {
                    total.faults.push((name.clone(), fault.to_string()));
                    continue;
                }
            };
            processor.restart(every_label.clone(), identity(clip.id_hex()))?;
            let mut watcher = Watcher::new(name, truth, lines.as_mut());
            let stop = AtomicBool::new(false);
            let player = Player::new(clip, &mut processor, Arc::clone(&clock));
            let summary = player.run(Speed::Full, MonoTime(0), &stop, &mut watcher)?;
            let (result, answers) = watcher.finish();
            if result.snippets.is_empty() {
                total.faults.push((name.clone(), "shorter than half a second: not one snippet".into()));
            }
            for warning in summary.warnings {
                total.faults.push((name.clone(), warning));
            }
            total.take(&result, answers);
            board.add(truth, &result);
        }
        if let Some(lines) = &mut lines {
            lines.writer.flush().map_err(|e| Error::io(&lines.name, e))?;
        }
        let summary = Summary {
            manifest: bundle.manifest(),
            bundle_id: bundle.id(),
            truth: truth.as_ref(),
            rows: board.rows(),
            source: board.source(),
            total,
        };
        // Standard output is the predictions' when they were asked for there.
        match self.predictions.as_deref() {
            Some(path) if path.as_os_str() == "-" => eprint!("{}", summary.table()),
            _ if self.json => println!("{}", summary.json()),
            _ => print!("{}", summary.table()),
        }
        summary.verdict()
    }

    /// Clips by name (path below the folder, with `/`), each with its truth.
    fn clips(&self, truth: Option<&Truth>) -> Result<BTreeMap<String, (PathBuf, ClipTruth)>> {
        let mut found = BTreeMap::new();
        walk(&self.dir, "", &mut found)?;
        if found.is_empty() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("{}: no clips in it", self.dir.display()),
            )
            .help(format!("looked for .wav, .y4m, .{}", CONTAINERS.join(", ."))));
        }
        let Some(truth) = truth else {
            return Ok(found.into_iter().map(|(name, path)| (name, (path, ClipTruth::default()))).collect());
        };
        let mut clips = BTreeMap::new();
        for (named, known) in &truth.clips {
            let stem = |name: &str| name.rsplit_once('.').is_some_and(|(stem, _)| stem == named);
            let matching: Vec<_> = found
                .iter()
                .filter(|(name, _)| *name == named || (!found.contains_key(named) && stem(name)))
                .collect();
            let [(name, path)] = matching[..] else {
                let what = if matching.is_empty() { "no such clip" } else { "more than one such clip" };
                return Err(Error::new(
                    ErrorKind::Data,
                    format!("{}: `{named}`: {what}", self.dir.display()),
                )
                .help("the column `clip` holds paths below the folder, with or without the extension"));
            };
            if clips.insert(name.clone(), (path.clone(), known.clone())).is_some() {
                let what = format!(
                    "{}: `{name}` is named twice, with and without its extension",
                    self.dir.display()
                );
                return Err(
                    Error::new(ErrorKind::Data, what).help("use one of the two throughout the truth file")
                );
            }
        }
        Ok(clips)
    }
}

/// Collects the clips below `dir`. Links to folders are not followed, hidden files are passed over, and so is the
/// `.wav` beside a `.y4m` of the same name: it is that clip's sound.
fn walk(dir: &Path, below: &str, found: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in std::fs::read_dir(dir).map_err(|e| Error::io(dir, e))? {
        let entry = entry.map_err(|e| Error::io(dir, e))?;
        let (path, file) = (entry.path(), entry.file_name());
        let Some(file) = file.to_str().filter(|f| !f.starts_with('.')) else { continue };
        let name = if below.is_empty() { file.to_owned() } else { format!("{below}/{file}") };
        if entry.file_type().map_err(|e| Error::io(&path, e))?.is_dir() {
            walk(&path, &name, found)?;
            continue;
        }
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
        let wanted = match extension.as_str() {
            "wav" => !["y4m", "Y4M"].iter().any(|e| path.with_extension(e).is_file()),
            "y4m" => true,
            other => CONTAINERS.contains(&other),
        };
        if wanted {
            found.insert(name, path);
        }
    }
    Ok(())
}

/// The same settings with every label raising events, so that the disabled ones are measured, too.
fn with_every_label(mut settings: EventSettings, manifest: &Manifest) -> EventSettings {
    for (sense, labels) in
        [(&mut settings.hear, &manifest.labels.audible), (&mut settings.see, &manifest.labels.visible)]
    {
        sense.enabled = true;
        for label in labels {
            sense.labels.entry(label.id.clone()).or_default().enabled = Some(true);
        }
    }
    settings
}

struct Lines {
    writer: Box<dyn Write>,
    name: String,
}

fn open_lines(path: &Path) -> Result<Lines> {
    let writer: Box<dyn Write> = match path.as_os_str() == "-" {
        true => Box::new(BufWriter::new(std::io::stdout().lock())),
        false => Box::new(BufWriter::new(File::create(path).map_err(|e| Error::io(path, e))?)),
    };
    Ok(Lines { writer, name: path.display().to_string() })
}

/// A question asked while a clip was played.
struct Answer {
    right: bool,
}

/// Listens to one clip.
struct Watcher<'a> {
    name: &'a str,
    truth: &'a ClipTruth,
    lines: Option<&'a mut Lines>,
    result: ClipResult,
    answers: Vec<Answer>,
}

impl<'a> Watcher<'a> {
    fn new(name: &'a str, truth: &'a ClipTruth, lines: Option<&'a mut Lines>) -> Self {
        Self { name, truth, lines, result: ClipResult::default(), answers: Vec::new() }
    }

    fn finish(self) -> (ClipResult, Vec<Answer>) {
        (self.result, self.answers)
    }

    fn ask(&mut self, processor: &mut Processor, start: f64, end: f64) -> Result<()> {
        for q in self.truth.questions.iter().filter(|q| start <= q.time && q.time < end) {
            let said = processor.write(&Prompt::Ask(&q.question))?.text;
            self.answers.push(Answer { right: said.trim().eq_ignore_ascii_case(q.answer.trim()) });
        }
        Ok(())
    }
}

impl Listener for Watcher<'_> {
    fn product(&mut self, product: Product) {
        let Product::Event(event) = product else { return };
        match event.kind {
            EventType::New => self.result.made.push(made(&event)),
            // The newest message of an event knows best how long it lasted.
            EventType::Update | EventType::End => {
                let now = made(&event);
                let open = self.result.made.iter_mut().rev().find(|m| m.label == now.label);
                if let Some(open) = open {
                    *open = now;
                }
            }
        }
    }

    fn inspect(&mut self, processor: &mut Processor, snippet: &Snippet) -> Result<()> {
        let (start, end) = (snippet.start.as_secs_f64(), snippet.end().as_secs_f64());
        let output = processor.output().clone();
        let video = snippet.frame_present.contains(&true);
        self.ask(processor, start, end)?;
        if self.lines.is_some() {
            let text = processor.write(&Prompt::Caption)?.text;
            let labels = scores(processor.model().manifest(), &output);
            let line = json!({ "clip": self.name, "t": round(start), "labels": labels, "text": text });
            if let Some(lines) = &mut self.lines {
                writeln!(lines.writer, "{line}").map_err(|e| Error::io(&lines.name, e))?;
            }
        }
        let Output { audible, visible, source, .. } = output;
        let audio = snippet.audio_present;
        self.result.snippets.push(SnippetScores { start, end, audio, video, audible, visible, source });
        Ok(())
    }

    fn report(&mut self, _: &Report, _: &AssemblerCounters) -> Result<()> {
        Ok(())
    }
}

fn made(event: &Event) -> Made {
    let kind = match event.sense {
        Sense::Hear => Kind::Hear,
        Sense::See => Kind::See,
    };
    let label = LabelKey { kind, id: event.label.clone() };
    Made { label, start: event.start, end: event.start + event.duration }
}

/// Every score of a snippet under the names of the predictions file.
fn scores(manifest: &Manifest, output: &Output) -> Map<String, Value> {
    let labels = &manifest.labels;
    let mut out = Map::new();
    let mut put = |prefix: &str, list: &[Label], scores: &[f32]| {
        for (label, &score) in list.iter().zip(scores) {
            let _ = out.insert(format!("{prefix}:{}", label.id), json!(round(f64::from(score))));
        }
    };
    put("hear", &labels.audible, &output.audible);
    put("see", &labels.visible, &output.visible);
    put("source", &labels.audible, &output.source);
    let heard_from = |(label, (&heard, &source)): (&Label, (&f32, &f32))| {
        let has_source = manifest.sources.get(&label.id).is_some_and(|seen| !seen.is_empty());
        if has_source { heard * source } else { 0.0 }
    };
    let pairs = labels.audible.iter().zip(output.audible.iter().zip(&output.source));
    let visible = pairs.map(heard_from).fold(0.0, f32::max);
    let _ = out.insert("source_visible".into(), json!(round(f64::from(visible))));
    out
}

#[derive(Default)]
struct Totals {
    clips: u64,
    snippets: u64,
    seconds: f64,
    events: BTreeMap<String, u64>,
    /// Highest score by label, for a run without truth.
    peaks: Vec<[Vec<f32>; 2]>,
    questions: u64,
    right: u64,
    faults: Vec<(String, String)>,
}

impl Totals {
    fn take(&mut self, result: &ClipResult, answers: Vec<Answer>) {
        self.clips += 1;
        self.snippets += result.snippets.len() as u64;
        self.seconds += result.snippets.iter().map(|s| s.end - s.start).sum::<f64>();
        for event in &result.made {
            *self.events.entry(event.label.to_string()).or_default() += 1;
        }
        for snippet in &result.snippets {
            if self.peaks.is_empty() {
                self.peaks.push([vec![0.0; snippet.audible.len()], vec![0.0; snippet.visible.len()]]);
            }
            let [audible, visible] = &mut self.peaks[0];
            for (peaks, scores) in [(audible, &snippet.audible), (visible, &snippet.visible)] {
                peaks.iter_mut().zip(scores).for_each(|(peak, &score)| *peak = peak.max(score));
            }
        }
        self.questions += answers.len() as u64;
        self.right += answers.iter().map(|a| u64::from(a.right)).sum::<u64>();
    }
}

struct Summary<'a> {
    manifest: &'a Manifest,
    bundle_id: &'a str,
    truth: Option<&'a Truth>,
    rows: Vec<LabelRow>,
    source: SourceRow,
    total: Totals,
}

impl Summary<'_> {
    /// Labels of the truth that the bundle does not have.
    fn unknown_labels(&self) -> BTreeSet<String> {
        let scored: BTreeSet<_> = self.rows.iter().map(|r| &r.label).collect();
        let all = self.truth.iter().flat_map(|t| &t.labels);
        all.filter(|l| !scored.contains(l)).map(ToString::to_string).collect()
    }

    /// (name, mean, number of labels) of the figures that are averaged over labels with at least one positive.
    fn means(&self) -> Vec<(&'static str, Option<f64>, usize)> {
        let over = |kind: Kind, figure: fn(&LabelRow) -> Option<f64>| {
            // Background is the absence of everything else: not a finding.
            let rows = self.rows.iter().filter(|r| r.label.kind == kind && r.label.id != "background");
            let values: Vec<f64> = rows.filter_map(figure).collect();
            ((!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64), values.len())
        };
        let named = |name, (mean, count)| (name, mean, count);
        vec![
            named("hear_map", over(Kind::Hear, |r| r.ap)),
            named("hear_macro_f1", over(Kind::Hear, |r| r.at_best_f1.f1())),
            named("hear_event_recall", over(Kind::Hear, LabelRow::event_recall)),
            named("see_map", over(Kind::See, |r| r.ap)),
            named("see_macro_f1", over(Kind::See, |r| r.at_best_f1.f1())),
            named("see_event_recall", over(Kind::See, LabelRow::event_recall)),
        ]
    }

    fn json(&self) -> Value {
        let total = &self.total;
        let rows: Vec<_> = self.rows.iter().map(row_json).collect();
        let means: Map<_, _> = self
            .means()
            .into_iter()
            .map(|(name, mean, labels)| {
                (name.to_owned(), json!({ "mean": mean.map(round), "labels": labels }))
            })
            .collect();
        let faults: Vec<_> =
            total.faults.iter().map(|(clip, fault)| json!({ "clip": clip, "fault": fault })).collect();
        let s = &self.source;
        json!({
            "format": 1,
            "bundle": { "name": self.manifest.name, "version": self.manifest.version, "id": self.bundle_id },
            "clips": total.clips, "snippets": total.snippets, "seconds": round(total.seconds), "events": total.events,
            "labels": rows, "means": means,
            "source": {
                "pairs": s.pairs, "positive": s.positive,
                "model": { "ap": s.ap.map(round), "at_half": counts_json(&s.at_half) },
                "rule": { "ap": s.rule_ap.map(round), "at_half": counts_json(&s.rule_at_half) },
            },
            "questions": { "asked": total.questions, "right": total.right },
            "unknown_labels": self.unknown_labels(), "faults": faults,
        })
    }

    fn table(&self) -> String {
        let total = &self.total;
        let mut out = format!(
            "{} {}: {} clips, {} snippets, {:.1} minutes\n\n",
            self.manifest.name,
            self.manifest.version,
            total.clips,
            total.snippets,
            total.seconds / 60.0
        );
        if self.truth.is_none() {
            out += &self.untold();
        } else {
            out += &self.scores();
        }
        for (clip, fault) in &total.faults {
            out += &format!("FAULT  {clip}: {fault}\n");
        }
        out
    }

    /// Without truth: what was said how often, and how high each score went.
    fn untold(&self) -> String {
        let mut out = format!("{:<24} {:>8} {:>8}\n", "label", "events", "highest");
        let labels = &self.manifest.labels;
        for (place, (kind, list)) in
            [("hear", &labels.audible), ("see", &labels.visible)].into_iter().enumerate()
        {
            for (index, label) in list.iter().enumerate() {
                let name = format!("{kind}:{}", label.id);
                let peak = self.total.peaks.first().map_or(0.0, |p| p[place][index]);
                let events = self.total.events.get(&name).copied().unwrap_or(0);
                out += &format!("{name:<24} {events:>8} {peak:>8.3}\n");
            }
        }
        out
    }

    fn scores(&self) -> String {
        let mut out = format!(
            "{:<26} {:>4} {:>13} {:>6} {:>7} {:>7} {:>7} {:>9} {:>13} {:>7} {:>16}\n",
            "label",
            "on",
            "true/scored",
            "clips",
            "AP",
            "F1",
            "recall",
            "found",
            "95 %",
            "false",
            "false/h (bound)"
        );
        for r in &self.rows {
            let (low, high) = r.recall_bounds;
            let rate = r
                .false_per_hour()
                .map_or_else(|| "–".into(), |rate| format!("{rate:.1} (≤ {:.1})", r.false_per_hour_bound));
            let events = r.label.kind != Kind::Source;
            let told = |text: String| if events { text } else { "–".into() };
            out += &format!(
                "{:<26} {:>4} {:>13} {:>6} {:>7} {:>7} {:>7} {:>9} {:>13} {:>7} {:>16}\n",
                r.label.to_string(),
                told(if r.enabled { "on".into() } else { "off".into() }),
                format!("{}/{}", r.positive, r.snippets),
                r.clips,
                figure(r.ap),
                figure(r.at_best_f1.f1()),
                figure(r.at_on.recall()),
                told(format!("{}/{}", r.found, r.there)),
                told(format!("{low:.2}–{high:.2}")),
                told(r.false_events.to_string()),
                told(rate),
            );
        }
        out.push('\n');
        for (name, mean, labels) in self.means().into_iter().filter(|m| m.1.is_some()) {
            out += &format!("{name}: {} over {labels} labels\n", figure(mean));
        }
        let s = &self.source;
        if s.pairs > 0 {
            out += &format!(
                "source in view: AP {} and F1 {} by the model, {} and {} by the rule ({} of {} pairs true)\n",
                figure(s.ap),
                figure(s.at_half.f1()),
                figure(s.rule_ap),
                figure(s.rule_at_half.f1()),
                s.positive,
                s.pairs
            );
        }
        if self.total.questions > 0 {
            out += &format!(
                "questions: {} of {} answered as expected\n",
                self.total.right, self.total.questions
            );
        }
        let unknown = self.unknown_labels();
        if !unknown.is_empty() {
            let names: Vec<_> = unknown.into_iter().collect();
            out += &format!("not in the bundle, not scored: {}\n", names.join(", "));
        }
        out
    }

    /// A clip that could not be read makes the run fail, after everything else was said.
    fn verdict(&self) -> Result<ExitCode> {
        let Some((clip, fault)) = self.total.faults.first() else { return Ok(ExitCode::SUCCESS) };
        let what = format!("{} of the clips had faults, the first was {clip}", self.total.faults.len());
        Err(Error::new(ErrorKind::Data, what).cause(fault.clone()).help("the others were evaluated"))
    }
}

fn row_json(r: &LabelRow) -> Value {
    let mut row = json!({
        "label": r.label.to_string(), "snippets": r.snippets, "positive": r.positive, "clips": r.clips,
        "ap": r.ap.map(round), "on": round(f64::from(r.on)), "at_on": counts_json(&r.at_on),
        "at_best_f1": counts_json(&r.at_best_f1),
    });
    if r.label.kind != Kind::Source
        && let Some(object) = row.as_object_mut()
    {
        let (low, high) = r.recall_bounds;
        let bound = r.false_per_hour_bound;
        let events = json!({
            "there": r.there, "found": r.found, "recall": r.event_recall().map(round), "recall_95": [round(low), round(high)],
            "made": r.made, "false": r.false_events, "hours_without": round(r.hours_without),
            "false_without": r.false_without, "false_per_hour": r.false_per_hour().map(round),
            "false_per_hour_bound_95": bound.is_finite().then(|| round(bound)),
        });
        let _ = object.insert("enabled".into(), json!(r.enabled));
        let _ = object.insert("events".into(), events);
    }
    row
}

fn counts_json(c: &Counts) -> Value {
    json!({
        "hits": c.hits, "misses": c.misses, "false_alarms": c.false_alarms, "recall": c.recall().map(round),
        "precision": c.precision().map(round), "f1": c.f1().map(round),
    })
}

fn figure(value: Option<f64>) -> String {
    value.map_or_else(|| "–".into(), |v| format!("{v:.3}"))
}

fn round(x: f64) -> f64 {
    (x * 1e4).round() / 1e4
}
