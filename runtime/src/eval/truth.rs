//! The truth file: tab-separated, one row per stretch of time in which something is heard or seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::Path,
    str::FromStr,
};

use crate::{Error, ErrorKind, Result};

/// The first row of every truth file.
const HEADER: [&str; 5] = ["clip", "start", "end", "label", "text"];
/// A snippet counts as positive from this much of a stretch on, in seconds; with a shorter one from half of it on.
const CLAIM_SECONDS: f64 = 0.15;
/// Times that differ by less are equal, in seconds: snippets have borders like 2.88 that binary numbers miss.
const EPSILON: f64 = 1e-6;

/// What a label is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is heard.
    Hear,
    /// It is seen.
    See,
    /// It is heard, and something in view can make this sound.
    Source,
}

impl Kind {
    /// As written in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hear => "hear",
            Self::See => "see",
            Self::Source => "source",
        }
    }
}

/// `hear:dog_bark` and the like.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabelKey {
    /// What it is about.
    pub kind: Kind,
    /// The label's id in the manifest.
    pub id: String,
}

impl fmt::Display for LabelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind.name(), self.id)
    }
}

impl FromStr for LabelKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is none of hear:ID, see:ID, source:ID, ask:QUESTION");
        let (kind, id) = text.split_once(':').ok_or_else(wrong)?;
        let kind = match kind {
            "hear" => Kind::Hear,
            "see" => Kind::See,
            "source" => Kind::Source,
            _ => return Err(wrong()),
        };
        if id.is_empty() {
            return Err(wrong());
        }
        Ok(Self { kind, id: id.to_owned() })
    }
}

/// A stretch of time in seconds; `start < end`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Interval {
    /// Its beginning.
    pub start: f64,
    /// Its end; infinite for "to the end of the clip".
    pub end: f64,
    /// False where it is not known whether the label is there (`?` before the label): not scored.
    pub known: bool,
}

impl Interval {
    fn overlap(&self, start: f64, end: f64) -> f64 {
        let overlap = self.end.min(end) - self.start.max(start);
        if overlap > EPSILON { overlap } else { 0.0 }
    }

    /// Whether `[start, end]` comes nearer than `slack` seconds.
    #[must_use]
    pub fn is_near(&self, start: f64, end: f64, slack: f64) -> bool {
        self.start - slack + EPSILON < end && start + EPSILON < self.end + slack
    }
}

/// What is known of a label in one snippet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there.
    True,
    /// It is not.
    False,
    /// Not known, or too little of it to claim or deny.
    Unknown,
}

/// Something to ask while a clip is played.
#[derive(Clone, Debug, PartialEq)]
pub struct Question {
    /// When, in seconds: at the end of the snippet in which this falls.
    pub time: f64,
    /// The question.
    pub question: String,
    /// The right answer.
    pub answer: String,
}

/// What is known of one clip.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ClipTruth {
    intervals: BTreeMap<LabelKey, Vec<Interval>>,
    /// In order of time.
    pub questions: Vec<Question>,
}

impl ClipTruth {
    /// The stretches of a label.
    #[must_use]
    pub fn intervals(&self, label: &LabelKey) -> &[Interval] {
        self.intervals.get(label).map_or(&[], Vec::as_slice)
    }

    /// What is known of a label between two times.
    #[must_use]
    pub fn state(&self, label: &LabelKey, start: f64, end: f64) -> State {
        let mut state = State::False;
        for interval in self.intervals(label) {
            let overlap = interval.overlap(start, end);
            let needed = CLAIM_SECONDS.min(0.5 * (interval.end - interval.start));
            if interval.known && overlap > 0.0 && overlap >= needed {
                return State::True;
            }
            if overlap > 0.0 {
                state = State::Unknown;
            }
        }
        state
    }
}

/// A whole truth file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Truth {
    /// By clip name as written.
    pub clips: BTreeMap<String, ClipTruth>,
    /// Every label that occurs: where a clip has no stretch of it, it is not there.
    pub labels: BTreeSet<LabelKey>,
}

impl Truth {
    /// Reads a file.
    ///
    /// # Errors
    /// It cannot be read, or a line is wrong: the error names file and line.
    pub fn open(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io(path, e))?;
        Self::parse(&text).map_err(|(line, what)| {
            Error::new(ErrorKind::Data, format!("{}:{line}: {what}", path.display()))
                .help("docs/reference/eval.md describes the format")
        })
    }

    /// Reads the text of a file; an error is the line's number and what is wrong with it.
    ///
    /// # Errors
    /// As said.
    pub fn parse(text: &str) -> Result<Self, (usize, String)> {
        let mut lines = (1..).zip(text.lines()).filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
        let header: Vec<_> =
            lines.next().map_or_else(Vec::new, |(_, l)| l.split('\t').map(str::trim).collect());
        if header != HEADER && header != HEADER[..4] {
            return Err((1, format!("the first row must be {}, separated by tabs", HEADER.join(" "))));
        }
        let mut truth = Self::default();
        for (number, line) in lines {
            truth.add(line).map_err(|what| (number, what))?;
        }
        for clip in truth.clips.values_mut() {
            clip.questions.sort_by(|a, b| a.time.total_cmp(&b.time));
        }
        Ok(truth)
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let mut fields = line.split('\t').map(str::trim);
        let mut field = || fields.next().unwrap_or_default();
        let (name, start, end, label, text) = (field(), field(), field(), field(), field());
        if name.is_empty() {
            return Err("no clip is named".into());
        }
        if fields.next().is_some() {
            return Err("more than five columns".into());
        }
        let (start, end) = (seconds(start, 0.0)?, seconds(end, f64::INFINITY)?);
        let clip = self.clips.entry(name.to_owned()).or_default();
        if label.is_empty() {
            return Ok(());
        }
        if let Some(question) = label.strip_prefix("ask:") {
            if text.is_empty() {
                return Err("a question needs its answer in the column `text`".into());
            }
            let (question, answer) = (question.trim().to_owned(), text.to_owned());
            clip.questions.push(Question { time: start, question, answer });
            return Ok(());
        }
        if start >= end {
            return Err(format!("start {start} is not before end {end}"));
        }
        let (label, known) = label.strip_prefix('?').map_or((label, true), |label| (label, false));
        let key: LabelKey = label.parse()?;
        clip.intervals.entry(key.clone()).or_default().push(Interval { start, end, known });
        self.labels.insert(key);
        Ok(())
    }
}

fn seconds(text: &str, missing: f64) -> Result<f64, String> {
    if text.is_empty() {
        return Ok(missing);
    }
    let value: f64 = text.parse().map_err(|_| format!("`{text}` is no number of seconds"))?;
    if value.is_finite() && value >= 0.0 {
        Ok(value)
    } else {
        Err(format!("`{text}` is no number of seconds"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> LabelKey {
        text.parse().unwrap()
    }

    #[test]
    fn a_file_is_read() {
        let text = "# made by hand\nclip\tstart\tend\tlabel\ttext\na.wav\t1\t2.5\thear:dog_bark\n\
                    a.wav\t\t\tsee:person\na.wav\t0\t1\t?hear:bird\nquiet.wav\t\t\t\n\
                    a.wav\t3\t\task:is anyone speaking?\tno\n";
        let truth = Truth::parse(text).unwrap();
        assert_eq!(truth.clips.len(), 2);
        let a = &truth.clips["a.wav"];
        assert_eq!(a.intervals(&key("hear:dog_bark")), [Interval { start: 1.0, end: 2.5, known: true }]);
        assert_eq!(a.state(&key("see:person"), 90.0, 90.96), State::True);
        assert_eq!(a.questions[0].answer, "no");
        assert!(truth.clips["quiet.wav"].intervals(&key("see:person")).is_empty());
        assert_eq!(truth.labels.len(), 3);
    }

    #[test]
    fn a_snippet_is_positive_from_a_share_of_the_stretch_on() {
        let text = "clip\tstart\tend\tlabel\nc\t0.9\t3\thear:a\nc\t0.90\t1.0\thear:b\nc\t0\t1\t?hear:c\n";
        let truth = Truth::parse(text).unwrap();
        let state = |label: &str, start: f64| truth.clips["c"].state(&key(label), start, start + 0.96);
        // 60 ms of two seconds are too little to claim and too much to deny.
        assert_eq!([state("hear:a", 0.0), state("hear:a", 0.96)], [State::Unknown, State::True]);
        assert_eq!([state("hear:a", 2.88), state("hear:a", 3.84)], [State::Unknown, State::False]);
        // Half of a short stretch is enough.
        assert_eq!([state("hear:b", 0.0), state("hear:b", 0.96)], [State::True, State::Unknown]);
        assert_eq!([state("hear:c", 0.0), state("hear:c", 1.92)], [State::Unknown, State::False]);
    }

    #[test]
    fn what_is_wrong_is_told_with_its_line() {
        let head = "clip\tstart\tend\tlabel\ttext\n";
        for (rows, line, what) in [
            ("a\t2\t1\thear:x\n", 2, "not before"),
            ("a\t\t\thear:x\nb\tsoon\t\thear:x\n", 3, "no number"),
            ("a\t-1\t\thear:x\n", 2, "no number"),
            ("a\t\t\tnoise\n", 2, "none of"),
            ("a\t\t\thear:\n", 2, "none of"),
            ("a\t0\t\task:who?\n", 2, "answer"),
            ("\t0\t\thear:x\n", 2, "no clip"),
            ("a\t\t\thear:x\t\tmore\n", 2, "five"),
        ] {
            let (at, error) = Truth::parse(&format!("{head}{rows}")).unwrap_err();
            assert!(at == line && error.contains(what), "{rows:?}: {at}: {error}");
        }
        assert_eq!(Truth::parse("file,label\n").unwrap_err().0, 1);
        assert_eq!(Truth::parse("").unwrap_err().0, 1);
    }
}
