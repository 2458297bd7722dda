//! WAV recordings, read as a stream: PCM 8/16/24/32 bit and float, any channel count, 8–192 kHz.
//!
//! Channels are averaged, other rates resampled to 16 kHz. Headers are not believed: sizes are compared with the
//! file, nothing is allocated by a number from the file, unknown chunks are skipped, and data that end early are
//! played as far as they go, with a warning.

use std::{
    fs::File,
    io::{BufReader, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use super::{AudioSource, Block, Read, SourceError, SourceErrorKind, pcm::PcmQueue};
use crate::{
    clock::MonoTime,
    frontend::resample::{MAX_RATE, MIN_RATE, Resampler},
};

/// More chunks than any sane file has before its data.
const MAX_CHUNKS: usize = 1_024;
const MAX_CHANNELS: u16 = 64;
/// Sample frames decoded at a time.
const FRAMES: usize = 512;

/// How one sample is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    U8,
    I16,
    I24,
    I32,
    F32,
    F64,
}

impl Encoding {
    fn bytes(self) -> usize {
        match self {
            Self::U8 => 1,
            Self::I16 => 2,
            Self::I24 => 3,
            Self::I32 | Self::F32 => 4,
            Self::F64 => 8,
        }
    }

    /// One little-endian sample in [−1, 1]; what is not a number is silence.
    #[allow(clippy::cast_possible_truncation, reason = "f64 samples are narrowed to f32 on purpose")]
    fn decode(self, b: &[u8]) -> f32 {
        match (self, b) {
            (Self::U8, &[a]) => (f32::from(a) - 128.0) / 128.0,
            (Self::I16, &[a, b]) => f32::from(i16::from_le_bytes([a, b])) / 32_768.0,
            (Self::I24, &[a, b, c]) => i32::from_le_bytes([0, a, b, c]) as f32 / 2_147_483_648.0,
            (Self::I32, &[a, b, c, d]) => i32::from_le_bytes([a, b, c, d]) as f32 / 2_147_483_648.0,
            (Self::F32, &[a, b, c, d]) => finite(f32::from_le_bytes([a, b, c, d])),
            (Self::F64, b) => b.try_into().map_or(0.0, |b| finite(f64::from_le_bytes(b) as f32)),
            _ => 0.0,
        }
    }
}

fn finite(x: f32) -> f32 {
    if x.is_finite() { x.clamp(-1.0, 1.0) } else { 0.0 }
}

/// The `fmt ` chunk, understood.
#[derive(Clone, Copy, Debug)]
struct Format {
    encoding: Encoding,
    channels: u16,
    rate: u32,
}

impl Format {
    fn frame_bytes(self) -> usize {
        usize::from(self.channels) * self.encoding.bytes()
    }

    fn parse(name: &str, chunk: &[u8]) -> Result<Self, SourceError> {
        let unsupported = |what: String| {
            SourceError::new(SourceErrorKind::Unsupported, format!("{name}: {what}"))
                .help("convert it: ffmpeg -i in.wav -c:a pcm_s16le out.wav")
        };
        let u16_at = |i: usize| chunk.get(i..i + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]));
        let rate = u32::from(u16_at(4)) | u32::from(u16_at(6)) << 16;
        let (channels, bits) = (u16_at(2), u16_at(14));
        // WAVE_FORMAT_EXTENSIBLE keeps the true tag in the first two bytes of its GUID.
        let tag = if u16_at(0) == 0xFFFE { u16_at(24) } else { u16_at(0) };
        let encoding = match (tag, bits) {
            (1, 8) => Encoding::U8,
            (1, 16) => Encoding::I16,
            (1, 24) => Encoding::I24,
            (1, 32) => Encoding::I32,
            (3, 32) => Encoding::F32,
            (3, 64) => Encoding::F64,
            _ => return Err(unsupported(format!("WAV encoding {tag} with {bits} bits is not understood"))),
        };
        if !(1..=MAX_CHANNELS).contains(&channels) {
            return Err(unsupported(format!("{channels} channels; 1 to {MAX_CHANNELS} are possible")));
        }
        if !(MIN_RATE..=MAX_RATE).contains(&rate) {
            return Err(unsupported(format!("{rate} Hz; {MIN_RATE} to {MAX_RATE} Hz are possible")));
        }
        Ok(Self { encoding, channels, rate })
    }
}

/// A WAV file as a sound source; its first sample is at time 0.
pub struct WavSource {
    name: String,
    reader: BufReader<File>,
    format: Format,
    /// Bytes of sample data still to come, as far as the header and the file agree.
    remaining: u64,
    duration: Duration,
    resampler: Resampler,
    queue: PcmQueue,
    bytes: Vec<u8>,
    mono: Vec<f32>,
    ended: bool,
    warning: Option<String>,
}

impl WavSource {
    /// Opens a WAV file.
    ///
    /// # Errors
    /// It cannot be read, is not a WAV file, has no data, or is in an encoding that is not understood.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let io = |e: std::io::Error| SourceError::io(&name, &e);
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut reader = BufReader::new(file);
        let (format, declared) = read_header(&name, &mut reader)?;
        let start = reader.stream_position().map_err(io)?;
        let present = length.saturating_sub(start);
        let (remaining, warning) = match declared {
            // A recorder that streams cannot know the size.
            0 | 0xFFFF_FFFF => (present, None),
            declared if u64::from(declared) > present => {
                let lost = u64::from(declared) - present;
                (present, Some(format!("{name}: {lost} of {declared} bytes of sound are missing at the end")))
            }
            declared => (u64::from(declared), None),
        };
        if remaining < format.frame_bytes() as u64 {
            return Err(SourceError::new(SourceErrorKind::Truncated, format!("{name}: no sound in it"))
                .help("record or copy it again"));
        }
        if let Some(warning) = &warning {
            tracing::warn!("{warning}");
        }
        let frames = remaining / format.frame_bytes() as u64;
        let duration = Duration::from_secs_f64(frames as f64 / f64::from(format.rate));
        let resampler = Resampler::new(format.rate)
            .ok_or_else(|| SourceError::new(SourceErrorKind::Unsupported, format!("{name}: sample rate")))?;
        Ok(Self {
            reader,
            format,
            remaining,
            duration,
            resampler,
            // One call may bring FRAMES samples at 8 kHz, doubled, and the resampler's tail.
            queue: PcmQueue::new(4 * FRAMES),
            bytes: vec![0; FRAMES * format.frame_bytes()],
            mono: Vec::with_capacity(FRAMES),
            ended: false,
            warning,
            name,
        })
    }

    /// How long it plays.
    #[must_use]
    pub fn duration(&self) -> Duration {
        self.duration
    }

    /// Decodes up to [`FRAMES`] sample frames into the queue; at the end flushes the resampler.
    fn refill(&mut self) -> Result<(), SourceError> {
        let frame_bytes = self.format.frame_bytes();
        let whole = (self.remaining / frame_bytes as u64).min(FRAMES as u64);
        let want = usize::try_from(whole).unwrap_or(FRAMES) * frame_bytes;
        let got = read_fully(&mut self.reader, &mut self.bytes[..want])
            .map_err(|e| SourceError::io(&self.name, &e))?;
        self.remaining -= got as u64;
        self.mono.clear();
        let (encoding, channels) = (self.format.encoding, f32::from(self.format.channels));
        for frame in self.bytes[..got].chunks_exact(frame_bytes) {
            let sum: f32 = frame.chunks_exact(encoding.bytes()).map(|s| encoding.decode(s)).sum();
            self.mono.push(sum / channels);
        }
        self.resampler.process(&self.mono, |s| self.queue.push(s));
        if got < want || self.remaining < frame_bytes as u64 {
            self.ended = true;
            self.resampler.finish(|s| self.queue.push(s));
            if got < want && self.warning.is_none() {
                self.warning = Some(format!("{}: the file became shorter while it was read", self.name));
            }
        }
        Ok(())
    }
}

impl AudioSource for WavSource {
    fn describe(&self) -> &str {
        &self.name
    }

    fn read(&mut self, out: &mut Block, _timeout: Duration) -> Result<Read, SourceError> {
        while !self.ended && !self.queue.has_block() {
            self.refill()?;
        }
        Ok(self.queue.take(out))
    }

    fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

/// Walks the chunks to the sample data; returns the format and the declared data size.
fn read_header(name: &str, reader: &mut BufReader<File>) -> Result<(Format, u32), SourceError> {
    let damaged = |what: &str| {
        SourceError::new(SourceErrorKind::Unsupported, format!("{name}: {what}"))
            .help("is it a WAV recording?")
    };
    let mut riff = [0; 12];
    let got = read_fully(reader, &mut riff).map_err(|e| SourceError::io(name, &e))?;
    if got < riff.len() || &riff[..4] != b"RIFF" || &riff[8..] != b"WAVE" {
        return Err(damaged("not a RIFF WAVE file"));
    }
    let mut format = None;
    for _ in 0..MAX_CHUNKS {
        let mut head = [0; 8];
        if read_fully(reader, &mut head).map_err(|e| SourceError::io(name, &e))? < head.len() {
            break;
        }
        let size = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        match &head[..4] {
            b"fmt " => format = Some(read_format(name, reader, size)?),
            b"data" => return format.map(|f| (f, size)).ok_or_else(|| damaged("sound before its format")),
            _ => skip(name, reader, u64::from(size) + u64::from(size & 1))?,
        }
    }
    Err(damaged("no sound data in it"))
}

fn read_format(name: &str, reader: &mut BufReader<File>, size: u32) -> Result<Format, SourceError> {
    let mut chunk = [0; 40];
    let want = chunk.len().min(size as usize);
    let got = read_fully(reader, &mut chunk[..want]).map_err(|e| SourceError::io(name, &e))?;
    skip(name, reader, u64::from(size) + u64::from(size & 1) - want as u64)?;
    Format::parse(name, &chunk[..got])
}

fn skip(name: &str, reader: &mut BufReader<File>, bytes: u64) -> Result<(), SourceError> {
    let by = i64::try_from(bytes).unwrap_or(i64::MAX);
    reader.seek(SeekFrom::Current(by)).map(drop).map_err(|e| SourceError::io(name, &e))
}

/// Reads until `buffer` is full or the file ends; says how much came.
pub(super) fn read_fully(reader: &mut impl std::io::Read, buffer: &mut [u8]) -> std::io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Time of sample `index` at 16 kHz.
pub(super) fn sample_time(index: u64) -> MonoTime {
    let nanos = u128::from(index) * 1_000_000_000 / u128::from(super::SAMPLE_RATE);
    MonoTime(i64::try_from(nanos).unwrap_or(i64::MAX))
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

    /// A WAV file in memory: `tag`, `bits`, `channels`, `rate`, and sample bytes.
    pub(crate) fn wav(tag: u16, bits: u16, channels: u16, rate: u32, data: &[u8]) -> Vec<u8> {
        let align = channels * bits / 8;
        let mut fmt = Vec::new();
        fmt.extend(tag.to_le_bytes());
        fmt.extend(channels.to_le_bytes());
        fmt.extend(rate.to_le_bytes());
        fmt.extend((rate * u32::from(align)).to_le_bytes());
        fmt.extend(align.to_le_bytes());
        fmt.extend(bits.to_le_bytes());
        chunks(&[(b"fmt ", &fmt), (b"data", data)])
    }

    fn chunks(list: &[(&[u8; 4], &[u8])]) -> Vec<u8> {
        let mut file = b"RIFF\0\0\0\0WAVE".to_vec();
        for (id, body) in list {
            file.extend(*id);
            file.extend((body.len() as u32).to_le_bytes());
            file.extend(*body);
            file.extend(vec![0; body.len() & 1]);
        }
        file
    }

    fn le(samples: &[i16]) -> Vec<u8> {
        samples.iter().flat_map(|s| s.to_le_bytes()).collect()
    }

    fn open(bytes: &[u8]) -> Result<WavSource, SourceError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("clip.wav");
        std::fs::write(&path, bytes).unwrap();
        WavSource::open(&path)
    }

    fn read_all(source: &mut WavSource) -> Vec<i16> {
        let (mut all, mut block) = (Vec::new(), Block::new());
        while source.read(&mut block, Duration::ZERO).unwrap() == Read::Data {
            assert_eq!(block.time, sample_time(all.len() as u64));
            assert!(!block.is_empty());
            all.extend_from_slice(block.samples());
        }
        all
    }

    #[test]
    fn mono_16_bit_at_16_khz_is_untouched() {
        let samples: Vec<i16> = (0..4_000).map(|i| (i * 31 % 65_536 - 32_768) as i16).collect();
        let mut source = open(&wav(1, 16, 1, 16_000, &le(&samples))).unwrap();
        assert_eq!(source.duration(), Duration::from_millis(250));
        assert_eq!(read_all(&mut source), samples);
        assert!(source.warning().is_none());
    }

    #[test]
    fn channels_are_averaged() {
        let mut source = open(&wav(1, 16, 2, 16_000, &le(&[100, 300, -100, 500]))).unwrap();
        assert_eq!(read_all(&mut source), [200, 200]);
    }

    #[test]
    fn every_encoding_gives_the_same_samples() {
        let want = [0_i16, 16_384, -16_384, 256, -32_768];
        let i24: Vec<u8> =
            want.iter().flat_map(|&s| (i32::from(s) << 8).to_le_bytes()[..3].to_vec()).collect();
        let i32s: Vec<u8> = want.iter().flat_map(|&s| (i32::from(s) << 16).to_le_bytes()).collect();
        let f32s: Vec<u8> = want.iter().flat_map(|&s| (f32::from(s) / 32_768.0).to_le_bytes()).collect();
        let f64s: Vec<u8> = want.iter().flat_map(|&s| (f64::from(s) / 32_768.0).to_le_bytes()).collect();
        let u8s: Vec<u8> = want.iter().map(|&s| ((s >> 8) + 128) as u8).collect();
        for (tag, bits, data) in [(1, 8, u8s), (1, 24, i24), (1, 32, i32s), (3, 32, f32s), (3, 64, f64s)] {
            assert_eq!(read_all(&mut open(&wav(tag, bits, 1, 16_000, &data)).unwrap()), want, "{tag} {bits}");
        }
    }

    #[test]
    fn extensible_headers_and_junk_chunks_are_understood() {
        let mut fmt = wav(0xFFFE, 16, 1, 16_000, &[])[20..36].to_vec();
        fmt.extend([22, 0, 16, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 16, 0, 128, 0, 0, 170, 0, 56, 155, 113]);
        let file =
            chunks(&[(b"JUNK", &[0; 27]), (b"fmt ", &fmt), (b"LIST", b"abc"), (b"data", &le(&[1, 2, 3]))]);
        assert_eq!(read_all(&mut open(&file).unwrap()), [1, 2, 3]);
    }

    #[test]
    fn the_rate_is_converted() {
        let mut source = open(&wav(1, 16, 2, 48_000, &vec![0; 48_000 * 4])).unwrap();
        let n = read_all(&mut source).len();
        assert!(n.abs_diff(16_000) <= 1, "{n} samples");
    }

    #[test]
    fn missing_data_is_played_as_far_as_it_goes_and_declared() {
        let mut file = wav(1, 16, 1, 16_000, &le(&[5; 1_000]));
        file.truncate(file.len() - 501);
        let mut source = open(&file).unwrap();
        assert_eq!(read_all(&mut source).len(), 749);
        assert!(source.warning().unwrap().contains("501 of 2000 bytes"), "{:?}", source.warning());
    }

    #[test]
    fn a_lying_size_allocates_nothing() {
        let mut file = wav(1, 16, 1, 16_000, &le(&[5; 10]));
        let at = file.len() - 24;
        file[at..at + 4].copy_from_slice(&0xFFFF_FFF0_u32.to_le_bytes());
        let mut source = open(&file).unwrap();
        assert_eq!(read_all(&mut source).len(), 10);
        assert!(source.warning().is_some());
    }

    #[test]
    fn broken_files_are_named_errors() {
        let good = wav(1, 16, 1, 16_000, &le(&[5; 10]));
        for cut in 0..46 {
            let error = open(&good[..cut]).err().unwrap();
            assert!(error.message.contains("clip.wav: "), "{error}");
        }
        for bad in
            [wav(85, 16, 1, 16_000, &[0; 4]), wav(1, 16, 0, 16_000, &[0; 4]), wav(1, 16, 1, 300, &[0; 4])]
        {
            assert_eq!(open(&bad).err().unwrap().kind, SourceErrorKind::Unsupported);
        }
    }
}
