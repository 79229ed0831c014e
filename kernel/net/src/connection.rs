//! What the stack knows about one socket of a program.

use crate::stack::Nets;
use alloc::collections::VecDeque;
use alloc::vec::Vec;
use smoltcp::iface::SocketHandle;
use smoltcp::socket::tcp::State as Tcp;
use uapi::Errno;
use vfs::{Event, Ready};

/// Address and port.
pub(crate) type Endpoint = ([u8; 4], u16);

/// A TCP connection: which interface, and its handle there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Conn {
    pub(crate) link: bool,
    pub(crate) handle: SocketHandle,
}

/// What a socket was made into.
#[derive(Debug)]
pub(crate) enum State {
    /// socket(2), perhaps bind(2).
    Fresh,
    /// listen(2): sockets that wait for a peer, and connections that were made.
    Listening {
        /// Most connections kept for accept(2).
        backlog: usize,
        /// Waiting for a peer, or in the middle of the handshake.
        waiting: Vec<Conn>,
        /// Established, not yet accepted.
        arrived: VecDeque<Conn>,
    },
    /// connect(2) was called.
    Connecting(Conn),
    /// Established at some time.
    Connected(Conn),
    /// connect(2) failed; it may be tried again.
    Failed,
}

/// One socket of a program.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) state: State,
    /// Own address and port; port 0 before bind(2).
    pub(crate) local: Endpoint,
    pub(crate) peer: Option<Endpoint>,
    /// For the next call or SO_ERROR.
    pub(crate) error: Option<Errno>,
    /// connect(2) has reported success.
    pub(crate) told: bool,
    /// The peer's last byte was announced.
    pub(crate) eof: bool,
    /// The connection broke, and that was reported.
    pub(crate) broken: bool,
    pub(crate) shut_read: bool,
    pub(crate) shut_write: bool,
    pub(crate) began_ns: u64,
    pub(crate) event: Event,
    /// What `ready` said when the event was signalled, or after the program's last call.
    pub(crate) last: Ready,
}

impl Entry {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state,
            local: ([0; 4], 0),
            peer: None,
            error: None,
            told: false,
            eof: false,
            broken: false,
            shut_read: false,
            shut_write: false,
            began_ns: 0,
            event: Event::new(),
            last: Ready::NONE,
        }
    }

    /// Takes note of what happened to its connections.
    pub(crate) fn refresh(&mut self, nets: &mut Nets, now_ns: u64) {
        match &mut self.state {
            State::Fresh | State::Failed => {}
            State::Listening { waiting, arrived, .. } => {
                waiting.retain(|conn| match nets.tcp(*conn).state() {
                    Tcp::Listen | Tcp::SynReceived | Tcp::SynSent => true,
                    Tcp::Closed => {
                        nets.remove(*conn);
                        false
                    }
                    _ => {
                        arrived.push_back(*conn);
                        false
                    }
                });
            }
            State::Connecting(conn) => {
                let conn = *conn;
                match nets.tcp(conn).state() {
                    Tcp::SynSent | Tcp::SynReceived => {}
                    Tcp::Closed => {
                        let late = now_ns.saturating_sub(self.began_ns) >= crate::stack::TIMEOUT_NS;
                        self.error = Some(if late { Errno::ETIMEDOUT } else { Errno::ECONNREFUSED });
                        nets.remove(conn);
                        self.state = State::Failed;
                    }
                    _ => {
                        self.state = State::Connected(conn);
                        self.refresh(nets, now_ns);
                    }
                }
            }
            State::Connected(conn) => match crate::stack::watch(nets.tcp(*conn)) {
                Tcp::CloseWait | Tcp::LastAck | Tcp::Closing | Tcp::TimeWait => self.eof = true,
                // closed without the peer's FIN, and not by this side: reset, or given up
                Tcp::Closed if !(self.eof || self.broken || self.shut_read && self.shut_write) => {
                    self.broken = true;
                    self.error = Some(Errno::ECONNRESET);
                }
                _ => {}
            },
        }
    }

    /// What poll(2) says.
    pub(crate) fn ready(&self, nets: &mut Nets) -> Ready {
        let error = Ready::ERROR.when(self.error.is_some());
        match &self.state {
            State::Fresh => error.or(Ready::WRITE).or(Ready::HANGUP),
            State::Failed => error.or(Ready::BOTH).or(Ready::HANGUP),
            State::Listening { arrived, .. } => Ready::READ.when(!arrived.is_empty()),
            State::Connecting(_) => Ready::NONE,
            State::Connected(conn) => {
                let tcp = nets.tcp(*conn);
                let dead = self.broken || tcp.state() == Tcp::Closed;
                // like Linux, not for every few bytes: a writer that is woken has room for a good piece
                let room = tcp.may_send() && tcp.send_capacity() - tcp.send_queue() >= tcp.send_capacity() / 4;
                let read = tcp.can_recv() || self.eof || dead || self.shut_read;
                error
                    .or(Ready::READ.when(read))
                    .or(Ready::WRITE.when(room || dead || self.shut_write))
                    .or(Ready::READ_HANGUP.when(self.eof || dead || self.shut_read))
                    .or(Ready::HANGUP.when(dead || self.eof && self.shut_write))
            }
        }
    }

    /// Signals the event if something became possible since the last look.
    pub(crate) fn announce(&mut self, nets: &mut Nets) {
        let ready = self.ready(nets);
        let new = ready.0 & !self.last.0 != 0;
        self.last = ready;
        if new {
            self.event.signal();
        }
    }
}
