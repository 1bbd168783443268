//! The source of a part's bytes, and the facts about them.

use std::fs::{File, read_dir};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::made::{HEADER, MadeTable};

/// Bytes that are read at once.
const CHUNK: usize = 64 * 1024;

/// The bytes of a part. A clone is the same part.
#[derive(Debug, Clone)]
pub struct PartSource {
    content: Content,
    size: u64,
    facts: Arc<Facts>,
}

#[derive(Debug, Clone)]
enum Content {
    Bytes(Bytes),
    File(Arc<File>),
    Made(MadeTable),
}

/// The facts about a part, found out once.
#[derive(Debug, Default)]
struct Facts {
    rows: OnceLock<u64>,
    /// The CRC32C of the object, and of the one that takes its place.
    crc32c: [OnceLock<u32>; 2],
}

impl PartSource {
    /// A part of just these bytes.
    #[must_use]
    pub fn bytes(bytes: impl Into<Bytes>) -> Self {
        let bytes = bytes.into();
        Self::new(bytes.len() as u64, Content::Bytes(bytes))
    }

    /// A CSV table of exactly `size` bytes (183 at the least), made while it is read. Its records are numbered from
    /// `first` on, so that no two stretches are equal.
    #[must_use]
    pub fn made(size: u64, first: u64) -> Self {
        let table = MadeTable { size: size.max(MadeTable::LEAST), first };
        Self::new(table.size, Content::Made(table))
    }

    /// So many parts of `size` bytes each, as [`Self::made`], whose records are numbered through.
    #[must_use]
    pub fn made_table(parts: u32, size: u64) -> Vec<Self> {
        let mut first = 1;
        let part = |_| {
            let part = Self::made(size, first);
            first += part.rows();
            part
        };
        (0..parts).map(part).collect()
    }

    /// A file, which must stay as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn file(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        Ok(Self::new(file.metadata()?.len(), Content::File(Arc::new(file))))
    }

    /// The files of a folder that end in `.csv`, in the order of their names, with numbers in them by their value.
    ///
    /// # Errors
    /// When the folder or a file cannot be read, or there is none.
    pub fn folder(folder: &Path) -> io::Result<Vec<Self>> {
        let entries = read_dir(folder)?.map(|entry| entry.map(|entry| entry.path()));
        let mut paths: Vec<_> = entries.collect::<Result<_, _>>()?;
        paths.retain(|path| path.extension().is_some_and(|end| end == "csv") && path.is_file());
        paths.sort_by_cached_key(|path| natural(&path.file_name().unwrap_or_default().to_string_lossy()));
        if paths.is_empty() {
            return Err(io::Error::other(format!("{}: there is no .csv file in it", folder.display())));
        }
        paths.iter().map(|path| Self::file(path)).collect()
    }

    /// The parts of an export of issues.
    #[must_use]
    pub fn issues(parts: u32) -> Vec<Self> {
        (1..=parts).map(|part| Self::bytes(issues_of(part))).collect()
    }

    /// Samples by their names, such as `["a1", "b1"]`; unknown ones are left out.
    #[must_use]
    pub fn samples(names: &[&str]) -> Vec<Self> {
        let sample = |name: &&str| SAMPLES.iter().find(|sample| sample.name == *name);
        names.iter().filter_map(sample).map(|sample| Self::bytes(sample.bytes)).collect()
    }

    fn new(size: u64, content: Content) -> Self {
        Self { content, size, facts: Arc::default() }
    }

    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Its records without the header.
    #[must_use]
    pub fn rows(&self) -> u64 {
        *self.facts.rows.get_or_init(|| match self.content {
            Content::Made(table) => table.rows(),
            Content::Bytes(_) | Content::File(_) => self.count_rows(),
        })
    }

    /// The CRC32C of its bytes.
    #[must_use]
    pub fn crc32c(&self) -> u32 {
        self.crc32c_of(false)
    }

    pub(super) fn crc32c_of(&self, is_changed: bool) -> u32 {
        *self.facts.crc32c[usize::from(is_changed)].get_or_init(|| {
            self.chunks().fold(0, |crc, chunk| crc32c::crc32c_append(crc, &variant(chunk, is_changed)))
        })
    }

    /// All its bytes.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.chunks()
            .fold(Vec::new(), |mut all, chunk| {
                all.extend_from_slice(&chunk);
                all
            })
            .into()
    }

    /// The bytes from `at` on, at most `most`; those of the object that takes its place where it is changed.
    pub(super) fn read(&self, at: u64, most: usize, is_changed: bool) -> Bytes {
        variant(self.plain(at, most), is_changed)
    }

    fn plain(&self, at: u64, most: usize) -> Bytes {
        let most = usize::try_from(self.size.saturating_sub(at)).unwrap_or(usize::MAX).min(most);
        match &self.content {
            Content::Bytes(bytes) => {
                let at = usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                bytes.slice(at..at + most)
            }
            Content::Made(table) => table.read(at, most).into(),
            Content::File(file) => {
                let mut bytes = vec![0; most];
                // A file that changed under us reads as zeros: its hash tells.
                let _ = file.read_exact_at(&mut bytes, at);
                bytes.into()
            }
        }
    }

    fn chunks(&self) -> impl Iterator<Item = Bytes> {
        (0..self.size).step_by(CHUNK).map(|at| self.plain(at, CHUNK))
    }

    /// Ends of records outside quotes; the last may have none.
    fn count_rows(&self) -> u64 {
        let (mut rows, mut is_quoted, mut last) = (0_u64, false, b'\n');
        for byte in self.chunks().flatten() {
            is_quoted ^= byte == b'"';
            rows += u64::from(byte == b'\n' && !is_quoted);
            last = byte;
        }
        (rows + u64::from(last != b'\n')).saturating_sub(1)
    }
}

/// Another object of the same shape: the case of all letters is changed.
fn variant(bytes: Bytes, is_changed: bool) -> Bytes {
    if !is_changed {
        return bytes;
    }
    let other = |byte: &u8| if byte.is_ascii_alphabetic() { byte ^ 0x20 } else { *byte };
    bytes.iter().map(other).collect()
}

/// A name as its texts and the numbers between them.
fn natural(name: &str) -> Vec<(String, u64)> {
    let mut pieces = Vec::new();
    let mut rest = name;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let (text, after) = rest.split_at(digits);
        let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        let (number, after) = after.split_at(end);
        pieces.push((text.to_owned(), number.parse().unwrap_or(u64::MAX)));
        rest = after;
    }
    pieces
}

/// A part as Snyk writes it: a header, and records with quotes, lists, commas and line breaks in them.
fn issues_of(part: u32) -> String {
    const ISSUES: [&str; 8] = [
        "Critical,\"[\"\"CVE-2031-0001\"\",\"\"CVE-2031-0002\"\"]\",Prototype Pollution",
        "Low,[],Use of Weak Hash",
        "High,\"[\"\"CVE-2031-0003\"\"]\",\"Denial of Service, by regular expression\"",
        "Medium,[],\"Says \"\"eval\"\" and\nbreaks the line\"",
        "High,\"[\"\"CVE-2031-0004\"\"]\",SQL Injection",
        "Medium,\"[\"\"CVE-2031-0005\"\"]\",Open Redirect",
        "Low,[],\"Hard-coded, non-cryptographic secret\"",
        "Critical,\"[\"\"CVE-2031-0006\"\"]\",Remote Code Execution",
    ];
    let mut text = HEADER.to_owned();
    for row in 1..=25_u32 {
        let issue = ISSUES[(part + row) as usize % ISSUES.len()];
        let (day, hour) = (1 + row, (part + row) % 24);
        let line = format!(
            "https://app.example.test/o/{part}#i{row},{issue},2031-05-{day:02} {hour:02}:00:00.000\n"
        );
        text.push_str(&line);
    }
    text
}

struct Sample {
    name: &'static str,
    bytes: &'static [u8],
}

macro_rules! samples {
    ($($name:literal),*) => {
        [$(Sample { name: $name, bytes: include_bytes!(concat!("samples/", $name, ".csv")) }),*]
    };
}

/// Files with everything that such files were seen to have.
const SAMPLES: [Sample; 17] = samples![
    "a1", "a2", "a3", "b1", "c1", "d1", "d2", "e1", "e2", "f1", "f2", "f3", "g1", "h1", "i1", "j1", "k1"
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_counted_outside_quotes() {
        let names = ["a1", "a2", "a3", "b1", "c1", "d1", "e1", "f3", "g1", "h1", "j1", "k1"];
        let rows: Vec<u64> = PartSource::samples(&names).iter().map(PartSource::rows).collect();
        assert_eq!(rows, [2, 1, 2, 0, 2, 1, 1, 1, 3, 0, 1, 1]);
        assert_eq!(PartSource::issues(1)[0].rows(), 25);
    }

    #[test]
    fn hashes_are_those_of_the_bytes() {
        // RFC 3720 §B.4.
        assert_eq!(PartSource::bytes(vec![0; 32]).crc32c(), 0x8a91_36aa);
        let made = PartSource::made(1_000_000, 1);
        assert_eq!(made.crc32c(), crc32c::crc32c(&made.to_bytes()));
        assert_eq!((made.size(), made.to_bytes().len()), (1_000_000, 1_000_000));
        assert_ne!(made.crc32c(), made.crc32c_of(true));
        assert_eq!(made.read(500, 10, true).len(), 10);
    }

    #[test]
    fn a_folder_is_read_in_the_order_of_its_numbers() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["data_1_10_0.csv", "data_1_2_0.csv", "data_1_1_0.csv", "notes.txt"] {
            std::fs::write(folder.path().join(name), format!("A\n{name}\n")).expect("a file");
        }
        let parts = PartSource::folder(folder.path()).expect("parts");
        let texts: Vec<_> = parts.iter().map(PartSource::to_bytes).collect();
        assert_eq!(texts, ["A\ndata_1_1_0.csv\n", "A\ndata_1_2_0.csv\n", "A\ndata_1_10_0.csv\n"]);
        assert_eq!(parts[0].rows(), 1);
        std::fs::create_dir(folder.path().join("empty")).expect("a folder");
        assert!(PartSource::folder(&folder.path().join("empty")).is_err());
    }
}
