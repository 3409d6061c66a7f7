//! Where the lines of an input file are, read once from first to last byte.

use super::{MAX_LINE_BYTES, MAX_LINES, chunk_lines};

/// A line of an input file that is not blank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// Position in the file, counted from 1 and with blank lines: for people.
    pub position: u64,
    /// Where it starts in the file.
    pub first_byte: u64,
    /// The line without its end.
    pub text: &'a [u8],
}

/// A line is longer than [`MAX_LINE_BYTES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {position} is longer than {MAX_LINE_BYTES} bytes")]
pub struct LineTooLong {
    /// Which line, counted from 1.
    pub position: u64,
}

/// Cuts a stream of bytes into lines. Holds at most one unfinished line.
#[derive(Debug)]
pub struct LineReader {
    rest: Vec<u8>,
    offset: u64,
    position: u64,
}

impl Default for LineReader {
    fn default() -> Self {
        Self { rest: Vec::new(), offset: 0, position: 1 }
    }
}

impl LineReader {
    /// Takes the next bytes and calls `each` for every line that they end.
    pub fn push(&mut self, mut bytes: &[u8], mut each: impl FnMut(Line<'_>)) -> Result<(), LineTooLong> {
        while let Some(end) = bytes.iter().position(|b| *b == b'\n') {
            let (line, after) = (&bytes[..end], &bytes[end + 1..]);
            self.check(line.len())?;
            if self.rest.is_empty() {
                self.emit(line, &mut each);
            } else {
                let mut whole = std::mem::take(&mut self.rest);
                whole.extend_from_slice(line);
                self.emit(&whole, &mut each);
            }
            self.offset += 1;
            bytes = after;
        }
        self.check(bytes.len())?;
        self.rest.extend_from_slice(bytes);
        Ok(())
    }

    /// The last line may lack its end.
    pub fn finish(mut self, mut each: impl FnMut(Line<'_>)) {
        let whole = std::mem::take(&mut self.rest);
        self.emit(&whole, &mut each);
    }

    fn check(&self, more: usize) -> Result<(), LineTooLong> {
        if self.rest.len() + more > MAX_LINE_BYTES {
            return Err(LineTooLong { position: self.position });
        }
        Ok(())
    }

    fn emit(&mut self, text: &[u8], each: &mut impl FnMut(Line<'_>)) {
        let line = Line { position: self.position, first_byte: self.offset, text: text.trim_ascii_end() };
        if !line.text.is_empty() {
            each(line);
        }
        self.offset += text.len() as u64;
        self.position += 1;
    }
}

/// Consecutive lines that are leased together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkRange {
    /// Number of its first line, from 0, blank lines not counted.
    pub first_line: u64,
    /// How many lines.
    pub lines: u64,
    /// Where it starts in the input file.
    pub first_byte: u64,
    /// How many bytes, the end of its last line included if it has one.
    pub bytes: u64,
}

impl ChunkRange {
    /// The chunks of a file of `file_bytes` whose lines start at these bytes.
    pub fn of_lines(starts: &[u64], file_bytes: u64) -> Vec<Self> {
        let lines = starts.len() as u64;
        debug_assert!(lines <= MAX_LINES, "checked while reading");
        let size = usize::try_from(chunk_lines(lines)).expect("at most 64");
        starts
            .chunks(size)
            .enumerate()
            .map(|(index, chunk)| {
                let first = index * size;
                let end = starts.get(first + size).copied().unwrap_or(file_bytes);
                Self {
                    first_line: first as u64,
                    lines: chunk.len() as u64,
                    first_byte: chunk[0],
                    bytes: end - chunk[0],
                }
            })
            .collect()
    }

    /// The chunk's lines with their numbers, from its bytes.
    pub fn lines_in<'a>(&self, bytes: &'a [u8]) -> impl Iterator<Item = (u64, &'a [u8])> {
        let first = self.first_line;
        bytes
            .split(|b| *b == b'\n')
            .map(<[u8]>::trim_ascii_end)
            .filter(|line| !line.is_empty())
            .enumerate()
            .map(move |(i, line)| (first + i as u64, line))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(file: &[u8], step: usize) -> Vec<(u64, u64, Vec<u8>)> {
        let (mut reader, mut lines) = (LineReader::default(), Vec::new());
        let mut each = |l: Line<'_>| lines.push((l.position, l.first_byte, l.text.to_vec()));
        for part in file.chunks(step) {
            reader.push(part, &mut each).unwrap();
        }
        reader.finish(&mut each);
        lines
    }

    #[test]
    fn blank_lines_are_skipped_but_counted() {
        let lines = read(b"one\r\n\n  \ntwo\n\nthree", 2);
        let expected: [(u64, u64, &[u8]); 3] = [(1, 0, b"one"), (4, 9, b"two"), (6, 14, b"three")];
        assert_eq!(lines, expected.map(|(p, b, t)| (p, b, t.to_vec())));
    }

    #[test]
    fn a_line_without_end_is_refused_before_it_is_held() {
        let mut reader = LineReader::default();
        reader.push(b"{}\n", |_| ()).unwrap();
        let part = vec![b'x'; MAX_LINE_BYTES];
        reader.push(&part, |_| ()).unwrap();
        assert_eq!(reader.push(b"x", |_| ()), Err(LineTooLong { position: 2 }));
    }

    proptest! {
        /// However the file is cut on its way in, the chunks hold every line once, in order.
        #[test]
        fn chunks_hold_every_line_once(
            lines in prop::collection::vec("[a-z ]{0,6}[\r]{0,1}", 1..700),
            end in any::<bool>(),
            step in 1usize..50,
        ) {
            let file = lines.join("\n") + if end { "\n" } else { "" };
            let found = read(file.as_bytes(), step);
            prop_assert_eq!(&found, &read(file.as_bytes(), usize::MAX));
            let starts: Vec<u64> = found.iter().map(|l| l.1).collect();
            let mut again = Vec::new();
            for chunk in ChunkRange::of_lines(&starts, file.len() as u64) {
                let from = usize::try_from(chunk.first_byte).unwrap();
                let bytes = &file.as_bytes()[from..from + usize::try_from(chunk.bytes).unwrap()];
                let inside: Vec<_> = chunk.lines_in(bytes).map(|(n, l)| (n, l.to_vec())).collect();
                prop_assert_eq!(inside.len() as u64, chunk.lines);
                again.extend(inside);
            }
            let expected: Vec<_> = found.into_iter().enumerate().map(|(i, l)| (i as u64, l.2)).collect();
            prop_assert_eq!(again, expected);
        }
    }
}
