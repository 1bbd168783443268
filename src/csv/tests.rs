#![expect(clippy::expect_used, reason = "tests")]

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

/// A part, and its records as Python's `csv` counts them.
struct Sample {
    name: &'static str,
    text: &'static [u8],
    records: u64,
    /// The length of the header.
    header: usize,
    is_cut: bool,
    ends_with_record: bool,
}

/// The header that most of them have.
macro_rules! columns {
    () => {
        "ISSUE_URL,ISSUE_SEVERITY,CVE,PROBLEM_TITLE,FIRST_INTRODUCED\n"
    };
}

const SAMPLES: [Sample; 17] = [
    Sample {
        name: "a1",
        text: concat!(
            columns!(),
            "https://app.example.test/o/1#i1,Critical,\"[\"\"CVE-2031-0001\"\",\"\"CVE-2031-0002\"\"]\",Prototype Pollution,2031-05-01 08:00:00.000\n",
            "https://app.example.test/o/1#i2,Low,[],Weak Hash,2031-05-02 09:30:00.000\n",
        )
        .as_bytes(),
        records: 3,
        header: 60,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "a2",
        text: concat!(
            columns!(),
            "https://app.example.test/o/2#i3,High,\"[\"\"CVE-2031-0003\"\"]\",\"Title, with a comma\",2031-05-03 10:00:00.000\n",
        )
        .as_bytes(),
        records: 2,
        header: 60,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "a3",
        text: concat!(
            columns!(),
            "https://app.example.test/o/3#i4,Medium,[],\"Says \"\"quoted\"\" and\n",
            "breaks the line\",2031-05-04 11:00:00.000\n",
            "https://app.example.test/o/3#i5,Low,[],\"ISSUE_URL,ISSUE_SEVERITY,CVE,PROBLEM_TITLE,FIRST_INTRODUCED\",2031-05-05 12:00:00.000\n",
        )
        .as_bytes(),
        records: 3,
        header: 60,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "b1",
        text: concat!(
            columns!(),
        )
        .as_bytes(),
        records: 1,
        header: 60,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "c1",
        text: b"A,B\r\n1,\"x\ny\"\r\n2,\"x\r\ny\"\r\n",
        records: 3,
        header: 5,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "d1",
        text: b"\xef\xbb\xbfA,B\n1,x\n",
        records: 2,
        header: 7,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "d2",
        text: b"\xef\xbb\xbfA,B\n2,y\n",
        records: 2,
        header: 7,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "e1",
        text: b"A,B\n1,x",
        records: 2,
        header: 4,
        is_cut: false,
        ends_with_record: false,
    },
    Sample {
        name: "e2",
        text: b"A,B\n2,y",
        records: 2,
        header: 4,
        is_cut: false,
        ends_with_record: false,
    },
    Sample {
        name: "f1",
        text: b"A,B\n1,x\n",
        records: 2,
        header: 4,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "f2",
        text: b"B,A\ny,2\n",
        records: 2,
        header: 4,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "f3",
        text: b"A,B,C\n3,z,0\n",
        records: 2,
        header: 6,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "g1",
        text: b"A,B\n=1+1,\"@SUM(1)\"\n-5,\"+7\"\n\t=2,ok\n",
        records: 4,
        header: 4,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "h1",
        text: b"",
        records: 0,
        header: 0,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "i1",
        text: b"A,B\n1,\"cut of",
        records: 2,
        header: 4,
        is_cut: true,
        ends_with_record: false,
    },
    Sample {
        name: "j1",
        text: b"\"A\nA\",B\n1,x\n",
        records: 2,
        header: 8,
        is_cut: false,
        ends_with_record: true,
    },
    Sample {
        name: "k1",
        text: b"A,B\n1,caf\xe9\n",
        records: 2,
        header: 4,
        is_cut: false,
        ends_with_record: true,
    },
];

fn sample(name: &str) -> &'static [u8] {
    SAMPLES.iter().find(|sample| sample.name == name).expect("a sample").text
}

fn header(text: &[u8]) -> Header {
    Header::of(text, true).expect("a header")
}

fn scan(text: &[u8], chunk: usize) -> RecordScan {
    let mut scan = RecordScan::default();
    text.chunks(chunk).for_each(|chunk| scan.feed(chunk));
    scan
}

fn read(text: &[u8], chunk: usize) -> Vec<Vec<Vec<u8>>> {
    let (mut reader, mut records) = (RecordReader::default(), Vec::new());
    let mut take = |record: Record<'_>| {
        records.push(record.fields().map(<[u8]>::to_vec).collect());
        assert_eq!(record.number, records.len() as u64);
        Ok::<(), RecordError>(())
    };
    for chunk in text.chunks(chunk) {
        reader.feed(chunk, &mut take).expect("records");
    }
    reader.finish(&mut take).expect("records");
    records
}

#[test]
fn every_sample_is_read_alike_at_any_size_of_chunk() {
    assert_eq!(size_of::<RecordScan>(), 16);
    for Sample { name, text, records, header: length, is_cut, ends_with_record } in SAMPLES {
        for chunk in 1..=text.len().max(1) {
            let scan = scan(text, chunk);
            assert_eq!(scan.records(), records, "{name} by {chunk}");
            assert_eq!(scan.is_in_quotes(), is_cut, "{name} by {chunk}");
            assert_eq!(scan.ends_with_record(), ends_with_record, "{name} by {chunk}");
            assert_eq!(read(text, chunk).len() as u64, records, "{name} by {chunk}");
        }
        let found = header(text);
        assert_eq!(found.bytes(), &text[..length], "{name}");
        for known in 0..length {
            assert_eq!(Header::of(&text[..known], false), Err(HeaderError::Unfinished), "{name} {known}");
        }
    }
}

proptest! {
    /// Blocks, words and single bytes count as one byte after the other does.
    #[test]
    fn a_scan_counts_as_one_byte_after_the_other(
        text in prop::collection::vec(prop::sample::select(b"\"\n,aaaaaaa\xa2\x8a".to_vec()), 0..700),
        chunk in 1_usize..200,
    ) {
        let (mut is_quoted, mut ended) = (false, 0);
        for byte in &text {
            is_quoted ^= *byte == b'"';
            ended += u64::from(*byte == b'\n' && !is_quoted);
        }
        let ends_with_record = !is_quoted && text.last().is_none_or(|last| *last == b'\n');
        let scan = scan(&text, chunk);
        prop_assert_eq!((scan.is_in_quotes(), scan.ends_with_record()), (is_quoted, ends_with_record));
        prop_assert_eq!(scan.records(), ended + u64::from(!ends_with_record));
    }
}

#[test]
fn headers_are_equal_but_for_byte_order_mark_and_line_end() {
    for (one, other, expected) in [
        (sample("a1"), sample("a2"), true),
        (sample("a1"), sample("b1"), true),
        (sample("d1"), sample("e1"), true),
        (sample("c1"), sample("d2"), true),
        (b"A,B", b"\xef\xbb\xbfA,B\r\n1,2\r\n", true),
        (sample("f1"), sample("f2"), false),
        (sample("f1"), sample("f3"), false),
        (sample("h1"), sample("f1"), false),
        (sample("j1"), sample("f1"), false),
    ] {
        assert_eq!(header(one).has_columns_of(&header(other)), expected);
    }
    let of = |name: &str| {
        let header = header(sample(name));
        (header.len(), header.has_bom(), header.has_line_end(), header.without_bom())
    };
    assert_eq!(of("c1"), (5, false, true, Bytes::from_static(b"A,B\r\n")));
    assert_eq!(of("d1"), (7, true, true, Bytes::from_static(b"A,B\n")));
    assert_eq!(of("h1"), (0, false, false, Bytes::new()));
    assert!(header(b"").is_empty() && header(b"").columns().is_empty());
}

#[test]
fn columns_have_their_names() {
    let names = |text: &[u8]| -> Vec<String> {
        let columns = header(text).columns().into_iter();
        columns.map(|name| String::from_utf8(name).expect("text")).collect()
    };
    assert_eq!(names(sample("a3")).len(), 5);
    assert_eq!(names(sample("a3"))[4], "FIRST_INTRODUCED");
    assert_eq!(names(sample("d1")), ["A", "B"]);
    assert_eq!(names(sample("c1")), ["A", "B"]);
    assert_eq!(names(sample("j1")), ["A\nA", "B"]);
    assert_eq!(names(b"\"a,\"\"b\"\"\",,c"), ["a,\"b\"", "", "c"]);
}

#[test]
fn a_header_has_a_longest_length() {
    let long = |length: usize| [&b"A".repeat(length - 1)[..], b"\n1\n"].concat();
    assert_eq!(header(&long(MAX_HEADER)).len(), MAX_HEADER);
    assert_eq!(Header::of(&long(MAX_HEADER)[..MAX_HEADER], false).expect("a header").len(), MAX_HEADER);
    for is_whole in [true, false] {
        assert_eq!(Header::of(&long(MAX_HEADER + 1), is_whole), Err(HeaderError::TooLong));
    }
    let one_line = b"A".repeat(MAX_HEADER);
    assert_eq!(Header::of(&one_line, false), Err(HeaderError::TooLong));
    assert_eq!(header(&one_line).len(), MAX_HEADER);
    assert_eq!(Header::of(b"A,\"B\nC", true), Err(HeaderError::Cut));
}

#[test]
fn a_long_cell_is_one_record_and_an_endless_one_is_refused() {
    let cell = "x\n\"\"".repeat(70_000 / 4);
    let text = format!("A,B\n1,\"{cell}\"\n2,y\n");
    assert_eq!(scan(text.as_bytes(), 4096).records(), 3);
    let records = read(text.as_bytes(), 4096);
    assert_eq!(records[1][1].len(), cell.len() * 3 / 4);
    let many = "a,".repeat(1000);
    assert_eq!(read(many.as_bytes(), 7)[0].len(), 1001);

    let mut reader = RecordReader::default();
    let chunk = vec![b'x'; 64 * 1024];
    reader.feed(b"A\n\"", |_| Ok::<(), RecordError>(())).expect("a header");
    let endless =
        (0..=MAX_RECORD / chunk.len()).find_map(|_| reader.feed(&chunk, |_| Ok::<(), RecordError>(())).err());
    assert_eq!(endless, Some(RecordError::TooLong { number: 2 }));
}

#[test]
fn an_error_of_the_taker_ends_the_reading() {
    #[derive(Debug, PartialEq)]
    struct Stop(u64);
    impl From<RecordError> for Stop {
        fn from(_: RecordError) -> Self {
            Self(0)
        }
    }
    let mut reader = RecordReader::default();
    let outcome = reader
        .feed(b"A\n1\n2\n3\n", |record| if record.number == 3 { Err(Stop(record.number)) } else { Ok(()) });
    assert_eq!(outcome, Err(Stop(3)));
}

/// Cells of the characters that matter.
fn cell() -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(vec!['a', ',', '"', '\n', '\r', 'é', ' ']), 0..6)
        .prop_map(String::from_iter)
}

proptest! {
    #[test]
    fn whatever_the_cells_are_they_come_back(
        rows in proptest::collection::vec(proptest::collection::vec(cell(), 2..4), 1..8),
        chunk in 1_usize..40,
        has_crlf: bool,
        has_bom: bool,
        has_end: bool,
    ) {
        let terminator = if has_crlf { ::csv::Terminator::CRLF } else { ::csv::Terminator::Any(b'\n') };
        let text = if has_bom { BOM.to_vec() } else { Vec::new() };
        let mut writer = ::csv::WriterBuilder::new().terminator(terminator).flexible(true).from_writer(text);
        for row in &rows {
            writer.write_record(row).expect("a row");
        }
        let mut text = writer.into_inner().expect("the text");
        let full = text.clone();
        if !has_end {
            text.truncate(text.len() - if has_crlf { 2 } else { 1 });
        }
        let scan = scan(&text, chunk);
        prop_assert_eq!(scan.records(), rows.len() as u64);
        prop_assert!(!scan.is_in_quotes());
        prop_assert_eq!(scan.ends_with_record(), has_end);
        let expected: Vec<Vec<Vec<u8>>> =
            rows.iter().map(|row| row.iter().map(|cell| cell.clone().into_bytes()).collect()).collect();
        prop_assert_eq!(read(&text, chunk), expected.clone());
        let header = header(&text);
        prop_assert_eq!(header.columns(), expected[0].clone());
        prop_assert_eq!(header.has_bom(), has_bom);
        prop_assert!(full.starts_with(header.bytes()));
    }

    #[test]
    fn the_size_of_the_chunks_does_not_matter(text in proptest::collection::vec(any::<u8>(), 0..200), chunk in 1_usize..50) {
        prop_assert_eq!(scan(&text, chunk), scan(&text, usize::MAX));
        prop_assert_eq!(read(&text, chunk), read(&text, usize::MAX));
        let whole = Header::of(&text, true);
        prop_assert!(whole.as_ref().err().is_none_or(|error| *error == HeaderError::Cut));
        if let Ok(header) = whole {
            prop_assert!(text.starts_with(header.bytes()));
        }
    }
}
