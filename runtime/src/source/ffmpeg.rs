//! Any other container, decoded by the `ffmpeg` program: one process for the sound, one for the picture.
//!
//! Sound comes as 16-bit mono at 16 kHz, padded so that its first sample is at the clip's start; picture as
//! YUV4MPEG2 at a constant rate that starts there too, so both keep their true distance. The processes read no
//! input but the one file, are killed when the source is dropped, and what they say is kept in a bounded tail for
//! the error message.

use std::{
    collections::VecDeque,
    ffi::OsString,
    io::{BufReader, Read as _},
    path::Path,
    process::{Child, ChildStderr, ChildStdout, Command, Stdio},
    thread::JoinHandle,
    time::Duration,
};

use super::{
    AudioSource, Block, Frame, Read, SourceError, SourceErrorKind, VideoSource, pcm::PcmQueue,
    wav::read_fully, y4m::Y4mSource,
};
use crate::timeline::FrameChoice;

/// Frames per second asked of the decoder; two per snippet are used.
const MAX_FPS: f64 = 15.0;
/// Most that is kept of what a program says.
const STDERR_TAIL: usize = 2_048;
/// Bytes of sound read at a time.
const PIPE_BYTES: usize = 4_096;

/// What a container holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Probe {
    /// It has a sound stream.
    pub audio: bool,
    /// Its picture stream's frames per second, if it has one.
    pub video_fps: Option<f64>,
    /// How long it plays, if it says so.
    pub duration: Option<Duration>,
}

/// Asks `ffprobe` what is in the file.
///
/// # Errors
/// The program is not installed, or does not understand the file.
pub fn probe(path: &Path) -> Result<Probe, SourceError> {
    let name = path.display().to_string();
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-of", "json", "-protocol_whitelist", "file"])
        .args(["-show_entries", "stream=codec_type,avg_frame_rate:stream_disposition=attached_pic"])
        .args(["-show_entries", "format=duration"])
        .arg(file_url(path))
        .stdin(Stdio::null())
        .output()
        .map_err(|e| spawn_error("ffprobe", &name, &e))?;
    if !output.status.success() {
        return Err(not_understood(&name, &String::from_utf8_lossy(&output.stderr)));
    }
    parse_probe(&output.stdout).ok_or_else(|| not_understood(&name, "ffprobe's answer makes no sense"))
}

fn parse_probe(json: &[u8]) -> Option<Probe> {
    let root: serde_json::Value = serde_json::from_slice(json).ok()?;
    let mut probe = Probe::default();
    for stream in root.get("streams")?.as_array()? {
        match stream.get("codec_type").and_then(|v| v.as_str()) {
            Some("audio") => probe.audio = true,
            // A cover picture is no video.
            Some("video") if stream["disposition"]["attached_pic"] != 1 && probe.video_fps.is_none() => {
                let rate = stream.get("avg_frame_rate").and_then(|v| v.as_str()).and_then(parse_ratio);
                probe.video_fps = Some(rate.unwrap_or(MAX_FPS));
            }
            _ => {}
        }
    }
    let seconds = root["format"]["duration"].as_str().and_then(|s| s.parse::<f64>().ok());
    probe.duration = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
    Some(probe)
}

fn parse_ratio(text: &str) -> Option<f64> {
    let (num, den) = text.split_once('/')?;
    let ratio = num.parse::<f64>().ok()? / den.parse::<f64>().ok()?;
    (ratio.is_finite() && ratio > 0.0).then_some(ratio)
}

/// A running decoder. Killed and reaped on drop.
struct Decoder {
    name: String,
    child: Child,
    stderr: Option<JoinHandle<String>>,
}

impl Decoder {
    /// Starts `ffmpeg` on `path` with `options`; returns it and its standard output.
    fn start(path: &Path, options: &[&str]) -> Result<(Self, ChildStdout), SourceError> {
        let name = path.display().to_string();
        let mut child = Command::new("ffmpeg")
            .args(["-nostdin", "-hide_banner", "-v", "error", "-threads", "1"])
            .args(["-protocol_whitelist", "file,pipe", "-i"])
            .arg(file_url(path))
            .args(options)
            .arg("pipe:1")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|e| spawn_error("ffmpeg", &name, &e))?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let decoder = Self { name, child, stderr: stderr.and_then(collect_tail) };
        let stdout = stdout.ok_or_else(|| not_understood(&decoder.name, "no pipe"))?;
        Ok((decoder, stdout))
    }

    /// Waits for the process after its output ended; what it complained about, if it failed.
    fn finish(&mut self) -> Option<String> {
        let ok = self.child.wait().is_ok_and(|status| status.success());
        let said = self.stderr.take().and_then(|thread| thread.join().ok()).unwrap_or_default();
        (!ok).then_some(said)
    }
}

impl Drop for Decoder {
    fn drop(&mut self) {
        // Both fail only when the process is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Reads a program's complaints to their end in a thread of its own (it must never block on them), keeping the tail.
fn collect_tail(stderr: ChildStderr) -> Option<JoinHandle<String>> {
    let read = move || {
        let mut tail = VecDeque::with_capacity(STDERR_TAIL);
        let mut reader = BufReader::with_capacity(512, stderr);
        let mut piece = [0; 512];
        while let Ok(n @ 1..) = reader.read(&mut piece) {
            tail.extend(&piece[..n]);
            let surplus = tail.len().saturating_sub(STDERR_TAIL);
            tail.drain(..surplus);
        }
        String::from_utf8_lossy(tail.make_contiguous()).into_owned()
    };
    std::thread::Builder::new().name("ffmpeg-stderr".to_owned()).spawn(read).ok()
}

/// The path as a URL of the one protocol that is allowed, whatever it looks like.
fn file_url(path: &Path) -> OsString {
    let mut url = OsString::from("file:");
    url.push(path);
    url
}

fn spawn_error(program: &str, name: &str, error: &std::io::Error) -> SourceError {
    if error.kind() == std::io::ErrorKind::NotFound {
        let message = format!("{name}: the {program} program is needed for this container and was not found");
        return SourceError::new(SourceErrorKind::Missing, message)
            .help("install ffmpeg, or use .wav and .y4m files");
    }
    SourceError::new(SourceErrorKind::Failed, format!("{name}: cannot start {program}: {error}"))
}

/// An error with the last line of what the program said.
fn not_understood(name: &str, said: &str) -> SourceError {
    let last = said.lines().rev().find(|l| !l.trim().is_empty()).unwrap_or("no reason given").trim();
    let last: String = last.chars().take(200).collect();
    let message = if last.contains(name) { format!("ffmpeg: {last}") } else { format!("{name}: {last}") };
    SourceError::new(SourceErrorKind::Unsupported, message).help("is it a whole audio or video file?")
}

/// Sound of any container.
pub struct FfmpegAudio {
    decoder: Decoder,
    pipe: ChildStdout,
    queue: PcmQueue,
    buffer: Vec<u8>,
    delivered: bool,
    ended: bool,
    warning: Option<String>,
}

impl FfmpegAudio {
    /// Starts decoding the first sound stream of `path`.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let options = ["-map", "0:a:0", "-vn", "-sn", "-dn", "-af", "aresample=16000:async=1:first_pts=0"];
        let format = ["-ac", "1", "-ar", "16000", "-c:a", "pcm_s16le", "-f", "s16le"];
        let (decoder, pipe) = Decoder::start(path, &[&options[..], &format[..]].concat())?;
        let (queue, buffer) = (PcmQueue::new(PIPE_BYTES), vec![0; PIPE_BYTES]);
        Ok(Self { decoder, pipe, queue, buffer, delivered: false, ended: false, warning: None })
    }

    fn refill(&mut self) -> Result<(), SourceError> {
        let got = read_fully(&mut self.pipe, &mut self.buffer)
            .map_err(|e| SourceError::io(&self.decoder.name, &e))?;
        for sample in self.buffer[..got].as_chunks::<2>().0 {
            self.queue.push(i16::from_le_bytes(*sample));
        }
        self.delivered |= got > 0;
        if got < self.buffer.len() {
            self.ended = true;
            self.warning = end_of(&mut self.decoder, self.delivered, "sound")?;
        }
        Ok(())
    }
}

/// After the pipe's end: fine, a warning if the decoder failed on the way, an error if nothing ever came.
fn end_of(decoder: &mut Decoder, delivered: bool, what: &str) -> Result<Option<String>, SourceError> {
    let Some(said) = decoder.finish() else { return Ok(None) };
    let error = not_understood(&decoder.name, &said);
    if !delivered {
        return Err(error);
    }
    let warning = format!("{}: the {what} ends early: {}", decoder.name, error.message);
    tracing::warn!("{warning}");
    Ok(Some(warning))
}

impl AudioSource for FfmpegAudio {
    fn describe(&self) -> &str {
        &self.decoder.name
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

/// Picture of any container.
pub struct FfmpegVideo {
    /// Dropped before the decoder, whose pipe it holds; made at the first read, when the header has come.
    stream: Option<Y4mSource<BufReader<ChildStdout>>>,
    pipe: Option<ChildStdout>,
    /// Not yet handed on to the stream.
    choice: Option<FrameChoice>,
    decoder: Decoder,
    delivered: bool,
    ended: bool,
    warning: Option<String>,
}

impl FfmpegVideo {
    /// Starts decoding the first picture stream of `path`, which has `fps` frames per second.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn open(path: &Path, fps: f64) -> Result<Self, SourceError> {
        let filter = format!("fps=fps={:.6}:start_time=0", fps.clamp(0.1, MAX_FPS));
        let options = ["-map", "0:V:0", "-an", "-sn", "-dn", "-vf", &filter];
        let format = ["-pix_fmt", "yuv420p", "-f", "yuv4mpegpipe"];
        let (decoder, pipe) = Decoder::start(path, &[&options[..], &format[..]].concat())?;
        Ok(Self {
            stream: None,
            pipe: Some(pipe),
            choice: None,
            decoder,
            delivered: false,
            ended: false,
            warning: None,
        })
    }

    /// Opens the stream once its header is there.
    fn start(&mut self) -> Result<(), SourceError> {
        let Some(pipe) = self.pipe.take() else { return Ok(()) };
        let reader = BufReader::with_capacity(1 << 16, pipe);
        match Y4mSource::new(self.decoder.name.clone(), reader) {
            Ok(stream) => self.stream = Some(stream),
            Err(error) => {
                self.ended = true;
                end_of(&mut self.decoder, false, "picture")?;
                return Err(error);
            }
        }
        Ok(())
    }
}

impl VideoSource for FfmpegVideo {
    fn describe(&self) -> &str {
        &self.decoder.name
    }

    fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
        self.start()?;
        let Some(stream) = self.stream.as_mut().filter(|_| !self.ended) else { return Ok(Read::End) };
        if let Some(choice) = self.choice.take() {
            stream.choose(choice);
        }
        let read = stream.read(out, timeout)?;
        if read == Read::End {
            self.ended = true;
            let warning = stream.warning().map(str::to_owned);
            self.warning = end_of(&mut self.decoder, self.delivered, "picture")?.or(warning);
        }
        self.delivered |= read == Read::Data;
        Ok(read)
    }

    fn choose(&mut self, choice: FrameChoice) {
        self.choice = Some(choice);
    }

    fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_answer_is_understood() {
        let json = br#"{"streams":[
            {"codec_type":"video","avg_frame_rate":"0/0","disposition":{"attached_pic":1}},
            {"codec_type":"video","avg_frame_rate":"30000/1001","disposition":{"attached_pic":0}},
            {"codec_type":"audio","avg_frame_rate":"0/0"}],"format":{"duration":"2.500000"}}"#;
        let probe = parse_probe(json).unwrap();
        assert!(probe.audio);
        assert!((probe.video_fps.unwrap() - 29.97).abs() < 0.01);
        assert_eq!(probe.duration, Some(Duration::from_millis(2_500)));
        assert_eq!(parse_probe(b"{}"), None);
    }

    #[test]
    fn a_missing_program_is_explained() {
        let error = spawn_error("ffmpeg", "a.mp4", &std::io::ErrorKind::NotFound.into());
        assert!(error.to_string().contains("install ffmpeg"), "{error}");
    }

    #[test]
    fn a_complaint_is_one_bounded_line() {
        let error = not_understood("a.mp4", &format!("first\n{}\n\n", "x".repeat(9_000)));
        assert!(error.message.len() < 300 && error.message.starts_with("a.mp4: xxx"));
    }
}
