//! `selftest=NAME` on the command line: tests that only the bare machine can run. Each ends the machine.

use crate::exit;
use crate::memory::frames;
use crate::platform::probe;
use crate::platform::start::faults;
use crate::platform::user::{Tables, run as run_user};
use alloc::vec::Vec;
use arch_x86_64::paging::kernel_access;
use arch_x86_64::trap::TIMER;
use arch_x86_64::user::{Trap, UserContext};
use arch_x86_64::{DIRECT_MAP, KERNEL_BASE, apic, cpu, time, uaccess};
use boot::BootInfo;
use iommu_types::Phys;
use log::info;
use mm::{PageTables, Pte};

/// Runs what the command line asks for.
pub fn run(info: &BootInfo) {
    let Some(name) = info.option("selftest") else { return };
    let result = match name {
        "layout" => layout(),
        "user" => user(),
        "idle" => idle(),
        "memory" => memory(),
        "times" => times(),
        // The rest must end in a panic; coming back is the failure.
        "wx" => deadly(faults::write_text),
        "wx-alias" => deadly(faults::write_text_alias),
        "nx" => deadly(faults::execute_data),
        "null" => deadly(|| _ = faults::null()),
        "stack" => deadly(|| _ = faults::overflow(0)),
        "smap" => Program::new(0).and_then(|p| deadly(|| _ = probe::read_user(p.enter()))),
        "smep" => Program::new(0).and_then(|p| deadly(|| probe::execute_user(p.enter()))),
        "panic" => panic!("asked for"),
        _ => Err("no such test"),
    };
    match result {
        Ok(()) => info!("selftest {name}: PASS"),
        Err(why) => ::log::error!("selftest {name}: FAIL: {why}"),
    }
    exit::with_status(result.is_err().into())
}

type Verdict = Result<(), &'static str>;

fn deadly(fault: impl FnOnce()) -> Verdict {
    fault();
    Err("the access was allowed")
}

/// No page of the kernel is writable and executable, and each part has the access it should have.
fn layout() -> Verdict {
    let image = arch_x86_64::image();
    let mut wrong = 0;
    let mut expect = |what: &str, at: u64, want: (bool, bool, bool)| {
        let got = kernel_access(at);
        if got != want {
            ::log::error!("{what} at {at:#x}: present, writable, executable {got:?}, wanted {want:?}");
            wrong += 1;
        }
    };
    for at in (image.text.0..image.text.1).step_by(4096) {
        expect("code", at, (true, false, true));
        expect("code in the direct map", DIRECT_MAP + at - KERNEL_BASE, (true, false, false));
    }
    for at in (image.rodata.0..image.rodata.1).step_by(4096) {
        expect("constants", at, (true, false, false));
        expect("constants in the direct map", DIRECT_MAP + at - KERNEL_BASE, (true, false, false));
    }
    for at in (image.data.0..image.data.1).step_by(4096) {
        let guard = image.guards.contains(&at);
        expect("data", at, if guard { (false, false, false) } else { (true, true, false) });
    }
    expect("address 0", 0, (false, false, false));
    if wrong == 0 { Ok(()) } else { Err("wrong access, see above") }
}

const CODE_AT: u64 = 0x40_0000;

/// The probe program in its own address space.
struct Program {
    tables: Tables,
    ctx: UserContext,
    page: Option<u64>,
    ticks: u32,
}

impl Program {
    fn new(n: u64) -> Result<Self, &'static str> {
        const FULL: &str = "no memory";
        let mut tables = Tables::new().map_err(|_| FULL)?;
        let code = frames().alloc_zeroed().ok_or(FULL)?;
        crate::platform::frames::write(code, probe::program());
        let pte = Pte { phys: Phys(code), write: false, exec: true, device: false };
        tables.set(CODE_AT, pte).map_err(|_| FULL)?;
        let mut ctx = UserContext::new(CODE_AT, 0).ok_or(FULL)?;
        ctx.regs.rdi = n;
        if !ctx.set_fs_base(probe::PAGE_AT) || ctx.set_fs_base(0x8000_0000_0000) {
            return Err("FS base check");
        }
        Ok(Self { tables, ctx, page: None, ticks: 0 })
    }
    /// Loads its tables; returns the address of its code.
    fn enter(&self) -> u64 {
        probe::activate(self.tables.root());
        CODE_AT
    }
    fn map(&mut self) -> Verdict {
        let frame = frames().alloc_zeroed().ok_or("no memory")?;
        self.page = Some(frame);
        let pte = Pte { phys: Phys(frame), write: true, exec: false, device: false };
        self.tables.set(probe::PAGE_AT, pte).map_err(|_| "no memory")?;
        self.tables.flush();
        Ok(())
    }
}

/// Two programs in turn: system call, page fault, preemption by the timer, FP state, FS base; then bad behaviour.
fn user() -> Verdict {
    let mut programs = [Program::new(41)?, Program::new(0x1234_5678_9abc)?];
    let mut left = 2;
    let mut traps = 0u32;
    let begin = time::now_ns();
    while left > 0 {
        for p in &mut programs {
            if p.ticks == u32::MAX {
                continue;
            }
            apic::arm_timer(200_000);
            loop {
                traps += 1;
                match run_user(&mut p.ctx, p.tables.root()) {
                    Trap::Syscall if p.ctx.regs.rax == 100 => p.ctx.regs.rax = p.ctx.regs.rdi + 1,
                    Trap::Syscall if p.ctx.regs.rax == 60 => {
                        match p.ctx.regs.rdi {
                            0 => {}
                            1 => return Err("system call result"),
                            2 => return Err("memory after a fault"),
                            3 => return Err("FS base"),
                            _ => return Err("SSE register"),
                        }
                        p.ticks = u32::MAX;
                        left -= 1;
                        break;
                    }
                    Trap::PageFault { addr: probe::PAGE_AT, write: true, exec: false, present: false } => p.map()?,
                    Trap::Interrupt(TIMER) => {
                        p.ticks += 1;
                        if p.ticks == 5
                            && let Some(page) = p.page
                        {
                            crate::platform::frames::write(page + 8, &[1]);
                        }
                        break;
                    }
                    other => {
                        ::log::error!("{other:?} at {:#x}", p.ctx.regs.rip);
                        return Err("unexpected trap");
                    }
                }
            }
        }
    }
    apic::stop_timer();
    info!("{traps} traps in {} us", (time::now_ns() - begin) / 1000);

    let p = &mut programs[0];
    // The exit call is followed by an invalid instruction.
    if run_user(&mut p.ctx, p.tables.root()) != (Trap::Exception { vector: 6, code: 0 }) {
        return Err("invalid instruction");
    }
    for (rip, want) in [
        (
            KERNEL_BASE + 0x10_0000,
            Trap::PageFault { addr: KERNEL_BASE + 0x10_0000, write: false, exec: true, present: false },
        ),
        (1 << 63, Trap::PageFault { addr: 1 << 63, write: false, exec: true, present: false }),
        (probe::PAGE_AT, Trap::PageFault { addr: probe::PAGE_AT, write: false, exec: true, present: true }),
    ] {
        p.ctx.regs.rip = rip;
        let got = run_user(&mut p.ctx, p.tables.root());
        if got != want {
            ::log::error!("{got:?}, wanted {want:?}");
            return Err("jump to a forbidden address");
        }
    }
    // `mov [r8], rbx` with r8 in the kernel half, in non-canonical space, and in its own code.
    let store =
        CODE_AT + probe::program().windows(3).position(|w| w == [0x49, 0x89, 0x18]).ok_or("probe has no store")? as u64;
    for (at, want) in [
        (DIRECT_MAP, Trap::PageFault { addr: DIRECT_MAP, write: true, exec: false, present: true }),
        (1 << 62, Trap::Exception { vector: 13, code: 0 }),
        (CODE_AT, Trap::PageFault { addr: CODE_AT, write: true, exec: false, present: true }),
    ] {
        (p.ctx.regs.rip, p.ctx.regs.r8) = (store, at);
        let got = run_user(&mut p.ctx, p.tables.root());
        if got != want {
            ::log::error!("{got:?}, wanted {want:?}");
            return Err("store to a forbidden address");
        }
    }
    // The kernel's own copies, with a fault in the middle.
    p.enter();
    let mut buffer = [0u8; 16];
    if uaccess::copy_to_user(probe::PAGE_AT + 4090, &[7; 16]) != 10
        || uaccess::copy_from_user(&mut buffer, probe::PAGE_AT + 4090) != 10
    {
        return Err("copy across the end of a page");
    }
    if buffer != [7, 7, 7, 7, 7, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        || uaccess::copy_from_user(&mut buffer, DIRECT_MAP) != 16
    {
        return Err("copied bytes");
    }
    let used = p.tables.take_dirty(probe::PAGE_AT);
    if used != (true, true) || p.tables.take_dirty(probe::PAGE_AT) != (false, false) {
        return Err("accessed and dirty bits");
    }
    p.tables.flush();
    uaccess::copy_to_user(probe::PAGE_AT, &[1]);
    if p.tables.take_dirty(probe::PAGE_AT) != (true, true) {
        return Err("dirty bit after a flush");
    }
    Ok(())
}

/// How long things take that happen often: a system call that does nothing, a zeroed frame, a copied page.
fn times() -> Verdict {
    const N: u64 = 100_000;
    const PAGES: u64 = 4096;
    let per = |begin: u64, n: u64| (time::now_ns() - begin) / n;
    let mut all = Vec::with_capacity(PAGES as usize);
    let begin = time::now_ns();
    for _ in 0..PAGES {
        all.push(frames().alloc_zeroed().ok_or("no memory")?);
    }
    info!("{} ns for a zeroed frame", per(begin, PAGES));
    let begin = time::now_ns();
    all.iter().for_each(|&frame| crate::platform::frames::zero(frame, 1));
    info!("{} ns to zero a frame again", per(begin, PAGES));
    let mut page = alloc::vec![0u8; 4096];
    let begin = time::now_ns();
    for &frame in &all {
        crate::platform::frames::read(frame, &mut page);
    }
    info!("{} ns to copy a page", per(begin, PAGES));
    let begin = time::now_ns();
    for &frame in &all {
        crate::platform::frames::read(frame + 1, &mut page[..4000]);
    }
    info!("{} ns to copy 4000 bytes, unaligned", per(begin, PAGES));
    let begin = time::now_ns();
    all.iter().for_each(|&frame| frames().release_frame(frame));
    info!("{} ns to free a frame", per(begin, PAGES));
    let mut p = Program::new(1)?;
    // The call is 7 bytes into the program: `mov eax, 100; syscall`. Each time around, back there.
    let call = CODE_AT + probe::program().windows(2).position(|w| w == [0x0f, 0x05]).ok_or("probe has no call")? as u64;
    let begin = time::now_ns();
    for _ in 0..N {
        if run_user(&mut p.ctx, p.tables.root()) != Trap::Syscall {
            return Err("unexpected trap");
        }
        p.ctx.regs.rip = call;
        p.ctx.regs.rcx = call;
    }
    info!("{} ns from user to kernel and back", per(begin, N));
    let mut boxes: Vec<Option<alloc::boxed::Box<[u64; 8]>>> = Vec::with_capacity(1000);
    let begin = time::now_ns();
    for _ in 0..100 {
        boxes.extend((0..1000).map(|n| Some(alloc::boxed::Box::new([n; 8]))));
        boxes.clear();
    }
    info!("{} ns to allocate and free 64 bytes", per(begin, N));
    Ok(())
}

/// The timer wakes an idle CPU, about when it should.
fn idle() -> Verdict {
    for want in [100_000u64, 1_000_000, 20_000_000] {
        let begin = time::now_ns();
        apic::arm_timer(want);
        while !arch_x86_64::trap::take_pending(TIMER) {
            cpu::idle();
        }
        let took = time::now_ns() - begin;
        info!("timer of {want} ns took {took} ns");
        // Early by at most 1 %; late as the host likes, but not for ever.
        if took < want - want / 100 || took > want + 500_000_000 {
            return Err("timer");
        }
    }
    Ok(())
}

/// Frames and heap: alignment, zeroing, no frame twice, everything comes back.
fn memory() -> Verdict {
    let f = frames();
    let before = f.used_bytes();
    let mut runs = Vec::new();
    for pages in [1usize, 2, 3, 8, 64, 512] {
        let at = f.alloc_run(pages).ok_or("no run")?;
        if !at.is_multiple_of((pages.next_power_of_two() * 4096) as u64) {
            return Err("alignment of a run");
        }
        let mut last = [0xffu8; 8];
        crate::platform::frames::read(at + pages as u64 * 4096 - 8, &mut last);
        if last != [0; 8] {
            return Err("a run is not zeroed");
        }
        crate::platform::frames::write(at, &[0xa5; 4096]);
        runs.push((at, pages));
    }
    for (i, a) in runs.iter().enumerate() {
        for b in &runs[i + 1..] {
            if a.0 < b.0 + b.1 as u64 * 4096 && b.0 < a.0 + a.1 as u64 * 4096 {
                return Err("runs overlap");
            }
        }
    }
    let at = runs[0].0 + 64;
    crate::platform::frames::store128(at, 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00);
    let mut stored = [0u8; 16];
    crate::platform::frames::read(at, &mut stored);
    if stored != 0x1122_3344_5566_7788_99aa_bbcc_ddee_ff00u128.to_le_bytes() {
        return Err("128-bit store");
    }
    for (at, pages) in runs {
        (0..pages as u64).for_each(|i| f.release_frame(at + i * 4096));
    }
    let mut all = Vec::new();
    while let Some(frame) = f.alloc_raw() {
        all.push(frame);
        if all.len() == 50_000 {
            break;
        }
    }
    let mut sorted = all.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() != all.len() {
        return Err("a frame came twice");
    }
    all.iter().for_each(|&frame| f.release_frame(frame));
    let blocks: Vec<Vec<u8>> = (0..2000usize).map(|n| alloc::vec![n as u8; n * 7 % 5000 + 1]).collect();
    if blocks.iter().enumerate().any(|(n, b)| b.iter().any(|&v| v != n as u8)) {
        return Err("heap blocks overlap");
    }
    drop(blocks);
    // What stays in use is heap.
    let after = f.used_bytes();
    info!("in use before {before} after {after}, heap {}", crate::platform::heap::mapped());
    if after - before > crate::platform::heap::mapped() + (64 << 10) { Err("frames leaked") } else { Ok(()) }
}
