//! A picture as a USB camera may send it: decoded or refused, and the size is what the caller asked for.
#![no_main]

use girasol_fuzz::source::v4l2::Mjpeg;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    for (width, height) in [(16, 8), (64, 48)] {
        if let Ok(rgb) = Mjpeg::new(width, height).decode(data) {
            assert_eq!(rgb.len(), width * height * 3);
        }
    }
});
