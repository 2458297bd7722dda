//! Boards as their `/proc` and `/sys` describe them: one file of `boards/` each.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::{fs, path::Path};

use girasol_board::{
    Board, Duty, Governor, Identity, Memory, Power, PowerSensor, Profile, Reason, TripKind, builtin_profiles,
};
use tempfile::TempDir;

/// Unpacks a description: `== path` begins a file, `\0` is a NUL byte.
fn unpack(name: &str) -> TempDir {
    let text = fs::read_to_string(format!("{}/tests/boards/{name}.txt", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let root = TempDir::new().unwrap();
    for part in text.split("\n== ").skip(1) {
        let (path, content) = part.split_once('\n').unwrap();
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content.replace("\\0", "\0")).unwrap();
    }
    root
}

fn recognise(name: &str) -> (TempDir, Board) {
    let root = unpack(name);
    let board = Board::recognise(root.path(), &builtin_profiles());
    (root, board)
}

fn cores(board: &Board) -> Vec<(&str, usize, Option<u32>)> {
    board.cpu.cores.iter().map(|c| (c.name.as_str(), c.count, c.max_mhz)).collect()
}

#[test]
fn raspberry_pi_4() {
    let (_root, board) = recognise("raspberry-pi-4");
    assert_eq!(board.identity.model, "Raspberry Pi 4 Model B Rev 1.4");
    assert_eq!(board.identity.compatible, ["raspberrypi,4-model-b", "brcm,bcm2711"]);
    assert_eq!(board.profile.name, "raspberry-pi-4");
    assert_eq!(cores(&board), [("Cortex-A72", 4, Some(1800))]);
    assert_eq!(board.cpu.relevant(), ["NEON"]);
    assert_eq!(board.memory, Memory { total_kib: 3_884_000, available_kib: 3_400_000, swap_kib: 102_396 });
    // The critical trip point is 110 °C; the firmware slows down long before.
    assert!((board.limit_c() - 80.0).abs() < 0.1);
    let expected = Power {
        under_voltage: Some(false),
        under_voltage_seen: Some(true),
        throttled: Some(false),
        // Slowed down, but by the supply.
        throttled_seen: Some(false),
        over_current_events: None,
    };
    assert_eq!(board.power, expected);
    let text = board.to_string();
    assert!(text.contains("4 × Cortex-A72 at 1800 MHz; NEON"), "{text}");
    assert!(text.contains("under-voltage: since boot, not now"), "{text}");
}

#[test]
fn raspberry_pi_5_has_trip_points_for_its_fan_only_and_a_voltage_alarm() {
    let (_root, board) = recognise("raspberry-pi-5");
    assert_eq!(board.profile.name, "raspberry-pi-5");
    assert_eq!(cores(&board), [("Cortex-A76", 4, Some(2400))]);
    assert_eq!(board.cpu.relevant(), ["NEON", "fp16", "dotprod"]);
    let kinds: Vec<_> = board.zones[0].trips.iter().map(|t| t.kind).collect();
    assert_eq!(
        kinds,
        [TripKind::Active, TripKind::Active, TripKind::Active, TripKind::Active, TripKind::Critical]
    );
    assert!((board.limit_c() - 80.0).abs() < 0.1);
    assert_eq!(board.power.under_voltage, Some(true));
    // A fan that turns is no slowing down.
    assert_eq!(board.power.throttled, None);
}

#[test]
fn raspberry_pi_zero_2_w_at_its_soft_limit() {
    let (root, board) = recognise("raspberry-pi-zero-2-w");
    assert_eq!(board.profile.name, "raspberry-pi-zero-2-w");
    assert_eq!(cores(&board), [("Cortex-A53", 4, Some(1000))]);
    assert_eq!(board.power.throttled, Some(true));
    let (reading, _) = board.sensors(root.path()).read();
    let mut governor = Governor::new(board.governor_config());
    let change = governor.step(std::time::Duration::ZERO, reading).unwrap();
    assert_eq!((change.from, change.to, change.reason), (Duty::Full, Duty::FewerFrames, Reason::Throttled));
}

#[test]
fn jetson_nano_leaves_out_sensors_that_do_not_measure_the_processor() {
    let (root, board) = recognise("jetson-nano");
    assert_eq!(board.profile.name, "jetson-nano");
    assert_eq!(cores(&board), [("Cortex-A57", 4, Some(1479))]);
    assert!((board.limit_c() - 97.0).abs() < 0.1);
    let (reading, _) = board.sensors(root.path()).read();
    assert_eq!(reading.hottest_c, Some(36.5));
    assert_eq!(board.power, Power::default());
    assert!(board.to_string().contains("PMIC-Die 100.0 °C, critical at 120, not used"));
}

#[test]
fn jetson_orin_nano_bears_a_sensor_without_value() {
    let (_root, board) = recognise("jetson-orin-nano");
    assert_eq!(board.profile.name, "jetson-orin");
    assert_eq!(cores(&board), [("Cortex-A78AE", 6, Some(1510))]);
    assert!((board.limit_c() - 99.0).abs() < 0.1);
    let cv0 = board.zones.iter().find(|z| z.kind == "cv0-thermal").unwrap();
    assert_eq!(cv0.now_c, None);
    assert_eq!(board.power.over_current_events, Some(2));
    assert_eq!(board.power.throttled, Some(false));
}

#[test]
fn a_board_that_nobody_knows_gets_the_generic_profile_and_the_limit_of_its_trip_points() {
    let (root, board) = recognise("generic-big-little");
    assert_eq!(board.identity.model, "Example SBC 6");
    assert_eq!(board.profile.name, "generic");
    assert_eq!(cores(&board), [("Cortex-A55", 4, Some(1800)), ("Cortex-A76", 2, Some(2400))]);
    // Only what every core has counts.
    assert!(!board.cpu.features.contains("i8mm") && board.cpu.features.contains("asimddp"));
    // The case's trip point of 40 °C says nothing about the processor.
    assert!((board.limit_c() - 75.0).abs() < 0.1);
    let (reading, power) = board.sensors(root.path()).read();
    assert_eq!(reading.hottest_c, Some(71.0), "a sensor that is not connected says -274 °C");
    assert_eq!(power.throttled, Some(true));
}

#[test]
fn a_pc_is_named_by_its_dmi_table() {
    let (_root, board) = recognise("generic-pc");
    assert_eq!(board.identity, Identity { model: "Mini PC".into(), compatible: vec![] });
    assert_eq!(cores(&board), [("Intel(R) N100", 2, None)]);
    assert_eq!(board.cpu.relevant(), ["AVX2"]);
    assert!((board.limit_c() - 90.0).abs() < 0.1);
}

#[test]
fn nothing_at_all_to_read_is_not_a_fault() {
    let root = TempDir::new().unwrap();
    let board = Board::recognise(root.path(), &builtin_profiles());
    assert_eq!(board.profile.name, "generic");
    assert_eq!((board.cpu.count(), board.zones.len()), (0, 0));
    assert_eq!(board.power, Power::default());
    let (reading, _) = board.sensors(root.path()).read();
    assert_eq!(reading.hottest_c, None);
    assert!(board.to_string().contains("model     unknown"));
}

#[test]
fn damaged_files_are_absent_values() {
    let root = TempDir::new().unwrap();
    let put = |path: &str, bytes: &[u8]| {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    put("proc/cpuinfo", &[0xff; 300_000]);
    put("proc/meminfo", b"MemTotal: lots\n");
    put("proc/device-tree/model", b"");
    put("sys/class/thermal/thermal_zone0/type", b"cpu\n");
    put("sys/class/thermal/thermal_zone0/temp", b"9999999999999999999999999999999999999\n");
    put("sys/class/thermal/thermal_zonex/type", b"not a zone\n");
    put("sys/class/thermal/thermal_zone0/trip_point_0_type", b"passive\n");
    let board = Board::recognise(root.path(), &builtin_profiles());
    assert_eq!((board.cpu.count(), board.memory.total_kib), (0, 0));
    assert_eq!(board.zones.len(), 1);
    assert_eq!((board.zones[0].now_c, board.zones[0].trips.len()), (None, 0));
}

#[test]
fn readings_follow_the_files() {
    let (root, board) = recognise("raspberry-pi-4");
    let sensors = board.sensors(root.path());
    fs::write(root.path().join("sys/class/thermal/thermal_zone0/temp"), "81234\n").unwrap();
    assert_eq!(sensors.read().0.hottest_c, Some(81.234));
    let flags = root.path().join("sys/devices/platform/soc/soc:firmware/get_throttled");
    fs::write(&flags, "0x50005\n").unwrap();
    let power = PowerSensor::find(root.path()).read();
    assert_eq!(
        (power.under_voltage, power.throttled),
        (Some(true), Some(false)),
        "slowed down by the supply"
    );
    fs::write(&flags, "e0006\n").unwrap();
    assert_eq!(sensors.read().1.throttled, Some(true), "slowed down by heat");
}

#[test]
fn the_configuration_may_name_a_profile() {
    let root = unpack("raspberry-pi-4");
    let own =
        Profile::parse("name = \"porch\"\ntitle = \"in the sun\"\nlimit_c = 70.0\n", "porch.toml").unwrap();
    let board = Board::recognise(root.path(), &[own]);
    assert_eq!(board.profile.name, "porch");
    assert!((board.limit_c() - 70.0).abs() < 0.1);
}

#[test]
fn every_fixture_is_used() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/boards");
    let source = include_str!("boards.rs");
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned();
        assert!(source.contains(&format!("(\"{name}\")")), "{name}");
    }
}
