//! Takes the serial port apart: event lines (docs/protocol.md) here, everything else there.

use serde_json::Value;

/// A piece of what the serial port said.
#[derive(Clone, Debug, PartialEq)]
pub enum Piece {
    /// An event, by name, with its fields.
    Event(String, Value),
    /// Anything else, byte for byte but for carriage returns before a newline.
    Text(Vec<u8>),
}

const MARK: &[u8] = b"@portolan {";
/// Stands in front of an event that follows an unfinished line.
const SEPARATOR: u8 = 0x1E;
/// A line that goes on longer is not an event.
const LONGEST: usize = 4096;

/// Keeps what is not yet a whole piece.
#[derive(Default)]
pub struct Splitter {
    held: Vec<u8>,
    mid_line: bool,
    text: Vec<u8>,
}

impl Splitter {
    /// At the start of a line.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes what came and returns the pieces that are complete; text is not held back for the end of its line unless it
    /// may become an event.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Piece> {
        let mut pieces = Vec::new();
        for &byte in bytes {
            self.byte(byte, &mut pieces);
        }
        self.flush(&mut pieces);
        pieces
    }

    /// The stream ended: what was held is text.
    pub fn end(&mut self) -> Vec<Piece> {
        let mut pieces = Vec::new();
        self.give_up();
        self.flush(&mut pieces);
        pieces
    }

    fn byte(&mut self, byte: u8, pieces: &mut Vec<Piece>) {
        if !self.held.is_empty() {
            let marked = usize::from(self.held[0] == SEPARATOR);
            let at = self.held.len() - marked;
            if byte == b'\n' && at > MARK.len() {
                let line = std::mem::take(&mut self.held);
                let json = line[marked + MARK.len() - 1..].trim_ascii_end();
                match serde_json::from_slice::<Value>(json)
                    .ok()
                    .and_then(|v| Some((v.get("event")?.as_str()?.to_owned(), v)))
                {
                    Some((name, fields)) => {
                        self.flush(pieces);
                        pieces.push(Piece::Event(name, fields));
                        self.mid_line = marked == 1 && self.mid_line;
                    }
                    None => {
                        self.text.extend_from_slice(&line);
                        self.text.push(byte);
                        self.mid_line = false;
                    }
                }
                return;
            }
            if at < MARK.len() && byte != MARK[at] || self.held.len() >= LONGEST {
                self.give_up();
            } else {
                self.held.push(byte);
                return;
            }
        }
        if byte == SEPARATOR || byte == MARK[0] && !self.mid_line {
            self.held.push(byte);
            return;
        }
        if byte == b'\n' && self.text.last() == Some(&b'\r') {
            self.text.pop();
        }
        self.text.push(byte);
        self.mid_line = byte != b'\n';
    }

    fn give_up(&mut self) {
        if !self.held.is_empty() {
            self.text.append(&mut self.held);
            self.mid_line = self.text.last() != Some(&b'\n');
        }
    }

    fn flush(&mut self, pieces: &mut Vec<Piece>) {
        // A carriage return may belong to a newline that has not come yet.
        let keep = usize::from(self.text.last() == Some(&b'\r'));
        let text: Vec<u8> = self.text.drain(..self.text.len() - keep).collect();
        if !text.is_empty() {
            pieces.push(Piece::Text(text));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All pieces of a stream, fed in chunks of `size`, with neighbouring text joined.
    fn split(stream: &[u8], size: usize) -> Vec<Piece> {
        let mut splitter = Splitter::new();
        let mut all: Vec<Piece> = Vec::new();
        let mut pieces: Vec<Piece> = stream.chunks(size).flat_map(|chunk| splitter.take(chunk)).collect();
        pieces.extend(splitter.end());
        for piece in pieces {
            match (all.last_mut(), piece) {
                (Some(Piece::Text(text)), Piece::Text(more)) => text.extend(more),
                (_, piece) => all.push(piece),
            }
        }
        all
    }

    fn text(text: &str) -> Piece {
        Piece::Text(text.as_bytes().to_vec())
    }

    fn event(json: &str) -> Piece {
        let value: Value = serde_json::from_str(json).unwrap();
        Piece::Event(value["event"].as_str().unwrap().to_owned(), value)
    }

    #[test]
    fn events_are_taken_out_however_the_stream_is_cut() {
        let stream = b"log\r\n@portolan {\"event\":\"boot\",\"image_bytes\":5}\r\nhalf\x1e@portolan {\"event\":\"exit\",\"status\":0}\n line\n";
        let want = vec![
            text("log\n"),
            event(r#"{"event":"boot","image_bytes":5}"#),
            text("half"),
            event(r#"{"event":"exit","status":0}"#),
            text(" line\n"),
        ];
        for size in [1, 2, 3, 7, 1000] {
            assert_eq!(split(stream, size), want, "chunks of {size}");
        }
    }

    #[test]
    fn what_only_looks_like_an_event_is_text() {
        for stream in [
            "@portolan [1]\n",
            "@portolan {not json}\n",
            "x @portolan {\"event\":\"a\"}\n",
            "@port\n",
            "@portolan {\"no\":1}\n",
        ] {
            assert_eq!(split(stream.as_bytes(), 4), [text(stream)]);
        }
    }

    #[test]
    fn an_endless_line_is_not_held_for_ever() {
        let stream = format!("@portolan {{{}", "x".repeat(3 * LONGEST));
        let mut splitter = Splitter::new();
        assert!(!splitter.take(stream.as_bytes()).is_empty());
        assert_eq!(split(stream.as_bytes(), 100), [text(&stream)]);
    }

    #[test]
    fn a_prompt_without_newline_comes_at_once() {
        assert_eq!(Splitter::new().take(b"portolan> "), [text("portolan> ")]);
    }
}
