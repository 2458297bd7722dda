//! Media stay in memory: never in swap, never in a core file.

/// Locks every page that this process has or will touch, and forbids core files. Not only the pools: the tensors that
/// the model works on are made from media as well. Pages are locked when they are first touched, so nothing grows.
///
/// Locking needs an unlimited `RLIMIT_MEMLOCK` (`LimitMEMLOCK=infinity` in the unit, where `MemoryMax=` is the limit
/// that counts): with less, a later allocation would fail. Without it this only says so.
pub fn keep_media_in_memory() {
    if let Err(error) = no_core_files() {
        tracing::warn!(%error, "core files could not be forbidden");
    }
    match lock() {
        Ok(true) => tracing::debug!("memory is locked: nothing goes to swap"),
        Ok(false) => {
            tracing::info!(
                "memory is not locked (RLIMIT_MEMLOCK is limited): with swap, media could be written there"
            );
        }
        Err(error) => tracing::warn!(%error, "memory could not be locked"),
    }
}

fn no_core_files() -> std::io::Result<()> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is a valid rlimit that lives through the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) })
}

fn lock() -> std::io::Result<bool> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a valid, writable rlimit that lives through the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut limit) })?;
    if limit.rlim_cur != libc::RLIM_INFINITY {
        return Ok(false);
    }
    // SAFETY: takes flags only; no memory is read or written.
    check(unsafe { libc::mlockall(libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT) })?;
    Ok(true)
}

fn check(result: libc::c_int) -> std::io::Result<()> {
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}
