//! A WAV recording: whatever its header says, it is refused, or played to its end, with no more samples than the file can
//! hold.
#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock, time::Duration};

use girasol_fuzz::source::{AudioSource, Block, Read, wav::WavSource};
use libfuzzer_sys::fuzz_target;

/// In memory, one for each process.
fn path() -> &'static PathBuf {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| PathBuf::from(format!("/dev/shm/girasol-fuzz-{}.wav", std::process::id())))
}

fuzz_target!(|data: &[u8]| {
    fs::write(path(), data).unwrap();
    let Ok(mut source) = WavSource::open(path()) else { return };
    let (mut block, mut samples) = (Block::default(), 0);
    // A byte may be a sample frame of 8 bits, at a quarter of our rate or more.
    let most = data.len() * 3 + 16_000;
    while let Ok(Read::Data) = source.read(&mut block, Duration::from_secs(1)) {
        samples += block.len();
        assert!(samples <= most, "{samples} samples out of {} bytes", data.len());
    }
});
