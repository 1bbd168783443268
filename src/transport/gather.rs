//! Reading a body into memory, in which room is made for it as it comes.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body;

use super::memory::{Connection, Memory, SMALL};
use super::pool::{Need, NoRoom, Room, Share, Size};
use crate::error_text::BoxError;

/// First reservation for a body of unknown length, in bytes.
const LEAST: usize = 4 * 1024;
/// The pieces in which a body is gathered whose length is not known, in bytes.
const PIECE: usize = 256 * 1024;

/// A body was not gathered.
#[derive(Debug, thiserror::Error)]
pub enum GatherError {
    /// There was no room in time.
    #[error(transparent)]
    NoRoom(#[from] NoRoom),
    /// The body broke off, or is larger than it may be.
    #[error("the body cannot be read")]
    Body(#[source] BoxError),
}

/// The sender of a body that is gathered.
#[derive(Debug, Clone, Copy)]
pub enum BodySource<'a> {
    /// A client's: room is made for what has come, on its connection too.
    Client(&'a Connection),
    /// The upstream's: room is made for what it announces.
    Upstream,
    /// The same, to a request that cannot be repeated: while it is small, room or not.
    UpstreamOnce,
}

impl Memory {
    /// Reads a body into one piece of memory, for `client`.
    ///
    /// # Errors
    /// [`GatherError`].
    pub async fn gather<B>(
        &self,
        body: B,
        source: BodySource<'_>,
        client: &Arc<str>,
    ) -> Result<(Bytes, Room), GatherError>
    where
        B: Body<Data = Bytes, Error: Into<BoxError>>,
    {
        let size = body.size_hint();
        let most = size.upper().and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let mut room = Gathering { memory: self, source, client, most, share: None, on_connection: None };
        let mut gathered = Pieces::default();
        if size.exact().is_some() && !matches!(source, BodySource::Client(_)) {
            room.make(most).await?;
            gathered = Pieces::of(most);
        }
        let mut body = pin!(body);
        while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
            // What is no data is a trailer section, which nobody looks at.
            let Ok(data) = frame.map_err(|error| GatherError::Body(error.into()))?.into_data() else {
                continue;
            };
            room.make(gathered.len + data.len()).await?;
            gathered.push(&data);
        }
        Ok(room.hold(gathered.whole()))
    }
}

/// A body's bytes, and the room that is held for them.
struct Owner {
    bytes: Vec<u8>,
    _room: Room,
    _on_connection: Option<Share>,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A body as it comes. It is copied: what hyper hands over may be little of a large buffer. A vector that grows would leave
/// holes of many sizes behind, which an allocator keeps.
#[derive(Default)]
struct Pieces {
    full: Vec<Vec<u8>>,
    last: Vec<u8>,
    /// Largest size of a piece; `0` for the usual size.
    piece: usize,
    len: usize,
}

impl Pieces {
    /// A body of so many bytes, in one piece.
    fn of(len: usize) -> Self {
        Self { last: Vec::with_capacity(len), piece: len, ..Self::default() }
    }

    fn push(&mut self, mut data: &[u8]) {
        let piece = self.piece.max(PIECE);
        self.len += data.len();
        while !data.is_empty() {
            if self.last.len() == piece {
                self.full.push(std::mem::replace(&mut self.last, Vec::with_capacity(piece)));
            }
            let (now, later) = data.split_at(data.len().min(piece - self.last.len()));
            self.last.extend_from_slice(now);
            data = later;
        }
    }

    /// All of it, in memory of its size.
    fn whole(self) -> Vec<u8> {
        let Self { full, last, len, .. } = self;
        if full.is_empty() && last.capacity() - len <= len / 8 {
            return last;
        }
        let mut whole = Vec::with_capacity(len);
        // Each piece is given back as soon as it is copied.
        full.into_iter().chain([last]).for_each(|piece| whole.extend_from_slice(&piece));
        whole
    }
}

/// The room that is made for a body while it is gathered.
struct Gathering<'a> {
    memory: &'a Memory,
    source: BodySource<'a>,
    client: &'a Arc<str>,
    /// The longest that the body can be.
    most: usize,
    share: Option<Share>,
    on_connection: Option<Share>,
}

impl Gathering<'_> {
    /// Makes room for `bytes` in all. It doubles, so that a body does not come with a little more each time.
    async fn make(&mut self, bytes: usize) -> Result<(), NoRoom> {
        if self.share.as_ref().is_some_and(|share| share.bytes() >= bytes) {
            return Ok(());
        }
        let wanted = bytes.next_power_of_two().max(LEAST).min(self.most).max(bytes);
        let size = if wanted == self.most { Size::Known } else { Size::Grows };
        let need = Need { bytes: wanted, size };
        if let BodySource::Client(connection) = self.source {
            self.memory.room_on(connection, &mut self.on_connection, need).await?;
        }
        if wanted <= SMALL && matches!(self.source, BodySource::UpstreamOnce) {
            self.share = Some(self.memory.room_at_once(self.client, wanted));
            return Ok(());
        }
        self.memory.room(&mut self.share, self.client, need).await
    }

    /// Holds as much of it as is need.
    fn hold(self, bytes: Vec<u8>) -> (Bytes, Room) {
        let shrunk = |share: Option<Share>| {
            share.map(|mut share| {
                share.set(bytes.len());
                share
            })
        };
        let (room, on_connection) = (shrunk(self.share), shrunk(self.on_connection));
        let room = Room::of(room);
        (Bytes::from_owner(Owner { bytes, _room: room.clone(), _on_connection: on_connection }), room)
    }
}
