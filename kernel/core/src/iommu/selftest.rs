//! PASS or FAIL per IOMMU on a board that nobody knows yet: maps, walks, invalidates and blocks with a stream that is silent.

use super::{Up, drain_faults};
use crate::console;
use crate::devices::Inventory;
use crate::events::{self, Value};
use crate::memory;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use iommu_api::{Domain, DomainSpec, ReadDirty};
use iommu_types::{Access, DirtyRule, Error, Iova, IovaRange, Phys, PhysRun, StreamId};

const PAGES: u64 = 16;
const PAGE: u64 = 4096;
const AT: u64 = 0x4000_0000;

/// What was shown, or why not.
pub type Verdict = Result<String, String>;

/// Tests every unit. True if all passed and there was one.
pub fn run(inventory: &Inventory) -> bool {
    let mut all = !inventory.units.is_empty();
    if !all {
        console::print(format_args!("FAIL: no IOMMU translates on this machine\n"));
    }
    for up in &inventory.units {
        let result = unit(up, inventory);
        let (pass, reason) = match &result {
            Ok(words) => (true, words),
            Err(words) => (false, words),
        };
        all &= pass;
        console::print(format_args!("{} {}: {reason}\n", if pass { "PASS" } else { "FAIL" }, up.unit.name()));
        events::send(
            "selftest",
            &[("unit", Value::Text(up.unit.name())), ("pass", Value::Bool(pass)), ("reason", Value::Text(reason))],
        );
    }
    for (stream, why) in &inventory.unprotected {
        all = false;
        console::print(format_args!("FAIL {stream}: unprotected: {why}\n"));
    }
    drain_faults(&inventory.units);
    all
}

/// Puts the step in front of an error.
fn say(what: &str) -> impl Fn(Error) -> String + '_ {
    move |e| format!("{what}: {e}")
}

fn unit(up: &Up, inventory: &Inventory) -> Verdict {
    let tracks = up.unit.features().dirty != DirtyRule::None;
    let spec = DomainSpec { dirty_tracking: tracks, ..DomainSpec::default() };
    let domain = up.unit.make_domain(spec).map_err(say("make a domain"))?;
    // A stream that no program owns; its function has bus mastering off, so nothing moves while it is attached here.
    let mine = |s: &StreamId| inventory.unit_for(*s).is_ok_and(|u| u.id() == up.unit.id());
    let stream = inventory.devices.iter().map(|d| d.spec().stream).find(mine);
    let Some(base) = memory::frames().alloc_run(PAGES as usize) else { return Err("no memory".to_string()) };
    let result = steps(up, &domain, stream, Phys(base), tracks);
    if let Some(stream) = stream {
        up.unit.block(stream, None).map_err(say("block the stream"))?;
    }
    // Only after the stream is blocked may its memory go.
    for n in 0..PAGES {
        memory::frames().release_frame(base + n * PAGE);
    }
    result?;
    let tracking = if tracks { "dirty bits read and cleared" } else { "no dirty bits here" };
    let how = match stream {
        Some(stream) => format!("attached and blocked {stream}"),
        None => "no function behind it to attach".to_string(),
    };
    Ok(format!("mapped, walked, unmapped, invalidated {PAGES} pages; {how}; {tracking}"))
}

fn steps(up: &Up, domain: &Arc<dyn Domain>, stream: Option<StreamId>, base: Phys, tracks: bool) -> Result<(), String> {
    let rights = Access::READ | Access::WRITE;
    let range = IovaRange::sized(AT, PAGES * PAGE).ok_or("range")?;
    if let Some(stream) = stream {
        up.unit.attach(stream, None, domain).map_err(say("attach"))?;
    }
    let run = PhysRun { base, length: PAGES * PAGE };
    let gather = domain.map(Iova(AT), &[run], rights, PAGE).map_err(say("map"))?;
    domain.sync(gather).map_err(say("invalidate after the map"))?;
    for n in 0..PAGES {
        let got = domain.translate(Iova(AT + n * PAGE + 0x123));
        if got.map(|t| (t.phys, t.access)) != Some((Phys(base.0 + n * PAGE + 0x123), rights)) {
            return Err(format!("page {n} of the table leads to {got:?}"));
        }
    }
    if !matches!(domain.map(Iova(AT), &[run], rights, PAGE), Err(Error::Exists)) {
        return Err("a second map over the first was not refused".to_string());
    }
    if tracks {
        domain.set_tracking(true).map_err(say("start tracking"))?;
        domain.mark_dirty(IovaRange::sized(AT + PAGE, PAGE).ok_or("range")?);
        let mut seen = 0;
        let mut sink = |run: IovaRange| {
            seen += run.len() / PAGE;
            Ok(())
        };
        let gather = domain.read_dirty(range, PAGE, ReadDirty::Clear, &mut sink).map_err(say("read dirty bits"))?;
        domain.sync(gather).map_err(say("invalidate after the report"))?;
        if seen != 1 {
            return Err(format!("{seen} pages were reported dirty, 1 was"));
        }
        domain.set_tracking(false).map_err(say("stop tracking"))?;
    }
    let (bytes, gather) = domain.unmap(range).map_err(say("unmap"))?;
    domain.sync(gather).map_err(say("invalidate after the unmap"))?;
    if bytes != PAGES * PAGE {
        return Err(format!("unmap removed {bytes} bytes, {} were mapped", PAGES * PAGE));
    }
    match domain.translate(Iova(AT)) {
        None => Ok(()),
        Some(t) => Err(format!("after the unmap the table still leads to {:?}", t.phys)),
    }
}
