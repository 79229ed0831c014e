//! Interfaces and all connections.

use crate::connection::{Conn, Endpoint, Entry, State};
use crate::link::{Card, Inside, Link};
use crate::socket::TcpSocket;
use alloc::boxed::Box;
use alloc::collections::VecDeque;
use alloc::sync::Arc;
use alloc::vec::Vec;
use smoltcp::iface::{Config, Interface, PollIngressSingleResult, PollResult, SocketSet};
use smoltcp::phy::Device;
use smoltcp::socket::tcp::{self, SocketBuffer};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, IpEndpoint, IpListenEndpoint, Ipv4Address};
use spin::Mutex;
use uapi::Errno;
use vfs::{Domain, Socket, SocketFactory, SocketKind};

/// Bytes of the receive buffer of a connection over the link, and of its send buffer.
const LINK_BUFFERS: (usize, usize) = (512 * 1024, 512 * 1024);
/// The same inside the machine.
const LOOP_BUFFERS: (usize, usize) = (128 * 1024, 128 * 1024);
/// Sockets that wait for peers at the same time, per listener and interface. Each arrival is replaced before the next
/// frame is looked at.
const WAITING: usize = 1;
/// A peer that does not answer for so long is gone.
pub(crate) const TIMEOUT_NS: u64 = 120_000_000_000;
const TIMEOUT: Duration = Duration::from_millis(TIMEOUT_NS / 1_000_000);
/// Rounds of taking and sending in one call; what is left then waits for the next call.
const ROUNDS: usize = 256;
/// Connections whose program closed them, and that still have to say so to the peer.
const MAX_ORPHANS: usize = 16;
const ORPHAN_NS: u64 = 60_000_000_000;
/// Frames looked at before answers go out.
const BATCH: usize = 16;
/// First port that connect(2) chooses from.
const EPHEMERAL: u16 = 49152;

/// Address and prefix length of `A.B.C.D/LEN`, as in the kernel's `ip=`. `None` if it is not one.
pub fn parse_address(text: &str) -> Option<([u8; 4], u8)> {
    let (address, prefix) = text.split_once('/')?;
    let mut bytes = [0; 4];
    let mut parts = address.split('.');
    for byte in &mut bytes {
        let part = parts.next()?;
        if part.is_empty() || part.len() > 3 || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *byte = part.parse().ok()?;
    }
    let prefix = prefix.parse().ok().filter(|prefix| *prefix <= 32)?;
    (parts.next().is_none() && bytes[0] != 127 && bytes[0] != 0).then_some((bytes, prefix))
}

struct Net<D> {
    device: D,
    iface: Interface,
    sockets: SocketSet<'static>,
}

impl<D: Device> Net<D> {
    /// Takes at most [`BATCH`] frames, then sends. Returns whether frames may be left, and whether something was sent. With `careful`, a frame that changed a socket is the last one: it may have
    /// used up a listener's waiting socket.
    fn pump(&mut self, now: Instant, careful: bool) -> (bool, bool) {
        let mut more = true;
        for _ in 0..BATCH {
            match self.iface.poll_ingress_single(now, &mut self.device, &mut self.sockets) {
                PollIngressSingleResult::None => {
                    more = false;
                    break;
                }
                PollIngressSingleResult::SocketStateChanged if careful => break,
                PollIngressSingleResult::PacketProcessed | PollIngressSingleResult::SocketStateChanged => {}
            }
        }
        self.iface.poll_maintenance(now);
        let sent = self.iface.poll_egress(now, &mut self.device, &mut self.sockets);
        (more, sent == PollResult::SocketStateChanged)
    }
}

struct LinkNet {
    net: Net<Card>,
    address: [u8; 4],
    prefix: u8,
}

/// The interfaces, and the smoltcp sockets on them.
pub(crate) struct Nets {
    inside: Net<Inside>,
    link: Option<LinkNet>,
    next_port: u16,
}

impl Nets {
    pub(crate) fn tcp(&mut self, conn: Conn) -> &mut tcp::Socket<'static> {
        self.set(conn.link).get_mut(conn.handle)
    }
    pub(crate) fn remove(&mut self, conn: Conn) {
        self.set(conn.link).remove(conn.handle);
    }
    fn set(&mut self, link: bool) -> &mut SocketSet<'static> {
        match &mut self.link {
            Some(there) if link => &mut there.net.sockets,
            _ => &mut self.inside.sockets,
        }
    }
    fn own(&self) -> Option<[u8; 4]> {
        self.link.as_ref().map(|link| link.address)
    }
    /// Whether `ip` is reached over the link; an error if it is not reached at all.
    fn over_link(&self, ip: [u8; 4]) -> Result<bool, Errno> {
        if ip[0] == 127 || self.own() == Some(ip) {
            return Ok(false);
        }
        let Some(link) = &self.link else { return Err(Errno::ENETUNREACH) };
        let mask = u32::MAX.checked_shl(32 - u32::from(link.prefix)).unwrap_or(0);
        let differs = (u32::from_be_bytes(ip) ^ u32::from_be_bytes(link.address)) & mask;
        if differs == 0 { Ok(true) } else { Err(Errno::ENETUNREACH) }
    }
    /// A new closed socket with buffers.
    fn add(&mut self, link: bool) -> Result<Conn, Errno> {
        let (rx, tx) = if link { LINK_BUFFERS } else { LOOP_BUFFERS };
        let mut socket = tcp::Socket::new(buffer(rx)?, buffer(tx)?);
        socket.set_timeout(Some(TIMEOUT));
        // an answer that waits for company waits for the other machine's next byte
        socket.set_nagle_enabled(false);
        socket.set_ack_delay(None);
        Ok(Conn { link, handle: self.set(link).add(socket) })
    }
    /// A new socket that waits for a peer.
    fn add_listener(&mut self, link: bool, local: Endpoint) -> Result<Conn, Errno> {
        let conn = self.add(link)?;
        let result = self.tcp(conn).listen(listen_endpoint(local));
        result.map_err(|_| Errno::EINVAL).inspect_err(|_| self.remove(conn))?;
        Ok(conn)
    }
}

/// Lets the timeout run only while an acknowledgement is due: smoltcp would give up connections that are merely idle.
pub(crate) fn watch(tcp: &mut tcp::Socket<'static>) -> tcp::State {
    let state = tcp.state();
    let closing = matches!(state, tcp::State::FinWait1 | tcp::State::Closing | tcp::State::LastAck);
    tcp.set_timeout((closing || tcp.send_queue() > 0).then_some(TIMEOUT));
    state
}

fn buffer(bytes: usize) -> Result<SocketBuffer<'static>, Errno> {
    let mut storage = Vec::new();
    storage.try_reserve_exact(bytes).map_err(|_| Errno::ENOBUFS)?;
    storage.resize(bytes, 0);
    Ok(SocketBuffer::new(storage))
}

fn listen_endpoint((ip, port): Endpoint) -> IpListenEndpoint {
    let addr = (ip != [0; 4]).then(|| IpAddress::Ipv4(Ipv4Address::from(ip)));
    IpListenEndpoint { addr, port }
}

fn endpoint((ip, port): Endpoint) -> IpEndpoint {
    IpEndpoint { addr: IpAddress::Ipv4(Ipv4Address::from(ip)), port }
}

pub(crate) fn plain(endpoint: IpEndpoint) -> Endpoint {
    let IpAddress::Ipv4(ip) = endpoint.addr;
    (ip.octets(), endpoint.port)
}

struct Inner {
    nets: Nets,
    entries: Vec<Option<Entry>>,
    orphans: VecDeque<(Conn, u64)>,
}

struct Shared {
    inner: Mutex<Inner>,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

/// The network. Clones are the same one.
#[derive(Clone)]
pub struct Stack(Arc<Shared>);

impl Stack {
    /// A network with 127.0.0.0/8 only. `clock` gives nanoseconds that never go back; `seed` is for port and sequence numbers.
    pub fn new(clock: Box<dyn Fn() -> u64 + Send + Sync>, seed: u64) -> Self {
        let mut device = Inside::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = seed;
        let mut iface = Interface::new(config, &mut device, at(clock()));
        iface.update_ip_addrs(|addresses| {
            // there is room for two, see `attach`
            let _ = addresses.push(IpCidr::new(IpAddress::v4(127, 0, 0, 1), 8));
        });
        let inside = Net { device, iface, sockets: SocketSet::new(Vec::new()) };
        let next_port = EPHEMERAL + (seed % 8192) as u16;
        let nets = Nets { inside, link: None, next_port };
        let inner = Inner { nets, entries: Vec::new(), orphans: VecDeque::new() };
        Self(Arc::new(Shared { inner: Mutex::new(inner), clock }))
    }

    /// Adds the card, with its address. A second card is refused.
    ///
    /// # Errors
    /// `EEXIST`.
    pub fn attach(&self, link: Box<dyn Link>, address: [u8; 4], prefix: u8) -> Result<(), Errno> {
        let now = at((self.0.clock)());
        let mut inner = self.0.inner.lock();
        if inner.nets.link.is_some() {
            return Err(Errno::EEXIST);
        }
        let mut device = Card::new(link);
        let mac = device.link.mac();
        let mut config = Config::new(HardwareAddress::Ethernet(EthernetAddress(mac)));
        config.random_seed = u64::from_le_bytes([mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0, 0])
            ^ u64::from(inner.nets.next_port) << 48;
        let mut iface = Interface::new(config, &mut device, now);
        let ip = IpAddress::Ipv4(Ipv4Address::from(address));
        iface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(ip, prefix));
        });
        inner.nets.inside.iface.update_ip_addrs(|addresses| {
            let _ = addresses.push(IpCidr::new(ip, 32));
        });
        let net = Net { device, iface, sockets: SocketSet::new(Vec::new()) };
        inner.nets.link = Some(LinkNet { net, address, prefix });
        Ok(())
    }

    /// Address of the link; `None` without one.
    pub fn address(&self) -> Option<[u8; 4]> {
        self.0.inner.lock().nets.own()
    }

    /// Takes what arrived, sends what is due, signals sockets. Returns the time in nanoseconds at which it wants to be called
    /// again at the latest; `None` if only a frame or a program's call can change anything.
    pub fn poll(&self) -> Option<u64> {
        let now_ns = (self.0.clock)();
        let mut inner = self.0.inner.lock();
        inner.pump(now_ns);
        let now = at(now_ns);
        let Nets { inside, link, .. } = &mut inner.nets;
        let own = inside.iface.poll_at(now, &inside.sockets);
        let there = link.as_mut().and_then(|link| link.net.iface.poll_at(now, &link.net.sockets));
        let next = [own, there].into_iter().flatten().min()?;
        Some((next.total_micros().max(0) as u64).saturating_mul(1000))
    }

    /// The program dropped its socket.
    pub(crate) fn close(&self, id: usize) {
        let now_ns = (self.0.clock)();
        let mut inner = self.0.inner.lock();
        let Some(entry) = inner.entries.get_mut(id).and_then(Option::take) else { return };
        match entry.state {
            State::Fresh | State::Failed => {}
            State::Listening { waiting, arrived, .. } => {
                for conn in waiting.into_iter().chain(arrived) {
                    inner.abandon(conn, true, now_ns);
                }
            }
            State::Connecting(conn) => inner.abandon(conn, true, now_ns),
            State::Connected(conn) => {
                // bytes that nobody will read: the peer has to know (RFC 2525 section 2.17)
                let unread = inner.nets.tcp(conn).can_recv() && !entry.shut_read;
                inner.abandon(conn, unread, now_ns);
            }
        }
        inner.pump(now_ns);
    }

    /// Runs `f` on an entry, then sends what became due and takes note of what the program now knows.
    pub(crate) fn with<T>(
        &self,
        id: usize,
        f: impl FnOnce(&mut Entry, &mut Nets, u64) -> Result<T, Errno>,
    ) -> Result<T, Errno> {
        let now_ns = (self.0.clock)();
        let mut inner = self.0.inner.lock();
        let Inner { nets, entries, .. } = &mut *inner;
        let entry = entries.get_mut(id).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        entry.refresh(nets, now_ns);
        let result = f(entry, nets, now_ns);
        // What the call left is what the program knows. What the pump brings in is news and gets announced: a caller that
        // was told EAGAIN has taken its ticket before, and sleeps.
        entry.last = entry.ready(nets);
        inner.pump(now_ns);
        result
    }

    pub(crate) fn ready(&self, id: usize) -> vfs::Ready {
        let mut inner = self.0.inner.lock();
        let Inner { nets, entries, .. } = &mut *inner;
        let Some(entry) = entries.get_mut(id).and_then(Option::as_mut) else { return vfs::Ready::HANGUP };
        let ready = entry.ready(nets);
        // what the program is told now is not news later
        entry.last = ready;
        ready
    }

    pub(crate) fn event(&self, id: usize) -> Option<vfs::Event> {
        self.0.inner.lock().entries.get(id)?.as_ref().map(|entry| entry.event.clone())
    }

    /// Whether another socket holds an address that overlaps with `local`.
    fn in_use(inner: &Inner, id: usize, local: Endpoint) -> bool {
        inner.entries.iter().enumerate().filter(|(other, _)| *other != id).any(|(_, entry)| {
            entry.as_ref().is_some_and(|entry| {
                let bound = matches!(entry.state, State::Fresh | State::Listening { .. });
                let any = entry.local.0 == [0; 4] || local.0 == [0; 4] || entry.local.0 == local.0;
                bound && entry.local.1 == local.1 && any
            })
        })
    }

    pub(crate) fn bind(&self, id: usize, local: Endpoint) -> Result<(), Errno> {
        let mut inner = self.0.inner.lock();
        let own = inner.nets.own();
        if local.0 != [0; 4] && local.0[0] != 127 && own != Some(local.0) {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if local.1 != 0 && Self::in_use(&inner, id, local) {
            return Err(Errno::EADDRINUSE);
        }
        let port = if local.1 == 0 { inner.free_port(id)? } else { local.1 };
        let entry = inner.entries.get_mut(id).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        if !matches!(entry.state, State::Fresh) || entry.local.1 != 0 {
            return Err(Errno::EINVAL);
        }
        entry.local = (local.0, port);
        Ok(())
    }

    pub(crate) fn listen(&self, id: usize, backlog: u32) -> Result<(), Errno> {
        let mut inner = self.0.inner.lock();
        let inner = &mut *inner;
        let entry = inner.entries.get(id).and_then(Option::as_ref).ok_or(Errno::EBADF)?;
        let backlog = (backlog as usize).clamp(1, 16);
        match &entry.state {
            State::Fresh => {}
            State::Listening { .. } => return Ok(()),
            _ => return Err(Errno::EINVAL),
        }
        let mut local = entry.local;
        if local.1 == 0 {
            local.1 = inner.free_port(id)?;
        }
        let mut waiting = Vec::new();
        for link in [false, true] {
            let here = match link {
                false => local.0 == [0; 4] || local.0[0] == 127 || inner.nets.own() == Some(local.0),
                true => inner.nets.link.is_some() && local.0[0] != 127,
            };
            if here {
                waiting.push(inner.nets.add_listener(link, local)?);
            }
        }
        if let Some(Some(entry)) = inner.entries.get_mut(id) {
            entry.local = local;
            entry.state = State::Listening { backlog, waiting, arrived: VecDeque::new() };
            entry.last = vfs::Ready::NONE;
        }
        Ok(())
    }

    /// The next connection of a listener, as a socket of its own.
    pub(crate) fn accept(&self, id: usize) -> Result<(Arc<dyn Socket>, Endpoint), Errno> {
        let conn = self.with(id, |entry, _, _| match &mut entry.state {
            State::Listening { arrived, .. } => arrived.pop_front().ok_or(Errno::EAGAIN),
            _ => Err(Errno::EINVAL),
        })?;
        let mut inner = self.0.inner.lock();
        let tcp = inner.nets.tcp(conn);
        let mut entry = Entry::new(State::Connected(conn));
        entry.told = true;
        // a connection that was reset before it was accepted has no endpoints any more
        entry.local = tcp.local_endpoint().map_or(([0; 4], 0), plain);
        entry.peer = tcp.remote_endpoint().map(plain);
        let peer = entry.peer.unwrap_or(([0; 4], 0));
        let id = inner.insert(entry);
        drop(inner);
        Ok((Arc::new(TcpSocket::new(self.clone(), id)), peer))
    }

    pub(crate) fn connect(&self, id: usize, peer: Endpoint) -> Result<(), Errno> {
        let port = {
            let mut inner = self.0.inner.lock();
            inner.free_port(id)?
        };
        self.with(id, |entry, nets, now_ns| {
            match entry.state {
                State::Listening { .. } => return Err(Errno::EINVAL),
                State::Connecting(_) => return Err(Errno::EALREADY),
                State::Connected(_) if entry.told => return Err(Errno::EISCONN),
                State::Connected(_) => {
                    entry.told = true;
                    return Ok(());
                }
                State::Fresh | State::Failed => {}
            }
            if let Some(error) = entry.error.take() {
                entry.state = State::Fresh;
                return Err(error);
            }
            if peer.1 == 0 {
                return Err(Errno::ECONNREFUSED);
            }
            // 0.0.0.0 is this machine
            let remote = if peer.0 == [0; 4] { ([127, 0, 0, 1], peer.1) } else { peer };
            let link = nets.over_link(remote.0)?;
            let source = match (link, nets.own()) {
                (true, Some(own)) => own,
                _ if nets.own() == Some(remote.0) => remote.0,
                _ => [127, 0, 0, 1],
            };
            if entry.local.0 != [0; 4] && entry.local.0 != source {
                return Err(Errno::EADDRNOTAVAIL);
            }
            let local = (source, if entry.local.1 != 0 { entry.local.1 } else { port });
            let conn = nets.add(link)?;
            let Nets { inside, link: there, .. } = nets;
            let (iface, sockets) = match there {
                Some(there) if link => (&mut there.net.iface, &mut there.net.sockets),
                _ => (&mut inside.iface, &mut inside.sockets),
            };
            let socket = sockets.get_mut::<tcp::Socket<'_>>(conn.handle);
            if socket.connect(iface.context(), endpoint(remote), endpoint(local)).is_err() {
                nets.remove(conn);
                return Err(Errno::EADDRNOTAVAIL);
            }
            (entry.local, entry.peer, entry.began_ns, entry.told) = (local, Some(remote), now_ns, false);
            entry.state = State::Connecting(conn);
            // A socket that was never connected is writable, which is old news; inside the machine the connection may
            // be there before this call ends, which is not.
            entry.last = vfs::Ready::NONE;
            Err(Errno::EINPROGRESS)
        })
    }
}

fn at(ns: u64) -> Instant {
    Instant::from_micros((ns / 1000) as i64)
}

impl Inner {
    fn insert(&mut self, entry: Entry) -> usize {
        match self.entries.iter().position(Option::is_none) {
            Some(free) => {
                self.entries[free] = Some(entry);
                free
            }
            None => {
                self.entries.push(Some(entry));
                self.entries.len() - 1
            }
        }
    }

    fn free_port(&mut self, id: usize) -> Result<u16, Errno> {
        for _ in EPHEMERAL..=u16::MAX {
            let port = self.nets.next_port;
            self.nets.next_port = if port == u16::MAX { EPHEMERAL } else { port + 1 };
            let taken = self.entries.iter().flatten().any(|entry| entry.local.1 == port)
                || Stack::in_use(self, id, ([0; 4], port));
            if !taken {
                return Ok(port);
            }
        }
        Err(Errno::EADDRINUSE)
    }

    /// Nobody uses the connection any more: it is closed in order, or reset.
    fn abandon(&mut self, conn: Conn, reset: bool, now_ns: u64) {
        let tcp = self.nets.tcp(conn);
        if reset {
            tcp.abort()
        } else {
            tcp.close()
        }
        self.orphans.push_back((conn, now_ns + ORPHAN_NS));
        if self.orphans.len() > MAX_ORPHANS
            && let Some((oldest, _)) = self.orphans.front_mut().map(|orphan| {
                orphan.1 = now_ns;
                *orphan
            })
        {
            self.nets.tcp(oldest).abort();
        }
    }

    /// Moves frames both ways until nothing is left to do, then tells the sockets.
    fn pump(&mut self, now_ns: u64) {
        let now = at(now_ns);
        let Self { nets, entries, orphans } = self;
        let careful = entries.iter().flatten().any(|entry| matches!(entry.state, State::Listening { .. }));
        for _ in 0..ROUNDS {
            let (left, sent) = nets.inside.pump(now, careful);
            // what was sent inside is there already
            let mut more = left || sent;
            if let Some(link) = &mut nets.link {
                more |= link.net.pump(now, careful).0;
            }
            for entry in entries.iter_mut().flatten() {
                entry.refresh(nets, now_ns);
                replenish(entry, nets);
            }
            if !more {
                break;
            }
        }
        if let Some(link) = &mut nets.link {
            link.net.device.link.flush();
        }
        orphans.retain(|(conn, until)| {
            let over = nets.tcp(*conn).state() == tcp::State::Closed || now_ns >= *until;
            if over {
                nets.remove(*conn);
            }
            !over
        });
        for entry in entries.iter_mut().flatten() {
            entry.announce(nets);
        }
    }
}

/// Sees to it that a listener has sockets that wait for peers.
fn replenish(entry: &mut Entry, nets: &mut Nets) {
    let local = entry.local;
    let State::Listening { backlog, waiting, arrived } = &mut entry.state else { return };
    for link in [false, true] {
        let here = match link {
            false => local.0 == [0; 4] || local.0[0] == 127 || nets.own() == Some(local.0),
            true => nets.link.is_some() && local.0[0] != 127,
        };
        let mut idle = 0;
        for conn in waiting.iter().filter(|conn| conn.link == link) {
            idle += usize::from(nets.tcp(*conn).state() == tcp::State::Listen);
        }
        while here && idle < WAITING && waiting.len() + arrived.len() < *backlog + 2 * WAITING {
            // without memory there is one chance less, until the next frame
            let Ok(conn) = nets.add_listener(link, local) else { return };
            waiting.push(conn);
            idle += 1;
        }
    }
}

impl SocketFactory for Stack {
    fn socket(&self, domain: Domain, kind: SocketKind, protocol: u32) -> Result<Arc<dyn Socket>, Errno> {
        if domain != Domain::Inet {
            return Err(Errno::EAFNOSUPPORT);
        }
        if kind != SocketKind::Stream || !matches!(protocol, 0 | 6) {
            return Err(Errno::EPROTONOSUPPORT);
        }
        let id = self.0.inner.lock().insert(Entry::new(State::Fresh));
        Ok(Arc::new(TcpSocket::new(self.clone(), id)))
    }
}
