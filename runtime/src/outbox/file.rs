//! The ring's file: locked, made, read, replaced as a whole when it does not fit any more.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use super::format::{
    BadHeader, DATA, Header, MAX_SLOTS, Record, Recovered, SLOT, encode, recover, slots_for,
};
use crate::{Error, ErrorKind, Result};

const RING: &str = "outbox.ring";
const NEW: &str = "outbox.ring.new";
const DAMAGED: &str = "outbox.ring.damaged";
const LOCK: &str = "outbox.lock";

/// What the disk's thread needs of a disk.
pub(super) trait Storage: Send {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// What was written before survives a power cut when this returns.
    fn sync(&mut self) -> io::Result<()>;
}

/// The real disk. The directory stays locked as long as this lives.
#[derive(Debug)]
pub(super) struct RingFile {
    file: File,
    _lock: File,
}

impl Storage for RingFile {
    fn write_at(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }
}

/// A number that differs from ring to ring.
pub(super) fn new_salt() -> u64 {
    let mut bytes = [0; 8];
    match File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)) {
        Ok(()) => u64::from_le_bytes(bytes),
        Err(_) => u64::from(std::process::id()) << 32 | 0x9e37_79b9,
    }
}

/// Opens the ring in `directory`, with `bytes` for records, and reads what is in it. A ring of another size is replaced
/// by one of this size that holds the same messages; one that is damaged beyond its records is set aside.
pub(super) fn open(directory: &Path, bytes: usize, fresh: Header) -> Result<(RingFile, Recovered)> {
    let slots = u32::try_from(bytes / SLOT).unwrap_or(u32::MAX).clamp(1, MAX_SLOTS);
    let fresh = Header { slots, ..fresh };
    fs::create_dir_all(directory).map_err(|e| unusable(directory, e))?;
    let lock = lock(directory)?;
    let ring = directory.join(RING);
    let open = |file, recovered| Ok((RingFile { file, _lock: lock }, recovered));
    let image = match read(&ring) {
        Ok(image) => image,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let (file, recovered) = replace(directory, fresh, Vec::new())?;
            return open(file, recovered);
        }
        Err(e) => return Err(unusable(&ring, e)),
    };
    match recover(&image) {
        Err(BadHeader::Newer(version)) => {
            let what = format!("{}: made by a later girasol (format {version})", ring.display());
            Err(Error::new(ErrorKind::Data, what).help("it is left as it is: update, or move it away"))
        }
        Err(BadHeader::Damaged) => {
            let aside = directory.join(DAMAGED);
            fs::rename(&ring, &aside).map_err(|e| unusable(&ring, e))?;
            tracing::error!("{}: no outbox, or damaged: set aside as {}", ring.display(), aside.display());
            let (file, recovered) = replace(directory, fresh, Vec::new())?;
            open(file, recovered)
        }
        Ok(found) => {
            drop(image);
            let length = (DATA + found.header.slots as usize * SLOT) as u64;
            let usable = ring.metadata().is_ok_and(|m| m.len() >= length) && in_ring_order(&found);
            if !(usable && found.header.slots == slots) {
                // Numbers, salt and clock go on; only the places are new.
                let header = Header { slots, seq_limit: found.next_seq, ..found.header };
                match replace(directory, header, found.live.clone()) {
                    Ok((file, recovered)) => {
                        return open(file, Recovered { damaged: found.damaged, ..recovered });
                    }
                    Err(error) if usable => tracing::error!("{error}: the ring keeps its old size"),
                    Err(error) => return Err(error),
                }
            }
            let file = OpenOptions::new().write(true).open(&ring).map_err(|e| unusable(&ring, e))?;
            open(file, found)
        }
    }
}

fn lock(directory: &Path) -> Result<File> {
    let path = directory.join(LOCK);
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| unusable(&path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let what = format!("{}: in use by another girasol", directory.display());
            let help = "stop it, or give this one a state.directory (and a device.name) of its own";
            Err(Error::new(ErrorKind::Unavailable, what).help(help))
        }
        Err(TryLockError::Error(e)) => Err(unusable(&path, e)),
    }
}

fn read(ring: &Path) -> io::Result<Vec<u8>> {
    let limit = (DATA + MAX_SLOTS as usize * SLOT) as u64;
    let mut image = Vec::new();
    File::open(ring)?.take(limit).read_to_end(&mut image)?;
    Ok(image)
}

/// Whether going round from the tail finds the messages in the order of their numbers. It does not only if a power cut
/// has undone parts of more than one whole round.
pub(super) fn in_ring_order(found: &Recovered) -> bool {
    let slots = found.header.slots;
    let distance = |r: &Record| (r.slot + slots - found.tail % slots) % slots;
    found.live.is_sorted_by_key(distance)
}

/// Writes a ring with `live` from slot 0 on, the oldest left out if they do not all fit, and puts it in place at once.
/// Every byte is written, so that no later write can find the disk full.
fn replace(directory: &Path, header: Header, live: Vec<Record>) -> Result<(File, Recovered)> {
    let (new, ring) = (directory.join(NEW), directory.join(RING));
    let header = Header { generation: header.generation + 1, ..header };
    let (image, recovered) = compact(header, live);
    let written = write_new(&new, &image).and_then(|file| {
        fs::rename(&new, &ring)?;
        File::open(directory)?.sync_all()?;
        Ok(file)
    });
    match written {
        Ok(file) => Ok((file, recovered)),
        Err(e) => {
            let _ = fs::remove_file(&new);
            Err(unusable(&ring, e))
        }
    }
}

fn write_new(path: &PathBuf, image: &[u8]) -> io::Result<File> {
    let mut file = OpenOptions::new().create(true).truncate(true).write(true).open(path)?;
    file.write_all(image)?;
    file.sync_all()?;
    Ok(file)
}

/// The bytes of a ring that holds `live` and nothing else.
pub(super) fn compact(header: Header, mut live: Vec<Record>) -> (Vec<u8>, Recovered) {
    let mut needed: usize = live.iter().map(|r| slots_for(&r.message)).sum();
    let mut too_many = 0;
    while needed > header.slots as usize {
        needed -= slots_for(&live[too_many].message);
        too_many += 1;
    }
    if too_many > 0 {
        tracing::warn!("outbox: made smaller: the {too_many} oldest messages do not fit any more");
        live.drain(..too_many);
    }
    let mut image = vec![0; DATA + header.slots as usize * SLOT];
    let encoded = header.encode();
    image[header.place()..header.place() + encoded.len()].copy_from_slice(&encoded);
    let mut slot = 0;
    for record in &mut live {
        if let Some(bytes) =
            encode(header.salt, record.seq, record.accepted_ns, record.expires_ns, &record.message)
        {
            let at = DATA + slot as usize * SLOT;
            image[at..at + bytes.len()].copy_from_slice(&bytes);
        }
        record.slot = slot;
        slot += record.slots;
    }
    let tail = slot % header.slots;
    let recovered = Recovered { header, live, tail, next_seq: header.seq_limit, damaged: 0 };
    (image, recovered)
}

fn unusable(path: &Path, error: io::Error) -> Error {
    let help = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room, or set a smaller outbox.size_mib"
        }
        io::ErrorKind::ReadOnlyFilesystem => "mount it writable, or set state.directory",
        io::ErrorKind::PermissionDenied => "let the service's user write there, or set state.directory",
        _ => "check the disk, or set state.directory",
    };
    Error::new(ErrorKind::Io, format!("outbox: {}", path.display())).cause(error).help(help)
}
