//! Cores and instruction set extensions.

use std::{collections::BTreeSet, fmt, path::Path};

use serde::Serialize;

use crate::files;

/// Cores of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Core {
    /// Like `Cortex-A72`; for one that is not in our list `implementer 0x51 part 0x800`.
    pub name: String,
    /// How many.
    pub count: usize,
    /// Highest clock rate, where the kernel tells.
    pub max_mhz: Option<u32>,
}

/// The processor.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Cpu {
    /// Kinds of cores, in the order in which they appear.
    pub cores: Vec<Core>,
    /// The kernel's names of the extensions, those that every core has.
    pub features: BTreeSet<String>,
}

/// Implementer and part numbers of `/proc/cpuinfo` (Arm's and Nvidia's product lists).
const PARTS: &[(u32, u32, &str)] = &[
    (0x41, 0xc07, "Cortex-A7"),
    (0x41, 0xc08, "Cortex-A8"),
    (0x41, 0xc09, "Cortex-A9"),
    (0x41, 0xc0f, "Cortex-A15"),
    (0x41, 0xd03, "Cortex-A53"),
    (0x41, 0xd04, "Cortex-A35"),
    (0x41, 0xd05, "Cortex-A55"),
    (0x41, 0xd07, "Cortex-A57"),
    (0x41, 0xd08, "Cortex-A72"),
    (0x41, 0xd09, "Cortex-A73"),
    (0x41, 0xd0a, "Cortex-A75"),
    (0x41, 0xd0b, "Cortex-A76"),
    (0x41, 0xd0c, "Neoverse-N1"),
    (0x41, 0xd0d, "Cortex-A77"),
    (0x41, 0xd40, "Neoverse-V1"),
    (0x41, 0xd41, "Cortex-A78"),
    (0x41, 0xd42, "Cortex-A78AE"),
    (0x41, 0xd44, "Cortex-X1"),
    (0x41, 0xd46, "Cortex-A510"),
    (0x41, 0xd47, "Cortex-A710"),
    (0x41, 0xd48, "Cortex-X2"),
    (0x41, 0xd49, "Neoverse-N2"),
    (0x41, 0xd4b, "Cortex-A78C"),
    (0x41, 0xd4d, "Cortex-A715"),
    (0x41, 0xd80, "Cortex-A520"),
    (0x41, 0xd81, "Cortex-A720"),
    (0x4e, 0x003, "Denver 2"),
    (0x4e, 0x004, "Carmel"),
];

impl Cpu {
    pub(crate) fn read(root: &Path) -> Self {
        let text = files::text(root, "proc/cpuinfo").unwrap_or_default();
        let mut cpu = Self::default();
        let mut common: Option<BTreeSet<String>> = None;
        for block in text.split("\n\n") {
            let field = |name: &str| {
                block.lines().find_map(|line| {
                    let (key, value) = line.split_once(':')?;
                    (key.trim() == name).then(|| value.trim())
                })
            };
            // 32-bit kernels and Raspberry Pi OS append a block about the board, which has no number.
            let Some(number) = field("processor").and_then(|n| n.parse::<u32>().ok()) else { continue };
            let name = core_name(&field);
            let mhz = files::number(
                &root.join(format!("sys/devices/system/cpu/cpu{number}/cpufreq/cpuinfo_max_freq")),
            )
            .and_then(|khz| u32::try_from(khz / 1000).ok());
            match cpu.cores.iter_mut().find(|c| c.name == name && c.max_mhz == mhz) {
                Some(core) => core.count += 1,
                None => cpu.cores.push(Core { name, count: 1, max_mhz: mhz }),
            }
            let features = field("Features").or_else(|| field("flags")).unwrap_or_default();
            let features: BTreeSet<String> = features.split_whitespace().map(str::to_owned).collect();
            common = Some(match common {
                None => features,
                Some(before) => before.intersection(&features).cloned().collect(),
            });
        }
        cpu.features = common.unwrap_or_default();
        cpu
    }

    /// How many cores are online.
    #[must_use]
    pub fn count(&self) -> usize {
        self.cores.iter().map(|c| c.count).sum()
    }

    /// Those extensions that matter for inference, under the names by which people know them.
    #[must_use]
    pub fn relevant(&self) -> Vec<&'static str> {
        let names: [(&str, &str); 9] = [
            ("neon", "NEON"),
            ("asimd", "NEON"),
            ("asimdhp", "fp16"),
            ("asimddp", "dotprod"),
            ("i8mm", "i8mm"),
            ("sve", "SVE"),
            ("avx2", "AVX2"),
            ("avx512f", "AVX-512"),
            ("avx512_vnni", "VNNI"),
        ];
        names.iter().filter(|(kernel, _)| self.features.contains(*kernel)).map(|(_, known)| *known).collect()
    }
}

fn core_name<'a>(field: &impl Fn(&str) -> Option<&'a str>) -> String {
    let hex = |name: &str| u32::from_str_radix(field(name)?.strip_prefix("0x")?, 16).ok();
    if let (Some(implementer), Some(part)) = (hex("CPU implementer"), hex("CPU part")) {
        let known = PARTS.iter().find(|(i, p, _)| (*i, *p) == (implementer, part));
        return known.map_or_else(
            || format!("implementer {implementer:#x} part {part:#x}"),
            |(.., name)| (*name).to_owned(),
        );
    }
    field("model name").unwrap_or("unknown").to_owned()
}

impl fmt::Display for Cpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.cores.is_empty() {
            return f.write_str("unknown");
        }
        for (i, core) in self.cores.iter().enumerate() {
            write!(f, "{}{} × {}", if i > 0 { " + " } else { "" }, core.count, core.name)?;
            if let Some(mhz) = core.max_mhz {
                write!(f, " at {mhz} MHz")?;
            }
        }
        let relevant = self.relevant();
        if !relevant.is_empty() {
            write!(f, "; {}", relevant.join(", "))?;
        }
        Ok(())
    }
}
