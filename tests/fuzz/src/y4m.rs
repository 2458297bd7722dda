//! A YUV4MPEG2 recording: whatever its header says, it is refused, or played to its end.
#![no_main]

use std::time::Duration;

use girasol_fuzz::source::{Frame, Read, VideoSource, y4m::Y4mSource};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(mut source) = Y4mSource::new("x".into(), data) else { return };
    let (mut frame, mut frames) = (Frame::default(), 0);
    while let Ok(Read::Data) = source.read(&mut frame, Duration::from_secs(1)) {
        frames += 1;
        assert!(frames <= data.len(), "more frames than bytes");
    }
});
