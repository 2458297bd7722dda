//! Where pictures and sound come from, behind two small traits.

use std::time::Duration;

use crate::clock::MonoTime;

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// The buffer was filled.
    Data,
    /// Nothing came within the timeout.
    Timeout,
    /// The recording is over; live sources never say this.
    End,
}
