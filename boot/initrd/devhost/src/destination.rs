//! The side where the devices go.

use crate::{
    engine::{Engine, Shared},
    event::{Events, Progress, Role},
    layout,
    machine::{DEVICES, EDU, IGB, Machine, State},
    memory::Region,
    peer::{Broken, Peer},
    source::exit,
};
use migrate_wire::{
    PAGE,
    digest::Fold,
    message::{DeviceId, Hello, Message, Round, RoundKind},
    order::FromSource,
};
use serde_json::json;
use std::{
    net::TcpListener,
    sync::Arc,
    time::{Duration, Instant},
};

/// What the user chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// TCP port.
    pub port: u16,
    /// Seed of the layout; must be the source's.
    pub seed: u64,
    /// How long to wait for the source.
    pub accept: Duration,
    /// How long the source may be silent. The wait for a pass of frames is bounded by it as well.
    pub patience: Duration,
}

impl Options {
    /// The defaults for a port.
    pub fn new(port: u16) -> Self {
        Self { port, seed: 1, accept: Duration::from_secs(120), patience: Duration::from_secs(60) }
    }
}

/// Most bytes of one device's state.
const MAX_STATE: u32 = 4 << 20;
/// What the devices do not let anyone read, and what becomes of it.
const NOT_MOVED: &str =
    "igb: statistics (cleared by reading) start from zero, transmit contexts are not used; edu: nothing";

/// Why the devices do not run here.
struct Failure {
    status: u8,
    why: String,
    tell: bool,
}

impl Failure {
    fn of(why: impl Into<String>) -> Self {
        Self { status: exit::FAILED, why: why.into(), tell: true }
    }
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        let tell = matches!(broken, Broken::Wire(_));
        Self { status: exit::FAILED, why: broken.to_string(), tell }
    }
}

impl From<(usize, Broken)> for Failure {
    fn from((_, broken): (usize, Broken)) -> Self {
        broken.into()
    }
}

impl From<migrate_wire::Error> for Failure {
    fn from(error: migrate_wire::Error) -> Self {
        Broken::from(error).into()
    }
}

/// Fills the region with something that no page of the source has, so that a page that did not arrive cannot look right.
pub fn prepare(region: &Region, seed: u64) {
    layout::fill(region, !seed);
    for page in (0..region.pages()).filter(|page| page % 16 == 5) {
        region.fill_page(page, |_| 0xDEAD_DEAD_DEAD_DEAD);
    }
}

/// Runs the destination on a listening socket; the exit status.
pub fn run(machine: Arc<dyn Machine>, events: Arc<dyn Events>, options: &Options, listener: &TcpListener) -> u8 {
    let region = machine.region();
    let fields = json!({
        "role": Role::Destination, "region_bytes": region.len(), "pages": region.pages(), "tracking": machine.tracking(),
    });
    events.emit("ready", fields);
    let status = match arrive(&machine, &events, options, listener) {
        Ok(engine) => go_on(engine, &*events, options),
        Err(failure) => {
            events.emit("refused", json!({ "role": Role::Destination, "message": failure.why }));
            eprintln!("devhost: {}", failure.why);
            for device in [IGB, EDU] {
                // the process ends and the devices with it; a reset that fails changes nothing
                let _ = machine.reset(device);
            }
            failure.status
        }
    };
    events.emit("done", json!({ "role": Role::Destination, "ok": status == exit::DONE }));
    status
}

/// Takes part in the transfer until the host ends it.
fn go_on(engine: Engine, events: &dyn Events, options: &Options) -> u8 {
    let shared = Shared::new(engine);
    let thread = shared.spawn();
    let (mut frames, mut last) = (0, Instant::now());
    while !shared.is_done() {
        std::thread::sleep(Duration::from_millis(10));
        if shared.frames() != frames {
            (frames, last) = (shared.frames(), Instant::now());
        } else if last.elapsed() > options.patience {
            let message = format!("no frame for {} s", last.elapsed().as_secs());
            events.emit("refused", json!({ "role": Role::Destination, "message": message }));
            break;
        }
    }
    shared.quit();
    // a panic of the other thread has printed itself
    let _ = thread.join();
    let engine = shared.hold();
    let ((good, bad), edu) = (engine.transfer().passes(), engine.edu());
    if bad > 0 || edu.bad > 0 {
        eprintln!("devhost: {bad} passes and {} edu pages are wrong", edu.bad);
    }
    if shared.is_done() && good > 0 && bad == 0 && edu.bad == 0 { exit::DONE } else { exit::WRONG }
}

fn arrive(
    machine: &Arc<dyn Machine>,
    events: &Arc<dyn Events>,
    options: &Options,
    listener: &TcpListener,
) -> Result<Engine, Failure> {
    let mut peer = Peer::accept(listener, options.accept, options.patience)?;
    let mut arrival = Arrival {
        machine,
        events,
        options,
        order: FromSource::new(),
        session: 0,
        round: None,
        states: vec![Vec::new(); DEVICES.len()],
        engine: None,
        own: Vec::new(),
        lost: 0,
        checked: 0,
        verify: None,
        verify_ms: 0,
        pages: 0,
    };
    let result = arrival.run(&mut peer);
    match result {
        Ok(()) => arrival.engine.ok_or_else(|| Failure::of("no host state")),
        Err(failure) => {
            if failure.tell {
                peer.refuse(&failure.why);
            }
            Err(failure)
        }
    }
}

struct Arrival<'a> {
    machine: &'a Arc<dyn Machine>,
    events: &'a Arc<dyn Events>,
    options: &'a Options,
    order: FromSource,
    session: u64,
    round: Option<Round>,
    states: Vec<Vec<u8>>,
    engine: Option<Engine>,
    own: Vec<u64>,
    lost: u32,
    checked: u32,
    verify: Option<Instant>,
    verify_ms: u64,
    pages: u64,
}

impl Arrival<'_> {
    fn run(&mut self, peer: &mut Peer) -> Result<(), Failure> {
        let events = self.events.clone();
        let mut progress = Progress::new(&*events, Role::Destination);
        let mut out = Vec::new();
        loop {
            let message = peer.receive()?;
            self.order.take(&message)?;
            match message {
                Message::Hello(hello) => {
                    self.hello(&hello)?;
                    peer.writer.accept(&mut out, hello.session);
                }
                Message::Round(round) => {
                    (self.round, self.pages) = (Some(round), 0);
                }
                Message::Pages(pages) => {
                    let region = self.machine.region();
                    pages.iter().for_each(|(number, bytes)| region.write_page(number, bytes));
                    self.pages += pages.len() as u64;
                    if let Some(round) = self.round {
                        let stopped = round.kind == RoundKind::Stopped;
                        let phase =
                            if stopped { "stop-and-copy".to_owned() } else { format!("round {}", round.number) };
                        progress.at(&phase, self.pages, round.pages.into());
                    }
                }
                Message::DeviceState(state) => {
                    if state.total > MAX_STATE {
                        return Err(Failure::of(format!("{} bytes of device state are too many", state.total)));
                    }
                    let device = state.device as usize;
                    let Some(all) = self.states.get_mut(device) else {
                        return Err(Failure::of("state of an unknown device"));
                    };
                    all.extend(state.bytes);
                    if all.len() == state.total as usize {
                        let loaded = self.machine.load(device, all);
                        loaded.map_err(|e| Failure::of(format!("state of device {device} was refused: {e}")))?;
                    }
                }
                Message::HostState(saved) => self.states_complete(saved)?,
                Message::Digests(digests) => {
                    for (digest, page) in digests.iter().zip(digests.first as usize..) {
                        self.lost += u32::from(self.own.get(page) != Some(&digest));
                        self.checked += 1;
                    }
                }
                Message::End(_) => {
                    let fold = self.verified()?;
                    peer.writer.ready(&mut out, self.session, fold);
                }
                Message::Go(session) => {
                    for device in [EDU, IGB] {
                        let running = self.machine.set_state(device, State::Running);
                        running.map_err(|error| Failure::of(format!("device {device} does not run: {error}")))?;
                    }
                    if let Some(engine) = &mut self.engine {
                        engine.run_again(true);
                    }
                    self.events.emit("running", json!({ "stats_not_moved": NOT_MOVED }));
                    peer.writer.running(&mut out, session);
                    // the devices run here now, whether the source learns of it or not
                    let _ = peer.send(&out);
                    return Ok(());
                }
                _ => {}
            }
            if !out.is_empty() {
                peer.send(&out)?;
                out.clear();
            }
        }
    }

    fn hello(&mut self, hello: &Hello) -> Result<(), Failure> {
        let (bytes, iova) = (self.machine.region().len() as u64, self.machine.iova());
        if hello.region_bytes != bytes {
            return Err(Failure::of(format!("a region of {} bytes there, of {bytes} here", hello.region_bytes)));
        }
        if hello.iova != iova {
            return Err(Failure::of(format!("the region is at iova {:#x} there, at {iova:#x} here", hello.iova)));
        }
        if hello.devices != DEVICES {
            let name = |id: &DeviceId| format!("{:04x}:{:04x}", id.vendor, id.device);
            let names: Vec<_> = hello.devices.iter().map(name).collect();
            return Err(Failure::of(format!("devices {} there are not those here", names.join(" "))));
        }
        self.session = hello.session;
        // now, so that the link is up long before the switch
        for device in [IGB, EDU] {
            let state = self.machine.set_state(device, State::Resuming);
            state.map_err(|error| Failure::of(format!("device {device}: VFIO state RESUMING: {error}")))?;
        }
        Ok(())
    }

    /// All memory and state is here, the devices are loaded: begins to verify.
    fn states_complete(&mut self, saved: &[u8]) -> Result<(), Failure> {
        let engine = Engine::adopt(self.machine.clone(), self.events.clone(), self.options.seed, saved);
        self.engine = Some(engine.map_err(Failure::of)?);
        self.verify = Some(Instant::now());
        let region = self.machine.region();
        let mut scratch = [0; PAGE];
        self.own = (0..region.pages()).map(|page| region.digest(page, &mut scratch)).collect();
        Ok(())
    }

    fn verified(&mut self) -> Result<u64, Failure> {
        let mut fold = Fold::new();
        self.own.iter().for_each(|digest| fold.add(*digest));
        self.verify_ms = self.verify.map_or(0, |begun| begun.elapsed().as_millis() as u64);
        self.events.emit("digest", json!({ "role": Role::Destination, "digest": format!("{:016x}", fold.value()) }));
        let fields = json!({ "pages": self.checked, "pages_lost": self.lost, "ms": self.verify_ms });
        self.events.emit("verify", fields);
        if self.lost > 0 {
            return Err(Failure { status: exit::WRONG, why: format!("pages lost: {}", self.lost), tell: true });
        }
        Ok(fold.value())
    }
}
