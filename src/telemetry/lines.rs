//! Lines on their way to standard error. Logging never waits for the reader of the log.
//!
//! `tracing-appender` carries the lines to a thread that writes them. It bounds lines, not bytes, and its guard waits a
//! second at most, so this file counts the bytes that wait: beyond the bound lines are dropped, and a stop waits for the
//! rest as long as somebody reads.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use memchr::memchr_iter;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};

/// A line counts as at least this many bytes, so that the channel always has a place for one that fits the bound.
const LEAST: usize = 512;
/// Bytes that are written without waiting for more.
const CHUNK: usize = 64 * 1024;
/// Pause after a write. Lines that come meanwhile are written together, and need not wake the thread.
const GATHER: Duration = Duration::from_millis(5);
/// Pause before the next try, where standard error does not block and takes nothing.
const RETRY: Duration = Duration::from_millis(1);
/// Longest wait at a stop for a reader that reads nothing.
const STUCK: Duration = Duration::from_secs(1);
/// Interval at which a stop checks that everything is written.
const LOOK: Duration = Duration::from_millis(1);

/// Takes lines and never blocks.
#[derive(Debug)]
pub(super) struct LogLines {
    to: NonBlocking,
    counts: Arc<LineCounts>,
    /// Dropped only in tests: the subscriber of the process lives as long as the process.
    _writer: WorkerGuard,
}

#[derive(Debug)]
struct LineCounts {
    /// Bytes that wait to be written.
    waiting: AtomicUsize,
    most: usize,
    dropped: AtomicU64,
}

impl LogLines {
    /// Starts a thread that writes lines to `to`. At most `most` bytes wait for it.
    pub(super) fn begin(to: impl Write + Send + 'static, most: usize) -> Self {
        let counts = Arc::new(LineCounts { waiting: AtomicUsize::new(0), most, dropped: AtomicU64::new(0) });
        let out =
            Out { to, text: Vec::new(), cost: 0, is_torn: false, counts: Arc::clone(&counts), reported: 0 };
        let appender =
            NonBlockingBuilder::default().thread_name("log").buffered_lines_limit(most / LEAST + 1);
        let (to, writer) = appender.finish(out);
        Self { to, counts, _writer: writer }
    }

    /// Takes a line to be written soon; drops and counts it where too many bytes wait.
    pub(super) fn take(&self, line: &[u8]) {
        let LineCounts { waiting, most, dropped } = &*self.counts;
        let cost = line.len().max(LEAST);
        if waiting.fetch_add(cost, Ordering::Relaxed) + cost > *most {
            waiting.fetch_sub(cost, Ordering::Relaxed);
            dropped.fetch_add(1, Ordering::Relaxed);
        } else {
            // It never fails.
            let _ = self.to.clone().write_all(line);
        }
    }

    /// Lines that were dropped since the start.
    pub(super) fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }

    /// Waits until everything is written: for `most` of a time, and for [`STUCK`] where nobody reads.
    pub(super) fn finish(&self, most: Duration) {
        let waiting = || self.counts.waiting.load(Ordering::Relaxed);
        let (mut least, mut waited, mut stuck) = (waiting(), Duration::ZERO, Duration::ZERO);
        while least > 0 && waited < most && stuck < STUCK {
            std::thread::sleep(LOOK);
            (waited, stuck) = (waited + LOOK, stuck + LOOK);
            let left = waiting();
            if left < least {
                (least, stuck) = (left, Duration::ZERO);
            }
        }
    }
}

/// For `tracing-subscriber`, which writes each event with one call.
impl Write for &LogLines {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.take(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Writes lines on the thread. It gets each line whole, and a flush when no more wait.
struct Out<W> {
    to: W,
    text: Vec<u8>,
    /// Bytes that the lines in `text` count as.
    cost: usize,
    /// The end of the line that was written last was lost.
    is_torn: bool,
    counts: Arc<LineCounts>,
    /// Dropped lines that were reported in the log.
    reported: u64,
}

impl<W: Write> Out<W> {
    /// Writes `text`, or as much of it as there is room for. Returns how many lines are lost.
    fn send(&mut self) -> u64 {
        let mut rest = self.text.as_slice();
        while !rest.is_empty() {
            // Half a line must not spoil the next one too.
            let next = if self.is_torn { b"\n".as_slice() } else { rest };
            match self.to.write(next) {
                Ok(written) if written > 0 && self.is_torn => self.is_torn = false,
                Ok(written) if written > 0 => rest = &rest[written.min(rest.len())..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // As if it blocked.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(RETRY),
                Ok(_) | Err(_) => break,
            }
        }
        let lost = memchr_iter(b'\n', rest).count() as u64;
        let written = &self.text[..self.text.len() - rest.len()];
        self.is_torn |= written.last().is_some_and(|last| *last != b'\n');
        self.counts.dropped.fetch_add(lost, Ordering::Relaxed);
        self.text.clear();
        self.counts.waiting.fetch_sub(std::mem::take(&mut self.cost), Ordering::Relaxed);
        lost
    }

    /// Logs how many lines were dropped since it did so last.
    fn report(&mut self) {
        let dropped = self.counts.dropped.load(Ordering::Relaxed);
        let count = dropped - std::mem::replace(&mut self.reported, dropped);
        if count > 0 {
            tracing::warn!(
                log.lines_dropped = count,
                "{count} log lines dropped: the log is read too slowly, or its disk is full"
            );
        }
    }
}

impl<W: Write> Write for Out<W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.text.extend_from_slice(line);
        self.cost += line.len().max(LEAST);
        if self.text.len() >= CHUNK {
            self.send();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        // The report would be lost too until a line gets through again.
        if self.send() == 0 {
            self.report();
        }
        std::thread::sleep(GATHER);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, PipeReader, pipe};
    use std::time::Instant;

    use super::*;

    const MOST: usize = 1024 * 1024;
    const SLOW: Duration = Duration::from_secs(30);

    fn line(number: usize) -> Vec<u8> {
        format!("{number:099}\n").into_bytes()
    }

    fn read(from: PipeReader) -> std::thread::JoinHandle<Vec<usize>> {
        let numbers =
            |from| BufReader::new(from).lines().map(|line| line.expect("a line").parse().expect("whole"));
        std::thread::spawn(move || numbers(from).collect())
    }

    #[test]
    fn a_reader_that_reads_loses_none_of_100_000_lines_and_gets_those_of_each_thread_in_order() {
        const WRITERS: usize = 4;
        const EACH: usize = 25_000;
        let (from, to) = pipe().expect("a pipe");
        let lines = LogLines::begin(to, MOST);
        let read = read(from);
        std::thread::scope(|scope| {
            for writer in 0..WRITERS {
                let lines = &lines;
                scope.spawn(move || {
                    for number in 0..EACH {
                        // Nobody logs faster than a reader can read for long.
                        while lines.counts.waiting.load(Ordering::Relaxed) > MOST / 2 {
                            std::thread::yield_now();
                        }
                        lines.take(&line(writer * EACH + number));
                    }
                });
            }
        });
        lines.finish(SLOW);
        assert_eq!(lines.dropped(), 0);
        drop(lines);
        let read = read.join().expect("a reader");
        assert_eq!(read.len(), WRITERS * EACH);
        for writer in 0..WRITERS {
            let of_one = read.iter().copied().filter(|number| number / EACH == writer);
            assert!(of_one.eq(writer * EACH..(writer + 1) * EACH));
        }
    }

    #[test]
    fn nobody_waits_for_a_reader_that_reads_nothing_and_what_it_misses_is_counted() {
        const LINES: usize = 20_000;
        let (from, to) = pipe().expect("a pipe");
        let lines = LogLines::begin(to, MOST);
        (0..LINES).for_each(|number| lines.take(&line(number)));
        let dropped = lines.dropped();
        assert!(dropped > 0 && lines.counts.waiting.load(Ordering::Relaxed) <= MOST);
        // Nor does a stop, for long.
        let begun = Instant::now();
        lines.finish(SLOW);
        assert!(begun.elapsed() >= STUCK && begun.elapsed() < SLOW);
        // What was kept is read whole, once somebody reads.
        let read = read(from);
        lines.finish(SLOW);
        drop(lines);
        assert_eq!(read.join().expect("a reader").len() as u64, LINES as u64 - dropped);
    }

    #[test]
    fn a_line_is_written_with_nothing_behind_it() {
        let (from, to) = pipe().expect("a pipe");
        let (lines, mut from) = (LogLines::begin(to, MOST), BufReader::new(from));
        for number in 0..3 {
            lines.take(&line(number));
            let mut read = Vec::new();
            from.read_until(b'\n', &mut read).expect("a line");
            assert_eq!(read, line(number));
        }
    }

    #[test]
    fn lines_for_a_reader_that_has_gone_are_counted() {
        let (from, to) = pipe().expect("a pipe");
        drop(from);
        let lines = LogLines::begin(to, MOST);
        (0..100).for_each(|number| lines.take(&line(number)));
        lines.finish(SLOW);
        assert_eq!((lines.dropped(), lines.counts.waiting.load(Ordering::Relaxed)), (100, 0));
    }

    /// Has room for some bytes, and for some more after each write that found none.
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
        let counts =
            Arc::new(LineCounts { waiting: AtomicUsize::new(0), most: MOST, dropped: AtomicU64::new(0) });
        let to = Disk(120, Vec::new());
        let mut out = Out { to, text: Vec::new(), cost: 0, is_torn: false, counts, reported: 0 };
        let mut lost = 0;
        for number in 0..20 {
            out.text = [line(2 * number), line(2 * number + 1)].concat();
            lost += out.send();
        }
        let text = String::from_utf8(out.to.1).expect("text");
        let whole: Vec<&str> = text.lines().filter(|line| line.len() == 99).collect();
        assert!(whole.len() > 15 && text.lines().count() > whole.len(), "{text}");
        assert!(whole.iter().all(|line| line.parse::<usize>().is_ok()));
        assert!(text.lines().all(|line| line.len() <= 99), "{text}");
        assert_eq!(whole.len() as u64 + lost, 40);
    }
}
