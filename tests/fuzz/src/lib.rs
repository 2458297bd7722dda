//! The runtime's own sources without the model: its engine would take longer to compile, with instructions for the fuzzer in
//! every branch of it, than all targets take to run, and no parser needs it.
#![allow(dead_code, unused_imports, missing_docs)]

#[path = "../../../runtime/src/clock.rs"]
pub mod clock;
#[path = "../../../runtime/src/command/mod.rs"]
pub mod command;
#[path = "../../../runtime/src/config/mod.rs"]
pub mod config;
#[path = "../../../runtime/src/error.rs"]
pub mod error;
#[path = "../../../runtime/src/event/mod.rs"]
pub mod event;
#[path = "../../../runtime/src/outbox/mod.rs"]
pub mod outbox;
#[path = "../../../runtime/src/source/mod.rs"]
pub mod source;
#[path = "../../../runtime/src/timeline/mod.rs"]
pub mod timeline;

#[path = "."]
pub mod frontend {
    #[path = "../../../runtime/src/frontend/mel.rs"]
    pub mod mel;
    #[path = "../../../runtime/src/frontend/resample.rs"]
    pub mod resample;
    #[path = "../../../runtime/src/frontend/video.rs"]
    pub mod video;
}

/// Without the client.
#[path = "."]
pub mod mqtt {
    #[path = "../../../runtime/src/mqtt/settings.rs"]
    mod settings;
    #[path = "../../../runtime/src/mqtt/topics.rs"]
    mod topics;

    pub use settings::{BrokerUrl, MqttSettings};
    pub use topics::Topics;
    pub(crate) use topics::is_topic;

    /// As in the runtime.
    pub const MAX_CORRELATION_BYTES: usize = 128;
}

#[path = "."]
pub mod service {
    #[path = "../../../runtime/src/service/credentials.rs"]
    mod credentials;

    pub use credentials::credential;
}

/// What commands say about the model.
pub mod model {
    use crate::{clock::MonoTime, event::Sentence};

    #[derive(Clone, Debug, PartialEq)]
    pub struct Answer {
        pub sentence: Sentence,
        pub from: MonoTime,
        pub to: MonoTime,
        pub snippets: usize,
    }

    #[derive(Clone, Copy, Debug, PartialEq)]
    pub struct SelfTest {
        pub snippets: usize,
        pub sentences: usize,
        pub max_difference: f32,
        pub tolerance: f32,
    }
}

pub use error::{Error, ErrorKind, Result};
