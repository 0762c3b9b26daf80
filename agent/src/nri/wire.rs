//! The bytes between a container runtime and an NRI plugin: one Unix socket, two connections on it,
//! ttrpc messages on each. Pure: bytes in, messages out.
//!
//! ```text
//! trunk    id of the connection, 4 | length, 4 | that many bytes of the connection
//! message  length, 4 | stream, 4 | kind, 1 | flags, 1 | that many bytes       (all big-endian)
//! ```
//!
//! A message may lie in several pieces on the trunk, and no length is believed beyond [`MAX_MESSAGE`]:
//! what waits for its rest is never more than three messages of that size.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Longest message ttrpc knows.
pub const MAX_MESSAGE: usize = 4 << 20;
const TRUNK_HEADER: usize = 8;
const HEADER: usize = 10;
/// Bytes read at once.
const READ: usize = 16 << 10;
/// The runtime reads a piece of the trunk into a buffer of this size, and fails if it does not fit.
const MAX_SENT: usize = 4096;

/// One of the two connections on the trunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conn {
    /// The runtime asks the plugin.
    Plugin,
    /// The plugin asks the runtime.
    Runtime,
}

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks.
    Request,
    /// Answers the request of the same stream.
    Response,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Where it came, or goes.
    pub conn: Conn,
    /// Number of the request; who asks counts in odd numbers.
    pub stream: u32,
    /// What it is.
    pub kind: Kind,
    /// What it says.
    pub payload: Bytes,
}

/// What is no NRI. There is no way to find the next message after one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A length that nobody means.
    #[error("a message of {0} bytes, and {MAX_MESSAGE} are the most")]
    Oversized(usize),
    /// Streams of data, or something new.
    #[error("a message of kind {0}, which NRI has not")]
    Kind(u8),
}

impl Message {
    /// The bytes for the trunk, in one piece.
    pub fn encode(&self) -> Bytes {
        let length = HEADER + self.payload.len();
        debug_assert!(length <= MAX_SENT, "the runtime cannot read {length} bytes at once");
        let mut bytes = BytesMut::with_capacity(TRUNK_HEADER + length);
        bytes.put_u32(self.conn.id());
        bytes.put_u32(length as u32);
        bytes.put_u32(self.payload.len() as u32);
        bytes.put_u32(self.stream);
        bytes.put_u8(self.kind.number());
        bytes.put_u8(0);
        bytes.put_slice(&self.payload);
        bytes.freeze()
    }
}

/// Takes messages out of the trunk's bytes, however they are cut.
#[derive(Debug, Default)]
pub struct Decoder {
    trunk: BytesMut,
    plugin: BytesMut,
    runtime: BytesMut,
}

impl Decoder {
    /// Where the trunk's next bytes go, after those that wait: with room for some.
    pub fn trunk(&mut self) -> &mut BytesMut {
        self.trunk.reserve(READ);
        &mut self.trunk
    }

    /// The next message; `None` while its end has not come.
    ///
    /// # Errors
    /// What was read is no NRI.
    pub fn next(&mut self) -> Result<Option<Message>, WireError> {
        loop {
            for conn in [Conn::Plugin, Conn::Runtime] {
                if let Some(message) = take(conn, self.of(conn))? {
                    return Ok(Some(message));
                }
            }
            let Some((id, piece)) = self.piece()? else { return Ok(None) };
            // Whatever is said on further connections is not for us.
            if let Some(conn) = Conn::of(id) {
                self.of(conn).unsplit(piece);
            }
        }
    }

    fn of(&mut self, conn: Conn) -> &mut BytesMut {
        match conn {
            Conn::Plugin => &mut self.plugin,
            Conn::Runtime => &mut self.runtime,
        }
    }

    fn piece(&mut self) -> Result<Option<(u32, BytesMut)>, WireError> {
        let Some(mut header) = self.trunk.get(..TRUNK_HEADER) else { return Ok(None) };
        let (id, length) = (header.get_u32(), header.get_u32() as usize);
        if length > HEADER + MAX_MESSAGE {
            return Err(WireError::Oversized(length));
        }
        if self.trunk.len() < TRUNK_HEADER + length {
            return Ok(None);
        }
        self.trunk.advance(TRUNK_HEADER);
        Ok(Some((id, self.trunk.split_to(length))))
    }
}

fn take(conn: Conn, bytes: &mut BytesMut) -> Result<Option<Message>, WireError> {
    let Some(mut header) = bytes.get(..HEADER) else { return Ok(None) };
    let (length, stream, kind) = (header.get_u32() as usize, header.get_u32(), header.get_u8());
    if length > MAX_MESSAGE {
        return Err(WireError::Oversized(length));
    }
    let kind = Kind::of(kind).ok_or(WireError::Kind(kind))?;
    if bytes.len() < HEADER + length {
        return Ok(None);
    }
    bytes.advance(HEADER);
    Ok(Some(Message { conn, stream, kind, payload: bytes.split_to(length).freeze() }))
}

impl Conn {
    const fn id(self) -> u32 {
        match self {
            Self::Plugin => 1,
            Self::Runtime => 2,
        }
    }

    const fn of(id: u32) -> Option<Self> {
        match id {
            1 => Some(Self::Plugin),
            2 => Some(Self::Runtime),
            _ => None,
        }
    }
}

impl Kind {
    const fn number(self) -> u8 {
        match self {
            Self::Request => 1,
            Self::Response => 2,
        }
    }

    const fn of(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Request),
            2 => Some(Self::Response),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
