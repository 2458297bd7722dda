//! What camera and microphone measure at this moment, as one line on a terminal that is drawn over and over. It makes
//! turning a gain or a lens worth while; the verdict comes after it, in words, and is all that a file or a pipe gets.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use girasol::{
    clock::MonoTime,
    source::meter::{PictureReading, SoundReading},
};

/// Between two drawings of one part; also what a level is the level of.
const EVERY: Duration = Duration::from_millis(100);
/// Columns of the bars. The line is no longer than 79, so that the narrowest of terminals does not wrap it.
const SOUND_BAR: usize = 16;
const LIGHT_BAR: usize = 10;
/// What the left end of the sound's bar stands for.
const FLOOR_DB: f64 = -64.0;

/// The line. Without a terminal it shows nothing and costs nothing.
pub(super) struct Live(Option<Mutex<Line>>);

struct Line {
    out: Box<dyn Write + Send>,
    sound: Part,
    light: Part,
}

#[derive(Default)]
struct Part {
    text: String,
    drawn_at: Option<MonoTime>,
}

impl Live {
    /// On standard output, if that is a terminal.
    pub(super) fn on_terminal() -> Self {
        let out = io::stdout();
        Self::new(out.is_terminal().then(|| Box::new(out) as Box<dyn Write + Send>))
    }

    fn new(out: Option<Box<dyn Write + Send>>) -> Self {
        Self(out.map(|out| Mutex::new(Line { out, sound: Part::default(), light: Part::default() })))
    }

    /// Whether there is anybody to look at it.
    pub(super) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Shows how loud it is; false if it is too early for that.
    pub(super) fn sound(&self, reading: &SoundReading, now: MonoTime) -> bool {
        let text = || {
            format!("sound [{}] {:>4.0} dB", sound_bar(reading.level_db, reading.peak_db), reading.level_db)
        };
        self.draw(now, |line| &mut line.sound, text)
    }

    /// Shows how bright it is; false if it is too early for that.
    pub(super) fn light(&self, reading: &PictureReading, now: MonoTime) -> bool {
        let text = || {
            let bar = bar(reading.light, LIGHT_BAR);
            let (light, blown) = (reading.light * 100.0, reading.blown * 100.0);
            format!("light [{bar}] {light:>3.0} %, blown out {blown:.0} %")
        };
        self.draw(now, |line| &mut line.light, text)
    }

    fn draw(
        &self,
        now: MonoTime,
        part: impl Fn(&mut Line) -> &mut Part,
        text: impl FnOnce() -> String,
    ) -> bool {
        let Some(line) = &self.0 else { return false };
        let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
        let part = part(&mut line);
        if part.drawn_at.is_some_and(|at| now < at + EVERY) {
            return false;
        }
        *part = Part { text: text(), drawn_at: Some(now) };
        let parts = [line.sound.text.as_str(), line.light.text.as_str()];
        let gap = if parts.contains(&"") { "" } else { "   " };
        let text = parts.join(gap);
        line.write(&text);
        true
    }
}

impl Drop for Live {
    /// Leaves an empty line to the verdicts.
    fn drop(&mut self) {
        if let Some(line) = &self.0 {
            line.lock().unwrap_or_else(PoisonError::into_inner).write("");
        }
    }
}

impl Line {
    /// A terminal that has gone away is no reason not to measure.
    fn write(&mut self, text: &str) {
        // Back to the first column, and away with what stood there.
        let _ = write!(self.out, "\r\x1b[K{text}").and_then(|()| self.out.flush());
    }
}

/// `####....`: `share` of `width`.
fn bar(share: f64, width: usize) -> String {
    let filled = columns(share, width);
    format!("{}{}", "#".repeat(filled), ".".repeat(width - filled))
}

/// The level as a bar with the peak as a mark on it: `|`, or `!` at full scale.
fn sound_bar(level_db: f64, peak_db: f64) -> String {
    let share = |db: f64| 1.0 - db / FLOOR_DB;
    let mut text = String::with_capacity(SOUND_BAR);
    let (level, peak) = (columns(share(level_db), SOUND_BAR), columns(share(peak_db), SOUND_BAR));
    for column in 1..=SOUND_BAR {
        let _ = text.write_char(match column {
            c if c == peak && peak_db > -0.01 => '!',
            c if c == peak => '|',
            c if c <= level => '#',
            _ => '.',
        });
    }
    text
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and the width")]
fn columns(share: f64, width: usize) -> usize {
    (share.clamp(0.0, 1.0) * width as f64).round() as usize
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use girasol::source::meter::{PictureVerdict, SoundVerdict};

    use super::*;

    /// What was written to it.
    #[derive(Clone, Default)]
    struct Screen(Arc<Mutex<Vec<u8>>>);

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Screen {
        fn lines(&self) -> Vec<String> {
            let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
            text.split("\r\x1b[K").skip(1).map(str::to_owned).collect()
        }
    }

    fn sound(level_db: f64, peak_db: f64) -> SoundReading {
        let verdict = SoundVerdict::Good;
        SoundReading { seconds: 0.1, level_db, peak_db, offset: 0.0, clipped: 0.0, hum: 0.0, verdict }
    }

    fn picture(light: f64, blown: f64) -> PictureReading {
        let verdict = PictureVerdict::Good;
        PictureReading { frames: 1, light, dark: 0.0, blown, sharpness: 0.1, verdict }
    }

    fn at(ms: i64) -> MonoTime {
        MonoTime(ms * 1_000_000)
    }

    #[test]
    fn both_parts_share_one_line_that_ends_empty() {
        let screen = Screen::default();
        let live = Live::new(Some(Box::new(screen.clone())));
        assert!(live.sound(&sound(-32.0, -16.0), at(0)));
        assert!(live.light(&picture(0.48, 0.03), at(10)));
        assert!(!live.sound(&sound(-1.0, -1.0), at(90)), "too early");
        assert!(live.sound(&sound(-120.0, -120.0), at(100)));
        drop(live);
        assert_eq!(
            screen.lines(),
            [
                "sound [########...|....]  -32 dB",
                "sound [########...|....]  -32 dB   light [#####.....]  48 %, blown out 3 %",
                "sound [................] -120 dB   light [#####.....]  48 %, blown out 3 %",
                "",
            ]
        );
    }

    #[test]
    fn the_longest_line_fits_the_narrowest_terminal() {
        let screen = Screen::default();
        let live = Live::new(Some(Box::new(screen.clone())));
        live.sound(&sound(-120.0, -120.0), at(0));
        live.light(&picture(1.0, 1.0), at(0));
        let longest = screen.lines().iter().map(String::len).max();
        assert!(longest <= Some(79), "{longest:?}");
    }

    #[test]
    fn a_peak_at_full_scale_stands_out() {
        assert_eq!(sound_bar(-6.0, 0.0), "###############!");
        assert_eq!(sound_bar(0.0, -0.5), "###############|");
        assert_eq!(sound_bar(-200.0, -60.0), "|...............");
    }

    #[test]
    fn without_a_terminal_nothing_is_shown() {
        let live = Live::new(None);
        assert!(!live.is_on() && !live.sound(&sound(-32.0, -16.0), at(0)));
    }
}
