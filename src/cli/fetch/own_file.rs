//! The files of the state. None is opened through a link: an archive or a checkout may bring a folder of that name, with links
//! in it that lead elsewhere.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Opens a file to read it.
pub(super) fn read(path: &Path) -> io::Result<File> {
    open(path, File::options().read(true))
}

/// Opens a file to write behind what it has, or makes it. One that has a second name is refused; one that was just deleted has none.
pub(super) fn append(path: &Path) -> io::Result<File> {
    let file = open(path, File::options().append(true).create(true))?;
    if file.metadata()?.nlink() <= 1 { Ok(file) } else { Err(refused()) }
}

/// Makes a file anew, in place of one that is there.
pub(super) fn create(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => open(path, File::options().write(true).create_new(true)),
    }
}

fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // Without NONBLOCK, a pipe would wait for its other end.
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let file = options.custom_flags(flags).open(path).map_err(|error| {
        if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) { refused() } else { error }
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refused()) }
}

fn refused() -> io::Error {
    io::Error::other("is a link or no file, and nothing is read or written through it: remove it")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn no_link_and_no_pipe_is_opened() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        std::fs::write(at("mine"), "mine").expect("written");
        for (name, target) in [("link", at("mine")), ("dangling", at("new"))] {
            std::os::unix::fs::symlink(target, at(name)).expect("a link");
            assert!(read(&at(name)).is_err() && append(&at(name)).is_err(), "{name}");
            create(&at(name)).and_then(|mut file| file.write_all(b"ours")).expect("a file of ours");
            assert!(at(name).symlink_metadata().expect("there").is_file(), "{name}");
        }
        std::fs::hard_link(at("mine"), at("twin")).expect("a link");
        assert!(append(&at("twin")).is_err());
        create(&at("twin")).and_then(|mut file| file.write_all(b"ours")).expect("a file of ours");
        assert_eq!(std::fs::read(at("mine")).expect("read"), b"mine");
        assert!(!at("new").exists());
        rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::RWXU).expect("a pipe");
        assert!(read(&at("pipe")).is_err() && append(&at("pipe")).is_err());
    }
}
