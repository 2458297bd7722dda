//! YUV4MPEG2 recordings and pipes: 8-bit C420*, C422, C444, mono; any size and frame rate.
//!
//! Frame `n` stands at `n / rate`. Interlacing and pixel aspect are ignored; `XCOLORRANGE=FULL` is honoured. A frame
//! buffer grows only as data really arrive, so a lying header costs nothing. An incomplete last frame ends the
//! recording with a warning.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::Path,
    time::Duration,
};

use super::{Frame, Read, SourceError, SourceErrorKind, VideoSource};
use crate::{
    clock::MonoTime,
    frontend::video::{PixelFormat, Range, Resizer},
    timeline::FrameChoice,
};

/// Longest header line believed.
const MAX_LINE: u64 = 1_024;

/// The stream header, understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header {
    width: usize,
    height: usize,
    /// Frames per second as a ratio.
    rate: (u32, u32),
    format: PixelFormat,
    range: Range,
}

impl Header {
    fn parse(line: &str) -> Result<Self, String> {
        let mut fields = line.split_ascii_whitespace();
        if fields.next() != Some("YUV4MPEG2") {
            return Err("not a YUV4MPEG2 stream".to_owned());
        }
        let mut header =
            Self { width: 0, height: 0, rate: (25, 1), format: PixelFormat::Yuv420, range: Range::Limited };
        for field in fields {
            let (key, value) = field.split_at_checked(1).unwrap_or((field, ""));
            let number = || value.parse().map_err(|_| format!("{field} is not a size"));
            match key {
                "W" => header.width = number()?,
                "H" => header.height = number()?,
                "F" => header.rate = parse_rate(value).ok_or(format!("{field} is not a frame rate"))?,
                "C" => header.format = parse_colour(value).ok_or(format!("colour format {field}"))?,
                "X" if value == "COLORRANGE=FULL" => header.range = Range::Full,
                _ => {}
            }
        }
        Ok(header)
    }

    fn frame_time(&self, index: u64) -> MonoTime {
        let (num, den) = self.rate;
        let nanos = u128::from(index) * 1_000_000_000 * u128::from(den) / u128::from(num);
        MonoTime(i64::try_from(nanos).unwrap_or(i64::MAX))
    }
}

fn parse_rate(value: &str) -> Option<(u32, u32)> {
    let (num, den) = value.split_once(':')?;
    let rate: (u32, u32) = (num.parse().ok()?, den.parse().ok()?);
    (rate.0 > 0 && rate.1 > 0 && u64::from(rate.0) <= 1_000 * u64::from(rate.1)).then_some(rate)
}

fn parse_colour(value: &str) -> Option<PixelFormat> {
    match value {
        "420" | "420jpeg" | "420mpeg2" | "420paldv" => Some(PixelFormat::Yuv420),
        "422" => Some(PixelFormat::Yuv422),
        "444" => Some(PixelFormat::Yuv444),
        "mono" => Some(PixelFormat::Grey),
        _ => None,
    }
}

/// A YUV4MPEG2 stream as a picture source; its first frame is at time 0.
pub struct Y4mSource<R> {
    name: String,
    reader: R,
    header: Header,
    resizer: Resizer,
    choice: Option<FrameChoice>,
    buffer: Vec<u8>,
    index: u64,
    ended: bool,
    warning: Option<String>,
}

impl Y4mSource<BufReader<File>> {
    /// Opens a `.y4m` file.
    ///
    /// # Errors
    /// It cannot be read or is not in a format that is understood.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|e| SourceError::io(&name, &e))?;
        Self::new(name, BufReader::with_capacity(1 << 16, file))
    }

    /// How long it plays, from the file's size.
    #[must_use]
    pub fn duration(&self) -> Option<Duration> {
        let bytes = self.reader.get_ref().metadata().ok()?.len();
        let frames = bytes / (self.resizer.packed_len() as u64 + 6);
        u64::try_from(self.header.frame_time(frames).0).ok().map(Duration::from_nanos)
    }
}

impl<R: BufRead + Send> Y4mSource<R> {
    /// Reads the stream's header.
    ///
    /// # Errors
    /// It cannot be read or is not in a format that is understood.
    pub fn new(name: String, mut reader: R) -> Result<Self, SourceError> {
        let mut line = Vec::new();
        read_line(&mut reader, &mut line).map_err(|e| SourceError::io(&name, &e))?;
        let unsupported = |what: String| {
            SourceError::new(SourceErrorKind::Unsupported, format!("{name}: {what}"))
                .help("convert it: ffmpeg -i in -pix_fmt yuv420p out.y4m")
        };
        let text = std::str::from_utf8(&line).unwrap_or("");
        let header = Header::parse(text).map_err(unsupported)?;
        let resizer = Resizer::new(header.format, header.width, header.height)
            .map_err(|e| SourceError { message: format!("{name}: {}", e.message), ..e })?;
        let source = Self {
            name,
            reader,
            header,
            resizer,
            choice: None,
            buffer: Vec::new(),
            index: 0,
            ended: false,
            warning: None,
        };
        Ok(source)
    }

    /// Reads one frame's bytes; `false` at the end, with a warning if it is not a clean one.
    fn next_picture(&mut self) -> std::io::Result<bool> {
        self.buffer.clear();
        read_line(&mut self.reader, &mut self.buffer)?;
        if self.buffer.is_empty() {
            return Ok(false);
        }
        if !self.buffer.starts_with(b"FRAME") || self.buffer.last() != Some(&b'\n') {
            self.warning = Some(format!("{}: damaged after frame {}", self.name, self.index));
            return Ok(false);
        }
        self.buffer.clear();
        let want = self.resizer.packed_len();
        let got = (&mut self.reader).take(want as u64).read_to_end(&mut self.buffer)?;
        if got < want {
            self.warning = Some(format!("{}: frame {} is incomplete", self.name, self.index));
        }
        Ok(got == want)
    }
}

impl<R: BufRead + Send> VideoSource for Y4mSource<R> {
    fn describe(&self) -> &str {
        &self.name
    }

    fn read(&mut self, out: &mut Frame, _timeout: Duration) -> Result<Read, SourceError> {
        if self.ended {
            return Ok(Read::End);
        }
        if !self.next_picture().map_err(|e| SourceError::io(&self.name, &e))? {
            self.ended = true;
            if let Some(warning) = &self.warning {
                tracing::warn!("{warning}");
            }
            return Ok(Read::End);
        }
        out.time = self.header.frame_time(self.index);
        out.has_pixels = self.choice.as_mut().is_none_or(|choice| choice.wants(out.time));
        if out.has_pixels {
            self.resizer.convert(&self.buffer, 0, self.header.range, out)?;
        }
        out.dropped_before = 0;
        self.index += 1;
        Ok(Read::Data)
    }

    fn choose(&mut self, choice: FrameChoice) {
        self.choice = Some(choice);
    }

    fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

/// Reads to the next line end, at most [`MAX_LINE`] bytes.
fn read_line(reader: &mut impl BufRead, line: &mut Vec<u8>) -> std::io::Result<()> {
    reader.take(MAX_LINE).read_until(b'\n', line).map(drop)
}

#[cfg(test)]
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers"
)]
pub(crate) mod tests {
    use super::*;
    use crate::timeline::{Assembler, AssemblerConfig};

    /// `frames` grey frames; the value of frame `n` is `n · 10`.
    pub(crate) fn y4m(header: &str, frame_bytes: usize, frames: usize) -> Vec<u8> {
        let mut file = format!("YUV4MPEG2 {header}\n").into_bytes();
        for n in 0..frames {
            file.extend(b"FRAME\n");
            file.extend(vec![(n * 10) as u8; frame_bytes]);
        }
        file
    }

    fn open(bytes: &[u8]) -> Result<Y4mSource<&[u8]>, SourceError> {
        Y4mSource::new("clip.y4m".to_owned(), bytes)
    }

    fn times(source: &mut Y4mSource<&[u8]>) -> Vec<i64> {
        let (mut times, mut frame) = (Vec::new(), Frame::new());
        while source.read(&mut frame, Duration::ZERO).unwrap() == Read::Data {
            times.push(frame.time.0);
        }
        times
    }

    #[test]
    fn frames_stand_at_their_index_over_the_rate() {
        let file = y4m("W6 H4 F30000:1001 Ip A1:1 Cmono XYSCSS=420JPEG", 24, 3);
        assert_eq!(times(&mut open(&file).unwrap()), [0, 33_366_666, 66_733_333]);
    }

    #[test]
    fn colour_formats_have_their_sizes() {
        for (c, bytes) in
            [("420jpeg", 7 * 5 + 2 * 4 * 3), ("422", 7 * 5 + 2 * 4 * 5), ("444", 105), ("mono", 35)]
        {
            let file = y4m(&format!("W7 H5 F10:1 C{c}"), bytes, 2);
            let mut source = open(&file).unwrap();
            assert_eq!(times(&mut source).len(), 2, "{c}");
            assert!(source.warning().is_none(), "{c}");
        }
        assert_eq!(
            open(&y4m("W7 H5 F10:1 C420p10", 10, 1)).err().unwrap().kind,
            SourceErrorKind::Unsupported
        );
    }

    #[test]
    fn what_is_not_chosen_is_not_converted_but_has_its_time() {
        let file = y4m("W2 H2 F25:1 Cmono", 4, 26);
        let mut source = open(&file).unwrap();
        let assembler = Assembler::new(AssemblerConfig::default()).starting_at(MonoTime(0));
        source.choose(assembler.frame_choice());
        let (mut with, mut frame) = (Vec::new(), Frame::new());
        for n in 0..26 {
            source.read(&mut frame, Duration::ZERO).unwrap();
            assert_eq!(frame.time, MonoTime(n * 40_000_000));
            if frame.has_pixels {
                with.push(n);
            }
        }
        // The first two, since nothing is known yet; then those beside 0.24 s and 0.72 s.
        assert_eq!(with, [0, 6, 18]);
    }

    #[test]
    fn full_range_is_honoured() {
        for (extra, want) in [("", 0), (" XCOLORRANGE=FULL", 16)] {
            let mut file = format!("YUV4MPEG2 W2 H2 F1:1 C444{extra}\nFRAME\n").into_bytes();
            file.extend([16, 16, 16, 16, 128, 128, 128, 128, 128, 128, 128, 128]);
            let mut frame = Frame::new();
            open(&file).unwrap().read(&mut frame, Duration::ZERO).unwrap();
            assert!(frame.rgb().iter().all(|&v| v == want), "{extra}");
        }
    }

    #[test]
    fn an_incomplete_last_frame_ends_with_a_warning() {
        let mut file = y4m("W6 H4 F10:1 Cmono", 24, 3);
        file.truncate(file.len() - 1);
        let mut source = open(&file).unwrap();
        assert_eq!(times(&mut source).len(), 2);
        assert!(source.warning().unwrap().contains("frame 2 is incomplete"));
    }

    #[test]
    fn lying_and_broken_headers_are_named_errors() {
        for header in ["W0 H4 F1:1", "W99999 H99999 F1:1", "W-1 H4", "W4 H4 F0:1", "W4 H4 F1:0", "", "WÄ"] {
            let error = open(&y4m(header, 1, 1)).err().unwrap();
            assert!(error.message.starts_with("clip.y4m: "), "{header}: {error}");
        }
        assert!(open(b"").is_err());
        assert!(open(&[b'Y'; 100_000]).is_err());
        // The largest picture is promised and nothing comes: nothing is allocated for it.
        let file = y4m("W4096 H4096 F1:1", 5, 1);
        let mut source = open(&file).unwrap();
        assert!(times(&mut source).is_empty());
        assert!(source.buffer.capacity() < 4_096);
    }
}
