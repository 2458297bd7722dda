//! Which picture format to ask for, and what one looks like in memory.

use std::fmt;

use super::node::BUFFER_PLANES;
use crate::frontend::video::{PixelFormat, Range};

/// A V4L2 pixel format code. Bit 31 says that its words are big-endian; the characters are in the other bits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct FourCc(pub [u8; 4]);

impl fmt::Display for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let character = |b: u8| if b.is_ascii_graphic() { char::from(b) } else { ' ' };
        let [a, b, c, d] = self.0;
        let code: String = [a, b, c, d & 0x7f].map(character).iter().collect();
        f.write_str(code.trim_end())?;
        f.write_str(if d & 0x80 == 0 { "" } else { "-BE" })
    }
}

impl fmt::Debug for FourCc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// How pictures of a format are made of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Plain pixels.
    Raw(PixelFormat),
    /// One JPEG per picture.
    Jpeg,
}

/// What we understand, best first: uncompressed formats cost the least, compressed ones only when there is no other.
pub(super) const FORMATS: [(FourCc, Encoding); 11] = [
    (FourCc(*b"YUYV"), Encoding::Raw(PixelFormat::Yuyv)),
    (FourCc(*b"UYVY"), Encoding::Raw(PixelFormat::Uyvy)),
    (FourCc(*b"NV12"), Encoding::Raw(PixelFormat::Nv12)),
    (FourCc(*b"NM12"), Encoding::Raw(PixelFormat::Nv12)),
    (FourCc(*b"YU12"), Encoding::Raw(PixelFormat::Yuv420)),
    (FourCc(*b"422P"), Encoding::Raw(PixelFormat::Yuv422)),
    (FourCc(*b"RGB3"), Encoding::Raw(PixelFormat::Rgb24)),
    (FourCc(*b"BGR3"), Encoding::Raw(PixelFormat::Bgr24)),
    (FourCc(*b"GREY"), Encoding::Raw(PixelFormat::Grey)),
    (FourCc(*b"MJPG"), Encoding::Jpeg),
    (FourCc(*b"JPEG"), Encoding::Jpeg),
];

/// How pictures of `code` are made, if we understand it.
pub(super) fn encoding(code: FourCc) -> Option<Encoding> {
    FORMATS.iter().find(|(known, _)| *known == code).map(|(_, encoding)| *encoding)
}

/// What the driver made of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) code: FourCc,
    pub(super) width: usize,
    pub(super) height: usize,
    /// Bytes from row to row of each memory plane; 0 where the driver does not say.
    pub(super) strides: [usize; BUFFER_PLANES],
    /// Memory planes of a buffer.
    pub(super) buffers: usize,
    pub(super) range: Range,
}

impl Layout {
    /// Bytes from row to row and number of rows of each plane of the picture.
    pub(super) fn planes(&self, format: PixelFormat) -> Vec<(usize, usize)> {
        let (w, h) = (self.width, self.height);
        let (half_w, half_h) = (w.div_ceil(2), h.div_ceil(2));
        let luma = |bytes: usize| self.strides[0].max(bytes);
        // Chroma rows in the same memory plane are padded in proportion.
        let chroma = |index: usize, bytes: usize, divisor: usize| match self.buffers {
            1 => (luma(w) / divisor).max(bytes),
            _ => self.strides[index].max(bytes),
        };
        match format {
            PixelFormat::Yuyv | PixelFormat::Uyvy => vec![(luma(half_w * 4), h)],
            PixelFormat::Rgb24 | PixelFormat::Bgr24 => vec![(luma(w * 3), h)],
            PixelFormat::Grey => vec![(luma(w), h)],
            PixelFormat::Nv12 => vec![(luma(w), h), (chroma(1, half_w * 2, 1), half_h)],
            PixelFormat::Yuv420 => {
                vec![(luma(w), h), (chroma(1, half_w, 2), half_h), (chroma(2, half_w, 2), half_h)]
            }
            PixelFormat::Yuv422 => vec![(luma(w), h), (chroma(1, half_w, 2), h), (chroma(2, half_w, 2), h)],
            PixelFormat::Yuv444 => vec![(luma(w), h), (chroma(1, w, 1), h), (chroma(2, w, 1), h)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_big_endian_format_has_another_name_than_its_twin() {
        assert_eq!(FourCc(*b"YUYV").to_string(), "YUYV");
        assert_eq!(FourCc(*b"Y16 ").to_string(), "Y16");
        // V4L2_PIX_FMT_Y16_BE and V4L2_PIX_FMT_ARGB555X.
        assert_eq!(FourCc([b'Y', b'1', b'6', b' ' | 0x80]).to_string(), "Y16-BE");
        assert_eq!(FourCc([b'A', b'R', b'1', b'5' | 0x80]).to_string(), "AR15-BE");
    }

    #[test]
    fn strides_are_honoured_and_chroma_follows() {
        let layout = |strides, buffers| Layout {
            code: FourCc(*b"NV12"),
            width: 321,
            height: 181,
            strides,
            buffers,
            range: Range::Limited,
        };
        assert_eq!(layout([384, 0, 0], 1).planes(PixelFormat::Nv12), [(384, 181), (384, 91)]);
        assert_eq!(layout([0, 0, 0], 1).planes(PixelFormat::Nv12), [(321, 181), (322, 91)]);
        assert_eq!(layout([384, 512, 0], 2).planes(PixelFormat::Nv12), [(384, 181), (512, 91)]);
        assert_eq!(layout([384, 0, 0], 1).planes(PixelFormat::Yuv420), [(384, 181), (192, 91), (192, 91)]);
        assert_eq!(layout([704, 0, 0], 1).planes(PixelFormat::Yuyv), [(704, 181)]);
        assert_eq!(layout([0, 0, 0], 1).planes(PixelFormat::Yuyv), [(644, 181)]);
    }
}
