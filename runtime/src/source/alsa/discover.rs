//! Which microphones there are. Cards are named by their id, which stays, never by their number.

use std::ffi::CString;

use alsa::{
    Direction,
    card::Iter,
    ctl::{Ctl, DeviceIter},
};

use super::{
    fault,
    pcm::{Offer, Quiet},
};
use crate::source::{SourceError, SourceErrorKind};

/// A device of a sound card that captures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MicrophoneInfo {
    /// ALSA's stable name, `hw:CARD=<id>,DEV=<n>`.
    pub name: String,
    /// What the card calls itself.
    pub card: String,
    /// Its driver.
    pub driver: String,
    /// What the device calls itself.
    pub device: String,
}

impl MicrophoneInfo {
    /// What it can capture. Nothing is captured for that.
    ///
    /// # Errors
    /// Somebody else captures from it, or this user may not.
    pub fn offer(&self) -> Result<Offer, SourceError> {
        Offer::ask(&self.name).map_err(|errno| fault(&self.name, "asking for its formats", errno))
    }
}

/// All devices that capture, USB cards first, then by number.
#[must_use]
pub fn microphones() -> Vec<MicrophoneInfo> {
    let _quiet = Quiet::new();
    let mut found = Vec::new();
    for card in Iter::new().flatten() {
        let Ok(control) = Ctl::from_card(&card, true) else { continue };
        let Ok(info) = control.card_info() else { continue };
        let id = info.get_id().unwrap_or_default();
        for device in DeviceIter::new(&control) {
            let Ok(number) = u32::try_from(device) else { continue };
            let Ok(pcm) = control.pcm_info(number, 0, Direction::Capture) else { continue };
            found.push(MicrophoneInfo {
                name: format!("hw:CARD={id},DEV={number}"),
                card: info.get_name().unwrap_or_default().to_owned(),
                driver: info.get_driver().unwrap_or_default().to_owned(),
                device: pcm.get_name().unwrap_or_default().to_owned(),
            });
        }
    }
    found.sort_by_key(|m| m.driver != "USB-Audio");
    found
}

/// The ALSA name that `device` stands for; empty: the first microphone.
///
/// # Errors
/// There is none, or its card is not there now.
pub fn find(device: &str) -> Result<String, SourceError> {
    let missing = |what: String| {
        SourceError::new(SourceErrorKind::Lost, what)
            .help("`girasol devices` lists microphones; microphone.device takes a name from there")
    };
    if device.is_empty() {
        let first = microphones().into_iter().next();
        return first.map(|m| m.name).ok_or_else(|| missing("no microphone found".into()));
    }
    // ALSA says ENOENT or ENODEV for an absent card only after complaining to standard error.
    let id = device.split_once("CARD=").map(|(_, rest)| rest.split(',').next().unwrap_or(rest));
    if let Some(id) = id {
        let known = CString::new(id).is_ok_and(|id| alsa::Card::from_str(&id).is_ok());
        if !known {
            return Err(missing(format!("{device}: there is no such microphone now")));
        }
    }
    Ok(device.to_owned())
}
