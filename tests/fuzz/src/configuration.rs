//! The configuration file: whatever it holds, it is refused with one line, or understood; then writing it out and reading
//! that gives the same.
#![no_main]

use girasol_fuzz::config::{Config, Overrides};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match Config::parse(text, "x") {
        Ok(config) => {
            let _ = (config.mqtt_settings(), config.event_settings());
            assert_eq!(config.with(&Overrides::new()).as_ref(), Ok(&config));
        }
        Err(error) => assert!(!error.to_string().contains('\n'), "{error}"),
    }
    let _ = Config::written(text);
});
