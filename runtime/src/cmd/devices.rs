//! `girasol devices`: which cameras and microphones there are, and what to call them in the configuration.

use std::process::ExitCode;

use clap::Args;
use girasol::{
    Result,
    source::{
        alsa::{MicrophoneInfo, Offer, microphones},
        v4l2::{CameraInfo, cameras},
    },
};

/// List cameras and microphones with their formats, and the names that stay the same across reboots
#[derive(Debug, Args)]
pub(super) struct Devices {}

impl Devices {
    pub(super) fn run(self) -> Result<ExitCode> {
        let (cameras, microphones) = (cameras(), microphones());
        println!("cameras: {}", cameras.len());
        cameras.iter().for_each(print_camera);
        println!("microphones: {}", microphones.len());
        microphones.iter().for_each(print_microphone);
        Ok(ExitCode::SUCCESS)
    }
}

fn print_camera(camera: &CameraInfo) {
    let usable = if camera.is_usable() { "" } else { "  (no format that girasol understands)" };
    println!("  {}: {}{usable}", camera.node.display(), camera.capabilities.card);
    let stable = camera.stable.as_deref().unwrap_or(&camera.node);
    println!("    camera.device = \"{}\"", stable.display());
    for (code, sizes) in &camera.formats {
        let sizes: Vec<_> = sizes.iter().map(|(w, h)| format!("{w}x{h}")).collect();
        println!("    {code}  {}", sizes.join(" "));
    }
}

fn print_microphone(microphone: &MicrophoneInfo) {
    println!("  {}: {}", microphone.card, microphone.device);
    println!("    microphone.device = \"{}\"", microphone.name);
    match microphone.offer() {
        Ok(offer) => print_offer(&offer),
        Err(error) => println!("    formats: not known now: {error}"),
    }
}

fn print_offer(Offer { formats, channels: (fewest, most), rates }: &Offer) {
    let rates: Vec<_> = rates.iter().map(ToString::to_string).collect();
    let channels = if fewest == most { format!("{most}") } else { format!("{fewest} to {most}") };
    println!("    {}  {channels} channel(s)  {} Hz", formats.join(" "), rates.join(" "));
}
