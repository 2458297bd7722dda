//! The capture queue and the camera above it, on a device that does what a test tells it.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use super::{
    format::{FourCc, Layout},
    node::{BUFFER_PLANES, Device, Filled, Ready},
    *,
};
use crate::{
    clock::{Clock, MonoTime, SimClock},
    frontend::video::{Range, Resizer},
    source::{
        SourceErrorKind,
        liveness::{LivenessConfig, State, Supervised},
    },
    timeline::{Assembler, AssemblerConfig},
};

const WIDTH: usize = 16;
const HEIGHT: usize = 8;

/// What the next wait or dequeue brings.
#[derive(Clone, Debug)]
enum Step {
    /// A frame with this sequence number.
    Frame(u32),
    /// A frame that is flagged as damaged.
    Damaged(u32),
    /// A frame of so many bytes.
    Short(u32, usize),
    /// A frame without a monotonic stamp.
    Unstamped(u32),
    /// The wait fails.
    Wait(i32),
    /// The wait brings a frame, the dequeuing fails.
    Dequeue(i32),
    /// POLLERR, and the dequeuing fails.
    PollError(i32),
    /// POLLHUP.
    HangUp,
    /// The signal has another format.
    Changed,
    /// Nothing for the whole wait.
    Nothing,
}

/// What the fake saw and what it will do; shared with the test.
#[derive(Default)]
struct Script {
    steps: VecDeque<Step>,
    /// Errors of `stream`, `request`, `set_format`.
    stream: Option<i32>,
    request: Option<i32>,
    format: Option<i32>,
    buffers: u32,
    queued: Vec<u32>,
    streaming: bool,
    /// Buffer planes as `set_format` says, and their content.
    layout: Option<Layout>,
    memory: Vec<Vec<u8>>,
    asked: Vec<(FourCc, u32, u32)>,
    calls: u32,
}

#[derive(Clone)]
struct Fake {
    script: Arc<Mutex<Script>>,
    clock: Arc<SimClock>,
    memory: Vec<Vec<Vec<u8>>>,
    failing: Option<i32>,
    next: Option<Step>,
}

fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

impl Device for Fake {
    fn set_format(&mut self, code: FourCc, width: u32, height: u32) -> io::Result<Layout> {
        let mut script = self.script.lock().unwrap();
        script.asked.push((code, width, height));
        if let Some(errno) = script.format {
            return Err(error(errno));
        }
        Ok(script.layout.unwrap())
    }
    fn set_rate(&mut self, _: u32) -> io::Result<Option<f64>> {
        Err(error(libc::ENOTTY))
    }
    fn request(&mut self, count: u32) -> io::Result<u32> {
        let script = self.script.lock().unwrap();
        script.request.map_or(Ok(count.min(script.buffers)), |e| Err(error(e)))
    }
    fn map(&mut self, _: u32) -> io::Result<()> {
        self.memory.push(self.script.lock().unwrap().memory.clone());
        Ok(())
    }
    fn enqueue(&mut self, index: u32) -> io::Result<()> {
        let mut script = self.script.lock().unwrap();
        assert!(!script.queued.contains(&index), "buffer {index} is queued twice");
        script.queued.push(index);
        Ok(())
    }
    fn dequeue(&mut self) -> io::Result<Filled> {
        if let Some(errno) = self.failing.take() {
            return Err(error(errno));
        }
        let mut script = self.script.lock().unwrap();
        let Some(step) = self.next.take() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let full: Vec<usize> = script.memory.iter().map(Vec::len).collect();
        let mut used = [0; BUFFER_PLANES];
        used[..full.len()].copy_from_slice(&full);
        let (sequence, stamped, damaged) = match step {
            Step::Frame(n) => (n, true, false),
            Step::Damaged(n) => (n, true, true),
            Step::Unstamped(n) => (n, false, false),
            Step::Short(n, bytes) => {
                used[0] = bytes;
                (n, true, false)
            }
            other => unreachable!("{other:?} is no frame"),
        };
        let index = script.queued.remove(0);
        Ok(Filled {
            index,
            sequence,
            monotonic: stamped.then(|| self.clock.now().0 - 1_000_000),
            error: damaged,
            used,
        })
    }
    fn stream(&mut self, on: bool) -> io::Result<()> {
        let mut script = self.script.lock().unwrap();
        script.streaming = on;
        script.stream.map_or(Ok(()), |e| Err(error(e)))
    }
    fn wait(&mut self, timeout: Duration) -> io::Result<Ready> {
        let mut script = self.script.lock().unwrap();
        script.calls += 1;
        let ready = match script.steps.pop_front() {
            None | Some(Step::Nothing) => {
                self.clock.advance(timeout);
                return Ok(Ready::Timeout);
            }
            Some(Step::Wait(errno)) => return Err(error(errno)),
            Some(Step::Dequeue(errno)) => {
                self.failing = Some(errno);
                Ready::Frame
            }
            Some(Step::PollError(errno)) => {
                self.failing = Some(errno);
                Ready::Error
            }
            Some(Step::HangUp) => Ready::Gone,
            Some(Step::Changed) => Ready::Changed,
            Some(frame) => {
                self.next = Some(frame);
                Ready::Frame
            }
        };
        self.clock.advance(Duration::from_millis(100));
        Ok(ready)
    }
    fn planes(&mut self, index: u32) -> [&mut [u8]; BUFFER_PLANES] {
        let mut slices: [&mut [u8]; BUFFER_PLANES] = [&mut [], &mut [], &mut []];
        for (slice, plane) in slices.iter_mut().zip(&mut self.memory[index as usize]) {
            *slice = plane;
        }
        slices
    }
}

struct World {
    script: Arc<Mutex<Script>>,
    clock: Arc<SimClock>,
}

impl World {
    /// Grey pictures, 16 × 8 in rows of 24 bytes.
    fn new(steps: impl IntoIterator<Item = Step>) -> Self {
        let layout = Layout {
            code: FourCc(*b"GREY"),
            width: WIDTH,
            height: HEIGHT,
            strides: [24, 0, 0],
            buffers: 1,
            range: Range::Limited,
        };
        Self::with(layout, vec![(0..24 * 8).map(|i| u8::try_from(i).unwrap()).collect()], steps)
    }

    fn with(layout: Layout, memory: Vec<Vec<u8>>, steps: impl IntoIterator<Item = Step>) -> Self {
        let script = Script {
            steps: steps.into_iter().collect(),
            buffers: 4,
            layout: Some(layout),
            memory,
            ..Script::default()
        };
        Self {
            script: Arc::new(Mutex::new(script)),
            clock: Arc::new(SimClock::new(MonoTime(1_000_000_000_000))),
        }
    }

    fn open(&self) -> Result<Capture<Fake>, SourceError> {
        self.open_with(&CameraSettings::default())
    }

    fn open_with(&self, settings: &CameraSettings) -> Result<Capture<Fake>, SourceError> {
        let fake = Fake {
            script: Arc::clone(&self.script),
            clock: Arc::clone(&self.clock),
            memory: Vec::new(),
            failing: None,
            next: None,
        };
        self.script.lock().unwrap().queued.clear();
        let code = self.script.lock().unwrap().layout.unwrap().code;
        let offers = [(FourCc(*b"H264"), vec![]), (code, vec![(640, 480)])];
        Capture::start(fake, "cam", &offers, settings, Arc::clone(&self.clock) as Arc<dyn Clock>)
    }

    fn queued(&self) -> usize {
        self.script.lock().unwrap().queued.len()
    }
}

fn read(capture: &mut Capture<Fake>, frame: &mut Frame) -> Result<Read, SourceError> {
    capture.read(frame, Duration::from_secs(1))
}

#[test]
fn frames_come_with_their_stamps_and_buffers_go_back() {
    let world = World::new((0..20).map(Step::Frame));
    let mut camera = world.open().unwrap();
    let mut frame = Frame::new();
    for _ in 0..20 {
        assert_eq!(read(&mut camera, &mut frame), Ok(Read::Data));
        assert_eq!(frame.time, MonoTime(world.clock.now().0 - 1_000_000));
        assert_eq!((frame.dropped_before, world.queued()), (0, 4));
    }
    assert_eq!(read(&mut camera, &mut frame), Ok(Read::Timeout));
    drop(camera);
    assert!(!world.script.lock().unwrap().streaming);
}

#[test]
fn the_frame_is_the_picture_without_the_padding_of_its_rows() {
    let world = World::new([Step::Frame(0)]);
    let mut camera = world.open().unwrap();
    let (mut frame, mut expected) = (Frame::new(), Frame::new());
    read(&mut camera, &mut frame).unwrap();
    let packed: Vec<u8> =
        (0..HEIGHT).flat_map(|y| (0..WIDTH).map(move |x| u8::try_from(y * 24 + x).unwrap())).collect();
    let mut resizer = Resizer::new(PixelFormat::Grey, WIDTH, HEIGHT).unwrap();
    resizer.convert(&packed, 0, Range::Limited, &mut expected).unwrap();
    assert_eq!(frame.rgb(), expected.rgb());
}

#[test]
fn gaps_in_the_sequence_are_counted() {
    let world =
        World::new([Step::Frame(7), Step::Frame(8), Step::Frame(12), Step::Frame(12), Step::Frame(0)]);
    let mut camera = world.open().unwrap();
    let mut frame = Frame::new();
    let lost: Vec<_> = (0..5)
        .map(|_| {
            read(&mut camera, &mut frame).unwrap();
            frame.dropped_before
        })
        .collect();
    // A driver that repeats a number or counts anew has lost nothing that we know of.
    assert_eq!(lost, [0, 0, 3, 0, 0]);
}

#[test]
fn damaged_and_empty_frames_go_back_and_count_as_lost() {
    let world = World::new([Step::Frame(0), Step::Damaged(1), Step::Short(2, 0), Step::Frame(3)]);
    let mut camera = world.open().unwrap();
    let mut frame = Frame::new();
    read(&mut camera, &mut frame).unwrap();
    assert_eq!(read(&mut camera, &mut frame), Ok(Read::Data));
    assert_eq!((frame.dropped_before, world.queued()), (2, 4));
}

#[test]
fn a_short_frame_is_damaged_and_its_buffer_goes_back() {
    let world = World::new([Step::Short(0, 50), Step::Frame(1)]);
    let mut camera = world.open().unwrap();
    let mut frame = Frame::new();
    let error = read(&mut camera, &mut frame).unwrap_err();
    assert_eq!(error.kind, SourceErrorKind::Truncated);
    assert!(error.message.starts_with("cam: "), "{error}");
    assert_eq!(world.queued(), 4);
    assert_eq!(read(&mut camera, &mut frame), Ok(Read::Data));
    assert_eq!(frame.dropped_before, 1);
}

#[test]
fn a_signal_does_not_show() {
    let world = World::new([Step::Wait(libc::EINTR), Step::Dequeue(libc::EINTR), Step::Frame(0)]);
    let mut camera = world.open().unwrap();
    assert_eq!(read(&mut camera, &mut Frame::new()), Ok(Read::Data));
}

#[test]
fn each_kernel_error_has_one_meaning() {
    for (step, kind) in [
        (Step::Dequeue(libc::ENODEV), SourceErrorKind::Lost),
        (Step::Dequeue(libc::EIO), SourceErrorKind::Failed),
        (Step::PollError(libc::EIO), SourceErrorKind::Failed),
        (Step::PollError(libc::ENODEV), SourceErrorKind::Lost),
        (Step::PollError(libc::EAGAIN), SourceErrorKind::Failed),
        (Step::HangUp, SourceErrorKind::Lost),
        (Step::Changed, SourceErrorKind::Lost),
        (Step::Wait(libc::ENOMEM), SourceErrorKind::Failed),
    ] {
        let world = World::new([step.clone()]);
        let mut camera = world.open().unwrap();
        assert_eq!(read(&mut camera, &mut Frame::new()).unwrap_err().kind, kind, "{step:?}");
    }
}

#[test]
fn a_camera_in_use_is_busy_wherever_it_shows() {
    let busy = Some(libc::EBUSY);
    for part in 0..3 {
        let world = World::new([]);
        {
            let mut script = world.script.lock().unwrap();
            match part {
                0 => script.format = busy,
                1 => script.request = busy,
                _ => script.stream = busy,
            }
        }
        let error = world.open().err().unwrap();
        assert_eq!(error.kind, SourceErrorKind::Busy, "{error}");
        assert!(error.help.is_some());
    }
}

#[test]
fn a_driver_with_one_buffer_is_refused() {
    let world = World::new([]);
    world.script.lock().unwrap().buffers = 1;
    assert_eq!(world.open().err().unwrap().kind, SourceErrorKind::Failed);
}

#[test]
fn a_driver_that_gives_another_format_is_refused() {
    let world = World::new([]);
    let settings = CameraSettings { format: Some(FourCc(*b"YUYV")), ..CameraSettings::default() };
    let error = world.open_with(&settings).err().unwrap();
    assert_eq!(error.kind, SourceErrorKind::Unsupported);
    assert!(error.message.contains("H264, GREY"), "{error}");
}

#[test]
fn without_a_monotonic_stamp_the_time_of_arrival_counts() {
    let world = World::new([Step::Unstamped(0)]);
    let mut camera = world.open().unwrap();
    let mut frame = Frame::new();
    read(&mut camera, &mut frame).unwrap();
    assert_eq!(frame.time, world.clock.now());
}

#[test]
fn frames_that_cannot_be_chosen_go_back_unconverted() {
    // Ten a second, of which a snippet uses two.
    let world = World::new((0..40).map(Step::Frame));
    let mut camera = world.open().unwrap();
    let mut frame = Frame::new();
    let mut assembler = Assembler::new(AssemblerConfig::default());
    camera.choice = Some(assembler.frame_choice());
    read(&mut camera, &mut frame).unwrap();
    assembler.push_frame(&frame);
    let mut converted = 0;
    while read(&mut camera, &mut frame).unwrap() == Read::Data {
        assert_eq!(frame.dropped_before, 0);
        converted += u32::from(frame.has_pixels);
    }
    assert!((8..20).contains(&converted), "{converted} of 39 frames, 8 instants");
    assert_eq!(world.queued(), 4);
}

#[test]
fn planes_in_separate_buffers_and_in_one_give_the_same_frame() {
    let luma: Vec<u8> = (0..20 * 6).map(|i| u8::try_from(i * 2).unwrap_or(255)).collect();
    let chroma: Vec<u8> = (0..20 * 3).map(|i| u8::try_from(90 + i).unwrap()).collect();
    let layout = |code: &[u8; 4], buffers| Layout {
        code: FourCc(*code),
        width: 18,
        height: 6,
        strides: [20, if buffers == 2 { 20 } else { 0 }, 0],
        buffers,
        range: Range::Limited,
    };
    let frame_of = |world: &World| {
        let mut frame = Frame::new();
        assert_eq!(read(&mut world.open().unwrap(), &mut frame), Ok(Read::Data));
        frame
    };
    let two = World::with(layout(b"NM12", 2), vec![luma.clone(), chroma.clone()], [Step::Frame(0)]);
    let one = World::with(layout(b"NV12", 1), vec![[luma, chroma].concat()], [Step::Frame(0)]);
    assert!(frame_of(&one).rgb() == frame_of(&two).rgb());
}

#[test]
fn the_size_asked_for_is_the_smallest_that_shows_everything() {
    // A camera that cuts off the sides in its 4:3 sizes.
    assert_eq!(
        choose_size(&[(1920, 1080), (640, 480), (640, 360), (320, 240), (320, 180), (160, 90)]),
        (320, 180)
    );
    assert_eq!(choose_size(&[(640, 480), (320, 240), (1280, 960)]), (320, 240));
    assert_eq!(choose_size(&[(48, 32), (3840, 2160)]), USUAL_SIZE);
    assert_eq!(choose_size(&[(160, 120)]), USUAL_SIZE);
    assert_eq!(choose_size(&[(1280, 720)]), (1280, 720));
    assert_eq!(choose_size(&[]), USUAL_SIZE);
}

/// Every fault, under supervision: the source comes back when the device does, and never spins meanwhile.
#[test]
fn a_supervised_camera_survives_every_fault() {
    for fault in [
        Step::Dequeue(libc::ENODEV),
        Step::Dequeue(libc::EIO),
        Step::PollError(libc::EIO),
        Step::HangUp,
        Step::Changed,
        Step::Nothing,
    ] {
        let world = World::new([]);
        let mut steps: Vec<Step> = (0..5).map(Step::Frame).collect();
        steps.extend(std::iter::repeat_n(fault.clone(), 6));
        steps.extend((0..200).map(Step::Frame));
        world.script.lock().unwrap().steps = steps.into();
        let open = || world.open().map(Opened);
        let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as Arc<dyn Clock>;
        let mut source = Supervised::new("cam", open, clock, LivenessConfig::default());
        let (mut frame, mut got) = (Frame::new(), 0);
        let end = world.clock.now() + Duration::from_secs(60);
        while world.clock.now() < end {
            let read = VideoSource::read(&mut source, &mut frame, Duration::from_millis(100)).unwrap();
            got += u32::from(read == Read::Data);
            if got > 100 {
                break;
            }
        }
        assert!(got > 100, "{fault:?}: {got} frames");
        assert_eq!(source.state(), State::Healthy, "{fault:?}");
        assert!(world.script.lock().unwrap().calls < 3_000, "{fault:?}");
    }
}

struct Opened(Capture<Fake>);

impl VideoSource for Opened {
    fn describe(&self) -> &str {
        &self.0.name
    }
    fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
        self.0.read(out, timeout)
    }
    fn choose(&mut self, choice: FrameChoice) {
        self.0.choice = Some(choice);
    }
}

/// A baseline JPEG of one flat 16 × 8 luma picture, made here: quantisation 1, the standard's luma tables.
fn jpeg(tables: bool, dc: i32) -> Vec<u8> {
    const DC_BITS: [u8; 16] = [0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0];
    let mut out = vec![0xff, 0xd8, 0xff, 0xdb, 0, 67, 0];
    out.extend([8u8; 64]);
    out.extend([0xff, 0xc0, 0, 11, 8, 0, 8, 0, 16, 1, 1, 0x11, 0]);
    if tables {
        out.extend([0xff, 0xc4, 0, 31, 0x00]);
        out.extend(DC_BITS);
        out.extend(0..12u8);
        // An AC table with one code is enough for flat blocks: end of block, 4 bits as in the standard's.
        out.extend([0xff, 0xc4, 0, 20, 0x10, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x00]);
    }
    out.extend([0xff, 0xda, 0, 8, 1, 1, 0x00, 0, 63, 0]);
    // First block: DC difference `dc` in category 7 (code 11110), then its 7 bits, then end of block. The standard's
    // is 1010; the one-code table's is 0000.
    let (eob, eob_bits) = if tables { (0b0000u64, 4) } else { (0b1010, 4) };
    assert!((64..128).contains(&dc));
    let mut bits = 0b11110u64;
    bits = bits << 7 | u64::from(dc.unsigned_abs());
    bits = bits << eob_bits | eob;
    // Second block: no difference (code 00), end of block.
    bits = (bits << 2) << eob_bits | eob;
    let used = 5 + 7 + eob_bits + 2 + eob_bits;
    let padded = bits << (24 - used) | ((1 << (24 - used)) - 1);
    out.extend(&padded.to_be_bytes()[5..]);
    out.extend([0xff, 0xd9]);
    out
}

#[test]
fn a_jpeg_is_decoded_with_and_without_its_huffman_tables() {
    // DC 100 · 8 / 8 = 100 above the middle of 128.
    for tables in [true, false] {
        let mut decoder = Mjpeg::new(16, 8);
        let rgb = decoder.decode(&jpeg(tables, 100)).unwrap();
        assert!(rgb.iter().all(|&v| v == 228), "tables {tables}: {:?}", &rgb[..12]);
    }
}

#[test]
fn a_padded_or_cut_jpeg_is_tolerated_and_another_size_is_not() {
    let whole = jpeg(false, 100);
    let padded = [&whole[..], &[0; 300]].concat();
    let mut decoder = Mjpeg::new(16, 8);
    assert_eq!(decoder.decode(&padded).unwrap()[0], 228);
    // Without its end marker.
    assert_eq!(decoder.decode(&whole[..whole.len() - 2]).unwrap()[0], 228);
    for damaged in [&whole[..20], &[][..], &[0xff, 0xd8], &[0; 64]] {
        assert_eq!(decoder.decode(damaged).err().unwrap().kind, SourceErrorKind::Truncated);
    }
    let error = Mjpeg::new(32, 16).decode(&whole).err().unwrap();
    assert_eq!(error.kind, SourceErrorKind::Truncated);
}

#[test]
fn a_camera_that_sends_jpeg_gives_frames_through_the_mask() {
    let layout = Layout {
        code: FourCc(*b"MJPG"),
        width: 16,
        height: 8,
        strides: [0; 3],
        buffers: 1,
        range: Range::Full,
    };
    let world = World::with(layout, vec![jpeg(false, 100)], [Step::Frame(0)]);
    let left = crate::source::view::Area { left: 0.0, top: 0.0, width: 0.5, height: 1.0 };
    let view = View { masks: vec![left], ..View::default() };
    let mut camera = world.open_with(&CameraSettings { view, ..CameraSettings::default() }).unwrap();
    let mut frame = Frame::new();
    assert_eq!(read(&mut camera, &mut frame), Ok(Read::Data));
    let pixels = frame.rgb().as_chunks::<3>().0;
    assert_eq!((pixels[0], pixels[63], pixels[64], pixels[127]), ([0; 3], [0; 3], [228; 3], [228; 3]));
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(256))]

    /// Whatever a bus does to a picture, decoding ends and the process lives.
    #[test]
    fn damage_to_a_jpeg_never_panics(at in 2usize..120, value: u8, cut in 0usize..140, tables: bool) {
        let mut data = jpeg(tables, 77);
        let index = at % data.len();
        data[index] = value;
        data.truncate(cut.max(2));
        let _ = Mjpeg::new(16, 8).decode(&data);
    }
}
