//! Motion JPEG: pictures as USB cameras send them, often not quite JPEG.
//!
//! Cameras leave the Huffman tables out (the standard's are meant), end a picture early when the bus was busy, and pad
//! it with zeros. What can be decoded is used; the rest of a picture that ends early is grey.

use zune_jpeg::{
    JpegDecoder,
    zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions},
};

use crate::source::{SourceError, SourceErrorKind};

/// An empty "AVI1" segment: its presence tells the decoder that missing Huffman tables are the standard's.
const AVI1: [u8; 9] = [0xff, 0xe0, 0, 7, b'A', b'V', b'I', b'1', 0];

/// Decodes pictures of one size. Its buffers are reused; the decoder itself allocates.
pub struct Mjpeg {
    width: usize,
    height: usize,
    encoded: Vec<u8>,
    rgb: Vec<u8>,
}

impl Mjpeg {
    /// For pictures of this size in pixels.
    #[must_use]
    pub fn new(width: usize, height: usize) -> Self {
        Self { width, height, encoded: Vec::new(), rgb: vec![0; width * height * 3] }
    }

    /// Decodes to packed RGB, which the caller may change.
    ///
    /// # Errors
    /// It is no JPEG, ends before the first pixel, or has another size ([`SourceErrorKind::Truncated`]: the next may be
    /// whole).
    pub fn decode(&mut self, data: &[u8]) -> Result<&mut [u8], SourceError> {
        let damaged =
            |what: String| SourceError::new(SourceErrorKind::Truncated, format!("a damaged JPEG: {what}"));
        let Some(body) = data.strip_prefix(&[0xff, 0xd8]) else {
            return Err(damaged("it does not begin like one".into()));
        };
        self.encoded.clear();
        self.encoded.extend_from_slice(&[0xff, 0xd8]);
        self.encoded.extend_from_slice(&AVI1);
        self.encoded.extend_from_slice(body);
        let options = DecoderOptions::default()
            .set_strict_mode(false)
            .set_max_width(self.width)
            .set_max_height(self.height)
            .jpeg_set_out_colorspace(ColorSpace::RGB);
        let mut decoder = JpegDecoder::new_with_options(ZCursor::new(&self.encoded[..]), options);
        decoder.decode_headers().map_err(|e| damaged(one_line(&e)))?;
        let size = decoder.info().map(|i| (usize::from(i.width), usize::from(i.height)));
        if size != Some((self.width, self.height)) {
            let (w, h) = size.unwrap_or_default();
            return Err(damaged(format!("{w} × {h} instead of {} × {}", self.width, self.height)));
        }
        decoder.decode_into(&mut self.rgb).map_err(|e| damaged(one_line(&e)))?;
        Ok(&mut self.rgb)
    }
}

impl Drop for Mjpeg {
    fn drop(&mut self) {
        self.rgb.fill(0);
        self.encoded.fill(0);
    }
}

fn one_line(error: &impl std::fmt::Debug) -> String {
    format!("{error:?}").chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect()
}
