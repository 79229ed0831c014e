//! One running QEMU: started, listened to, bounded in time, never left behind.

use crate::machine::Machine;
use crate::run::Guarded;
use crate::serial::{Piece, Splitter};
use crate::setup::Tools;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Something a machine said, or that it ended.
#[derive(Clone, Debug)]
pub enum Said {
    /// An event line, and when it came.
    Event(Instant, String, Value),
    /// Other output.
    Text(Vec<u8>),
    /// The serial port closed: QEMU ended.
    Closed,
}

/// How QEMU ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// In order, with the first program's status: 0..=119.
    Program(u8),
    /// In order; the first program's status is in the `exit` event.
    Other,
    /// The first program could not be started.
    NotStarted,
    /// The kernel panicked.
    Panic,
    /// QEMU ended by itself: `quit`, or a reset that `-no-reboot` turned into an end (a triple fault).
    Reset,
    /// QEMU refused its command line or failed.
    Status(i32),
    /// QEMU was killed.
    Signal(i32),
}

impl Exit {
    /// Values of isa-debug-exit: see docs/protocol.md. QEMU's status is `value * 2 + 1`; its own failure is 1 as well, so
    /// `booted` says whether the machine said anything.
    pub fn decode(code: Option<i32>, signal: Option<i32>, booted: bool) -> Self {
        match (code, signal) {
            (Some(255), _) => Self::Panic,
            (Some(253), _) => Self::NotStarted,
            (Some(251), _) => Self::Other,
            (Some(0), _) => Self::Reset,
            (Some(1), _) if !booted => Self::Status(1),
            (Some(code), _) if code & 1 == 1 && code <= 119 * 2 + 1 => Self::Program((code >> 1) as u8),
            (Some(code), _) => Self::Status(code),
            (None, signal) => Self::Signal(signal.unwrap_or(0)),
        }
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Program(status) => write!(f, "the machine ended in order, with the program's status {status}"),
            Self::Other => f.write_str("the machine ended in order"),
            Self::NotStarted => f.write_str("the kernel could not start the program"),
            Self::Panic => f.write_str("the kernel panicked"),
            Self::Reset => f.write_str("the machine reset itself (a triple fault) or QEMU was told to quit"),
            Self::Status(code) => write!(f, "QEMU ended with status {code}"),
            Self::Signal(signal) => write!(f, "QEMU was ended by signal {signal}"),
        }
    }
}

/// A running machine with pipes for a serial port. Dropping it ends it.
pub struct Qemu {
    guarded: Guarded,
    said: Receiver<Said>,
    input: Option<ChildStdin>,
    text: String,
    errors: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
    /// When it was started.
    pub began: Instant,
    name: String,
    /// It said something, so QEMU did start.
    booted: bool,
}

impl Qemu {
    /// Starts a machine; `name` is for messages.
    ///
    /// # Errors
    /// QEMU cannot be started.
    pub fn start(tools: &Tools, machine: &Machine, name: &str) -> Result<Self> {
        let mut command = Command::new(&tools.qemu);
        command.args(machine.args(tools.qemu_version));
        let began = Instant::now();
        let guarded = Guarded::spawn(&command, true, [Stdio::piped(), Stdio::piped(), Stdio::piped()])?;
        let (input, output, error) = {
            let mut child = guarded.child();
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        };
        let (tx, said) = mpsc::channel();
        let errors = Arc::new(Mutex::new(String::new()));
        let mut readers = Vec::new();
        if let Some(output) = output {
            readers.push(std::thread::spawn(move || listen(output, &tx)));
        }
        if let Some(error) = error {
            let errors = Arc::clone(&errors);
            readers.push(std::thread::spawn(move || {
                for line in BufReader::new(error).lines().map_while(Result::ok) {
                    let mut errors = errors.lock().unwrap_or_else(PoisonError::into_inner);
                    errors.push_str(&line);
                    errors.push('\n');
                }
            }));
        }
        Ok(Self {
            guarded,
            said,
            input,
            text: String::new(),
            errors,
            readers,
            began,
            name: name.to_owned(),
            booted: false,
        })
    }

    /// What it says next; `None` if it says nothing for `limit`.
    pub fn next(&mut self, limit: Duration) -> Option<Said> {
        let said = match self.said.recv_timeout(limit) {
            Ok(said) => said,
            Err(RecvTimeoutError::Timeout) => return None,
            Err(RecvTimeoutError::Disconnected) => Said::Closed,
        };
        self.booted |= !matches!(said, Said::Closed);
        if let Said::Text(text) = &said {
            self.text.push_str(&String::from_utf8_lossy(text));
        }
        Some(said)
    }

    /// The fields of the next event of that name.
    ///
    /// # Errors
    /// It does not come within `limit`, or the machine ends first; with the console's last lines.
    pub fn event(&mut self, name: &str, limit: Duration) -> Result<Value> {
        let until = Instant::now() + limit;
        loop {
            match self.next(until.saturating_duration_since(Instant::now())) {
                Some(Said::Event(_, event, fields)) if event == name => return Ok(fields),
                Some(Said::Event(_, event, fields)) if event == "panic" => {
                    bail!("{}: panic: {fields}\n{}", self.name, self.tail(30))
                }
                Some(Said::Closed) => {
                    let exit =
                        self.exit(Duration::from_secs(5)).map_or("QEMU hangs".to_owned(), |exit| exit.to_string());
                    bail!("{}: no event {name}: {exit}\n{}", self.name, self.tail(30));
                }
                Some(_) => {}
                None => bail!("{}: no event {name} within {} s\n{}", self.name, limit.as_secs(), self.tail(30)),
            }
        }
    }

    /// Waits until the console's text, from `from` on, has `wanted`; returns the position after it.
    ///
    /// # Errors
    /// As [`Qemu::event`].
    pub fn text_until(&mut self, wanted: &str, from: usize, limit: Duration) -> Result<usize> {
        let until = Instant::now() + limit;
        loop {
            if let Some(at) = self.text.get(from..).and_then(|text| text.find(wanted)) {
                return Ok(from + at + wanted.len());
            }
            match self.next(until.saturating_duration_since(Instant::now())) {
                Some(Said::Closed) => bail!("{}: it ended before it said {wanted:?}\n{}", self.name, self.tail(30)),
                None => {
                    bail!("{}: it did not say {wanted:?} within {} s\n{}", self.name, limit.as_secs(), self.tail(30))
                }
                Some(_) => {}
            }
        }
    }

    /// All of the console's text so far, without events.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The console's last lines and what QEMU wrote to standard error.
    pub fn tail(&self, lines: usize) -> String {
        let all: Vec<&str> = self.text.lines().collect();
        let mut tail =
            all[all.len().saturating_sub(lines)..].iter().map(|line| format!("  | {line}\n")).collect::<String>();
        for line in self.errors.lock().unwrap_or_else(PoisonError::into_inner).lines() {
            tail.push_str(&format!("  qemu: {line}\n"));
        }
        tail
    }

    /// Types into the serial port.
    ///
    /// # Errors
    /// The machine ended.
    pub fn type_in(&mut self, text: &str) -> Result<()> {
        let input = self.input.as_mut().context("the serial port is closed")?;
        input
            .write_all(text.as_bytes())
            .and_then(|()| input.flush())
            .with_context(|| format!("{}: cannot type", self.name))
    }

    /// Whether QEMU still runs.
    pub fn runs(&self) -> bool {
        self.guarded.wait(Duration::ZERO).is_none()
    }

    /// How it ended; `None` if it still runs after `limit`.
    pub fn exit(&mut self, limit: Duration) -> Option<Exit> {
        let status = self.guarded.wait(limit)?;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        while let Ok(said) = self.said.try_recv() {
            self.booted |= !matches!(said, Said::Closed);
            if let Said::Text(text) = said {
                self.text.push_str(&String::from_utf8_lossy(&text));
            }
        }
        Some(Exit::decode(status.code(), status.signal(), self.booted))
    }

    /// Ends it, as a power cut would.
    pub fn kill(&self) {
        self.guarded.kill();
    }

    /// QEMU's standard error so far.
    pub fn errors(&self) -> String {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn listen(mut output: impl Read, tx: &Sender<Said>) {
    let (mut splitter, mut buffer) = (Splitter::new(), [0; 4096]);
    let send = |pieces: Vec<Piece>| {
        for piece in pieces {
            let _ = tx.send(match piece {
                Piece::Event(name, fields) => Said::Event(Instant::now(), name, fields),
                Piece::Text(text) => Said::Text(text),
            });
        }
    };
    while let Ok(read @ 1..) = output.read(&mut buffer) {
        send(splitter.take(&buffer[..read]));
    }
    send(splitter.end());
    let _ = tx.send(Said::Closed);
}

/// Sends one command over QMP and returns its answer.
///
/// # Errors
/// The socket does not answer within ten seconds, or QEMU refuses the command.
pub fn qmp(socket: &Path, command: &str, arguments: &Value) -> Result<Value> {
    let stream = UnixStream::connect(socket).with_context(|| format!("no QMP at {}", socket.display()))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut ask = |request: Value| -> Result<Value> {
        (&stream).write_all(format!("{request}\n").as_bytes())?;
        loop {
            let line = lines.next().context("QMP closed")??;
            let answer: Value = serde_json::from_str(&line)?;
            if let Some(value) = answer.get("return") {
                return Ok(value.clone());
            }
            if let Some(error) = answer.get("error") {
                bail!("QMP refused {request}: {error}");
            }
        }
    };
    ask(serde_json::json!({"execute": "qmp_capabilities"}))?;
    let mut request = serde_json::json!({"execute": command});
    if !arguments.is_null() {
        request["arguments"] = arguments.clone();
    }
    ask(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_is_twice_the_value_plus_one() {
        assert_eq!(Exit::decode(Some(1), None, true), Exit::Program(0));
        assert_eq!(Exit::decode(Some(7), None, true), Exit::Program(3));
        assert_eq!(Exit::decode(Some(119 * 2 + 1), None, true), Exit::Program(119));
        assert_eq!(Exit::decode(Some(125 * 2 + 1), None, true), Exit::Other);
        assert_eq!(Exit::decode(Some(126 * 2 + 1), None, true), Exit::NotStarted);
        assert_eq!(Exit::decode(Some(127 * 2 + 1), None, true), Exit::Panic);
    }

    #[test]
    fn a_failure_of_qemu_is_not_a_programs_success() {
        assert_eq!(Exit::decode(Some(1), None, false), Exit::Status(1));
        assert_eq!(Exit::decode(Some(0), None, true), Exit::Reset);
        assert_eq!(Exit::decode(Some(2), None, true), Exit::Status(2));
        assert_eq!(Exit::decode(None, Some(9), true), Exit::Signal(9));
    }
}
