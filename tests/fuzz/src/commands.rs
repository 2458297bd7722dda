//! A command's payload, whatever it holds, and what a `set` would do to the configuration: no panic, an error of one
//! bounded line, and a setting that is taken can be read back.
//!
//! The first byte chooses the command.
#![no_main]

use girasol_fuzz::{
    command::{COMMANDS, Command, MAX_REQUEST_BYTES, parse},
    config::{Config, Overrides},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&first, payload)) = data.split_first() else { return };
    let name = COMMANDS.get(usize::from(first)).copied().unwrap_or("format_disk");
    let (id, outcome) = parse(name, payload);
    assert!(id.is_none_or(|id| id.len() <= 64));
    match outcome {
        Ok(Command::Set { key, value }) => {
            let set = Config::default().with(&Overrides::from([(key.clone(), value)]));
            if let Ok(config) = set {
                assert_eq!(config.with(&Overrides::new()).as_ref(), Ok(&config), "{key}");
            }
        }
        Ok(Command::Ask(question)) => assert!(!question.is_empty() && question.len() <= 200),
        Ok(_) => assert!(payload.len() <= MAX_REQUEST_BYTES),
        Err(fault) => assert!(fault.text.len() <= 310 && !fault.text.contains('\n'), "{}", fault.text),
    }
});
