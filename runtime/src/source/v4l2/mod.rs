//! Live cameras by Video4Linux2: any node that captures to memory-mapped buffers, one or several planes.
//!
//! [`node`] talks to the kernel, [`queue`] keeps buffers moving and gives every error one meaning, [`mjpeg`] decodes
//! what USB cameras compress, [`discover`] finds cameras and their stable names. The full-size picture never leaves the
//! driver's buffer (or the JPEG decoder's): it is masked, cropped, resized and turned from there into a small [`Frame`].

mod discover;
mod format;
mod mjpeg;
mod node;
mod queue;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

pub use self::{
    discover::{CameraInfo, cameras, find},
    format::FourCc,
    mjpeg::Mjpeg,
    node::Capabilities,
};
use self::{
    format::{Encoding, FORMATS, Layout, encoding},
    node::{BUFFER_PLANES, Device, Node},
    queue::{Held, Queue, fault},
};
use super::{
    Frame, Read, SourceError, SourceErrorKind, VideoSource,
    view::{Converter, MAX_PLANES, View},
};
use crate::{
    clock::Clock,
    frontend::video::{PixelFormat, Range},
    timeline::FrameChoice,
};

/// Size asked for when neither the configuration nor the camera says more: the model sees 128 × 96.
const USUAL_SIZE: (u32, u32) = (320, 240);

/// How a camera is to be used.
#[derive(Clone, Debug, PartialEq)]
pub struct CameraSettings {
    /// Path of the node or a link to it; empty: the first camera.
    pub device: String,
    /// Width and height to ask for; `None`: the smallest that is large enough.
    pub size: Option<(u32, u32)>,
    /// Pixel format to insist on; `None`: the one that costs least.
    pub format: Option<FourCc>,
    /// Frames a second to ask for.
    pub fps: u32,
    /// What of the picture is used.
    pub view: View,
}

impl Default for CameraSettings {
    fn default() -> Self {
        Self { device: String::new(), size: None, format: None, fps: 10, view: View::default() }
    }
}

/// An open camera that streams.
pub struct Camera(Capture<Node>);

impl Camera {
    /// Finds, opens, negotiates and starts.
    ///
    /// # Errors
    /// There is no such camera, somebody else streams from it, or it has no format that we understand.
    pub fn open(settings: &CameraSettings, clock: Arc<dyn Clock>) -> Result<Self, SourceError> {
        let path = find(&settings.device)?;
        let name = path.display().to_string();
        let node = Node::open(&path).map_err(|e| fault(&name, "opening", &e))?;
        let caps = node.capabilities().map_err(|e| fault(&name, "asking what it is", &e))?;
        if !caps.captures {
            let what = format!("{name}: {} captures no pictures", caps.card);
            return Err(SourceError::new(SourceErrorKind::Unsupported, what).help(
                "a camera often has a second node for metadata; `girasol devices` lists the right ones",
            ));
        }
        let offers: Vec<_> = node.formats().into_iter().map(|code| (code, node.sizes(code))).collect();
        Capture::start(node, &name, &offers, settings, clock).map(Self)
    }

    /// What was negotiated, for people: "320 × 240 YUYV, 10 frames a second".
    #[must_use]
    pub fn mode(&self) -> &str {
        &self.0.mode
    }
}

impl VideoSource for Camera {
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

/// A streaming device and what turns its pictures into frames.
struct Capture<D: Device> {
    name: String,
    mode: String,
    queue: Queue<D>,
    decoder: Decoder,
    /// Which frames are worth converting; without it all are.
    choice: Option<FrameChoice>,
    /// Lost before frames that could not be converted.
    dropped: u32,
}

impl<D: Device> Capture<D> {
    fn start(
        mut device: D,
        name: &str,
        offers: &[(FourCc, Vec<(u32, u32)>)],
        settings: &CameraSettings,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, SourceError> {
        let (layout, encoding) = negotiate(&mut device, name, offers, settings)?;
        let fps = device.set_rate(settings.fps).unwrap_or_else(|error| {
            tracing::debug!(camera = name, %error, "the camera keeps its own frame rate");
            None
        });
        let rate = fps.map_or_else(|| "unknown rate".to_owned(), |f| format!("{f:.0} frames a second"));
        let mode = format!("{} × {} {}, {rate}", layout.width, layout.height, layout.code);
        let decoder = Decoder::new(layout, encoding, &settings.view)?;
        let queue = Queue::start(device, name, clock)?;
        tracing::info!(camera = name, mode, "camera open");
        Ok(Self { name: name.to_owned(), mode, queue, decoder, choice: None, dropped: 0 })
    }

    fn read(&mut self, out: &mut Frame, timeout: Duration) -> Result<Read, SourceError> {
        let Some(held) = self.queue.next(timeout)? else { return Ok(Read::Timeout) };
        self.dropped = self.dropped.saturating_add(held.dropped_before);
        out.has_pixels = self.choice.as_mut().is_none_or(|choice| choice.wants(held.time));
        let converted = match out.has_pixels {
            true => self.decoder.convert(&mut self.queue, &held, out),
            false => Ok(()),
        };
        // In any case, or the driver runs dry.
        self.queue.release(held.index)?;
        if let Err(error) = converted {
            self.dropped = self.dropped.saturating_add(1);
            return Err(SourceError { message: format!("{}: {}", self.name, error.message), ..error });
        }
        (out.time, out.dropped_before) = (held.time, std::mem::take(&mut self.dropped));
        Ok(Read::Data)
    }
}

/// Finds a format that both sides understand and sets it.
fn negotiate(
    device: &mut impl Device,
    name: &str,
    offers: &[(FourCc, Vec<(u32, u32)>)],
    settings: &CameraSettings,
) -> Result<(Layout, Encoding), SourceError> {
    let mut refusal = None;
    for (code, encoding) in FORMATS {
        let Some((_, sizes)) = offers.iter().find(|(offered, _)| *offered == code) else { continue };
        if settings.format.is_some_and(|wanted| wanted != code) {
            continue;
        }
        let (width, height) = settings.size.unwrap_or_else(|| choose_size(sizes));
        match device.set_format(code, width, height) {
            Ok(layout) if layout.code == code && layout.width > 0 && layout.height > 0 => {
                return Ok((layout, encoding));
            }
            Ok(_) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => refusal = Some(e),
            Err(e) => return Err(fault(name, "setting the format", &e)),
        }
    }
    let offered: Vec<_> = offers.iter().map(|(code, _)| code.to_string()).collect();
    let what = match settings.format {
        Some(wanted) if encoding(wanted).is_none() => {
            format!("{name}: the format {wanted} is not understood")
        }
        Some(wanted) => format!("{name}: does not deliver {wanted}, only {}", offered.join(", ")),
        None => format!("{name}: no format that is understood among {}", offered.join(", ")),
    };
    let what = refusal.map_or(what.clone(), |e| format!("{what} ({e})"));
    Err(SourceError::new(SourceErrorKind::Unsupported, what)
        .help("camera.format must be one of those; a camera with H.264 only cannot be used"))
}

/// The smallest size that is large enough for the model and shows as much as the largest: many cameras cut off the
/// sides in sizes of another shape.
fn choose_size(sizes: &[(u32, u32)]) -> (u32, u32) {
    let area = |&(w, h): &(u32, u32)| u64::from(w) * u64::from(h);
    let Some(&(full_w, full_h)) = sizes.iter().max_by_key(|s| area(s)) else { return USUAL_SIZE };
    let same_shape = |&&(w, h): &&(u32, u32)| {
        let (a, b) = (u64::from(w) * u64::from(full_h), u64::from(h) * u64::from(full_w));
        // Within 2 %: sizes are rounded to multiples of 8 or 16.
        a.abs_diff(b) * 50 <= a.max(b)
    };
    let enough = |&&(w, h): &&(u32, u32)| w >= 256 && h >= 144;
    let candidates = || sizes.iter().filter(enough).filter(|s| area(s) <= 1 << 24);
    let best = candidates().filter(same_shape).min_by_key(|s| area(s));
    // A range is told by its two ends: the usual size lies in it, or the driver moves it there.
    if sizes.len() == 2 && area(&sizes[0]) < area(&USUAL_SIZE) && area(&sizes[1]) > area(&USUAL_SIZE) {
        return USUAL_SIZE;
    }
    best.or_else(|| candidates().min_by_key(|s| area(s))).copied().unwrap_or(USUAL_SIZE)
}

/// From a driver's buffer to a frame.
struct Decoder {
    layout: Layout,
    /// Stride and rows of each plane of the picture.
    planes: Vec<(usize, usize)>,
    jpeg: Option<Mjpeg>,
    converter: Converter,
    range: Range,
}

impl Decoder {
    fn new(layout: Layout, encoding: Encoding, view: &View) -> Result<Self, SourceError> {
        let (width, height) = (layout.width, layout.height);
        let (format, jpeg) = match encoding {
            Encoding::Raw(format) => (format, None),
            Encoding::Jpeg => (PixelFormat::Rgb24, Some((width, height))),
        };
        let converter = Converter::new(format, width, height, view)?;
        let planes = match jpeg {
            Some(_) => vec![(width * 3, height)],
            None => layout.planes(format),
        };
        let jpeg = jpeg.map(|(w, h)| Mjpeg::new(w, h));
        Ok(Self { layout, planes, jpeg, converter, range: layout.range })
    }

    fn convert<D: Device>(
        &mut self,
        queue: &mut Queue<D>,
        held: &Held,
        out: &mut Frame,
    ) -> Result<(), SourceError> {
        let mut memory = queue.planes(held);
        for (plane, used) in memory.iter_mut().zip(held.used) {
            let whole = std::mem::take(plane);
            let used = used.min(whole.len());
            *plane = &mut whole[..used];
        }
        if let Some(jpeg) = &mut self.jpeg {
            let rgb = jpeg.decode(memory[0])?;
            return self.converter.convert(&mut [(rgb, self.planes[0].0)], self.range, out);
        }
        let count = self.converter.planes();
        if self.layout.buffers == 1 {
            // One memory plane holds all, one after the other.
            let mut rest = std::mem::take(&mut memory[0]);
            for (plane, &(stride, rows)) in memory.iter_mut().zip(&self.planes) {
                let (own, others) = rest.split_at_mut((stride * rows).min(rest.len()));
                (*plane, rest) = (own, others);
            }
        }
        let mut parts: [(&mut [u8], usize); MAX_PLANES] = [(&mut [], 0), (&mut [], 0), (&mut [], 0)];
        const { assert!(MAX_PLANES == BUFFER_PLANES) };
        for ((part, plane), &(stride, _)) in parts.iter_mut().zip(memory).zip(&self.planes) {
            *part = (plane, stride);
        }
        self.converter.convert(&mut parts[..count], self.range, out)
    }
}
