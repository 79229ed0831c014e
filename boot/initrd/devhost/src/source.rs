//! The side where the devices run first.

use crate::{
    bitmap::Bitmap,
    engine::{Engine, Shared},
    event::{Events, Progress, Role},
    layout,
    machine::{DEVICES, EDU, IGB, Machine, State},
    peer::{Broken, Peer},
};
use migrate_wire::{
    PAGE,
    digest::Fold,
    message::{BATCH, End, Hello, Message, Round, RoundKind},
    order::FromDestination,
};
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

/// What the user chose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the destination listens.
    pub peer: SocketAddr,
    /// Seed of contents and layout.
    pub seed: u64,
    /// Rounds after which the devices are stopped at the latest, round 0 not counted.
    pub max_rounds: u32,
    /// Rounds before which they are not, round 0 not counted.
    pub min_rounds: u32,
    /// A round of at most so many pages is the last one with running devices.
    pub stop_pages: u32,
    /// Data frames before the first round.
    pub after_frames: u64,
    /// Red twin: what devices write is ignored.
    pub no_dirty: bool,
    /// Red twin: what CPUs write is ignored.
    pub no_soft_dirty: bool,
    /// How long to try to connect.
    pub connect: Duration,
    /// How long the other side may be silent.
    pub patience: Duration,
    /// How long the source runs on after a failed migration, if the host does not end the transfer.
    pub linger: Duration,
}

impl Options {
    /// The defaults for a peer.
    pub fn new(peer: SocketAddr) -> Self {
        Self {
            peer,
            seed: 1,
            max_rounds: 12,
            min_rounds: 3,
            stop_pages: 1000,
            after_frames: 256,
            no_dirty: false,
            no_soft_dirty: false,
            connect: Duration::from_secs(60),
            patience: Duration::from_secs(20),
            linger: Duration::from_secs(30),
        }
    }
}

/// Data frames that must have come between two looks at the dirty pages, so that a round has something of each kind.
const FRAMES_PER_ROUND: u64 = 48;
/// A round begins after so long even without frames.
const ROUND_WAIT: Duration = Duration::from_secs(5);

/// How it ended, as an exit status.
pub mod exit {
    /// Done.
    pub const DONE: u8 = 0;
    /// Pages or passes were wrong.
    pub const WRONG: u8 = 1;
    /// Usage or set-up.
    pub const USAGE: u8 = 2;
    /// Cut after GO.
    pub const UNKNOWN: u8 = 3;
    /// The migration failed; the source runs on.
    pub const FAILED: u8 = 4;
}

/// Why there was no migration.
enum Failure {
    /// GO was not sent: the source may run.
    BeforeGo(String),
    /// GO may have arrived: the source may not run.
    AfterGo(String),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Self {
        Self::BeforeGo(broken.to_string())
    }
}

impl From<(usize, Broken)> for Failure {
    fn from((_, broken): (usize, Broken)) -> Self {
        broken.into()
    }
}

fn local(what: &str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::BeforeGo(format!("{what}: {error}"))
}

/// Runs the source; the exit status.
pub fn run(machine: Arc<dyn Machine>, events: Arc<dyn Events>, options: &Options) -> u8 {
    let engine = match Engine::start(machine.clone(), events.clone(), options.seed) {
        Ok(engine) => engine,
        Err(message) => {
            events.emit("refused", json!({ "role": Role::Source, "message": message }));
            return exit::USAGE;
        }
    };
    let (region, tracking) = (machine.region(), machine.tracking());
    if !tracking {
        note(&*events, "no dirty bits: everything mapped counts as dirty");
    }
    let fields = json!({
        "role": Role::Source, "region_bytes": region.len(), "pages": region.pages(), "tracking": tracking,
    });
    events.emit("ready", fields);
    let shared = Shared::new(engine);
    let thread = shared.spawn();
    let mut migration =
        Migration { machine: &*machine, events: &*events, shared: &shared, options, rounds: 0, pages_sent: 0 };
    let status = match migration.run() {
        Ok(()) => exit::DONE,
        Err(Failure::AfterGo(why)) => {
            events.emit("outcome_unknown", json!({ "why": why }));
            eprintln!("devhost: outcome unknown: {why}");
            exit::UNKNOWN
        }
        Err(Failure::BeforeGo(why)) => {
            events.emit("resumed", json!({ "why": why }));
            let begun = Instant::now();
            while !shared.is_done() && begun.elapsed() < options.linger {
                std::thread::sleep(Duration::from_millis(20));
            }
            exit::FAILED
        }
    };
    shared.quit();
    // a panic of the other thread has printed itself
    let _ = thread.join();
    events.emit("done", json!({ "role": Role::Source, "ok": status == exit::DONE }));
    status
}

fn note(events: &dyn Events, message: &str) {
    events.emit("note", json!({ "role": Role::Source, "message": message }));
}

struct Migration<'a> {
    machine: &'a dyn Machine,
    events: &'a dyn Events,
    shared: &'a Shared,
    options: &'a Options,
    rounds: u32,
    pages_sent: u64,
}

impl Migration<'_> {
    fn run(&mut self) -> Result<(), Failure> {
        let options = self.options;
        let mut peer = Peer::connect(options.peer, options.connect, options.patience)?;
        let session = options.seed ^ self.machine.now() << 20 ^ u64::from(std::process::id());
        let mut answers = FromDestination::new(session);
        let mut out = Vec::new();
        peer.writer.hello(
            &mut out,
            &Hello {
                session,
                region_bytes: self.machine.region().len() as u64,
                iova: self.machine.iova(),
                tracking: self.machine.tracking(),
                devices: DEVICES.to_vec(),
            },
        );
        peer.send(&out)?;
        answer(&mut peer, &mut answers)?;
        self.wait_for_frames(options.after_frames, options.patience);
        if self.machine.tracking() {
            self.pre_copy(&mut peer)?;
        }
        let guard = self.shared.hold();
        match self.stop_and_copy(&mut peer, &mut answers, session, guard) {
            Ok(()) => Ok(()),
            // the guard was dropped on the way, after the devices were set running again
            Err(failure) => Err(failure),
        }
    }

    fn wait_for_frames(&self, frames: u64, limit: Duration) {
        let begun = Instant::now();
        while self.shared.frames() < frames && begun.elapsed() < limit && !self.shared.is_done() {
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn pre_copy(&mut self, peer: &mut Peer) -> Result<(), Failure> {
        self.machine.set_tracking(true).map_err(local("IOMMU_HWPT_SET_DIRTY_TRACKING"))?;
        {
            // what CPUs write from here on is in a later round; all earlier writes are in round 0, which sends everything
            let _writers = self.shared.hold();
            self.machine.cpu_clear().map_err(local("clear_refs"))?;
        }
        let all = Bitmap::all(self.machine.region().pages());
        self.round(peer, RoundKind::PreCopy, &all, (0, 0))?;
        let mut seen = self.shared.frames();
        for _ in 0..self.options.max_rounds {
            self.wait_for_frames(seen + FRAMES_PER_ROUND, ROUND_WAIT);
            seen = self.shared.frames();
            let (device, cpu) = {
                let mut device = Bitmap::none(all.pages());
                self.machine.device_dirty(&mut device).map_err(local("IOMMU_HWPT_GET_DIRTY_BITMAP"))?;
                let writers = self.shared.hold();
                let cpu = self.cpu_dirty()?;
                self.machine.cpu_clear().map_err(local("clear_refs"))?;
                drop(writers);
                (self.unless(device, self.options.no_dirty), cpu)
            };
            let mut dirty = device.clone();
            dirty.or(&cpu);
            self.round(peer, RoundKind::PreCopy, &dirty, (device.count(), cpu.count()))?;
            if dirty.count() <= self.options.stop_pages && self.rounds > self.options.min_rounds {
                break;
            }
        }
        Ok(())
    }

    fn unless(&self, map: Bitmap, ignored: bool) -> Bitmap {
        if ignored { Bitmap::none(map.pages()) } else { map }
    }

    fn cpu_dirty(&self) -> Result<Bitmap, Failure> {
        let mut cpu = Bitmap::none(self.machine.region().pages());
        self.machine.cpu_dirty(&mut cpu).map_err(local("/proc/self/pagemap"))?;
        Ok(self.unless(cpu, self.options.no_soft_dirty))
    }

    /// Sends one round and its event; returns the bytes and milliseconds it took.
    fn round(
        &mut self,
        peer: &mut Peer,
        kind: RoundKind,
        pages: &Bitmap,
        from: (u32, u32),
    ) -> Result<(u64, u64), Failure> {
        let (begun, before) = (Instant::now(), peer.sent());
        let (number, total) = (self.rounds, pages.count());
        let region = self.machine.region();
        let mut progress = Progress::new(self.events, Role::Source);
        let phase = if kind == RoundKind::Stopped { "stop-and-copy".to_owned() } else { format!("round {number}") };
        let mut out = Vec::with_capacity(BATCH * (PAGE + 4) + 64);
        peer.writer.round(&mut out, &Round { number, kind, pages: total });
        let (mut batch, mut done) = (Vec::with_capacity(BATCH), 0);
        let mut left = pages.iter().peekable();
        while let Some(page) = left.next() {
            batch.push(page);
            if batch.len() < BATCH && left.peek().is_some() {
                continue;
            }
            peer.writer.pages(&mut out, &batch, |page, body| {
                let at = body.len();
                body.resize(at + PAGE, 0);
                if let Some(bytes) = body[at..].first_chunk_mut::<PAGE>() {
                    region.read_page(page, bytes);
                }
            });
            peer.send(&out)?;
            out.clear();
            if peer.has_input() {
                // nothing is due from the other side here but a refusal
                return Err(match peer.receive() {
                    Err(broken) => broken.into(),
                    Ok(_) => Failure::BeforeGo("an answer that was not asked for".into()),
                });
            }
            done += batch.len() as u64;
            batch.clear();
            progress.at(&phase, done, total.into());
        }
        peer.writer.round_end(&mut out, number, total);
        peer.send(&out)?;
        self.rounds += 1;
        self.pages_sent += u64::from(total);
        let (bytes, ms) = (peer.sent() - before, begun.elapsed().as_millis() as u64);
        if kind == RoundKind::PreCopy {
            let fields = json!({
                "round": number, "pages_device": from.0, "pages_cpu": from.1, "pages_dirty": total, "bytes": bytes, "ms": ms,
            });
            self.events.emit("round", fields);
        }
        Ok((bytes, ms))
    }

    /// From the stop of the devices to RUNNING. On a failure before GO the devices run again when this returns.
    fn stop_and_copy(
        &mut self,
        peer: &mut Peer,
        answers: &mut FromDestination,
        session: u64,
        mut engine: MutexGuard<'_, Engine>,
    ) -> Result<(), Failure> {
        let result = self.stopped(peer, answers, session, &mut engine);
        if let Err(Failure::BeforeGo(why)) = &result {
            let why = why.clone();
            for device in [EDU, IGB] {
                if let Err(error) = self.machine.set_state(device, State::Running) {
                    return Err(Failure::BeforeGo(format!("{why}; and device {device} does not run again: {error}")));
                }
            }
            engine.run_again(false);
            drop(engine);
            // this side is done with the stream; the other side need not wait for its patience to end
            peer.refuse(&why);
        }
        result
    }

    fn stopped(
        &mut self,
        peer: &mut Peer,
        answers: &mut FromDestination,
        session: u64,
        engine: &mut Engine,
    ) -> Result<(), Failure> {
        let begun = Instant::now();
        let before = peer.sent();
        self.events.emit("stop", json!({}));
        for device in [IGB, EDU] {
            self.machine.set_state(device, State::Stop).map_err(local("VFIO state STOP"))?;
        }
        engine.stop();
        let all = Bitmap::all(self.machine.region().pages());
        let (dirty, device, cpu) = if self.machine.tracking() {
            let mut device = Bitmap::none(all.pages());
            self.machine.device_dirty(&mut device).map_err(local("IOMMU_HWPT_GET_DIRTY_BITMAP"))?;
            let device = self.unless(device, self.options.no_dirty);
            let cpu = self.cpu_dirty()?;
            let mut dirty = device.clone();
            dirty.or(&cpu);
            (dirty, device.count(), cpu.count())
        } else {
            (all, 0, 0)
        };
        let (bytes_memory, _) = self.round(peer, RoundKind::Stopped, &dirty, (device, cpu))?;
        let (mut out, mut bytes_state) = (Vec::new(), 0);
        for at in [IGB, EDU] {
            self.machine.set_state(at, State::StopCopy).map_err(local("VFIO state STOP_COPY"))?;
            let state = self.machine.save(at).map_err(local("device state"))?;
            peer.writer.device_state(&mut out, at as u32, &state);
            // at once: the other side loads this one while the next is saved
            peer.send(&out)?;
            bytes_state += out.len() as u64;
            out.clear();
        }
        peer.writer.host_state(&mut out, &engine.save());
        peer.send(&out)?;
        bytes_state += out.len() as u64;
        let ms = begun.elapsed().as_millis() as u64;
        let fields = json!({
            "pages_device": device, "pages_cpu": cpu, "pages_dirty": dirty.count(), "bytes_memory": bytes_memory,
            "bytes_state": bytes_state, "bytes": peer.sent() - before, "ms": ms,
        });
        self.events.emit("stop_copy", fields);
        let fold = self.digests(peer)?;
        let Message::Ready(_, theirs) = receive(peer, answers)? else {
            return Err(Failure::BeforeGo("no READY".into()));
        };
        if theirs != fold {
            return Err(Failure::BeforeGo("the other side's memory has another digest".into()));
        }
        // Fenced: from here on only the return of this function with BeforeGo lets the devices run.
        out.clear();
        peer.writer.fenced(&mut out, session);
        peer.send(&out)?;
        out.clear();
        peer.writer.go(&mut out, session);
        match peer.send(&out) {
            Ok(()) => {}
            // not a byte of GO left this machine
            Err((0, broken)) => return Err(broken.into()),
            Err((_, broken)) => return Err(Failure::AfterGo(broken.to_string())),
        }
        self.events.emit("go", json!({ "bytes_total": peer.sent() }));
        match receive(peer, answers) {
            Ok(Message::Running(_)) => Ok(()),
            Ok(_) => Err(Failure::AfterGo("no RUNNING".into())),
            Err(broken) => Err(Failure::AfterGo(broken.to_string())),
        }
    }

    fn digests(&mut self, peer: &mut Peer) -> Result<u64, Failure> {
        let region = self.machine.region();
        let mut scratch = [0; PAGE];
        let digests: Vec<u64> = (0..region.pages()).map(|page| region.digest(page, &mut scratch)).collect();
        let mut fold = Fold::new();
        digests.iter().for_each(|digest| fold.add(*digest));
        let mut out = Vec::new();
        peer.writer.digests(&mut out, &digests);
        peer.writer.end(&mut out, &End { rounds: self.rounds, pages: self.pages_sent, fold: fold.value() });
        peer.send(&out)?;
        self.events.emit("digest", json!({ "role": Role::Source, "digest": format!("{:016x}", fold.value()) }));
        Ok(fold.value())
    }
}

fn receive<'a>(peer: &'a mut Peer, answers: &mut FromDestination) -> Result<Message<'a>, Broken> {
    let message = peer.receive()?;
    answers.take(&message)?;
    Ok(message)
}

fn answer(peer: &mut Peer, answers: &mut FromDestination) -> Result<(), Broken> {
    receive(peer, answers).map(|_| ())
}

/// Fills the region before it is mapped.
pub fn prepare(region: &crate::memory::Region, seed: u64) {
    layout::fill(region, seed);
}
