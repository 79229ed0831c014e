//! The main job: two machines, a file on its way to a network card, and the card moves.

use crate::feed::Feed;
use crate::guest::Options;
use crate::image::{self, Image};
use crate::machine::{Link, Wire};
use crate::qemu::{Exit, Qemu, Said, qmp};
use crate::report::{Report, Round};
use crate::run::Scratch;
use crate::sender::Side;
use crate::setup::Tools;
use crate::ui::{Phase, Ui};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What the user may choose.
#[derive(Clone, Debug)]
pub struct Job {
    /// File to send; the kernel image without one.
    pub input: Option<PathBuf>,
    /// KiB per second.
    pub rate_kib: u32,
    /// Most pre-copy rounds.
    pub rounds: u32,
    /// Size of the region in MiB.
    pub region_mib: u32,
    /// Seed for the contents and the order of the buffers.
    pub seed: u64,
    /// Ignore the device's dirty bits.
    pub no_dirty: bool,
    /// Ignore the CPU's dirty bits.
    pub no_soft_dirty: bool,
    /// For tests: what goes wrong, and when.
    pub mishap: Option<Mishap>,
    /// For tests: the destination has a region of another size, and must refuse.
    pub destination_region_mib: Option<u32>,
}

impl Default for Job {
    fn default() -> Self {
        Self {
            input: None,
            rate_kib: 512,
            rounds: 8,
            region_mib: 256,
            seed: 1,
            no_dirty: false,
            no_soft_dirty: false,
            mishap: None,
            destination_region_mib: None,
        }
    }
}

/// Something that happens when `side` says `event`.
#[derive(Clone, Copy, Debug)]
pub struct Mishap {
    /// Who says it.
    pub side: Side,
    /// What.
    pub event: &'static str,
    /// What happens then.
    pub what: What,
}

/// A mishap.
#[derive(Clone, Copy, Debug)]
pub enum What {
    /// The destination's power fails.
    DestinationDies,
    /// The source's power fails.
    SourceDies,
    /// The link's cable is pulled.
    LinkCut,
}

/// How it ended.
#[derive(Debug)]
pub enum Outcome {
    /// The card moved; the report says whether all is well.
    Moved,
    /// Cut after GO: the source stays fenced.
    Unknown(String),
    /// Cut before GO: the source runs on.
    Failed(String),
}

impl Outcome {
    /// Exit status of the process.
    pub fn status(&self, report: &Report) -> u8 {
        match self {
            Self::Moved if report.verified => 0,
            Self::Moved => 1,
            Self::Unknown(_) => 3,
            Self::Failed(_) => 4,
        }
    }
}

/// Nobody says anything for this long: something hangs.
const SILENCE: Duration = Duration::from_secs(60);
/// A pass that began before the switch must end within this time after it.
const LAST_PASS: Duration = Duration::from_secs(120);
/// The machines' end after the transfer's.
const GOODBYE: Duration = Duration::from_secs(20);

/// Runs the whole job, writes `--json`, shows the table; returns the exit status.
///
/// # Errors
/// Set-up, build or start failed, or a machine fell silent.
pub fn main_job(ui: &Ui, tools: &Tools, options: &Options, job: &Job, json: Option<&Path>) -> Result<u8> {
    if let Some(input) = &job.input {
        std::fs::File::open(input).with_context(|| format!("cannot read {}", input.display()))?;
    }
    let image = image::build(ui, tools)?;
    let (outcome, report) = run(ui, tools, options, &image, job)?;
    ui.say(&report.table());
    match &outcome {
        Outcome::Moved => {}
        Outcome::Unknown(why) => ui.say(&format!("outcome unknown: {why}; the source stays fenced")),
        Outcome::Failed(why) => ui.say(&format!("the migration failed before GO: {why}; the source runs on")),
    }
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text + "\n").with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(outcome.status(&report))
}

/// What the machines said so far, put together.
struct Story<'a> {
    ui: &'a Ui,
    report: Report,
    phase: Option<(String, Phase)>,
    ioas: Option<Instant>,
    stopped: Option<Instant>,
    running: Option<Instant>,
    unknown: Option<String>,
    resumed: Option<String>,
    passes_since_resumed: u32,
    refused: Vec<String>,
    done: [bool; 2],
    /// IOMMUs that came up, on both machines.
    units: u32,
}

/// Starts both machines and follows them to the end.
///
/// # Errors
/// A machine cannot be started, ends too early, or falls silent; with the last lines of both consoles.
pub fn run(ui: &Ui, tools: &Tools, options: &Options, image: &Image, job: &Job) -> Result<(Outcome, Report)> {
    let input = job.input.as_deref().unwrap_or(&image.kernel);
    let file = std::fs::read(input).with_context(|| format!("cannot read {}", input.display()))?;
    let sha256: [u8; 32] = Sha256::digest(&file).into();
    let scratch = Scratch::new()?;
    let initrd = scratch.path("initrd");
    image.pack([("devhost", image.program("devhost")?)], &initrd)?;
    let wire =
        |name: &str| Wire { qemu: scratch.path(&format!("{name}.card")), host: scratch.path(&format!("{name}.host")) };
    let (source_wire, destination_wire) = (wire("source"), wire("destination"));
    let feed = Feed::start(file, sha256, u64::from(job.rate_kib) * 1024, &source_wire, &destination_wire)?;
    let region = u64::from(job.region_mib) << 20;
    let qmp_socket = scratch.path("source.qmp");

    let start = |side: Side, wire: &Wire, args: Vec<String>| {
        let mut machine = options.machine(image, &initrd);
        let (octet, listens) = if side == Side::Source { (1, false) } else { (2, true) };
        machine.link = Some(Link { socket: scratch.path("link"), listens, mac: octet });
        machine.wire = Some(wire.clone());
        machine.qmp = (side == Side::Source).then(|| qmp_socket.clone());
        machine.words = vec!["quiet".to_owned(), format!("ip=10.77.0.{octet}/24")];
        machine.first_program("/bin/devhost", args);
        Qemu::start(tools, &machine, side.name())
    };
    let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let region_there = u64::from(job.destination_region_mib.unwrap_or(job.region_mib)) << 20;
    let args = words(&format!("destination --listen 7777 --region {region_there} --seed {}", job.seed));
    let destination = start(Side::Destination, &destination_wire, args)?;
    let mut args = words(&format!("source --peer 10.77.0.2:7777 --region {region} --seed {}", job.seed));
    // 1 %: well below the 5 % of the region that stop-and-copy may take.
    let stop_pages = (region / 4096 / 100).max(1);
    args.extend(words(&format!("--max-rounds {} --stop-pages {stop_pages}", job.rounds)));
    for (wanted, flag) in [(job.no_dirty, "--no-dirty"), (job.no_soft_dirty, "--no-soft-dirty")] {
        if wanted {
            args.push(flag.to_owned());
        }
    }
    let source = start(Side::Source, &source_wire, args)?;

    let mut story = Story {
        ui,
        report: Report {
            machine: options.profile.name().to_owned(),
            sha256_input: hex(&sha256),
            kernel_image_bytes: image.kernel_bytes()?,
            pages: region / 4096,
            ..Report::default()
        },
        phase: None,
        ioas: None,
        stopped: None,
        running: None,
        unknown: None,
        resumed: None,
        passes_since_resumed: 0,
        refused: Vec::new(),
        done: [false; 2],
        units: 0,
    };
    story.begin("booting two machines", 0);
    let outcome = follow(&mut story, [source, destination], &feed, job, &qmp_socket)?;
    story.phase = None;
    let counts = feed.counts();
    let mut report = story.report;
    if report.bytes_total == 0 {
        // No GO, so no total from the source.
        report.bytes_total = report.rounds.iter().chain(&report.stop_copy).map(|round| round.bytes).sum();
    }
    report.frames_sent = counts.sent;
    report.frames_resent = counts.resent;
    report.frames_resent_acknowledged = counts.resent_acknowledged;
    report.frames_forgotten = counts.promises_broken;
    if matches!(outcome, Outcome::Moved) {
        report.judge();
    }
    Ok((outcome, report))
}

fn follow(
    story: &mut Story<'_>,
    mut machines: [Qemu; 2],
    feed: &Feed,
    job: &Job,
    qmp_socket: &Path,
) -> Result<Outcome> {
    let sides = [Side::Source, Side::Destination];
    let (mut heard, mut open, mut exits) = (Instant::now(), [true; 2], [None; 2]);
    let (mut mishap, mut ending) = (job.mishap, None);
    loop {
        for at in 0..2 {
            while open[at] {
                let Some(said) = machines[at].next(Duration::from_millis(5)) else { break };
                heard = Instant::now();
                match said {
                    Said::Event(when, name, fields) => {
                        if name == "ioas" && at == 0 && story.ioas.is_none() {
                            story.ioas = Some(when);
                            story.report.boot_ms = Some(millis(when - machines[0].began));
                        }
                        if name == "running" && at == 1 {
                            feed.moved();
                        }
                        story.hear(sides[at], when, &name, &fields);
                        if mishap.is_some_and(|m| m.side == sides[at] && m.event == name) {
                            match mishap.take().map(|m| m.what) {
                                Some(What::DestinationDies) => machines[1].kill(),
                                Some(What::SourceDies) => machines[0].kill(),
                                Some(What::LinkCut) => {
                                    qmp(qmp_socket, "set_link", &serde_json::json!({"name": "link", "up": false}))?;
                                }
                                None => {}
                            }
                        }
                    }
                    Said::Text(_) => {}
                    Said::Closed => {
                        open[at] = false;
                        exits[at] = machines[at].exit(GOODBYE);
                    }
                }
            }
        }
        let consoles =
            |machines: &[Qemu; 2]| format!("source:\n{}destination:\n{}", machines[0].tail(15), machines[1].tail(15));
        for at in 0..2 {
            let bad = matches!(exits[at], Some(Exit::Panic | Exit::NotStarted | Exit::Reset | Exit::Status(_)));
            if bad && let Some(exit) = exits[at] {
                let why = story.refused.join("; ");
                bail!("{}: {exit} {why}\n{}", sides[at].name(), consoles(&machines));
            }
        }
        if let Some(why) = &story.unknown {
            return Ok(Outcome::Unknown(why.clone()));
        }
        // A destination that lost pages does not say READY, so the source runs on; what was asked for is the verdict.
        // Both machines are heard in any order, so the source may have shown that it runs before the destination ended.
        let lost = story.report.pages_lost.is_some_and(|lost| lost > 0);
        if lost && (story.done[1] || !open[1]) {
            return Ok(Outcome::Moved);
        }
        // Before GO it is the source that decides. It shows that it runs on by finishing one more pass.
        if let Some(why) = &story.resumed
            && story.passes_since_resumed > 0
            && !lost
        {
            return Ok(Outcome::Failed(why.clone()));
        }
        if !open[0] && story.running.is_none() && !lost {
            if story.units == 0 {
                bail!(
                    "there is no IOMMU on this machine, so no device may be given to a program ({})",
                    story.refused.join("; ")
                );
            }
            if let Some(Exit::Program(4)) = exits[0] {
                return Ok(Outcome::Failed(story.refused.join("; ")));
            }
            let exit = exits[0].map_or("it hangs".to_owned(), |exit| exit.to_string());
            bail!("the source ended before the switch: {exit} {}\n{}", story.refused.join("; "), consoles(&machines));
        }
        if !open[1] && !story.done[1] && story.running.is_some() {
            let exit = exits[1].map_or("it hangs".to_owned(), |exit| exit.to_string());
            bail!("the destination ended too early: {exit} {}\n{}", story.refused.join("; "), consoles(&machines));
        }
        // All has been seen, or will not be seen any more.
        let enough =
            story.running.is_some_and(|at| story.report.sha256_destination.is_some() || at.elapsed() > LAST_PASS);
        if enough && ending.is_none() {
            story.begin("ending the transfer", 0);
            feed.finish();
            ending = Some(Instant::now());
        }
        if let Some(since) = ending
            && (!open[1] || since.elapsed() > GOODBYE)
        {
            if open[1] || exits[1] != Some(Exit::Program(0)) {
                story.report.problems.push("the destination did not end in order".to_owned());
            }
            return Ok(Outcome::Moved);
        }
        if heard.elapsed() > SILENCE {
            bail!("both machines have said nothing for {} s\n{}", SILENCE.as_secs(), consoles(&machines));
        }
    }
}

impl Story<'_> {
    fn begin(&mut self, name: &str, total: u64) {
        if self.phase.as_ref().is_some_and(|(current, _)| current == name) {
            return;
        }
        if let Some((_, phase)) = self.phase.take() {
            phase.done("");
        }
        self.phase = Some((name.to_owned(), self.ui.phase(name, total)));
    }

    fn hear(&mut self, side: Side, when: Instant, name: &str, fields: &Value) {
        let number = |field: &str| fields[field].as_u64().unwrap_or(0);
        let text = |field: &str| fields[field].as_str().unwrap_or("").to_owned();
        let source = side == Side::Source;
        match name {
            "iommu" => self.units += 1,
            "idle_ram" if source => self.report.ram_idle_bytes = fields["bytes"].as_u64(),
            "ready" if source => {
                self.report.pages = number("pages");
                self.report.tracking = fields["tracking"].as_bool().unwrap_or(false);
                self.begin("receiving on the source", 0);
            }
            "note" => {
                let note = text("message");
                if !self.report.notes.contains(&note) {
                    self.ui.say(&format!("{}: {note}", side.name()));
                    self.report.notes.push(note);
                }
            }
            // The source's: the destination's come late, after the next phase has begun.
            "progress" if source => {
                self.begin(&text("phase"), number("total"));
                if let Some((_, phase)) = &self.phase {
                    phase.at(number("done"), "");
                }
            }
            "round" => self.report.rounds.push(round(fields)),
            "stop" if source => {
                self.stopped = Some(when);
                self.begin("stop-and-copy", 0);
            }
            "stop_copy" if source => {
                self.report.stop_copy = Some(round(fields));
                self.report.bytes_state = number("bytes_state");
                self.report.bytes_stop_copy = number("bytes");
            }
            "digest" if source => self.report.digest_source = Some(text("digest")),
            "digest" => self.report.digest_destination = Some(text("digest")),
            "go" if source => self.report.bytes_total = number("bytes_total"),
            "running" if !source => {
                self.running = Some(when);
                let dark = self.stopped.map(|stopped| millis(when.saturating_duration_since(stopped)));
                self.report.blackout_ms = dark.map(|ms| ms.saturating_sub(self.report.verify_ms.unwrap_or(0)));
                self.begin("receiving on the destination", 0);
            }
            "first_frame" if !source => self.report.register_writes = fields["register_writes"].as_u64(),
            "verify" if !source => {
                self.report.pages_lost = fields["pages_lost"].as_u64();
                self.report.verify_ms = fields["ms"].as_u64();
            }
            "pass" => {
                if text("began") == "source"
                    && text("ended") == "destination"
                    && self.report.sha256_destination.is_none()
                {
                    self.report.sha256_destination = Some(text("sha256"));
                }
                self.passes_since_resumed += u32::from(source && self.resumed.is_some());
            }
            "resumed" if source => {
                self.resumed = Some(text("why"));
                self.begin("the source runs on", 0);
            }
            "outcome_unknown" if source => self.unknown = Some(text("why")),
            "refused" | "error" | "panic" => self.refused.push(format!("{}: {}", side.name(), text("message"))),
            "unprotected" => {
                self.ui.say(&format!("{}: {} is not protected: {}", side.name(), text("device"), text("why")))
            }
            "done" => self.done[usize::from(!source)] = true,
            _ => {}
        }
    }
}

fn round(fields: &Value) -> Round {
    let number = |field: &str| fields[field].as_u64().unwrap_or(0);
    Round {
        round: number("round"),
        pages_device: number("pages_device"),
        pages_cpu: number("pages_cpu"),
        pages_dirty: number("pages_dirty"),
        bytes: number("bytes"),
        ms: number("ms"),
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
