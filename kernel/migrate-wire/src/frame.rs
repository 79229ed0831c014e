//! The file frames: what the host side sends to the moving network card and what comes back.
//!
//! A frame is one Ethernet II frame (no VLAN tag) with the local experimental ethertype 0x88B5 (IEEE Std 802). Numbers
//! are little endian except the ethertype:
//!
//! ```text
//!  offset size
//!   0     6   destination MAC
//!   6     6   source MAC
//!  12     2   ethertype 0x88B5, big endian
//!  14     1   version (1)
//!  15     1   kind: 1 start, 2 hello, 3 data, 4 ack, 5 end
//!  16     2   length of the payload in bytes, at most 1400
//!  18     2   reserved, zero
//!  20     4   pass: how often the file was sent before
//!  24     4   seq: number of the frame inside its pass
//!  28     4   CRC-32 (ISO-HDLC) over bytes 14..28 and the payload
//!  32     n   payload; bytes after it (padding to 60, a kept FCS) are ignored
//! ```
//!
//! | kind  | direction | pass, seq               | payload |
//! |-------|-----------|-------------------------|---------|
//! | start | to card   | zero                    | [`Start`]: size and SHA-256 of the file, bytes per frame, frames per pass |
//! | hello | to host   | the next one expected   | [`Hello`]: who speaks, how many frames may be under way |
//! | data  | to card   | its own number          | that piece of the file; all but a pass's last have `chunk` bytes |
//! | ack   | to host   | the next one expected   | bit i of 64-bit word w: frame `next + 1 + 64 w + i` is here as well |
//! | end   | both      | first frame never sent  | empty; repeated until the other side answers with the same kind |
//!
//! The order of a transfer: the receiver repeats `hello` until `start` comes, the sender repeats `start` until an `ack`
//! comes. Then data flows, never more than the window ahead of what was acknowledged. An `ack` is a promise: whoever sent
//! it holds the frame, so it is not sent again, to this machine or to the next one. After a switch-over the sender
//! goes on at the new machine with what was not acknowledged; that machine says `hello` with what it expects, but not before its
//! first frame, because until then it writes no register.

/// Ethertype of all frames here: "local experimental 1".
pub const ETHERTYPE: u16 = 0x88B5;
/// Version in byte 14.
pub const VERSION: u8 = 1;
/// Bytes before the payload, Ethernet header included.
pub const HEADER_LEN: usize = 32;
/// Most payload bytes of one frame.
pub const MAX_PAYLOAD: usize = 1400;
/// Most bytes of one frame, without FCS.
pub const MAX_FRAME: usize = HEADER_LEN + MAX_PAYLOAD;
/// Frames a receiver can hold out of order, and so the largest window.
pub const MAX_WINDOW: u16 = 256;

const CRC: crc::Crc<u32> = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);

/// What a frame is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// The sender describes the file.
    Start = 1,
    /// The receiver announces itself.
    Hello = 2,
    /// A piece of the file.
    Data = 3,
    /// What the receiver holds.
    Ack = 4,
    /// No more passes.
    End = 5,
}

/// Everything in a frame but its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Destination MAC address.
    pub dst: [u8; 6],
    /// Source MAC address.
    pub src: [u8; 6],
    /// What it is for.
    pub kind: Kind,
    /// How often the file was sent before.
    pub pass: u32,
    /// Number inside the pass.
    pub seq: u32,
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// Another ethertype: somebody else's frame, not an error.
    NotOurs,
    /// Shorter than its header or than the length it states; has the bytes that came.
    Short(usize),
    /// A version this reader does not know.
    Version(u8),
    /// A kind this reader does not know.
    Kind(u8),
    /// A reserved field is not zero.
    Reserved(u16),
    /// The stated payload length is over [`MAX_PAYLOAD`], or not right for the kind.
    Length(usize),
    /// The checksum in the frame, and the one computed.
    Checksum {
        /// In the frame.
        got: u32,
        /// Computed from its bytes.
        want: u32,
    },
    /// `encode`: the output is too small.
    NoRoom,
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut word = [0; 2];
    word.copy_from_slice(&bytes[at..at + 2]);
    u16::from_le_bytes(word)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut digest = CRC.digest();
    digest.update(&head[14..28]);
    digest.update(payload);
    digest.finalize()
}

/// Writes the frame into `out` and returns its length.
///
/// # Errors
/// [`FrameError::Length`] for more than [`MAX_PAYLOAD`] bytes, [`FrameError::NoRoom`] if `out` is too small.
pub fn encode(header: &Header, payload: &[u8], out: &mut [u8]) -> Result<usize, FrameError> {
    if payload.len() > MAX_PAYLOAD {
        return Err(FrameError::Length(payload.len()));
    }
    let total = HEADER_LEN + payload.len();
    if out.len() < total {
        return Err(FrameError::NoRoom);
    }
    out[0..6].copy_from_slice(&header.dst);
    out[6..12].copy_from_slice(&header.src);
    out[12..14].copy_from_slice(&ETHERTYPE.to_be_bytes());
    out[14] = VERSION;
    out[15] = header.kind as u8;
    out[16..18].copy_from_slice(&(payload.len() as u16).to_le_bytes());
    out[18..20].fill(0);
    out[20..24].copy_from_slice(&header.pass.to_le_bytes());
    out[24..28].copy_from_slice(&header.seq.to_le_bytes());
    let crc = checksum(out, payload);
    out[28..32].copy_from_slice(&crc.to_le_bytes());
    out[HEADER_LEN..total].copy_from_slice(payload);
    Ok(total)
}

/// Reads one frame; the payload borrows from it.
///
/// # Errors
/// The first rule the bytes break, in the order of the fields; the checksum last.
pub fn decode(frame: &[u8]) -> Result<(Header, &[u8]), FrameError> {
    if frame.len() < 14 {
        return Err(FrameError::Short(frame.len()));
    }
    if frame[12..14] != ETHERTYPE.to_be_bytes() {
        return Err(FrameError::NotOurs);
    }
    if frame.len() < HEADER_LEN {
        return Err(FrameError::Short(frame.len()));
    }
    if frame[14] != VERSION {
        return Err(FrameError::Version(frame[14]));
    }
    let kind = match frame[15] {
        1 => Kind::Start,
        2 => Kind::Hello,
        3 => Kind::Data,
        4 => Kind::Ack,
        5 => Kind::End,
        other => return Err(FrameError::Kind(other)),
    };
    let len = usize::from(u16_at(frame, 16));
    if len > MAX_PAYLOAD {
        return Err(FrameError::Length(len));
    }
    if u16_at(frame, 18) != 0 {
        return Err(FrameError::Reserved(u16_at(frame, 18)));
    }
    let Some(payload) = frame.get(HEADER_LEN..HEADER_LEN + len) else {
        return Err(FrameError::Short(frame.len()));
    };
    let (got, want) = (u32_at(frame, 28), checksum(frame, payload));
    if got != want {
        return Err(FrameError::Checksum { got, want });
    }
    let (mut dst, mut src) = ([0; 6], [0; 6]);
    dst.copy_from_slice(&frame[0..6]);
    src.copy_from_slice(&frame[6..12]);
    Ok((Header { dst, src, kind, pass: u32_at(frame, 20), seq: u32_at(frame, 24) }, payload))
}

/// Payload of [`Kind::Start`], 48 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// Size of the file in bytes, not zero.
    pub file_bytes: u64,
    /// Payload bytes of every data frame but the last of a pass: 1 to [`MAX_PAYLOAD`].
    pub chunk: u32,
    /// Data frames per pass: `file_bytes` over `chunk`, rounded up.
    pub frames_per_pass: u32,
    /// SHA-256 of the file.
    pub sha256: [u8; 32],
}

impl Start {
    /// Bytes of the encoded form.
    pub const LEN: usize = 48;

    /// Describes a file; `None` if it is empty, `chunk` is not usable, or a pass has more than 2^32-1 frames.
    pub fn new(file_bytes: u64, chunk: u32, sha256: [u8; 32]) -> Option<Self> {
        if file_bytes == 0 || chunk == 0 || chunk as usize > MAX_PAYLOAD {
            return None;
        }
        let frames_per_pass = u32::try_from(file_bytes.div_ceil(u64::from(chunk))).ok()?;
        Some(Self { file_bytes, chunk, frames_per_pass, sha256 })
    }

    /// The payload.
    pub fn encode(&self) -> [u8; Self::LEN] {
        let mut out = [0; Self::LEN];
        out[0..8].copy_from_slice(&self.file_bytes.to_le_bytes());
        out[8..12].copy_from_slice(&self.chunk.to_le_bytes());
        out[12..16].copy_from_slice(&self.frames_per_pass.to_le_bytes());
        out[16..48].copy_from_slice(&self.sha256);
        out
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`FrameError::Length`] if it has another length or its numbers contradict each other.
    pub fn decode(payload: &[u8]) -> Result<Self, FrameError> {
        if payload.len() != Self::LEN {
            return Err(FrameError::Length(payload.len()));
        }
        let mut sha256 = [0; 32];
        sha256.copy_from_slice(&payload[16..48]);
        match Self::new(u64_at(payload, 0), u32_at(payload, 8), sha256) {
            Some(start) if start.frames_per_pass == u32_at(payload, 12) => Ok(start),
            _ => Err(FrameError::Length(payload.len())),
        }
    }

    /// Payload bytes of the frame `seq` of a pass; 0 if a pass has no such frame.
    pub fn len_of(&self, seq: u32) -> usize {
        let from = u64::from(seq) * u64::from(self.chunk);
        self.file_bytes.saturating_sub(from).min(u64::from(self.chunk)) as usize
    }
}

/// Payload of [`Kind::Hello`], 4 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// False on the machine where the transfer began, true where it goes on.
    pub destination: bool,
    /// Frames the sender may have under way: 1 to [`MAX_WINDOW`].
    pub window: u16,
}

impl Hello {
    /// The payload: role, zero, window.
    pub fn encode(&self) -> [u8; 4] {
        let window = self.window.to_le_bytes();
        [u8::from(self.destination), 0, window[0], window[1]]
    }

    /// Reads the payload.
    ///
    /// # Errors
    /// [`FrameError::Length`] if it has another length, an unknown role or a window out of range.
    pub fn decode(payload: &[u8]) -> Result<Self, FrameError> {
        if payload.len() != 4 || payload[0] > 1 || payload[1] != 0 {
            return Err(FrameError::Length(payload.len()));
        }
        let window = u16_at(payload, 2);
        if window == 0 || window > MAX_WINDOW {
            return Err(FrameError::Length(usize::from(window)));
        }
        Ok(Self { destination: payload[0] == 1, window })
    }
}

/// What became of a data frame at the receiver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// Seen for the first time: use it.
    Fresh,
    /// It was here before.
    Duplicate,
    /// Further ahead than the window: it must not be used, and is not acknowledged.
    TooFar,
}

/// Which frames a receiver holds: all before `next`, and those marked in `ahead`. Frames are counted over all passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiver {
    /// Number of the first frame that is missing: `pass * frames_per_pass + seq`.
    pub next: u64,
    /// Bit `i % 64` of word `i / 64`: frame `next + 1 + i` is here.
    pub ahead: [u64; 4],
}

impl Receiver {
    /// Nothing received.
    pub const fn new() -> Self {
        Self { next: 0, ahead: [0; 4] }
    }

    /// Notes frame `number`.
    pub fn accept(&mut self, number: u64) -> Taken {
        if number < self.next {
            return Taken::Duplicate;
        }
        if number == self.next {
            // The frame after the missing one, and all that directly follow it, are now in order as well.
            loop {
                self.next += 1;
                if !self.shift() {
                    return Taken::Fresh;
                }
            }
        }
        let bit = number - self.next - 1;
        if bit >= u64::from(MAX_WINDOW) {
            return Taken::TooFar;
        }
        let (word, mask) = ((bit / 64) as usize, 1u64 << (bit % 64));
        if self.ahead[word] & mask != 0 {
            return Taken::Duplicate;
        }
        self.ahead[word] |= mask;
        Taken::Fresh
    }

    /// Moves `ahead` down by one and returns the bit that fell out: "the new `next` is already here".
    fn shift(&mut self) -> bool {
        let out = self.ahead[0] & 1 != 0;
        for word in 0..4 {
            let carry = self.ahead.get(word + 1).map_or(0, |w| w & 1);
            self.ahead[word] = self.ahead[word] >> 1 | carry << 63;
        }
        out
    }

    /// Payload of an ack frame; its header carries `next` as pass and seq.
    pub fn ack_payload(&self) -> [u8; 32] {
        let mut out = [0; 32];
        for (bytes, word) in out.chunks_exact_mut(8).zip(self.ahead) {
            bytes.copy_from_slice(&word.to_le_bytes());
        }
        out
    }

    /// From an ack frame: `next` out of its header, and its payload.
    ///
    /// # Errors
    /// [`FrameError::Length`] unless the payload has 32 bytes.
    pub fn from_ack(next: u64, payload: &[u8]) -> Result<Self, FrameError> {
        if payload.len() != 32 {
            return Err(FrameError::Length(payload.len()));
        }
        let mut ahead = [0; 4];
        for (at, word) in ahead.iter_mut().enumerate() {
            *word = u64_at(payload, 8 * at);
        }
        Ok(Self { next, ahead })
    }

    /// Whether frame `number` is here.
    pub fn holds(&self, number: u64) -> bool {
        if number < self.next {
            return true;
        }
        let Some(bit) = (number - self.next).checked_sub(1) else { return false };
        bit < u64::from(MAX_WINDOW) && self.ahead[(bit / 64) as usize] >> (bit % 64) & 1 != 0
    }
}

impl Default for Receiver {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: Header = Header {
        dst: [0x52, 0x54, 0, 0x77, 1, 1],
        src: [2, 0, 0, 0x77, 0, 0xFF],
        kind: Kind::Data,
        pass: 3,
        seq: 0x0102,
    };

    #[test]
    fn layout_is_the_table_in_the_header() {
        let mut out = [0xEE; 64];
        let len = encode(&HEADER, b"123456789", &mut out).unwrap();
        assert_eq!(len, 41);
        assert_eq!(out[..28], *b"\x52\x54\x00\x77\x01\x01\x02\x00\x00\x77\x00\xff\x88\xb5\x01\x03\x09\x00\x00\x00\x03\x00\x00\x00\x02\x01\x00\x00");
        assert_eq!(out[32..41], *b"123456789");
        // bitwise CRC-32, polynomial 0xEDB88320 reflected, over bytes 14..28 and the payload
        let mut crc = !0u32;
        for byte in out[14..28].iter().chain(&out[32..41]) {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xEDB8_8320 } else { crc >> 1 };
            }
        }
        assert_eq!(out[28..32], (!crc).to_le_bytes());
        assert_eq!(out[41], 0xEE);
    }

    #[test]
    fn decode_gives_back_what_was_sent_and_ignores_padding() {
        let mut out = [0; 64];
        encode(&HEADER, b"abc", &mut out).unwrap();
        assert_eq!(decode(&out[..60]), Ok((HEADER, &b"abc"[..])));
    }

    #[test]
    fn every_flipped_bit_after_the_addresses_is_refused() {
        let mut out = [0; 40];
        let len = encode(&HEADER, b"payload!", &mut out).unwrap();
        for bit in 12 * 8..len * 8 {
            let mut bad = out;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&bad[..len]).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn refusals_name_the_rule() {
        let mut out = [0; 64];
        let len = encode(&HEADER, b"payload!", &mut out).unwrap();
        let with = |at: usize, value: u8| {
            let mut bad = out;
            bad[at] = value;
            decode(&bad[..len]).unwrap_err()
        };
        assert_eq!(decode(&out[..13]), Err(FrameError::Short(13)));
        assert_eq!(decode(&out[..31]), Err(FrameError::Short(31)));
        assert_eq!(decode(&out[..len - 1]), Err(FrameError::Short(len - 1)));
        assert_eq!(with(12, 8), FrameError::NotOurs);
        assert_eq!(with(14, 2), FrameError::Version(2));
        assert_eq!(with(15, 9), FrameError::Kind(9));
        assert_eq!(with(17, 0xFF), FrameError::Length(0xFF08));
        assert_eq!(with(18, 1), FrameError::Reserved(1));
        assert!(matches!(with(40 - 1, 0), FrameError::Checksum { .. }));
        assert_eq!(encode(&HEADER, &[0; 1401], &mut [0; 2000]), Err(FrameError::Length(1401)));
        assert_eq!(encode(&HEADER, &[0; 9], &mut [0; 40]), Err(FrameError::NoRoom));
    }

    #[test]
    fn start_counts_the_last_short_frame() {
        let start = Start::new(2801, 1400, [7; 32]).unwrap();
        assert_eq!(start.frames_per_pass, 3);
        assert_eq!([start.len_of(0), start.len_of(1), start.len_of(2), start.len_of(3)], [1400, 1400, 1, 0]);
        assert_eq!(Start::decode(&start.encode()), Ok(start));
        assert_eq!(start.encode()[..16], [0xF1, 0x0A, 0, 0, 0, 0, 0, 0, 0x78, 0x05, 0, 0, 3, 0, 0, 0]);
    }

    #[test]
    fn start_that_contradicts_itself_is_refused() {
        let mut bytes = Start::new(2801, 1400, [7; 32]).unwrap().encode();
        bytes[12] = 4;
        assert!(Start::decode(&bytes).is_err());
        assert!(Start::decode(&bytes[..47]).is_err());
        assert_eq!(Start::new(0, 1400, [0; 32]), None);
        assert_eq!(Start::new(1, 0, [0; 32]), None);
        assert_eq!(Start::new(1, 1401, [0; 32]), None);
    }

    #[test]
    fn hello_refuses_what_it_does_not_know() {
        let hello = Hello { destination: true, window: 256 };
        assert_eq!(hello.encode(), [1, 0, 0, 1]);
        assert_eq!(Hello::decode(&[1, 0, 0, 1]), Ok(hello));
        for bad in [&[2, 0, 1, 0][..], &[0, 1, 1, 0], &[0, 0, 0, 0], &[0, 0, 1, 1], &[0, 0, 1]] {
            assert!(Hello::decode(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn receiver_takes_each_frame_once_in_any_order() {
        let mut rx = Receiver::new();
        assert_eq!(rx.accept(1), Taken::Fresh);
        assert_eq!(rx.accept(1), Taken::Duplicate);
        assert_eq!(rx.accept(65), Taken::Fresh);
        assert_eq!(rx.accept(256), Taken::Fresh);
        assert_eq!(rx.accept(257), Taken::TooFar);
        assert_eq!(rx.next, 0);
        assert_eq!(rx.accept(0), Taken::Fresh);
        assert_eq!(rx.next, 2);
        assert_eq!(rx.accept(0), Taken::Duplicate);
        assert!(rx.holds(65) && rx.holds(256) && rx.holds(1) && !rx.holds(2) && !rx.holds(66) && !rx.holds(400));
        for number in 2..65 {
            assert_eq!(rx.accept(number), Taken::Fresh);
        }
        assert_eq!(rx.next, 66);
        assert!(rx.holds(256) && !rx.holds(255));
    }

    #[test]
    fn an_ack_carries_the_receiver() {
        let mut rx = Receiver::new();
        for number in [0, 2, 67, 200] {
            rx.accept(number);
        }
        assert_eq!(rx.ack_payload()[0], 1, "frame 2 is next + 1");
        assert_eq!(Receiver::from_ack(rx.next, &rx.ack_payload()), Ok(rx));
        assert!(Receiver::from_ack(1, &[0; 31]).is_err());
    }
}
