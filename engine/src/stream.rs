//! From the bytes of tokens to text that can be sent: whole UTF-8 characters
//! only, and nothing that is, or may yet become, a stop string.

/// The text of one answer as it grows.
#[derive(Debug, Default)]
pub struct TextStream {
    stops: Vec<String>,
    /// Bytes of a character that is not complete yet.
    partial: Vec<u8>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl TextStream {
    /// An answer that ends before any of `stops`; empty ones are ignored.
    pub fn new(stops: Vec<String>) -> Self {
        let stops = stops.into_iter().filter(|s| !s.is_empty()).collect();
        Self { stops, ..Self::default() }
    }

    /// Whether a stop string was met; then all further bytes are ignored.
    pub fn stopped(&self) -> bool {
        self.stopped
    }

    /// Takes the bytes of a token, gives the text that is now certain.
    pub fn push(&mut self, bytes: &[u8]) -> String {
        if self.stopped {
            return String::new();
        }
        self.partial.extend_from_slice(bytes);
        self.decode();
        if let Some(start) = self.stops.iter().filter_map(|stop| self.held.find(stop.as_str())).min() {
            self.stopped = true;
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let certain = self.held.len() - self.undecided();
        let rest = self.held.split_off(certain);
        std::mem::replace(&mut self.held, rest)
    }

    /// The answer ends here: what was held back was no stop string after all. A
    /// character cut off in the middle becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        if !self.stopped && !self.partial.is_empty() {
            self.partial.clear();
            self.held.push(char::REPLACEMENT_CHARACTER);
        }
        std::mem::take(&mut self.held)
    }

    /// Moves whole characters from `partial` to `held`; bytes that can never
    /// become one are replaced.
    fn decode(&mut self) {
        loop {
            let (valid, broken) = match std::str::from_utf8(&self.partial) {
                Ok(text) => (text.len(), None),
                Err(e) => (e.valid_up_to(), e.error_len()),
            };
            self.held.push_str(&String::from_utf8_lossy(&self.partial[..valid]));
            let Some(broken) = broken else {
                self.partial.drain(..valid);
                return;
            };
            self.held.push(char::REPLACEMENT_CHARACTER);
            self.partial.drain(..valid + broken);
        }
    }

    /// Bytes at the end of `held` that are the beginning of a stop string.
    fn undecided(&self) -> usize {
        let begins = |stop: &String| {
            let longest = (stop.len() - 1).min(self.held.len());
            (1..=longest).rev().find(|&n| self.held.as_bytes().ends_with(&stop.as_bytes()[..n]))
        };
        // UTF-8 is self-synchronising, but a stop string may end inside a character's
        // bytes as far as `n` goes: cut at the character's beginning.
        let mut n = self.stops.iter().filter_map(begins).max().unwrap_or(0);
        while !self.held.is_char_boundary(self.held.len() - n) {
            n += 1;
        }
        n
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Pushes `bytes` in pieces that end at `cuts`.
    fn run(bytes: &[u8], cuts: &[usize], stops: &[&str]) -> (Vec<String>, bool) {
        let mut stream = TextStream::new(stops.iter().map(|&s| s.to_owned()).collect());
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c % (bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let mut out: Vec<String> = cuts.windows(2).map(|w| stream.push(&bytes[w[0]..w[1]])).collect();
        let stopped = stream.stopped();
        out.push(stream.finish());
        (out, stopped)
    }

    proptest! {
        #[test]
        fn any_cuts_give_the_same_text(text in any::<String>(), cuts in prop::collection::vec(any::<usize>(), 0..20)) {
            prop_assert_eq!(run(text.as_bytes(), &cuts, &[]).0.concat(), text);
        }

        #[test]
        fn any_bytes_give_what_lossy_decoding_gives(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            cuts in prop::collection::vec(any::<usize>(), 0..20),
        ) {
            prop_assert_eq!(run(&bytes, &cuts, &[]).0.concat(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn the_text_ends_before_the_first_stop(
            text in "[abcé👋]{0,40}",
            first in "[abcé👋]{1,4}",
            second in "[abcé👋]{1,4}",
            cuts in prop::collection::vec(any::<usize>(), 0..40),
        ) {
            // Cut as often as bytes: the earliest stop to complete is then the one that counts.
            let (out, stopped) = run(text.as_bytes(), &cuts, &[&first, &second]);
            let out = out.concat();
            prop_assert!(text.starts_with(&out));
            prop_assert!(!out.contains(&first) && !out.contains(&second));
            prop_assert_eq!(stopped, text.contains(&first) || text.contains(&second));
            if stopped {
                let rest = &text[out.len()..];
                prop_assert!(rest.starts_with(&first) || rest.starts_with(&second));
            } else {
                prop_assert_eq!(out, text);
            }
        }
    }

    #[test]
    fn characters_wait_until_they_are_whole() {
        let mut stream = TextStream::new(Vec::new());
        let wave = "👋".as_bytes();
        assert_eq!(stream.push(&wave[..1]), "");
        assert_eq!(stream.push(&wave[1..3]), "");
        assert_eq!(stream.push(&[wave[3], b'!']), "👋!");
        assert_eq!(stream.push(&wave[..2]), "");
        assert_eq!(stream.finish(), "\u{FFFD}");
    }

    #[test]
    fn a_possible_stop_is_held_back_and_let_go() {
        let mut stream = TextStream::new(vec!["END OF".to_owned()]);
        assert_eq!(stream.push(b"so EN"), "so ");
        assert_eq!(stream.push(b"D O"), "");
        assert_eq!(stream.push(b"R"), "END OR");
        assert_eq!(stream.push(b" END"), " ");
        assert!(!stream.stopped());
        assert_eq!(stream.push(b" OFF"), "");
        assert!(stream.stopped());
        assert_eq!(stream.push(b"more"), "");
        assert_eq!(stream.finish(), "");
    }
}
