//! HTTP/2 by hand (RFC 9113, RFC 7541), to say what no well-behaved client would.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 0x1;
pub(crate) const ACK: u8 = 0x1;
pub(crate) const END_HEADERS: u8 = 0x4;

pub(crate) const REFUSED_STREAM: u32 = 7;
/// `SETTINGS_INITIAL_WINDOW_SIZE`.
pub(crate) const INITIAL_WINDOW: u16 = 4;

/// What the blocks of answers begin with: the status from the static table, or by its Huffman code.
pub(crate) const OK: &[u8] = &[0x88];
pub(crate) const BAD_REQUEST: &[u8] = &[0x8c];
pub(crate) const TOO_LARGE: &[u8] = &[0x48, 0x83, 0x69, 0x90, 0xff];

/// A frame.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

impl Frame {
    /// The code of `RST_STREAM`.
    pub(crate) fn code(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().expect("a code"))
    }
}

/// A frame's bytes.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a short frame");
    let mut bytes = length.to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// HPACK's text: never Huffman-coded.
fn text(bytes: &mut Vec<u8>, text: &str) {
    // The integer of RFC 7541 §5.1 with a prefix of seven bits.
    let mut left = text.len();
    if left < 127 {
        bytes.push(u8::try_from(left).expect("a short text"));
    } else {
        bytes.push(127);
        left -= 127;
        while left >= 128 {
            bytes.push(u8::try_from(left % 128 + 128).expect("seven bits"));
            left /= 128;
        }
        bytes.push(u8::try_from(left).expect("seven bits"));
    }
    bytes.extend(text.as_bytes());
}

/// A field; one that is kept gets index 62 of the table.
pub(crate) fn field(is_kept: bool, name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![if is_kept { 0x40 } else { 0x00 }];
    text(&mut bytes, name);
    text(&mut bytes, value);
    bytes
}

/// The block of a request.
pub(crate) fn block(method: &str, target: &str) -> Vec<u8> {
    fields(&[(":method", method), (":scheme", "http"), (":authority", "localhost"), (":path", target)])
}

/// A block of these fields.
pub(crate) fn fields(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| field(false, name, value)).collect()
}

/// A request without a body.
pub(crate) fn get(stream: u32, target: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block("GET", target))
}

/// A request whose body is to come.
pub(crate) fn post(stream: u32, target: &str) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, &block("POST", target))
}

/// A connection.
pub(crate) struct Connection(pub(crate) TcpStream);

impl Connection {
    /// Says how it begins, with settings.
    pub(crate) fn open(stream: TcpStream, settings: &[(u16, u32)]) -> Self {
        let mut payload = Vec::new();
        for (name, value) in settings {
            payload.extend(name.to_be_bytes());
            payload.extend(value.to_be_bytes());
        }
        let mut connection = Self(stream);
        connection.send(PREFACE);
        connection.send(&frame(SETTINGS, 0, 0, &payload));
        connection
    }

    /// Sends; whether the connection was still there.
    pub(crate) fn send(&mut self, bytes: &[u8]) -> bool {
        match self.0.write_all(bytes) {
            Ok(()) => true,
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                panic!("neither taken nor closed: {error}")
            }
            Err(_) => false,
        }
    }

    /// The next frame; none when the connection has ended.
    pub(crate) fn next(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.read(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.read(&mut payload)?;
        Some(Frame { kind, flags, stream: u32::from_be_bytes(stream), payload })
    }

    fn read(&mut self, bytes: &mut [u8]) -> Option<()> {
        match self.0.read_exact(bytes) {
            Err(error) if [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut].contains(&error.kind()) => {
                panic!("a hang: {error}")
            }
            read => read.ok(),
        }
    }

    /// Everything until the connection ends.
    pub(crate) fn rest(mut self) -> Vec<Frame> {
        std::iter::from_fn(|| self.next()).collect()
    }

    /// The first frame that is `sought`.
    pub(crate) fn find(&mut self, sought: impl Fn(&Frame) -> bool) -> Option<Frame> {
        std::iter::from_fn(|| self.next()).find(sought)
    }
}
