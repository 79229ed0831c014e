//! Drivers and transfer together. One thread runs [`Shared::run`]; whoever migrates holds the engine's lock while nobody may
//! write to the region.

use crate::{
    edu,
    event::{Events, Role},
    igb,
    layout::Layout,
    machine::{EDU, IGB, Machine},
    transfer::{self, Transfer},
};
use serde::{Deserialize, Serialize};
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// Frames taken in one step, and bytes digested: short enough to let go of the lock often.
const STEP_FRAMES: usize = 64;
const STEP_DIGEST: u64 = 128 * 1024;
/// A destination that got no frame for so long tells the card about its buffers unasked. It is then counted.
const PATIENCE: u64 = 5_000_000_000;
/// How long `end` is still answered after everything is done.
const LINGER: u64 = 300_000_000;

/// What devhost itself knows, as section 8 of the stream.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    version: u32,
    seed: u64,
    rings: igb::Rings,
    cycle: edu::Cycle,
    transfer: transfer::Saved,
}

/// Everything that runs.
pub struct Engine {
    machine: Arc<dyn Machine>,
    events: Arc<dyn Events>,
    layout: Layout,
    seed: u64,
    igb: igb::Driver,
    edu: edu::Driver,
    transfer: Transfer,
    running: bool,
    /// Set between RESUMING and the first frame: no register is written; holds when the wait began.
    silent_since: Option<u64>,
    over_since: Option<u64>,
    buffer: Box<[u8; igb::RX_BUFFER]>,
}

impl Engine {
    /// Starts freshly reset devices, at the source, and waits for the link at most 10 s.
    ///
    /// # Errors
    /// A message for the user.
    pub fn start(machine: Arc<dyn Machine>, events: Arc<dyn Events>, seed: u64) -> Result<Self, String> {
        let (region, iova) = (machine.region(), machine.iova());
        let layout = Layout::new(region.pages(), seed);
        let mut igb = igb::Driver::new(region, iova);
        igb.start(machine.bar(IGB), &layout);
        let begun = machine.now();
        let mut restarted = false;
        while !igb.link(machine.bar(IGB)) {
            let waited = machine.now() - begun;
            if waited > 10_000_000_000 {
                return Err("the igb has no link".into());
            }
            if waited > 3_000_000_000 && !restarted {
                restarted = true;
                igb.restart_link(machine.bar(IGB));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let card = igb.mac(machine.bar(IGB));
        let edu = edu::Driver::new(region, iova);
        let transfer = Transfer::new(Role::Source, card);
        Ok(Self::with(machine, events, layout, seed, igb, edu, transfer))
    }

    fn with(
        machine: Arc<dyn Machine>,
        events: Arc<dyn Events>,
        layout: Layout,
        seed: u64,
        igb: igb::Driver,
        edu: edu::Driver,
        transfer: Transfer,
    ) -> Self {
        Self {
            machine,
            events,
            layout,
            seed,
            igb,
            edu,
            transfer,
            running: true,
            silent_since: None,
            over_since: None,
            buffer: Box::new([0; igb::RX_BUFFER]),
        }
    }

    /// Goes on at the destination with what [`save`](Self::save) gave. Touches neither registers nor memory.
    ///
    /// # Errors
    /// What is wrong with `saved`.
    pub fn adopt(machine: Arc<dyn Machine>, events: Arc<dyn Events>, seed: u64, saved: &[u8]) -> Result<Self, String> {
        let saved: Saved = serde_json::from_slice(saved).map_err(|error| format!("host state: {error}"))?;
        if saved.version != 1 {
            return Err(format!("host state: version {} is not known here", saved.version));
        }
        if saved.seed != seed {
            return Err(format!("host state: seed {} there, {seed} here", saved.seed));
        }
        let (region, iova) = (machine.region(), machine.iova());
        let layout = Layout::new(region.pages(), seed);
        let wrap = |what: &'static str| format!("host state: {what}");
        let igb = igb::Driver::adopt(region, iova, saved.rings).map_err(wrap)?;
        let edu = edu::Driver::adopt(region, iova, saved.cycle).map_err(wrap)?;
        let transfer = Transfer::adopt(Role::Destination, saved.transfer).map_err(wrap)?;
        let mut engine = Self::with(machine, events, layout, seed, igb, edu, transfer);
        engine.running = false;
        Ok(engine)
    }

    /// What moves with the devices.
    pub fn save(&self) -> Vec<u8> {
        let saved = Saved {
            version: 1,
            seed: self.seed,
            rings: self.igb.rings().clone(),
            cycle: self.edu.cycle().clone(),
            transfer: self.transfer.save(),
        };
        // a struct of numbers, vectors and maps with number keys always serialises
        serde_json::to_vec(&saved).unwrap_or_default()
    }

    /// From now on nothing touches devices or region until [`run_again`](Self::run_again). Frames that are already in memory are
    /// taken, so that the next one is one that the other machine's card receives.
    pub fn stop(&mut self) {
        self.running = false;
        while self.take_frame() {}
    }
    /// The devices run here. At a destination (`silent`) no register is written before the first frame.
    pub fn run_again(&mut self, silent: bool) {
        self.running = true;
        self.silent_since = silent.then(|| self.machine.now());
    }
    /// The transfer.
    pub fn transfer(&self) -> &Transfer {
        &self.transfer
    }
    /// The edu cycles.
    pub fn edu(&self) -> &edu::Cycle {
        self.edu.cycle()
    }

    fn take_frame(&mut self) -> bool {
        let Some(length) = self.igb.receive(&mut self.buffer, &self.layout) else { return false };
        self.transfer.frame(&self.buffer[..length], &self.machine.region(), &self.layout, &*self.events);
        true
    }

    /// Does what there is to do; false if there was nothing.
    pub fn step(&mut self) -> bool {
        if !self.running {
            return false;
        }
        let now = self.machine.now();
        let mut frames = 0;
        while frames < STEP_FRAMES && self.take_frame() {
            frames += 1;
        }
        if let Some(since) = self.silent_since {
            if frames == 0 && now - since < PATIENCE {
                return false;
            }
            if frames > 0 {
                let writes = self.igb.register_writes() + self.edu.register_writes();
                self.events.emit("first_frame", serde_json::json!({ "register_writes": writes }));
                self.silent_since = None;
            }
        }
        let (igb, transfer) = (&mut self.igb, &mut self.transfer);
        transfer.replies(now, |frame| igb.send(frame));
        self.igb.ring(self.machine.bar(IGB));
        self.edu.step(self.machine.bar(EDU), &self.layout, now);
        let digested = self.transfer.digest(STEP_DIGEST, false, &self.machine.region(), &self.layout, &*self.events);
        if self.transfer.is_over() {
            self.over_since.get_or_insert(now);
        }
        frames > 0 || digested > 0
    }

    /// The transfer is over, and its end was answered for a while.
    pub fn is_done(&self) -> bool {
        self.over_since.is_some_and(|since| self.machine.now() - since >= LINGER)
    }
}

/// The engine as two threads see it.
pub struct Shared {
    engine: Mutex<Engine>,
    /// Somebody waits for the lock: the running thread steps aside.
    wanted: AtomicU64,
    quit: AtomicBool,
    frames: AtomicU64,
    done: AtomicBool,
}

impl Shared {
    /// Takes an engine.
    pub fn new(engine: Engine) -> Arc<Self> {
        Arc::new(Self {
            engine: Mutex::new(engine),
            wanted: AtomicU64::new(0),
            quit: AtomicBool::new(false),
            frames: AtomicU64::new(0),
            done: AtomicBool::new(false),
        })
    }
    /// Holds the writers: while the guard lives, nobody else touches region or devices.
    pub fn hold(&self) -> MutexGuard<'_, Engine> {
        self.wanted.fetch_add(1, Ordering::SeqCst);
        let guard = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
        self.wanted.fetch_sub(1, Ordering::SeqCst);
        guard
    }
    /// Data frames taken.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }
    /// See [`Engine::is_done`].
    pub fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }
    /// Ends [`run`](Self::run).
    pub fn quit(&self) {
        self.quit.store(true, Ordering::Release);
    }
    /// Steps the engine until [`quit`](Self::quit).
    pub fn run(&self) {
        while !self.quit.load(Ordering::Acquire) {
            if self.wanted.load(Ordering::SeqCst) > 0 {
                std::thread::sleep(Duration::from_micros(200));
                continue;
            }
            let mut engine = self.engine.lock().unwrap_or_else(PoisonError::into_inner);
            let busy = engine.step();
            self.frames.store(engine.transfer().frames(), Ordering::Relaxed);
            if engine.is_done() {
                self.done.store(true, Ordering::Release);
            }
            drop(engine);
            if !busy {
                std::thread::sleep(Duration::from_micros(500));
            }
        }
    }
    /// Starts a thread that runs the engine.
    pub fn spawn(self: &Arc<Self>) -> std::thread::JoinHandle<()> {
        let shared = self.clone();
        std::thread::spawn(move || shared.run())
    }
}
