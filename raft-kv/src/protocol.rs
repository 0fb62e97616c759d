//! What clients and the service say to each other: requests and replies, many to a frame. Described to the byte in
//! `docs/kv-format.md` in the project's repository. Not about how frames travel (that is `raft_net_quic`'s affair), nor about what a request does.

mod replies;
mod report;
mod requests;

use bytes::Bytes;

use crate::codec::{Malformed, Put, Reader};

pub use replies::{Fault, Reply, ReplyBody, decode_replies};
pub use report::{NodeReport, PeerReport};
pub(crate) use requests::kind::COMMAND;
pub use requests::{Request, RequestBody, ServeAt, decode_requests};

/// The version of the protocol, every frame's first byte.
pub const VERSION: u8 = 1;
/// The most requests or replies in a frame.
pub const FRAME_ITEMS_MAX: u32 = 16 << 10;
/// Version and count.
const HEADER_BYTES: usize = 1 + 4;
/// Id, kind and length of an item's payload.
const ITEM_HEADER_BYTES: usize = 8 + 1 + 4;

/// Gathers items into a frame. Both directions use it: [`FrameBuilder::push_request`] and [`FrameBuilder::push_reply`].
#[derive(Debug)]
pub struct FrameBuilder {
    bytes: Vec<u8>,
    count: u32,
}

impl Default for FrameBuilder {
    fn default() -> FrameBuilder {
        FrameBuilder::new()
    }
}

impl FrameBuilder {
    /// An empty frame.
    pub fn new() -> FrameBuilder {
        let mut bytes = Vec::with_capacity(4 << 10);
        bytes.put_u8(VERSION);
        bytes.put_u32(0);
        FrameBuilder { bytes, count: 0 }
    }

    /// Its length so far.
    pub fn len_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// How many items it has.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Whether it has no items.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether it has as many items as a frame can have.
    pub fn is_full(&self) -> bool {
        self.count >= FRAME_ITEMS_MAX
    }

    /// Appends an item whose payload is written by `payload`.
    pub(crate) fn push(&mut self, id: u64, kind: u8, payload: impl FnOnce(&mut Vec<u8>)) {
        self.bytes.put_u64(id);
        self.bytes.put_u8(kind);
        self.bytes.put_u32(0);
        let start = self.bytes.len();
        payload(&mut self.bytes);
        let length = u32::try_from(self.bytes.len() - start).unwrap_or(u32::MAX);
        self.bytes[start - 4..start].copy_from_slice(&length.to_le_bytes());
        self.count += 1;
    }

    /// The frame, and an empty one in its place.
    pub fn take(&mut self) -> Bytes {
        let mut frame = std::mem::take(self);
        frame.bytes[1..HEADER_BYTES].copy_from_slice(&frame.count.to_le_bytes());
        frame.bytes.into()
    }
}

/// An item of a frame as it stands there.
struct RawItem<'a> {
    id: u64,
    kind: u8,
    payload: &'a [u8],
}

/// How many items a frame can have: as many as it claims, but not more than fit.
pub(crate) fn items_in(frame: &[u8]) -> usize {
    let fitting = frame.len().saturating_sub(HEADER_BYTES) / ITEM_HEADER_BYTES;
    let claimed = frame.get(1..HEADER_BYTES).and_then(|count| count.try_into().ok());
    claimed.map_or(0, |count| fitting.min(u32::from_le_bytes(count) as usize))
}

/// Reads a frame's items. The count is checked against the frame's length before anything is allocated for it.
fn decode_items<'a, T>(
    frame: &'a [u8],
    mut each: impl FnMut(RawItem<'a>) -> Result<T, Malformed>,
) -> Result<Vec<T>, Malformed> {
    let mut reader = Reader::new(frame);
    let version = reader.u8("a frame")?;
    if version != VERSION {
        return Err(Malformed::UnknownVersion { found: version, known: VERSION });
    }
    let count = reader.u32("a frame")?;
    let fitting = (frame.len() - HEADER_BYTES) / ITEM_HEADER_BYTES;
    if count > FRAME_ITEMS_MAX || count as usize > fitting {
        return Err(Malformed::Truncated { what: "a frame's items" });
    }
    let mut items = Vec::with_capacity(count as usize);
    for _ in 0..count {
        let id = reader.u64("an item")?;
        let kind = reader.u8("an item")?;
        let payload = reader.bytes("an item")?;
        items.push(each(RawItem { id, kind, payload })?);
    }
    reader.finish()?;
    Ok(items)
}

/// A yes or no.
fn read_bool(reader: &mut Reader<'_>, what: &'static str) -> Result<bool, Malformed> {
    match reader.u8(what)? {
        0 => Ok(false),
        1 => Ok(true),
        tag => Err(Malformed::UnknownTag { what, tag }),
    }
}

/// Something that may be missing: a byte 0, or a byte 1 and the thing.
fn read_option<T>(
    reader: &mut Reader<'_>,
    what: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, Malformed>,
) -> Result<Option<T>, Malformed> {
    if read_bool(reader, what)? { read(reader).map(Some) } else { Ok(None) }
}

fn put_option<T>(out: &mut Vec<u8>, value: Option<T>, put: impl FnOnce(&mut Vec<u8>, T)) {
    out.put_u8(u8::from(value.is_some()));
    if let Some(value) = value {
        put(out, value);
    }
}

/// Text for people: whatever is not UTF-8 is replaced, and what is longer than `TEXT_BYTES_MAX` cut off.
fn read_text(reader: &mut Reader<'_>, what: &'static str) -> Result<String, Malformed> {
    let bytes = reader.bytes(what)?;
    Ok(String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_BYTES_MAX)]).into_owned())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.put_bytes(&text.as_bytes()[..text.len().min(TEXT_BYTES_MAX)]);
}

/// The most bytes of a text.
const TEXT_BYTES_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests;
