//! A network between a gateway and its engine: it can be cut, and it can lose messages.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;

/// The beginning of a message in RESP3.
const MESSAGE: &[u8] = b">3\r\n$7\r\nmessage\r\n";

/// Passes bytes on to an engine.
pub(crate) struct EngineRelay {
    directory: TempDir,
    /// True while nothing goes through: connections stay open, and are lost when it ends.
    is_cut: watch::Sender<bool>,
    state: Arc<RelayState>,
}

#[derive(Default)]
struct RelayState {
    loses_messages: AtomicBool,
    lost: AtomicUsize,
}

impl EngineRelay {
    pub(crate) fn to(engine: &Path) -> Self {
        let directory = TempDir::new().unwrap();
        let listener = UnixListener::bind(directory.path().join("relay.sock")).unwrap();
        let (is_cut, state) = (watch::Sender::new(false), Arc::<RelayState>::default());
        let (engine, cut, shared) = (engine.to_owned(), is_cut.subscribe(), Arc::clone(&state));
        tokio::spawn(async move {
            while let Ok((gateway, _)) = listener.accept().await {
                let (engine, mut cut, state) = (engine.clone(), cut.clone(), Arc::clone(&shared));
                tokio::spawn(async move {
                    let is_cut_already = *cut.borrow();
                    if is_cut_already {
                        drop(cut.wait_for(|is_cut| !is_cut).await);
                        return;
                    }
                    // An engine that is away closes the connection.
                    let Ok(server) = UnixStream::connect(&engine).await else { return };
                    carry(gateway, server, &mut cut, &state).await;
                });
            }
        });
        Self { directory, is_cut, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("unix:{}", self.path().display())
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("relay.sock")
    }

    pub(crate) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    pub(crate) fn heal(&self) {
        self.is_cut.send_replace(false);
    }

    /// Loses messages, and passes on all else.
    pub(crate) fn lose_messages(&self, loses: bool) {
        self.state.loses_messages.store(loses, Ordering::SeqCst);
    }

    /// Number of messages that were lost.
    pub(crate) fn lost(&self) -> usize {
        self.state.lost.load(Ordering::SeqCst)
    }
}

/// Passes bytes on until an end closes; after a cut nothing, until it is over.
async fn carry(gateway: UnixStream, server: UnixStream, cut: &mut watch::Receiver<bool>, state: &RelayState) {
    let ((from, to), (back, forth)) = (gateway.into_split(), server.into_split());
    let mut passing = std::pin::pin!(async {
        tokio::select! {
            () = pass(from, forth, None) => {}
            () = pass(back, to, Some(state)) => {}
        }
    });
    let is_cut = async { drop(cut.wait_for(|is_cut| *is_cut).await) };
    tokio::select! {
        () = &mut passing => return,
        () = is_cut => {}
    }
    drop(cut.wait_for(|is_cut| !is_cut).await);
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: Option<&RelayState>) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        let mut bytes = buffer[..count].to_vec();
        if let Some(state) = state.filter(|state| state.loses_messages.load(Ordering::SeqCst)) {
            while let Some(without) = without_message(&bytes) {
                state.lost.fetch_add(1, Ordering::SeqCst);
                bytes = without;
            }
        }
        if to.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The bytes without their first message; `None` where there is none. A message comes in one piece here.
fn without_message(bytes: &[u8]) -> Option<Vec<u8>> {
    let at = bytes.windows(MESSAGE.len()).position(|window| window == MESSAGE)?;
    // The channel and the text follow: each has a line with its length.
    let mut lines = bytes[at + MESSAGE.len()..].split_inclusive(|b| *b == b'\n');
    let rest: usize = (0..4).map(|_| lines.next().map_or(0, <[u8]>::len)).sum();
    Some([&bytes[..at], &bytes[at + MESSAGE.len() + rest..]].concat())
}
