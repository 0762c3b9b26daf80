//! The bytes between a container runtime and an NRI plugin: one Unix socket carries two connections, and each
//! connection carries ttrpc messages. Pure: bytes in, messages out.
//!
//! ```text
//! frame    id of the connection, 4 | length, 4 | that many bytes of the connection
//! message  length, 4 | stream, 4 | kind, 1 | flags, 1 | that many bytes       (all big-endian)
//! ```
//!
//! A message may be split over several frames. A length above [`MAX_MESSAGE`] is refused, so incomplete messages never
//! occupy more memory than three messages of that size.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The longest message that ttrpc allows.
pub(super) const MAX_MESSAGE: usize = 4 << 20;
const FRAME_HEADER: usize = 8;
const MESSAGE_HEADER: usize = 10;
/// How many bytes one read may return.
const READ: usize = 16 << 10;
/// The longest message that the runtime can read. It reads each frame into a buffer of this size.
const MAX_SENT: usize = 4096;

/// One of the two connections on the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Conn {
    /// The runtime calls the plugin.
    Plugin,
    /// The plugin calls the runtime.
    Runtime,
}

/// The role of a message in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TtrpcKind {
    /// A call.
    Request,
    /// The answer to the request of the same stream.
    Response,
}

/// One ttrpc message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TtrpcMessage {
    /// The connection that carries it.
    pub conn: Conn,
    /// Number of the call. The caller uses odd numbers.
    pub stream: u32,
    /// Its role.
    pub kind: TtrpcKind,
    /// Its content.
    pub payload: Bytes,
}

/// Bytes that are not NRI. The start of the next message cannot be found after one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// The length exceeds [`MAX_MESSAGE`].
    #[error("a message has {0} bytes; the limit is {MAX_MESSAGE}")]
    Oversized(usize),
    /// A kind that NRI does not use.
    #[error("a message has kind {0}, which NRI does not use")]
    Kind(u8),
}

impl TtrpcMessage {
    /// Encodes the message as one frame.
    pub(super) fn encode(&self) -> Bytes {
        let length = MESSAGE_HEADER + self.payload.len();
        debug_assert!(length <= MAX_SENT, "the runtime cannot read {length} bytes at once");
        let mut bytes = BytesMut::with_capacity(FRAME_HEADER + length);
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

/// Decodes messages from the socket's bytes, wherever reads split them.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    incoming: BytesMut,
    plugin: BytesMut,
    runtime: BytesMut,
}

impl Decoder {
    /// The buffer for the socket's next bytes. Undecoded bytes stay at its start.
    pub(super) fn incoming(&mut self) -> &mut BytesMut {
        self.incoming.reserve(READ);
        &mut self.incoming
    }

    /// The next message. `None`: it is not complete yet.
    ///
    /// # Errors
    /// The bytes are not NRI.
    pub(super) fn next(&mut self) -> Result<Option<TtrpcMessage>, WireError> {
        loop {
            for conn in [Conn::Plugin, Conn::Runtime] {
                if let Some(message) = take(conn, self.of(conn))? {
                    return Ok(Some(message));
                }
            }
            let Some((id, content)) = self.frame()? else { return Ok(None) };
            // Other connections are not for this plugin.
            if let Some(conn) = Conn::of(id) {
                self.of(conn).unsplit(content);
            }
        }
    }

    fn of(&mut self, conn: Conn) -> &mut BytesMut {
        match conn {
            Conn::Plugin => &mut self.plugin,
            Conn::Runtime => &mut self.runtime,
        }
    }

    fn frame(&mut self) -> Result<Option<(u32, BytesMut)>, WireError> {
        let Some(mut header) = self.incoming.get(..FRAME_HEADER) else { return Ok(None) };
        let (id, length) = (header.get_u32(), header.get_u32() as usize);
        if length > MESSAGE_HEADER + MAX_MESSAGE {
            return Err(WireError::Oversized(length));
        }
        if self.incoming.len() < FRAME_HEADER + length {
            return Ok(None);
        }
        self.incoming.advance(FRAME_HEADER);
        Ok(Some((id, self.incoming.split_to(length))))
    }
}

fn take(conn: Conn, bytes: &mut BytesMut) -> Result<Option<TtrpcMessage>, WireError> {
    let Some(mut header) = bytes.get(..MESSAGE_HEADER) else { return Ok(None) };
    let (length, stream, kind) = (header.get_u32() as usize, header.get_u32(), header.get_u8());
    if length > MAX_MESSAGE {
        return Err(WireError::Oversized(length));
    }
    let kind = TtrpcKind::of(kind).ok_or(WireError::Kind(kind))?;
    if bytes.len() < MESSAGE_HEADER + length {
        return Ok(None);
    }
    bytes.advance(MESSAGE_HEADER);
    Ok(Some(TtrpcMessage { conn, stream, kind, payload: bytes.split_to(length).freeze() }))
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

impl TtrpcKind {
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
