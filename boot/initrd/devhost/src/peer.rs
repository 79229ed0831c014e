//! The migration stream over TCP. Nothing waits for ever: a peer that neither takes nor gives a byte for [`Peer::patience`]
//! counts as gone.

use crate::sys;
use migrate_wire::{
    Error,
    message::{Message, parse},
    stream::{self, HEAD_LEN, Head, OPENING_LEN, Reader, Role, Writer},
};
use std::{
    fmt, io,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
    time::{Duration, Instant},
};

/// Why the stream ended.
#[derive(Debug)]
pub enum Broken {
    /// The peer said so; its reason.
    Refused(String),
    /// The peer was silent for so long.
    Silent(Duration),
    /// The connection broke.
    Connection(io::Error),
    /// Bytes that are no stream, or not the one expected.
    Wire(Error),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(reason) => write!(f, "the other side refused: {reason}"),
            Self::Silent(limit) => write!(f, "the other side was silent for {} s", limit.as_secs()),
            Self::Connection(error) => write!(f, "connection: {error}"),
            Self::Wire(error) => write!(f, "{error}"),
        }
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Wire(error)
    }
}

/// A connection with an opening in each direction.
pub struct Peer {
    stream: TcpStream,
    /// How long the other side may be silent.
    pub patience: Duration,
    /// Writes the frames; give them to [`send`](Self::send).
    pub writer: Writer,
    reader: Reader,
    body: Vec<u8>,
    sent: u64,
}

impl Peer {
    /// Connects, again and again until `limit` passed.
    ///
    /// # Errors
    /// The last failure.
    pub fn connect(address: SocketAddr, limit: Duration, patience: Duration) -> Result<Self, Broken> {
        let begun = Instant::now();
        loop {
            match TcpStream::connect_timeout(&address, patience.min(Duration::from_secs(3))) {
                Ok(stream) => return Self::open(stream, Role::Source, patience),
                Err(error) if begun.elapsed() >= limit => return Err(Broken::Connection(error)),
                Err(_) => std::thread::sleep(Duration::from_millis(200)),
            }
        }
    }

    /// Takes one connection, waiting at most `limit`.
    ///
    /// # Errors
    /// [`Broken::Silent`], or the failure.
    pub fn accept(listener: &TcpListener, limit: Duration, patience: Duration) -> Result<Self, Broken> {
        let begun = Instant::now();
        while begun.elapsed() < limit {
            if sys::wait(listener.as_fd(), false, Duration::from_secs(1)).map_err(Broken::Connection)? {
                let (stream, _) = listener.accept().map_err(Broken::Connection)?;
                return Self::open(stream, Role::Destination, patience);
            }
        }
        Err(Broken::Silent(limit))
    }

    fn open(stream: TcpStream, role: Role, patience: Duration) -> Result<Self, Broken> {
        // small answers must not wait for more; where the option is missing they only come later
        let _ = stream.set_nodelay(true);
        let (writer, reader) = (Writer::new(), Reader::new());
        let mut peer = Self { stream, patience, writer, reader, body: Vec::new(), sent: 0 };
        peer.send(&stream::opening(role)).map_err(|(_, broken)| broken)?;
        let mut theirs = [0; OPENING_LEN];
        peer.read(&mut theirs)?;
        let other = if role == Role::Source { Role::Destination } else { Role::Source };
        stream::check_opening(&theirs, other)?;
        Ok(peer)
    }

    /// Bytes sent so far.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Sends all of `bytes`.
    ///
    /// # Errors
    /// How many bytes the connection took before it broke, and why it did.
    pub fn send(&mut self, bytes: &[u8]) -> Result<(), (usize, Broken)> {
        let mut done = 0;
        while done < bytes.len() {
            match sys::send_some(self.stream.as_fd(), &bytes[done..]) {
                Ok(count) => {
                    done += count;
                    self.sent += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match sys::wait(self.stream.as_fd(), true, self.patience) {
                        Ok(true) => {}
                        Ok(false) => return Err((done, Broken::Silent(self.patience))),
                        Err(error) => return Err((done, Broken::Connection(error))),
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((done, Broken::Connection(error))),
            }
        }
        Ok(())
    }

    fn read(&mut self, out: &mut [u8]) -> Result<(), Broken> {
        let mut done = 0;
        while done < out.len() {
            match sys::receive_some(self.stream.as_fd(), &mut out[done..]) {
                Ok(0) => return Err(Error::Cut.into()),
                Ok(count) => done += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if !sys::wait(self.stream.as_fd(), false, self.patience).map_err(Broken::Connection)? {
                        return Err(Broken::Silent(self.patience));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Broken::Connection(error)),
            }
        }
        Ok(())
    }

    /// Whether the peer has said something.
    pub fn has_input(&self) -> bool {
        sys::wait(self.stream.as_fd(), false, Duration::ZERO).unwrap_or(true)
    }

    /// Reads the next message.
    ///
    /// # Errors
    /// See [`Broken`]; a refusal is one.
    pub fn receive(&mut self) -> Result<Message<'_>, Broken> {
        let mut head = [0; HEAD_LEN];
        self.read(&mut head)?;
        let head: Head = self.reader.head(&head)?;
        let mut buffer = std::mem::take(&mut self.body);
        if buffer.len() < head.length {
            buffer.resize(head.length, 0);
        }
        let read = self.read(&mut buffer[..head.length]);
        self.body = buffer;
        read?;
        let body = &self.body[..head.length];
        head.check(body)?;
        match parse(&head, body)? {
            Message::Refuse(reason) => Err(Broken::Refused(reason.to_owned())),
            message => Ok(message),
        }
    }

    /// Says why it does not go on, and waits a little for the peer to read it.
    pub fn refuse(&mut self, reason: &str) {
        let mut out = Vec::new();
        self.writer.refuse(&mut out, reason);
        // it is a courtesy: a peer that is gone has noticed already
        let _ = self.send(&out);
        let _ = self.stream.shutdown(Shutdown::Write);
        let begun = Instant::now();
        let mut rest = vec![0; 64 * 1024];
        while begun.elapsed() < Duration::from_secs(2) {
            match sys::receive_some(self.stream.as_fd(), &mut rest) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let _ = sys::wait(self.stream.as_fd(), false, Duration::from_millis(100));
                }
                Err(_) => break,
            }
        }
    }
}
