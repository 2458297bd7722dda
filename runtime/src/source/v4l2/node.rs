//! The device node: V4L2's ioctls, one method each, over the `v4l` crate's bindings.
//!
//! [`Node`] is the only place that talks to the kernel. The queue above it works on the [`Device`] trait, so every
//! fault can be tested without a camera.

use std::{
    fs::{File, OpenOptions},
    io,
    os::{
        fd::AsRawFd,
        unix::fs::{FileTypeExt, OpenOptionsExt},
    },
    path::Path,
    time::Duration,
};

use v4l::{v4l_sys as sys, v4l2, v4l2::vidioc};

use super::format::{FourCc, Layout};
use crate::frontend::video::Range;

const CAPTURE: u32 = 1;
const CAPTURE_MPLANE: u32 = 9;
const MEMORY_MMAP: u32 = 1;
const FIELD_NONE: u32 = 1;
const CAP_CAPTURE: u32 = 0x0000_0001;
const CAP_CAPTURE_MPLANE: u32 = 0x0000_1000;
const CAP_STREAMING: u32 = 0x0400_0000;
const CAP_DEVICE_CAPS: u32 = 0x8000_0000;
const CAP_TIME_PER_FRAME: u32 = 0x1000;
const BUFFER_ERROR: u32 = 0x0000_0040;
const TIMESTAMP_MASK: u32 = 0x0000_e000;
const TIMESTAMP_MONOTONIC: u32 = 0x0000_2000;
const MAX_FORMATS: u32 = 64;
const MAX_SIZES: u32 = 64;
const MAX_EVENTS: u32 = 64;
const EVENT_SOURCE_CHANGE: u32 = 5;
const CHANGE_RESOLUTION: u32 = 1;
/// Planes of one buffer that are mapped.
pub(super) const BUFFER_PLANES: usize = 3;

// Requests for which the `v4l` crate has no number.
const SUBSCRIBE_EVENT: vidioc::_IOC_TYPE = request(WRITE, 90, size_of::<sys::v4l2_event_subscription>());
const DEQUEUE_EVENT: vidioc::_IOC_TYPE = request(READ, 89, size_of::<sys::v4l2_event>());
const SET_TIMINGS: vidioc::_IOC_TYPE = request(READ | WRITE, 87, size_of::<sys::v4l2_dv_timings>());
const QUERY_TIMINGS: vidioc::_IOC_TYPE = request(READ, 99, size_of::<sys::v4l2_dv_timings>());
const WRITE: vidioc::_IOC_TYPE = 1;
const READ: vidioc::_IOC_TYPE = 2;

/// Number of a request of V4L2's: direction, size of the argument, group `V`, number (asm-generic/ioctl.h).
const fn request(direction: vidioc::_IOC_TYPE, number: u8, size: usize) -> vidioc::_IOC_TYPE {
    direction << 30
        | (size as vidioc::_IOC_TYPE) << 16
        | (b'V' as vidioc::_IOC_TYPE) << 8
        | number as vidioc::_IOC_TYPE
}

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Driver, like `uvcvideo`.
    pub driver: String,
    /// Name of the device.
    pub card: String,
    /// Where it is plugged in.
    pub bus: String,
    /// It captures pictures by memory mapping.
    pub captures: bool,
    /// It does so with one buffer per plane.
    pub multi_planar: bool,
}

/// A buffer that the driver filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Filled {
    pub(super) index: u32,
    pub(super) sequence: u32,
    /// On the monotonic clock, if the driver says that it is.
    pub(super) monotonic: Option<i64>,
    /// The driver says that the content is damaged.
    pub(super) error: bool,
    /// Bytes used of each plane.
    pub(super) used: [usize; BUFFER_PLANES],
}

/// What a wait brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// A buffer can be had.
    Frame,
    /// Nothing within the time.
    Timeout,
    /// The driver reports an error; dequeuing tells which.
    Error,
    /// The signal has another format now: what is negotiated no longer fits.
    Changed,
    /// The device is gone.
    Gone,
}

/// The ioctls that capturing needs. Errors are the kernel's.
pub(super) trait Device: Send {
    /// Asks for a format; what comes back is what the driver made of it.
    fn set_format(&mut self, code: FourCc, width: u32, height: u32) -> io::Result<Layout>;
    /// Asks for a frame rate; what comes back is what it is, if the driver knows.
    fn set_rate(&mut self, fps: u32) -> io::Result<Option<f64>>;
    /// Asks for buffers; how many there are.
    fn request(&mut self, count: u32) -> io::Result<u32>;
    /// Maps a buffer.
    fn map(&mut self, index: u32) -> io::Result<()>;
    /// Hands a buffer to the driver.
    fn enqueue(&mut self, index: u32) -> io::Result<()>;
    /// Takes a filled buffer back; `WouldBlock` when there is none.
    fn dequeue(&mut self) -> io::Result<Filled>;
    /// Starts or stops streaming.
    fn stream(&mut self, on: bool) -> io::Result<()>;
    /// Waits for a filled buffer.
    fn wait(&mut self, timeout: Duration) -> io::Result<Ready>;
    /// The planes of a mapped buffer that the driver does not hold.
    fn planes(&mut self, index: u32) -> [&mut [u8]; BUFFER_PLANES];
}

/// One mapped plane.
struct Mapping {
    start: *mut u8,
    length: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `start` and `length` are what `mmap` returned and was asked for, and no slice of it is alive: slices
        // borrow the `Node` that owns this mapping.
        let _ = unsafe { v4l2::munmap(self.start.cast(), self.length) };
    }
}

/// An open `/dev/videoN`.
pub(super) struct Node {
    /// Declared first: unmapped before the node is closed.
    buffers: Vec<Vec<Mapping>>,
    file: File,
    multi_planar: bool,
    planes: usize,
}

// SAFETY: the mappings belong to this value alone and are not tied to the thread that made them.
unsafe impl Send for Node {}

impl Node {
    /// Opens the node without waiting.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        if !file.metadata()?.file_type().is_char_device() {
            return Err(io::Error::from_raw_os_error(libc::ENOTTY));
        }
        let mut node = Self { buffers: Vec::new(), file, multi_planar: false, planes: 1 };
        node.multi_planar = node.capabilities()?.multi_planar;
        Ok(node)
    }

    /// One ioctl, again when a signal came in between.
    fn ioctl<T>(&self, request: vidioc::_IOC_TYPE, argument: &mut T) -> io::Result<()> {
        loop {
            // SAFETY: every call below pairs the request with the structure that the kernel defines for it; the
            // structure is valid for reads and writes, and what pointers it holds are valid for the call.
            let result =
                unsafe { v4l2::ioctl(self.file.as_raw_fd(), request, std::ptr::from_mut(argument).cast()) };
            match result {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn buffer_type(&self) -> u32 {
        if self.multi_planar { CAPTURE_MPLANE } else { CAPTURE }
    }

    /// What the device says of itself.
    pub(super) fn capabilities(&self) -> io::Result<Capabilities> {
        let mut caps: sys::v4l2_capability = zeroed();
        self.ioctl(vidioc::VIDIOC_QUERYCAP, &mut caps)?;
        // The node's own, where the driver tells them: `capabilities` are those of all its nodes together.
        let own = if caps.capabilities & CAP_DEVICE_CAPS != 0 { caps.device_caps } else { caps.capabilities };
        let captures = own & (CAP_CAPTURE | CAP_CAPTURE_MPLANE) != 0 && own & CAP_STREAMING != 0;
        Ok(Capabilities {
            driver: text(&caps.driver),
            card: text(&caps.card),
            bus: text(&caps.bus_info),
            captures,
            multi_planar: own & CAP_CAPTURE == 0 && own & CAP_CAPTURE_MPLANE != 0,
        })
    }

    /// The formats that it offers.
    pub(super) fn formats(&self) -> Vec<FourCc> {
        let mut formats = Vec::new();
        for index in 0..MAX_FORMATS {
            let mut description: sys::v4l2_fmtdesc = zeroed();
            (description.index, description.type_) = (index, self.buffer_type());
            if self.ioctl(vidioc::VIDIOC_ENUM_FMT, &mut description).is_err() {
                break;
            }
            formats.push(FourCc(description.pixelformat.to_le_bytes()));
        }
        formats
    }

    /// The sizes that it offers in a format; empty where the driver does not tell, a range's ends where it has one.
    pub(super) fn sizes(&self, code: FourCc) -> Vec<(u32, u32)> {
        let mut sizes = Vec::new();
        for index in 0..MAX_SIZES {
            let mut size: sys::v4l2_frmsizeenum = zeroed();
            (size.index, size.pixel_format) = (index, u32::from_le_bytes(code.0));
            if self.ioctl(vidioc::VIDIOC_ENUM_FRAMESIZES, &mut size).is_err() {
                break;
            }
            if size.type_ == 1 {
                // SAFETY: type 1 (discrete) says that this member of the union is the one that is set.
                let discrete = unsafe { size.__bindgen_anon_1.discrete };
                sizes.push((discrete.width, discrete.height));
            } else {
                // SAFETY: the other types (continuous, stepwise) set this member.
                let range = unsafe { size.__bindgen_anon_1.stepwise };
                sizes.push((range.min_width, range.min_height));
                sizes.push((range.max_width, range.max_height));
                break;
            }
        }
        sizes
    }

    /// Takes the signal's own size and rate over, where the device is a receiver that has to be told (HDMI bridges).
    fn follow_signal(&self) {
        let mut timings: sys::v4l2_dv_timings = zeroed();
        if self.ioctl(QUERY_TIMINGS, &mut timings).is_ok() {
            // Refused while somebody else streams; then that is what the next request says, too.
            let _ = self.ioctl(SET_TIMINGS, &mut timings);
        }
    }

    /// Asks to be told when the signal changes; most cameras have nothing to tell.
    fn watch_signal(&self) {
        let mut subscription: sys::v4l2_event_subscription = zeroed();
        subscription.type_ = EVENT_SOURCE_CHANGE;
        let _ = self.ioctl(SUBSCRIBE_EVENT, &mut subscription);
    }

    /// Takes the waiting events; whether one of them says that the picture has another size or rate.
    fn signal_changed(&self) -> bool {
        let mut changed = false;
        for _ in 0..MAX_EVENTS {
            let mut event: sys::v4l2_event = zeroed();
            if self.ioctl(DEQUEUE_EVENT, &mut event).is_err() {
                break;
            }
            // SAFETY: this type of event sets this member of the union.
            let changes = || unsafe { event.u.src_change.changes };
            changed |= event.type_ == EVENT_SOURCE_CHANGE && changes() & CHANGE_RESOLUTION != 0;
        }
        changed
    }

    fn buffer(&self, index: u32, planes: &mut [sys::v4l2_plane; 8]) -> sys::v4l2_buffer {
        let mut buffer: sys::v4l2_buffer = zeroed();
        (buffer.index, buffer.type_, buffer.memory) = (index, self.buffer_type(), MEMORY_MMAP);
        if self.multi_planar {
            buffer.m.planes = planes.as_mut_ptr();
            buffer.length = 8;
        }
        buffer
    }
}

impl Device for Node {
    fn set_format(&mut self, code: FourCc, width: u32, height: u32) -> io::Result<Layout> {
        self.follow_signal();
        // Everything else is zero, stride and size too: a stride that is left over from before would be kept.
        let mut format: sys::v4l2_format = zeroed();
        format.type_ = self.buffer_type();
        let pixelformat = u32::from_le_bytes(code.0);
        if self.multi_planar {
            let mut pix: sys::v4l2_pix_format_mplane = zeroed();
            (pix.width, pix.height, pix.pixelformat, pix.field) = (width, height, pixelformat, FIELD_NONE);
            format.fmt.pix_mp = pix;
            self.ioctl(vidioc::VIDIOC_S_FMT, &mut format)?;
            // SAFETY: the buffer type says that this member of the union is the one that is set.
            let pix = unsafe { format.fmt.pix_mp };
            let count = usize::from(pix.num_planes).clamp(1, BUFFER_PLANES);
            self.planes = count;
            let (planes, quantization, colorspace) = (pix.plane_fmt, pix.quantization, pix.colorspace);
            let mut strides = [0; BUFFER_PLANES];
            for (stride, plane) in strides.iter_mut().zip(planes).take(count) {
                *stride = plane.bytesperline as usize;
            }
            Ok(Layout {
                code: FourCc(pix.pixelformat.to_le_bytes()),
                width: pix.width as usize,
                height: pix.height as usize,
                strides,
                buffers: count,
                range: range(u32::from(quantization), colorspace),
            })
        } else {
            let mut pix: sys::v4l2_pix_format = zeroed();
            (pix.width, pix.height, pix.pixelformat, pix.field) = (width, height, pixelformat, FIELD_NONE);
            format.fmt.pix = pix;
            self.ioctl(vidioc::VIDIOC_S_FMT, &mut format)?;
            // SAFETY: the buffer type says that this member of the union is the one that is set.
            let pix = unsafe { format.fmt.pix };
            self.planes = 1;
            Ok(Layout {
                code: FourCc(pix.pixelformat.to_le_bytes()),
                width: pix.width as usize,
                height: pix.height as usize,
                strides: [pix.bytesperline as usize, 0, 0],
                buffers: 1,
                range: range(pix.quantization, pix.colorspace),
            })
        }
    }

    fn set_rate(&mut self, fps: u32) -> io::Result<Option<f64>> {
        let mut parameters: sys::v4l2_streamparm = zeroed();
        parameters.type_ = self.buffer_type();
        self.ioctl(vidioc::VIDIOC_G_PARM, &mut parameters)?;
        // SAFETY: for the capture types this member of the union is the one that is set.
        let mut capture = unsafe { parameters.parm.capture };
        if capture.capability & CAP_TIME_PER_FRAME != 0 {
            (capture.timeperframe.numerator, capture.timeperframe.denominator) = (1, fps);
            parameters.parm.capture = capture;
            self.ioctl(vidioc::VIDIOC_S_PARM, &mut parameters)?;
            self.ioctl(vidioc::VIDIOC_G_PARM, &mut parameters)?;
            // SAFETY: as above.
            capture = unsafe { parameters.parm.capture };
        }
        let per_frame = capture.timeperframe;
        let known = per_frame.numerator > 0 && per_frame.denominator > 0;
        Ok(known.then(|| f64::from(per_frame.denominator) / f64::from(per_frame.numerator)))
    }

    fn request(&mut self, count: u32) -> io::Result<u32> {
        let mut request: sys::v4l2_requestbuffers = zeroed();
        (request.count, request.type_, request.memory) = (count, self.buffer_type(), MEMORY_MMAP);
        self.ioctl(vidioc::VIDIOC_REQBUFS, &mut request)?;
        Ok(request.count)
    }

    fn map(&mut self, index: u32) -> io::Result<()> {
        let mut planes: [sys::v4l2_plane; 8] = [zeroed(); 8];
        let mut buffer = self.buffer(index, &mut planes);
        self.ioctl(vidioc::VIDIOC_QUERYBUF, &mut buffer)?;
        let mut mappings = Vec::with_capacity(self.planes);
        for plane in planes.iter().take(self.planes) {
            let (length, offset) = if self.multi_planar {
                // SAFETY: with memory-mapped buffers this member of the union is the one that is set.
                (plane.length, unsafe { plane.m.mem_offset })
            } else {
                // SAFETY: as above.
                (buffer.length, unsafe { buffer.m.offset })
            };
            let length = length as usize;
            #[allow(clippy::unnecessary_fallible_conversions, reason = "off_t is 32 bits wide on armv7")]
            let offset = libc::off_t::try_from(offset)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a buffer out of reach"))?;
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            // SAFETY: a fresh, shared mapping of the device's own memory at an address of the kernel's choice; it is
            // unmapped once, by `Mapping`.
            let start = unsafe {
                v4l2::mmap(
                    std::ptr::null_mut(),
                    length,
                    protection,
                    libc::MAP_SHARED,
                    self.file.as_raw_fd(),
                    offset,
                )
            }?;
            mappings.push(Mapping { start: start.cast(), length });
        }
        self.buffers.push(mappings);
        Ok(())
    }

    fn enqueue(&mut self, index: u32) -> io::Result<()> {
        let mut planes: [sys::v4l2_plane; 8] = [zeroed(); 8];
        let mut buffer = self.buffer(index, &mut planes);
        if self.multi_planar {
            buffer.length = u32::try_from(self.planes).unwrap_or(1);
        }
        self.ioctl(vidioc::VIDIOC_QBUF, &mut buffer)
    }

    fn dequeue(&mut self) -> io::Result<Filled> {
        let mut planes: [sys::v4l2_plane; 8] = [zeroed(); 8];
        let mut buffer = self.buffer(0, &mut planes);
        self.ioctl(vidioc::VIDIOC_DQBUF, &mut buffer)?;
        let mut used = [0; BUFFER_PLANES];
        if self.multi_planar {
            for (used, plane) in used.iter_mut().zip(&planes) {
                *used = plane.bytesused.saturating_sub(plane.data_offset) as usize;
            }
        } else {
            used[0] = buffer.bytesused as usize;
        }
        let (seconds, micros) = (buffer.timestamp.tv_sec, buffer.timestamp.tv_usec);
        #[allow(clippy::useless_conversion, reason = "c_long is 32 bits wide on armv7")]
        let nanos = i64::from(seconds) * 1_000_000_000 + i64::from(micros) * 1_000;
        let monotonic = buffer.flags & TIMESTAMP_MASK == TIMESTAMP_MONOTONIC && nanos > 0;
        Ok(Filled {
            index: buffer.index,
            sequence: buffer.sequence,
            monotonic: monotonic.then_some(nanos),
            error: buffer.flags & BUFFER_ERROR != 0,
            used,
        })
    }

    fn stream(&mut self, on: bool) -> io::Result<()> {
        if on {
            self.watch_signal();
        }
        let mut kind = self.buffer_type().cast_signed();
        self.ioctl(if on { vidioc::VIDIOC_STREAMON } else { vidioc::VIDIOC_STREAMOFF }, &mut kind)
    }

    fn wait(&mut self, timeout: Duration) -> io::Result<Ready> {
        let mut poll =
            libc::pollfd { fd: self.file.as_raw_fd(), events: libc::POLLIN | libc::POLLPRI, revents: 0 };
        // Rounded up: a wait of less than a millisecond must not become a spin.
        let millis = i32::try_from(timeout.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        // SAFETY: one valid pollfd.
        if unsafe { libc::poll(&mut poll, 1, millis) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let has = |flag| poll.revents & flag != 0;
        Ok(if has(libc::POLLHUP) || has(libc::POLLNVAL) {
            Ready::Gone
        } else if has(libc::POLLERR) {
            Ready::Error
        } else if has(libc::POLLPRI) && self.signal_changed() {
            Ready::Changed
        } else if has(libc::POLLIN) {
            Ready::Frame
        } else {
            Ready::Timeout
        })
    }

    fn planes(&mut self, index: u32) -> [&mut [u8]; BUFFER_PLANES] {
        let mut slices: [&mut [u8]; BUFFER_PLANES] = [&mut [], &mut [], &mut []];
        let mappings = self.buffers.get_mut(index as usize).map(Vec::as_mut_slice).unwrap_or_default();
        for (slice, mapping) in slices.iter_mut().zip(mappings) {
            // SAFETY: the mapping is `length` bytes, readable and writable, and lives as long as `self`, which the
            // slice borrows mutably. The queue above asks only for buffers that it has dequeued, which the driver
            // leaves alone until they are queued again.
            *slice = unsafe { std::slice::from_raw_parts_mut(mapping.start, mapping.length) };
        }
        slices
    }
}

/// V4L2's rule for what YUV numbers mean; RGB does not care.
fn range(quantization: u32, colorspace: u32) -> Range {
    const FULL: u32 = 1;
    const LIMITED: u32 = 2;
    const JPEG: u32 = 7;
    match quantization {
        FULL => Range::Full,
        LIMITED => Range::Limited,
        _ if colorspace == JPEG => Range::Full,
        _ => Range::Limited,
    }
}

/// A structure of the kernel's, all zeros.
fn zeroed<T: Copy>() -> T {
    // SAFETY: used only for V4L2's plain C structures of integers, arrays, unions and pointers, for which all zeros is
    // a valid value.
    unsafe { std::mem::zeroed() }
}

/// A fixed-size C string, printable characters only.
fn text(bytes: &[u8]) -> String {
    let bytes = bytes.split(|&b| b == 0).next().unwrap_or_default();
    String::from_utf8_lossy(bytes).chars().filter(|c| !c.is_control()).collect()
}
