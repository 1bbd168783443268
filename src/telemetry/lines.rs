//! Lines on their way to standard error.
//!
//! A line that may wait is gathered with others, and a thread of its own writes them together. None is lost and none is
//! told before an earlier one: who finds no room waits, and so does who must not wait, behind those that came before.

use std::io::{ErrorKind, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memchr::memchr;

/// How long a line waits for others.
const WAIT: Duration = Duration::from_millis(5);
/// Bytes that are written without waiting for more.
const ENOUGH: usize = 64 * 1024;
/// Bytes that are gathered while earlier ones are being written; who brings more waits.
const FULL: usize = 1024 * 1024;
/// Between tries, where what takes the lines is slow and does not block.
const SLOW: Duration = Duration::from_millis(1);

/// Lines that are gathered, and where they go.
#[derive(Debug)]
pub(super) struct Lines<W> {
    gathered: Mutex<Gathered>,
    /// Told to the thread that writes.
    news: Condvar,
    /// Held while lines are written, and taken before `gathered`.
    out: Mutex<Out<W>>,
}

#[derive(Debug, Default)]
struct Gathered {
    text: Vec<u8>,
    /// At how many bytes the thread that writes wants to be told; `None`: not at all.
    wake_at: Option<usize>,
    /// There is no such thread any more: everybody writes at once.
    is_closed: bool,
}

#[derive(Debug)]
struct Out<W> {
    to: W,
    /// What is being written; empty otherwise.
    text: Vec<u8>,
    /// Part of a line was written last, and the rest could not be.
    is_torn: bool,
}

impl<W: Write + Send + 'static> Lines<W> {
    /// Has a thread write to `to` what is gathered.
    ///
    /// # Errors
    /// When there can be no such thread.
    pub(super) fn begin(to: W) -> std::io::Result<Arc<Self>> {
        let lines = Arc::new(Self {
            gathered: Mutex::default(),
            news: Condvar::new(),
            out: Mutex::new(Out { to, text: Vec::new(), is_torn: false }),
        });
        let writing = Arc::clone(&lines);
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writing.follow())?;
        Ok(lines)
    }

    /// Takes a line. One that `may_wait` is written within [`WAIT`], unless earlier ones take longer; any other, with
    /// those that came before it, has been written when this returns.
    pub(super) fn take(&self, line: &[u8], may_wait: bool) {
        let mut gathered = lock(&self.gathered);
        gathered.text.extend_from_slice(line);
        let size = gathered.text.len();
        if !may_wait || gathered.is_closed || size >= FULL {
            drop(gathered);
            self.write();
        } else if gathered.wake_at.is_some_and(|enough| size >= enough) {
            gathered.wake_at = None;
            drop(gathered);
            self.news.notify_one();
        }
    }

    /// Writes what is gathered.
    pub(super) fn write(&self) {
        let mut out = lock(&self.out);
        let Out { to, text, is_torn } = &mut *out;
        std::mem::swap(text, &mut lock(&self.gathered).text);
        write_all(to, text, is_torn);
        text.clear();
        // What a slow reader made them need is given back.
        text.shrink_to(2 * ENOUGH);
    }

    /// Writes what is gathered, and every line at once from now on.
    pub(super) fn close(&self) {
        lock(&self.gathered).is_closed = true;
        self.news.notify_one();
        self.write();
    }

    /// Writes what is gathered, over and over, until it is closed.
    fn follow(&self) {
        loop {
            // Who wakes us does so once; whoever waits again wants to be told again.
            let is_short = |gathered: &mut Gathered, enough: usize| {
                let is_short = gathered.text.len() < enough && !gathered.is_closed;
                gathered.wake_at = is_short.then_some(enough);
                is_short
            };
            let gathered = self.news.wait_while(lock(&self.gathered), |gathered| is_short(gathered, 1));
            let gathered = gathered.unwrap_or_else(PoisonError::into_inner);
            let waited = self.news.wait_timeout_while(gathered, WAIT, |gathered| is_short(gathered, ENOUGH));
            let mut gathered = waited.unwrap_or_else(PoisonError::into_inner).0;
            gathered.wake_at = None;
            let is_closed = gathered.is_closed;
            drop(gathered);
            self.write();
            if is_closed {
                return;
            }
        }
    }
}

/// Writes all of `text`, or the lines of it that there is room for where a disk is full. Where nobody reads any more it
/// is lost, for there is nobody to tell.
fn write_all(to: &mut impl Write, mut text: &[u8], is_torn: &mut bool) {
    // Whether part of the line that comes next is written.
    let mut is_begun = false;
    while !text.is_empty() {
        // Half a line must not spoil the next one too.
        let next = if *is_torn { b"\n".as_slice() } else { text };
        match to.write(next) {
            Ok(0) => return *is_torn |= is_begun,
            Ok(_) if *is_torn => *is_torn = false,
            Ok(written) => {
                let (done, rest) = text.split_at(written.min(text.len()));
                is_begun = !done.ends_with(b"\n");
                text = rest;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            // As if it blocked.
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(SLOW),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return,
            Err(_) => {
                *is_torn |= std::mem::take(&mut is_begun);
                text = memchr(b'\n', text).map_or(&[], |end| &text[end + 1..]);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Takes a write when the test does, as a pipe whose reader is slow.
    struct Pipe(SyncSender<Vec<u8>>, fn(usize) -> std::io::Result<usize>);

    impl Write for Pipe {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = (self.1)(bytes.len())?;
            self.0.send(bytes[..taken].to_vec()).map_err(|_| ErrorKind::BrokenPipe)?;
            Ok(taken)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn pipe() -> (Pipe, Receiver<Vec<u8>>) {
        let (to, from) = sync_channel(0);
        (Pipe(to, Ok), from)
    }

    fn line(number: usize) -> Vec<u8> {
        format!("{number:099}\n").into_bytes()
    }

    #[test]
    fn a_line_that_may_wait_is_written_with_nothing_behind_it() {
        let (to, from) = pipe();
        let lines = Lines::begin(to).expect("a thread");
        for number in 0..3 {
            lines.take(&line(number), true);
            assert_eq!(from.recv().expect("it is written"), line(number));
        }
    }

    #[test]
    fn none_is_lost_or_told_out_of_order_before_a_slow_reader() {
        const WRITERS: usize = 4;
        const EACH: usize = 5_000;
        let (mut to, from) = pipe();
        // A part at a time, as pipes do.
        to.1 = |length| Ok(length.div_ceil(2));
        let lines = Lines::begin(to).expect("a thread");
        let read = std::thread::spawn(move || from.iter().flatten().collect::<Vec<u8>>());
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let lines = &lines;
                scope.spawn(move || {
                    for number in 0..EACH {
                        lines.take(&line(writer * EACH + number), number % 100 != 0);
                    }
                });
            }
        });
        lines.close();
        let text = read_to_end(lines, read);
        let told: Vec<usize> = text.lines().map(|line| line.parse().expect("a whole line")).collect();
        assert_eq!(told.len(), WRITERS * EACH);
        for writer in 0..WRITERS {
            let of_one = told.iter().filter(|number| **number / EACH == writer);
            assert!(of_one.copied().eq(writer * EACH..(writer + 1) * EACH));
        }
    }

    /// All that was read, once nobody writes any more.
    fn read_to_end(lines: Arc<Lines<Pipe>>, read: std::thread::JoinHandle<Vec<u8>>) -> String {
        // The thread that writes ends too, and the pipe with the last of both.
        drop(lines);
        String::from_utf8(read.join().expect("a reader")).expect("text")
    }

    #[test]
    fn who_must_not_wait_has_been_told_when_it_goes_on_and_so_has_who_came_before() {
        let (to, from) = pipe();
        let lines = Lines::begin(to).expect("a thread");
        let writer = Arc::clone(&lines);
        let writing = std::thread::spawn(move || {
            writer.take(&line(0), true);
            writer.take(&line(1), false);
        });
        let mut read = Vec::new();
        while read.len() < 2 * line(0).len() {
            assert!(!writing.is_finished());
            read.extend(from.recv().expect("it is written"));
        }
        writing.join().expect("it goes on");
        assert_eq!(read, [line(0), line(1)].concat());
    }

    #[test]
    fn who_finds_no_room_waits_and_memory_is_bounded() {
        let (to, from) = pipe();
        let lines = Lines::begin(to).expect("a thread");
        let (writer, all) = (Arc::clone(&lines), 4 * FULL / line(0).len());
        let writing =
            std::thread::spawn(move || (0..all).for_each(|number| writer.take(&line(number), true)));
        let (mut read, mut most) = (0, 0);
        while read < all * line(0).len() {
            most = most.max(lock(&lines.gathered).text.len());
            read += from.recv().expect("it is written").len();
        }
        writing.join().expect("it goes on");
        assert!(most < FULL + line(0).len(), "{most}");
    }

    /// A disk with room for so many bytes, where one more is found at each other try.
    struct Disk(usize, Vec<u8>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let taken = self.0.min(bytes.len());
            self.0 = self.0 - taken + usize::from(taken == 0) * 150;
            self.1.extend_from_slice(&bytes[..taken]);
            if taken == 0 { Err(ErrorKind::StorageFull.into()) } else { Ok(taken) }
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_the_lines_that_found_no_room_and_spoils_no_other() {
        let (mut disk, mut is_torn) = (Disk(120, Vec::new()), false);
        for number in 0..20 {
            let text = [line(2 * number), line(2 * number + 1)].concat();
            write_all(&mut disk, &text, &mut is_torn);
        }
        let text = String::from_utf8(disk.1).expect("text");
        let whole: Vec<&str> = text.lines().filter(|line| line.len() == 99).collect();
        assert!(whole.len() > 15 && text.lines().count() > whole.len(), "{text}");
        assert!(whole.iter().all(|line| line.parse::<usize>().is_ok()));
        assert!(text.lines().all(|line| line.len() <= 99), "{text}");
    }

    #[test]
    fn what_waits_is_written_at_the_end_and_what_comes_later_at_once() {
        let (to, from) = pipe();
        let lines = Arc::new(Lines {
            gathered: Mutex::default(),
            news: Condvar::new(),
            out: Mutex::new(Out { to, text: Vec::new(), is_torn: false }),
        });
        // There is no thread: only the end can write it.
        lines.take(&line(0), true);
        let writer = Arc::clone(&lines);
        let writing = std::thread::spawn(move || {
            writer.close();
            writer.take(&line(1), true);
        });
        assert_eq!(from.recv().expect("it is written"), line(0));
        assert_eq!(from.recv().expect("it is written"), line(1));
        writing.join().expect("it goes on");
    }

    #[test]
    fn nobody_waits_for_a_reader_that_has_gone() {
        let (to, from) = pipe();
        drop(from);
        let lines = Lines::begin(to).expect("a thread");
        for number in 0..3 * FULL / line(0).len() {
            lines.take(&line(number), number % 2 == 0);
        }
        lines.close();
        assert!(lock(&lines.gathered).text.is_empty());
    }
}
