//! Bare sockets for tests that treat the program badly, and the good client that must not notice.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use exportgate::fake::State;
use socket2::{Domain, SockRef, Socket, Type};

use super::results;

/// Nothing that these tests wait for may take longer: over it, it is a hang.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Connects from `source`. The buffers between are so small that what one end does not take, the other
/// soon cannot send: by default they hold megabytes on loopback.
pub(crate) fn narrow(address: SocketAddr, source: Ipv4Addr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_tcp_mss(536)?;
    socket.set_recv_buffer_size(4_096)?;
    socket.bind(&SocketAddr::from((source, 0)).into())?;
    socket.connect(&address.into())?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(stream)
}

/// Ends a connection with RST instead of FIN: its client is gone for certain.
pub(crate) fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a socket");
    drop(stream);
}

/// Repeats `look` until it finds something.
pub(crate) fn poll<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// What comes until the connection ends; however that is.
pub(crate) fn rest(mut stream: &TcpStream) -> Vec<u8> {
    let (mut all, mut chunk) = (Vec::new(), [0; 16_384]);
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => return all,
            Ok(n) => all.extend_from_slice(&chunk[..n]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return all,
            Err(error) => panic!("a hang: {error}"),
        }
    }
}

/// The most memory that a process ever had, in MiB.
pub(crate) fn peak_memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("its memory");
    line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number") / 1_024
}

/// A finished export with a document of about `bytes`; it is stored.
pub(crate) fn large_export(bytes: usize) -> State {
    let blank = " ".repeat(bytes);
    State::Raw {
        status: 200,
        headers: vec![("content-type".into(), "application/vnd.api+json".into())],
        body: format!(
            r#"{{"data":{{"attributes":{{"created":"2024-11-25T10:21:01.584Z","finished":"2024-11-25T10:21:01.584Z","formats":["csv"],"results":[{{}}{blank}],"status":"FINISHED"}},"id":"d6b640e5-d88c-4c17-9bf0-93597b7a1ce2","type":"resource"}},"jsonapi":{{"version":"1.0"}}}}"#
        )
        .into(),
    }
}

/// One request on a connection that is kept: the status, and how many bytes the body had.
pub(crate) fn ask(connection: &mut BufReader<TcpStream>, target: &str) -> io::Result<(u16, usize)> {
    write!(connection.get_mut(), "GET {target} HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    read_answer(connection).map(|(status, body)| (status, body.len()))
}

/// The next answer on a connection that is kept: the status and the body.
pub(crate) fn read_answer(connection: &mut BufReader<TcpStream>) -> io::Result<(u16, Vec<u8>)> {
    let (mut status, mut length) = (0, 0);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(code) = line.strip_prefix("HTTP/1.1 ") {
            status = code[..3].parse().map_err(io::Error::other)?;
        } else if let Some(text) = line.to_ascii_lowercase().strip_prefix("content-length: ") {
            length = text.trim_end().parse().map_err(io::Error::other)?;
        } else if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok((status, body))
}

/// A connection that is not waited for longer than [`DEADLINE`].
pub(crate) fn connect(address: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    Ok(BufReader::new(stream))
}

/// A client that asks all the time, on one connection and now and then on a new one: `e1` is there, and
/// what it makes up is not.
pub(crate) struct Good {
    answered: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
    asking: JoinHandle<Vec<Duration>>,
}

impl Good {
    pub(crate) fn begin(address: SocketAddr) -> Self {
        let (answered, done) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, is_done) = (Arc::clone(&answered), Arc::clone(&done));
        let asking = std::thread::spawn(move || {
            let mut kept = connect(address).expect("it accepts");
            let mut taken = Vec::new();
            while !is_done.load(Ordering::Relaxed) {
                let asked = taken.len();
                let (target, expected) = if asked % 4 == 3 {
                    (results(&format!("none-{asked}")), 404)
                } else {
                    (results("e1"), 200)
                };
                let begun = Instant::now();
                let got = if asked % 16 == 0 {
                    connect(address).and_then(|mut other| ask(&mut other, &target))
                } else {
                    ask(&mut kept, &target)
                };
                taken.push(begun.elapsed());
                assert_eq!(got.expect("an answer").0, expected, "the good client's request {asked}");
                count.fetch_add(1, Ordering::Relaxed);
            }
            taken
        });
        Self { answered, done, asking }
    }

    /// Waits until it was answered so often from now on.
    pub(crate) fn answered_more(&self, times: usize) {
        let before = self.answered.load(Ordering::Relaxed);
        let begun = Instant::now();
        while self.answered.load(Ordering::Relaxed) < before + times && !self.asking.is_finished() {
            assert!(begun.elapsed() < 2 * DEADLINE, "the good client hangs");
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }

    /// Ends it: how long each answer took. Panics where one was not as it should be.
    pub(crate) fn end(self) -> Vec<Duration> {
        self.done.store(true, Ordering::Relaxed);
        self.asking.join().expect("the good client was answered all along")
    }
}
