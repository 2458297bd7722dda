//! Warnings about the supply voltage and about slowing down.
//!
//! Raspberry Pi: the firmware's `get_throttled` word, else the `rpi_volt` sensor. Everywhere: the state of the
//! kernel's `cpufreq` cooling devices. Jetson Orin: the over-current event counters of `soctherm_oc`.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use serde::Serialize;

use crate::files;

/// What the sensors said; `None` where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Power {
    /// The supply voltage is too low now.
    pub under_voltage: Option<bool>,
    /// It has been since boot.
    pub under_voltage_seen: Option<bool>,
    /// The processor is slowed down now because of heat.
    pub throttled: Option<bool>,
    /// It has been since boot.
    pub throttled_seen: Option<bool>,
    /// Over-current events since boot.
    pub over_current_events: Option<u32>,
}

/// Where the warnings are to be read. Found once; reading allocates nothing.
#[derive(Clone, Debug, Default)]
pub struct PowerSensor {
    firmware: Option<PathBuf>,
    alarm: Option<PathBuf>,
    cooling: Vec<PathBuf>,
    over_current: Vec<PathBuf>,
}

// Bits of the firmware's word; those since boot stand 16 higher.
const UNDER_VOLTAGE: i64 = 1;
const FREQUENCY_CAPPED: i64 = 1 << 1;
const THROTTLED: i64 = 1 << 2;
const SOFT_LIMIT: i64 = 1 << 3;

impl PowerSensor {
    /// Looks for sensors below `root`.
    #[must_use]
    pub fn find(root: &Path) -> Self {
        let mut sensor = Self { firmware: find_get_throttled(root), ..Self::default() };
        for hwmon in files::numbered(root, "sys/class/hwmon", "hwmon") {
            match files::read(&hwmon.join("name")).as_deref() {
                Some("rpi_volt") => sensor.alarm = Some(hwmon.join("in0_lcrit_alarm")),
                Some("soctherm_oc") => {
                    sensor.over_current = (1..=3)
                        .map(|n| hwmon.join(format!("oc{n}_event_cnt")))
                        .filter(|p| p.exists())
                        .collect();
                }
                _ => {}
            }
        }
        for device in files::numbered(root, "sys/class/thermal", "cooling_device") {
            let kind = files::read(&device.join("type")).unwrap_or_default();
            if kind.contains("cpufreq") {
                sensor.cooling.push(device.join("cur_state"));
            }
        }
        sensor
    }

    /// What they say now.
    #[must_use]
    pub fn read(&self) -> Power {
        let mut power = Power::default();
        if let Some(bits) = self.firmware.as_deref().and_then(files::hex) {
            power.under_voltage = Some(bits & UNDER_VOLTAGE != 0);
            power.under_voltage_seen = Some(bits >> 16 & UNDER_VOLTAGE != 0);
            power.throttled = Some(hot(bits));
            power.throttled_seen = Some(hot(bits >> 16));
        }
        if let Some(alarm) = self.alarm.as_deref().and_then(files::number) {
            power.under_voltage = Some(power.under_voltage.unwrap_or(false) || alarm != 0);
        }
        for state in self.cooling.iter().filter_map(|p| files::number(p)) {
            power.throttled = Some(power.throttled.unwrap_or(false) || state > 0);
        }
        for events in self.over_current.iter().filter_map(|p| files::number(p)) {
            let events = u32::try_from(events).unwrap_or(u32::MAX);
            power.over_current_events = Some(power.over_current_events.unwrap_or(0).saturating_add(events));
        }
        power
    }
}

/// Slowed down because of heat: with too low a voltage the same two bits are set for that reason.
fn hot(bits: i64) -> bool {
    bits & SOFT_LIMIT != 0 || (bits & (FREQUENCY_CAPPED | THROTTLED) != 0 && bits & UNDER_VOLTAGE == 0)
}

/// The node of the firmware driver: `soc:firmware` on most, below another bus on others; never deeper than two levels.
fn find_get_throttled(root: &Path) -> Option<PathBuf> {
    let folders = |dir: &Path| -> Vec<PathBuf> {
        let mut found: Vec<_> = fs::read_dir(dir)
            .map(|entries| entries.flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect())
            .unwrap_or_default();
        found.sort();
        found
    };
    let is_firmware = |path: &Path| path.to_string_lossy().ends_with(":firmware");
    let platform = folders(&root.join("sys/devices/platform"));
    let below = platform.iter().filter(|bus| !is_firmware(bus)).flat_map(|bus| folders(bus));
    let candidates = platform.iter().cloned().chain(below);
    candidates.filter(|p| is_firmware(p)).map(|p| p.join("get_throttled")).find(|p| p.exists())
}

impl fmt::Display for Power {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let say = |now: Option<bool>, seen: Option<bool>| match (now, seen) {
            (Some(true), _) => "now",
            (_, Some(true)) => "since boot, not now",
            (Some(false), _) => "no",
            (None, _) => "not known",
        };
        write!(
            f,
            "under-voltage: {}; slowed down by heat: {}",
            say(self.under_voltage, self.under_voltage_seen),
            say(self.throttled, self.throttled_seen)
        )?;
        match self.over_current_events {
            Some(n) => write!(f, "; over-current events: {n}"),
            None => Ok(()),
        }
    }
}
