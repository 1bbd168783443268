//! The sockets: taking addresses, and accepting.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use super::{Address, Settings};

/// Connections that may wait to be accepted at a Unix socket, as at TCP's.
const BACKLOG: i32 = 1_024;

/// A socket that clients connect to.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(TcpListener),
    Tls(TcpListener),
    /// The path is removed at the end where we made it.
    Unix(UnixListener, PathBuf, Owned),
}

/// The owner of a Unix socket's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owned {
    Ours,
    Passed,
}

/// A connection that was accepted.
pub(super) enum Accepted {
    Tcp(TcpStream, SocketAddr),
    Tls(TcpStream, SocketAddr),
    Unix(UnixStream),
}

impl Socket {
    pub(super) async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Tcp(tcp) => tcp.accept().await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
            Self::Tls(tcp) => tcp.accept().await.map(|(stream, peer)| Accepted::Tls(stream, peer)),
            Self::Unix(unix, ..) => unix.accept().await.map(|(stream, _)| Accepted::Unix(stream)),
        }
    }

    /// True if only this machine reaches it.
    pub(super) fn is_local(&self) -> bool {
        match self {
            Self::Tcp(tcp) | Self::Tls(tcp) => {
                tcp.local_addr().is_ok_and(|address| address.ip().is_loopback())
            }
            Self::Unix(..) => true,
        }
    }

    pub(super) fn address(&self) -> Option<Address> {
        match self {
            Self::Tcp(tcp) => tcp.local_addr().ok().map(Address::Tcp),
            Self::Tls(tcp) => tcp.local_addr().ok().map(Address::Tls),
            Self::Unix(_, path, _) => Some(Address::Unix(path.clone())),
        }
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path, Owned::Ours) = self {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes what `address` names: one socket, or all that systemd passed.
pub(super) async fn bind(address: &Address, settings: &Settings, has_tls: bool) -> io::Result<Vec<Socket>> {
    Ok(match address {
        Address::Tcp(address) => vec![Socket::Tcp(TcpListener::bind(address).await?)],
        Address::Tls(address) => vec![Socket::Tls(TcpListener::bind(address).await?)],
        Address::Unix(path) => vec![Socket::Unix(bind_unix(path, settings)?, path.clone(), Owned::Ours)],
        Address::Systemd => passed(settings, has_tls)?,
    })
}

fn bind_unix(path: &Path, settings: &Settings) -> io::Result<UnixListener> {
    remove_stale(path)?;
    let socket = bind_private(path)?;
    let (user, group) = settings.unix_owner;
    if user.is_some() || group.is_some() {
        std::os::unix::fs::chown(path, user, group)?;
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(settings.unix_mode))?;
    Ok(socket)
}

/// Binds a socket for nobody but its owner: until it has its mode, others could connect. Linux takes the mode of a socket
/// over to its file. The umask would do it too, but belongs to all threads: what others made meanwhile had its mode.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None)?;
    rustix::fs::fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&socket2::SockAddr::unix(path)?)?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket.into())
}

/// Removes a socket that nobody listens on any more; one that is in use, or no socket, is an error.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "a file that is no socket is there"));
        }
        Ok(_) => {}
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The sockets of `LISTEN_FDS` (`sd_listen_fds(3)`). A TCP one that other machines reach speaks TLS.
fn passed(settings: &Settings, has_tls: bool) -> io::Result<Vec<Socket>> {
    let mut given = listenfd::ListenFd::from_env();
    let refused = |what: &str| io::Error::new(io::ErrorKind::InvalidInput, what.to_owned());
    let mut sockets = Vec::new();
    for at in 0..given.len() {
        if let Ok(Some(unix)) = given.take_unix_listener(at) {
            unix.set_nonblocking(true)?;
            let path = unix.local_addr()?.as_pathname().map(Path::to_owned).unwrap_or_default();
            sockets.push(Socket::Unix(UnixListener::from_std(unix)?, path, Owned::Passed));
            continue;
        }
        let tcp = given
            .take_tcp_listener(at)?
            .ok_or_else(|| refused("systemd passed something that is no socket"))?;
        tcp.set_nonblocking(true)?;
        let is_local = tcp.local_addr()?.ip().is_loopback();
        let tcp = TcpListener::from_std(tcp)?;
        if !is_local && !settings.has_clients {
            return Err(refused(
                "systemd passed a socket that other machines reach: set access.clients_file, so that clients are known",
            ));
        }
        sockets.push(match (is_local, has_tls) {
            (true, _) => Socket::Tcp(tcp),
            (false, true) => Socket::Tls(tcp),
            (false, false) if settings.allow_plain_http => Socket::Tcp(tcp),
            (false, false) => {
                return Err(refused(
                    "systemd passed a socket that other machines reach: set tls.certificate and tls.key, or listener.allow_plain_http",
                ));
            }
        });
    }
    if sockets.is_empty() { Err(refused("systemd passed no socket (LISTEN_FDS)")) } else { Ok(sockets) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_socket_is_its_owners_from_the_start_and_no_other_file_gets_its_mode() {
        let directory = tempfile::tempdir().expect("a directory");
        let made = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").expect("written");
            mode_of(&path)
        };
        let before = made("before");
        let binding: Vec<_> = (0..8)
            .map(|thread| {
                let folder = directory.path().to_owned();
                tokio::task::spawn_blocking(move || {
                    for number in 0..50 {
                        let path = folder.join(format!("{thread}-{number}"));
                        let _socket = bind_private(&path).expect("bound");
                        assert_eq!(mode_of(&path), 0o600);
                    }
                })
            })
            .collect();
        for number in 0..200 {
            assert_eq!(made(&format!("meanwhile-{number}")), before);
        }
        for binding in binding {
            binding.await.expect("no panic");
        }
        assert_eq!(made("after"), before);
    }
}
