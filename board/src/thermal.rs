//! Thermal zones and trip points.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::{
    files,
    governor::Reading,
    power::{Power, PowerSensor},
};

/// What the kernel does at a trip point.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TripKind {
    /// Switches a fan on.
    Active,
    /// Slows the processor down.
    Passive,
    /// Tells the driver.
    Hot,
    /// Switches the board off.
    Critical,
}

/// A temperature at which something happens.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Trip {
    /// What.
    pub kind: TripKind,
    /// At how many °C.
    pub at_c: f32,
}

/// A thermal zone.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Zone {
    /// Its name, like `cpu-thermal`.
    pub kind: String,
    /// °C when it was read; `None` where the sensor gives none (on a Jetson Orin: of a unit without power).
    pub now_c: Option<f32>,
    /// Its trip points, lowest first.
    pub trips: Vec<Trip>,
    /// Folder, for reading again.
    #[serde(skip)]
    pub(crate) folder: PathBuf,
}

/// Below this a "passive" trip point is about fans or the case, not about slowing the processor down.
const LOWEST_PASSIVE_C: f32 = 60.0;
/// Where the kernel slows nothing down itself, the load is lowered so far below switching off.
const BELOW_CRITICAL_C: f32 = 15.0;
/// Outside of this a sensor is not connected or broken.
const PLAUSIBLE_C: std::ops::RangeInclusive<f32> = -40.0..=150.0;

/// Every zone, in the kernel's order.
pub(crate) fn read_zones(root: &Path) -> Vec<Zone> {
    files::numbered(root, "sys/class/thermal", "thermal_zone")
        .into_iter()
        .filter_map(|folder| {
            let kind = files::read(&folder.join("type"))?;
            let now_c = read_celsius(&folder.join("temp"));
            Some(Zone { kind, now_c, trips: read_trips(&folder), folder })
        })
        .collect()
}

fn read_trips(folder: &Path) -> Vec<Trip> {
    let mut trips = Vec::new();
    for n in 0..32 {
        let Some(kind) = files::read(&folder.join(format!("trip_point_{n}_type"))) else { break };
        let kind = match kind.as_str() {
            "active" => TripKind::Active,
            "passive" => TripKind::Passive,
            "hot" => TripKind::Hot,
            "critical" => TripKind::Critical,
            _ => continue,
        };
        if let Some(at_c) = read_celsius(&folder.join(format!("trip_point_{n}_temp"))) {
            trips.push(Trip { kind, at_c });
        }
    }
    trips.sort_by(|a, b| a.at_c.total_cmp(&b.at_c));
    trips
}

/// The kernel writes thousandths of a degree.
fn read_celsius(path: &Path) -> Option<f32> {
    let celsius = files::number(path)? as f32 / 1000.0;
    PLAUSIBLE_C.contains(&celsius).then_some(celsius)
}

/// Where slowing down begins, from the trip points alone.
pub(crate) fn limit<'a>(zones: impl Iterator<Item = &'a Zone>) -> Option<f32> {
    let trips: Vec<Trip> = zones.flat_map(|z| z.trips.iter().copied()).collect();
    let lowest = |kinds: &[TripKind], above: f32| {
        trips
            .iter()
            .filter(|t| kinds.contains(&t.kind) && t.at_c >= above)
            .map(|t| t.at_c)
            .min_by(f32::total_cmp)
    };
    lowest(&[TripKind::Passive, TripKind::Hot], LOWEST_PASSIVE_C)
        .or_else(|| lowest(&[TripKind::Critical], LOWEST_PASSIVE_C).map(|c| c - BELOW_CRITICAL_C))
}

/// The zones in use and the warnings about slowing down. Made once; reading allocates nothing.
#[derive(Clone, Debug)]
pub struct Sensors {
    zones: Vec<PathBuf>,
    power: PowerSensor,
}

impl Sensors {
    pub(crate) fn new<'a>(root: &Path, zones: impl Iterator<Item = &'a Zone>) -> Self {
        Self { zones: zones.map(|z| z.folder.join("temp")).collect(), power: PowerSensor::find(root) }
    }

    /// The hottest of the zones, and whether the processor is slowed down.
    #[must_use]
    pub fn read(&self) -> (Reading, Power) {
        let hottest = self.zones.iter().filter_map(|p| read_celsius(p)).max_by(f32::total_cmp);
        let power = self.power.read();
        (Reading { hottest_c: hottest, throttled: power.throttled.unwrap_or(false) }, power)
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.now_c {
            Some(now) => write!(f, "{} {now:.1} °C", self.kind)?,
            None => write!(f, "{} no value", self.kind)?,
        }
        for trip in &self.trips {
            let kind = match trip.kind {
                TripKind::Active => "active",
                TripKind::Passive => "passive",
                TripKind::Hot => "hot",
                TripKind::Critical => "critical",
            };
            write!(f, ", {kind} at {:.0}", trip.at_c)?;
        }
        Ok(())
    }
}
