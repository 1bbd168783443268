//! The layout of a table (pure): where each byte of it comes from. One header, then the rows of all parts in order; byte
//! order marks go, and a missing last line end is added.

use super::conditions::ByteSpan;

/// The line end that is added where a part has none at its end.
pub(super) const LINE_END: &[u8] = b"\n";

/// The facts of a part that its place in a table depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartShape {
    /// Its size; none where the store decodes it as it sends it.
    pub(super) size: Option<u64>,
    /// The length of its header with line end and byte order mark.
    pub(super) header: u64,
    /// The length of its byte order mark.
    pub(super) bom: u64,
    /// True if its last byte is a line feed.
    pub(super) ends_line: bool,
}

/// A table made of parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    /// All parts in order: one that brings no byte is proven too.
    places: Vec<TablePlace>,
    /// Its size; none where that of a part is not known.
    size: Option<u64>,
}

/// The place of a part in a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TablePlace {
    /// The part, from 0.
    pub(super) part: usize,
    /// Bytes at its start that the table does not have.
    pub(super) skipped: u64,
    /// Bytes of the part in the table; 0 where its size is not known.
    len: u64,
    /// The position of its first byte in the table.
    start: u64,
    /// True if a line end is added behind it.
    gets_line_end: bool,
    /// True if it brings bytes, or may.
    brings_bytes: bool,
}

/// Bytes of a table that come from one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stretch {
    /// Of a part, from 0.
    Part { part: usize, span: ByteSpan },
    /// [`LINE_END`].
    LineEnd,
}

impl Layout {
    /// The layout of a table of `parts`. An empty part brings nothing, not even a header; the first other one brings its
    /// header.
    pub(super) fn new(parts: &[PartShape]) -> Self {
        let (mut places, mut size, mut has_header) = (Vec::new(), 0, false);
        for (part, shape) in parts.iter().enumerate() {
            let skipped = if has_header { shape.header } else { shape.bom };
            let len = shape.size.unwrap_or_default().saturating_sub(skipped);
            has_header |= shape.header > 0;
            let brings_bytes = len > 0 || shape.size.is_none();
            let gets_line_end = brings_bytes && !shape.ends_line;
            places.push(TablePlace { part, skipped, len, start: size, gets_line_end, brings_bytes });
            size += len + u64::from(gets_line_end);
        }
        Self { places, size: Some(size).filter(|_| parts.iter().all(|shape| shape.size.is_some())) }
    }

    pub(super) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// The places in the order of their proofs: those that bring no byte come first, for a table looks whole with its last byte.
    pub(super) fn in_order_of_proof(&self) -> Vec<TablePlace> {
        let (mut places, others): (Vec<_>, Vec<_>) =
            self.places.iter().partition(|place| !place.brings_bytes);
        places.extend(others);
        places
    }

    /// The stretches of `span` in order, which must be in a table of known size.
    pub(super) fn stretches(&self, span: ByteSpan) -> Vec<Stretch> {
        let first = self.places.partition_point(|place| place.end() <= span.first);
        let within = self.places[first..].iter().take_while(|place| place.start <= span.last);
        within.flat_map(|place| place.stretches(span)).collect()
    }
}

impl TablePlace {
    /// The position in the table behind it and its added line end.
    const fn end(&self) -> u64 {
        self.start + self.len + self.gets_line_end as u64
    }

    fn stretches(&self, span: ByteSpan) -> impl Iterator<Item = Stretch> + use<> {
        let Self { part, skipped, start, len, .. } = *self;
        let bytes_end = start + len;
        let of_part = (len > 0 && span.first < bytes_end).then(|| {
            let first = span.first.max(start) - start + skipped;
            let last = span.last.min(bytes_end - 1) - start + skipped;
            Stretch::Part { part, span: ByteSpan { first, last } }
        });
        let line_end = (self.gets_line_end && span.last >= bytes_end).then_some(Stretch::LineEnd);
        of_part.into_iter().chain(line_end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::csv::Header;

    fn sample(name: &str) -> &'static [u8] {
        match name {
            "a1" => include_bytes!("../fake/store/samples/a1.csv"),
            "a2" => include_bytes!("../fake/store/samples/a2.csv"),
            "a3" => include_bytes!("../fake/store/samples/a3.csv"),
            "b1" => include_bytes!("../fake/store/samples/b1.csv"),
            "c1" => include_bytes!("../fake/store/samples/c1.csv"),
            "d1" => include_bytes!("../fake/store/samples/d1.csv"),
            "d2" => include_bytes!("../fake/store/samples/d2.csv"),
            "e1" => include_bytes!("../fake/store/samples/e1.csv"),
            "e2" => include_bytes!("../fake/store/samples/e2.csv"),
            "g1" => include_bytes!("../fake/store/samples/g1.csv"),
            "h1" => include_bytes!("../fake/store/samples/h1.csv"),
            "j1" => include_bytes!("../fake/store/samples/j1.csv"),
            _ => panic!("no sample {name}"),
        }
    }

    fn shape(data: &[u8]) -> PartShape {
        let header = Header::of(data, true).expect("a header");
        PartShape {
            size: Some(data.len() as u64),
            header: header.len() as u64,
            bom: if header.has_bom() { 3 } else { 0 },
            ends_line: data.last().is_none_or(|last| *last == b'\n'),
        }
    }

    fn at(place: u64) -> usize {
        usize::try_from(place).expect("small")
    }

    fn bytes(layout: &Layout, parts: &[&[u8]], span: ByteSpan) -> Vec<u8> {
        let stretches = layout.stretches(span);
        stretches
            .into_iter()
            .flat_map(|stretch| match stretch {
                Stretch::Part { part, span } => parts[part][at(span.first)..=at(span.last)].to_vec(),
                Stretch::LineEnd => LINE_END.to_vec(),
            })
            .collect()
    }

    #[test]
    fn every_range_of_every_table_equals_the_slice() {
        for (names, expected) in [
            (&["d1", "d2"][..], &b"A,B\n1,x\n2,y\n"[..]),
            (&["e1", "e2"], b"A,B\n1,x\n2,y\n"),
            (&["d1", "e2"], b"A,B\n1,x\n2,y\n"),
            (&["e1"], b"A,B\n1,x\n"),
            (&["h1", "e1", "h1", "d2", "h1"], b"A,B\n1,x\n2,y\n"),
            (&["c1"], sample("c1")),
            (&["g1"], sample("g1")),
            (&["j1"], sample("j1")),
            (&["b1", "b1"], sample("b1")),
            (&["a1", "b1"], sample("a1")),
            (&["h1"], b""),
            (&[], b""),
            (&["a1", "a2", "a3"], &[sample("a1"), &sample("a2")[60..], &sample("a3")[60..]].concat()),
            (&["a1", "b1", "a2"], &[sample("a1"), &sample("a2")[60..]].concat()),
        ] {
            let parts: Vec<&[u8]> = names.iter().map(|name| sample(name)).collect();
            let layout = Layout::new(&parts.iter().map(|part| shape(part)).collect::<Vec<_>>());
            let size = expected.len() as u64;
            assert_eq!(layout.size(), Some(size), "{names:?}");
            for first in 0..size {
                for last in first..size {
                    let slice = &expected[at(first)..=at(last)];
                    assert_eq!(
                        bytes(&layout, &parts, ByteSpan { first, last }),
                        slice,
                        "{names:?} {first} {last}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_sizes_of_the_design_come_out() {
        let size = |names: &[&str]| {
            Layout::new(&names.iter().map(|name| shape(sample(name))).collect::<Vec<_>>()).size()
        };
        assert_eq!((size(&["a1", "a2", "a3"]), size(&["a1", "b1", "a2"])), (Some(592), Some(363)));
    }
}
