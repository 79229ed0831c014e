//! The serial console as a terminal: line editing, echo, and the ioctls that libraries ask for.

use crate::{Caller, Event, File, FileKind, Ready, Stat};
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use spin::Mutex;
use uapi::Errno;
use uapi::linux::fs::*;
use zerocopy::{FromBytes, IntoBytes};

/// Bits of [`Termios`] that matter here.
mod mode {
    pub const ICRNL: u32 = 0o400;
    pub const OPOST: u32 = 1;
    pub const ONLCR: u32 = 4;
    pub const ISIG: u32 = 1;
    pub const ICANON: u32 = 2;
    pub const ECHO: u32 = 0o10;
}

/// Where output goes.
pub type Sink = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Most bytes of input kept.
const INPUT_LIMIT: usize = 4096;

struct State {
    termios: Termios,
    /// What is being typed (canonical mode).
    line: Vec<u8>,
    /// What can be read; a `None` is an end of file.
    input: VecDeque<Option<u8>>,
    group: i32,
}

/// The console. Output goes to the writer it was made with; input comes by [`Console::input`].
pub struct Console {
    out: Sink,
    state: Mutex<State>,
    event: Event,
}

impl Console {
    /// A console that writes with `out`. The writer gets bytes as the line wants them (CR LF at line ends).
    pub fn new(out: Sink) -> Self {
        let mut cc = [0; 19];
        // VINTR ^C, VQUIT ^\, VERASE DEL, VKILL ^U, VEOF ^D, VMIN 1.
        (cc[0], cc[1], cc[2], cc[3], cc[4], cc[6]) = (3, 28, 127, 21, 4, 1);
        let termios = Termios {
            iflag: mode::ICRNL,
            oflag: mode::OPOST | mode::ONLCR,
            cflag: 0o2275,
            lflag: mode::ISIG | mode::ICANON | mode::ECHO,
            line: 0,
            cc,
        };
        let state = State { termios, line: Vec::new(), input: VecDeque::new(), group: 1 };
        Self { out, state: Mutex::new(state), event: Event::new() }
    }
    /// Bytes arrived on the line.
    pub fn input(&self, bytes: &[u8]) {
        let mut echo = Vec::new();
        let mut state = self.state.lock();
        for &byte in bytes {
            let byte = if byte == b'\r' && state.termios.iflag & mode::ICRNL != 0 { b'\n' } else { byte };
            if state.input.len() + state.line.len() >= INPUT_LIMIT {
                break;
            }
            if state.termios.lflag & mode::ICANON == 0 {
                state.input.push_back(Some(byte));
                if state.termios.lflag & mode::ECHO != 0 {
                    echo.push(byte);
                }
                continue;
            }
            match byte {
                127 | 8 => {
                    if state.line.pop().is_some() {
                        echo.extend_from_slice(b"\x08 \x08");
                    }
                }
                21 => {
                    for _ in 0..state.line.len() {
                        echo.extend_from_slice(b"\x08 \x08");
                    }
                    state.line.clear();
                }
                4 => {
                    let State { line, input, .. } = &mut *state;
                    if line.is_empty() {
                        input.push_back(None);
                    }
                    input.extend(line.drain(..).map(Some));
                }
                byte => {
                    state.line.push(byte);
                    echo.push(byte);
                    if byte == b'\n' {
                        let State { line, input, .. } = &mut *state;
                        input.extend(line.drain(..).map(Some));
                    }
                }
            }
        }
        let echoes = state.termios.lflag & mode::ECHO != 0;
        drop(state);
        if echoes && !echo.is_empty() {
            self.emit(&echo);
        }
        self.event.signal();
    }
    fn emit(&self, bytes: &[u8]) {
        let oflag = self.state.lock().termios.oflag;
        if oflag & (mode::OPOST | mode::ONLCR) != mode::OPOST | mode::ONLCR {
            return (self.out)(bytes);
        }
        for line in bytes.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(text) => {
                    (self.out)(text);
                    (self.out)(b"\r\n");
                }
                None => (self.out)(line),
            }
        }
    }
}

impl File for Console {
    fn read(&self, _at: u64, to: &mut [u8]) -> Result<usize, Errno> {
        let mut state = self.state.lock();
        let canonical = state.termios.lflag & mode::ICANON != 0;
        if state.input.is_empty() {
            return if to.is_empty() { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let mut count = 0;
        while count < to.len() {
            match state.input.pop_front() {
                Some(Some(byte)) => {
                    to[count] = byte;
                    count += 1;
                    if canonical && byte == b'\n' {
                        break;
                    }
                }
                Some(None) if count > 0 => {
                    state.input.push_front(None);
                    break;
                }
                Some(None) | None => break,
            }
        }
        Ok(count)
    }
    fn write(&self, _at: u64, from: &[u8]) -> Result<usize, Errno> {
        self.emit(from);
        Ok(from.len())
    }
    fn ioctl(&self, command: u32, arg: u64, caller: &dyn Caller) -> Result<i64, Errno> {
        let memory = caller.memory();
        match command {
            TCGETS => {
                let termios = self.state.lock().termios;
                memory.copy_out(arg, termios.as_bytes())?;
            }
            TCSETS | TCSETSW | TCSETSF => {
                let mut bytes = [0; 36];
                memory.copy_in(arg, &mut bytes)?;
                let termios = Termios::read_from_bytes(&bytes).map_err(|_| Errno::EINVAL)?;
                let mut state = self.state.lock();
                state.termios = termios;
                if command == TCSETSF {
                    state.input.clear();
                    state.line.clear();
                }
            }
            TIOCGWINSZ => memory.copy_out(arg, Winsize { rows: 24, columns: 80, x: 0, y: 0 }.as_bytes())?,
            TIOCSWINSZ => {}
            TIOCGPGRP => {
                let group = self.state.lock().group;
                memory.copy_out(arg, &group.to_le_bytes())?;
            }
            TIOCSPGRP => {
                let mut bytes = [0; 4];
                memory.copy_in(arg, &mut bytes)?;
                self.state.lock().group = i32::from_le_bytes(bytes);
            }
            FIONREAD => {
                let waiting = self.state.lock().input.len() as u32;
                memory.copy_out(arg, &waiting.to_le_bytes())?;
            }
            _ => return Err(Errno::ENOTTY),
        }
        Ok(0)
    }
    fn ready(&self) -> Ready {
        Ready::WRITE.or(Ready::READ.when(!self.state.lock().input.is_empty()))
    }
    fn event(&self) -> Option<Event> {
        Some(self.event.clone())
    }
    fn stat(&self) -> Stat {
        Stat { mode: 0o620, rdev: makedev(5, 1), ..Stat::anonymous(FileKind::Device) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::sync::Arc;

    #[test]
    fn a_line_is_edited_before_it_can_be_read() {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let sink = shown.clone();
        let console = Console::new(Box::new(move |bytes| sink.lock().extend_from_slice(bytes)));
        let mut buffer = [0; 16];
        console.input(b"ax\x7fb");
        assert_eq!(console.read(0, &mut buffer), Err(Errno::EAGAIN));
        assert_eq!(console.ready(), Ready::WRITE);
        console.input(b"\rnext\n");
        assert_eq!(console.read(0, &mut buffer), Ok(3));
        assert_eq!(&buffer[..3], b"ab\n");
        assert_eq!(console.read(0, &mut buffer), Ok(5));
        console.input(b"\x04");
        assert_eq!(console.read(0, &mut buffer), Ok(0));
        assert_eq!(shown.lock().as_slice(), b"ax\x08 \x08b\r\nnext\r\n");
        console.write(0, b"1\n2").unwrap();
        assert!(shown.lock().ends_with(b"1\r\n2"));
    }
}
