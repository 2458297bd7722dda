//! What board this is, and how hot.
//!
//! [`Board::recognise`] reads model, processor, memory, thermal zones and power warnings from `/proc` and `/sys` below
//! a root path (tests give it a folder) and picks a [`Profile`]. [`Governor`] lowers the load in declared steps
//! ([`Duty`]) before the board throttles itself, and raises it again with hysteresis.
//!
//! Nothing here fails on a board that it does not know: what cannot be read is absent.

mod cpu;
mod duty;
mod files;
mod governor;
mod identity;
mod memory;
mod power;
mod profile;
mod thermal;

use std::{fmt, path::Path};

use serde::Serialize;

pub use self::{
    cpu::{Core, Cpu},
    duty::Duty,
    governor::{Change, Governor, GovernorConfig, Reading, Reason},
    identity::Identity,
    memory::Memory,
    power::{Power, PowerSensor},
    profile::{Profile, ProfileError, builtin_profiles},
    thermal::{Sensors, Trip, TripKind, Zone},
};

/// Everything that was recognised.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Board {
    /// Maker's name and compatibility list.
    pub identity: Identity,
    /// Cores and instruction set extensions.
    pub cpu: Cpu,
    /// Main memory.
    pub memory: Memory,
    /// Thermal zones as they were when the board was recognised.
    pub zones: Vec<Zone>,
    /// Power warnings at that time.
    pub power: Power,
    /// The profile in use.
    pub profile: Profile,
}

impl Board {
    /// Reads everything below `root` (`/` on a board). The profile is the first of `profiles` that fits, else the
    /// generic one.
    #[must_use]
    pub fn recognise(root: &Path, profiles: &[Profile]) -> Self {
        let identity = Identity::read(root);
        let profile = Profile::choose(profiles, &identity);
        Self {
            cpu: Cpu::read(root),
            memory: Memory::read(root),
            zones: thermal::read_zones(root),
            power: PowerSensor::find(root).read(),
            identity,
            profile,
        }
    }

    /// The temperature, in °C, at which this board starts to slow down: the profile's, else the lowest passive trip
    /// point of a zone in use, else 15 below the lowest critical one, else 80.
    #[must_use]
    pub fn limit_c(&self) -> f32 {
        self.profile.limit_c.or_else(|| thermal::limit(self.zones_in_use())).unwrap_or(80.0)
    }

    /// The zones that the profile does not leave out.
    pub fn zones_in_use(&self) -> impl Iterator<Item = &Zone> {
        self.zones.iter().filter(|z| self.profile.uses_zone(&z.kind))
    }

    /// What the governor needs to know.
    #[must_use]
    pub fn governor_config(&self) -> GovernorConfig {
        GovernorConfig { limit_c: self.limit_c(), ..self.profile.governor() }
    }

    /// The sensors that the governor watches.
    #[must_use]
    pub fn sensors(&self, root: &Path) -> Sensors {
        Sensors::new(root, self.zones_in_use())
    }
}

/// For people: one fact a line.
impl fmt::Display for Board {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "model     {}", self.identity)?;
        writeln!(f, "profile   {} ({})", self.profile.name, self.profile.title)?;
        writeln!(f, "processor {}", self.cpu)?;
        writeln!(f, "memory    {}", self.memory)?;
        for zone in &self.zones {
            let used = if self.profile.uses_zone(&zone.kind) { "" } else { ", not used" };
            writeln!(f, "zone      {zone}{used}")?;
        }
        if self.zones.is_empty() {
            writeln!(f, "zone      none: the load is not lowered when it gets hot")?;
        } else {
            writeln!(
                f,
                "limit     {:.0} °C: from {:.0} °C the load is lowered",
                self.limit_c(),
                self.limit_c() - self.profile.governor().margin_c
            )?;
        }
        write!(f, "power     {}", self.power)
    }
}
