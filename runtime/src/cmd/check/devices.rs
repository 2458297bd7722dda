//! Camera and microphone: are they there, and do they see and hear? Measures for two seconds unless asked for more, and
//! shows meanwhile what it measures if somebody is looking; nothing is stored.

use std::{sync::Arc, thread, time::Duration};

use girasol::{
    clock::{Clock, RealClock},
    config::Config,
    source::{
        AudioSource, Block, Frame, Read, SourceError, VideoSource,
        alsa::Microphone,
        meter::{PictureMeter, PictureVerdict, SoundMeter, SoundVerdict},
        sync::{ClickMeter, FlashMeter, SyncReading},
        v4l2::Camera,
    },
};

use super::{Verdicts, meter::Live};

/// How long is measured. Cameras need the first second to find their exposure.
const MEASURE: Duration = Duration::from_secs(2);
/// How long the first data may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Looks and listens at the same time, for `length` if that says how long, and pairs flashes with clicks if `sync`.
pub(super) fn check(config: &Config, length: Option<Duration>, sync: bool, verdicts: &mut Verdicts) {
    let length = length.unwrap_or(MEASURE);
    let (mut flash, mut click) = (FlashMeter::default(), ClickMeter::default());
    let live = Live::on_terminal();
    let (camera, microphone) = thread::scope(|scope| {
        let (flash, live) = (&mut flash, &live);
        let camera = config.camera.enabled.then(|| scope.spawn(move || look(config, length, flash, live)));
        let microphone = config.microphone.enabled.then(|| listen(config, length, &mut click, live));
        (camera.map(|thread| thread.join()), microphone)
    });
    drop(live);
    match camera {
        None => verdicts.note("camera", "switched off"),
        Some(Ok(result)) => say(verdicts, "camera", result, !config.camera.device.is_empty()),
        Some(Err(_)) => verdicts.note("camera", "the measurement failed"),
    }
    match microphone {
        None => verdicts.note("microphone", "switched off"),
        Some(result) => say(verdicts, "microphone", result, !config.microphone.device.is_empty()),
    }
    if sync {
        let reading = SyncReading::of(&flash, &click);
        match reading.sound_after_picture_ms {
            Some(_) => verdicts.add("together", &Ok(reading.to_string())),
            None => verdicts.note("together", &reading.to_string()),
        }
    }
}

/// A device that is named in the configuration and cannot be used is a fault; with none named, girasol waits for one.
fn say(verdicts: &mut Verdicts, what: &str, result: Result<(String, bool), SourceError>, named: bool) {
    match result {
        Ok((detail, true)) => verdicts.add(what, &Ok(detail)),
        Ok((detail, false)) => verdicts.note(what, &detail),
        Err(error) if named => verdicts.add(what, &Err(error.into())),
        Err(error) => verdicts.note(what, &error.to_string()),
    }
}

/// What was measured, and whether it is good.
fn look(
    config: &Config,
    length: Duration,
    flash: &mut FlashMeter,
    live: &Live,
) -> Result<(String, bool), SourceError> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let mut camera = Camera::open(&config.camera.settings(), Arc::clone(&clock))?;
    let (mut meter, mut frame) = (PictureMeter::default(), Frame::new());
    // Of what came since it was shown last.
    let mut recent = PictureMeter::default();
    measure(&clock, length, |timeout| match camera.read(&mut frame, timeout)? {
        Read::Data => {
            meter.add(&frame);
            flash.add(&frame);
            if live.is_on() {
                recent.add(&frame);
                if live.light(&recent.reading(), clock.now()) {
                    recent = PictureMeter::default();
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    })?;
    let reading = meter.reading();
    let detail = format!("{}, {}: {reading}", camera.describe(), camera.mode());
    Ok((detail, reading.verdict == PictureVerdict::Good))
}

fn listen(
    config: &Config,
    length: Duration,
    click: &mut ClickMeter,
    live: &Live,
) -> Result<(String, bool), SourceError> {
    let clock: Arc<dyn Clock> = Arc::new(RealClock);
    let mut microphone = Microphone::open(&config.microphone.settings(), Arc::clone(&clock))?;
    let (mut meter, mut block) = (SoundMeter::default(), Block::new());
    let mut recent = SoundMeter::default();
    measure(&clock, length, |timeout| match microphone.read(&mut block, timeout)? {
        Read::Data => {
            meter.add(&block);
            click.add(&block);
            if live.is_on() {
                recent.add(&block);
                if live.sound(&recent.reading(), clock.now()) {
                    recent = SoundMeter::default();
                }
            }
            Ok(true)
        }
        _ => Ok(false),
    })?;
    let reading = meter.reading();
    let detail = format!("{}, {}: {reading}", microphone.describe(), microphone.mode());
    Ok((detail, reading.verdict == SoundVerdict::Good))
}

/// Reads until `length` after the first data, or [`PATIENCE`] without any. Damaged pieces are passed over.
fn measure(
    clock: &Arc<dyn Clock>,
    length: Duration,
    mut read: impl FnMut(Duration) -> Result<bool, SourceError>,
) -> Result<(), SourceError> {
    let mut end = clock.now() + PATIENCE;
    let mut begun = false;
    while clock.now() < end {
        match read(Duration::from_millis(100)) {
            Ok(true) if !begun => (begun, end) = (true, clock.now() + length),
            Ok(_) => {}
            Err(error) if error.kind == girasol::source::SourceErrorKind::Truncated => {
                clock.sleep(Duration::from_millis(20));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
