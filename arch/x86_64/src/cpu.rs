//! Features, control registers, descriptor tables, per-CPU state.

use crate::{image, trap, user};
use core::cell::UnsafeCell;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU8, Ordering};
use raw_cpuid::CpuId;
use spin::Once;
use x86_64::VirtAddr;
use x86_64::instructions::segmentation::{CS, DS, ES, SS, Segment};
use x86_64::instructions::tables::load_tss;
use x86_64::registers::control::{Cr0, Cr0Flags, Cr4, Cr4Flags, Efer, EferFlags};
use x86_64::registers::model_specific::{GsBase, KernelGsBase, LStar, SFMask, Star};
use x86_64::registers::rflags::RFlags;
use x86_64::structures::gdt::{Descriptor, GlobalDescriptorTable};
use x86_64::structures::tss::TaskStateSegment;

/// What this CPU has, as far as we use it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Features {
    /// No-execute pages.
    pub nx: bool,
    /// The kernel cannot execute user pages.
    pub smep: bool,
    /// The kernel cannot touch user pages unless it says so.
    pub smap: bool,
    /// User programs cannot read descriptor table addresses.
    pub umip: bool,
    /// Global pages.
    pub pge: bool,
    /// RDFSBASE and friends.
    pub fsgsbase: bool,
    /// x2APIC mode.
    pub x2apic: bool,
    /// The timer can be armed with a TSC value.
    pub tsc_deadline: bool,
    /// XSAVE.
    pub xsave: bool,
    /// AVX.
    pub avx: bool,
    /// AVX-512 foundation.
    pub avx512: bool,
    /// 1 GiB pages.
    pub gib_pages: bool,
    /// CLFLUSHOPT.
    pub clflushopt: bool,
    /// Bytes in a cache line, for CLFLUSH.
    pub line: u64,
    /// RDRAND.
    pub rdrand: bool,
}

static FEATURES: Once<Features> = Once::new();

/// The boot CPU's features.
pub fn features() -> &'static Features {
    FEATURES.call_once(|| {
        let id = CpuId::new();
        let mut f = Features { line: 64, ..Features::default() };
        if let Some(i) = id.get_feature_info() {
            f.pge = i.has_pge();
            f.x2apic = i.has_x2apic();
            f.tsc_deadline = i.has_tsc_deadline();
            f.xsave = i.has_xsave();
            f.avx = i.has_avx() && f.xsave;
            f.rdrand = i.has_rdrand();
            if i.cflush_cache_line_size() != 0 {
                f.line = u64::from(i.cflush_cache_line_size()) * 8;
            }
        }
        if let Some(e) = id.get_extended_feature_info() {
            f.smep = e.has_smep();
            f.smap = e.has_smap();
            f.umip = e.has_umip();
            f.fsgsbase = e.has_fsgsbase();
            f.clflushopt = e.has_clflushopt();
            f.avx512 = e.has_avx512f() && f.avx;
        }
        if let Some(e) = id.get_extended_processor_and_feature_identifiers() {
            f.nx = e.has_execute_disable();
            f.gib_pages = e.has_1gib_pages();
        }
        f
    })
}

/// State of one CPU, at GS in kernel mode. The assembly in `user` and `trap` knows the offsets.
#[repr(C, align(64))]
pub struct PerCpu {
    /// Its own address.
    me: *mut PerCpu,
    /// Kernel stack pointer while in user mode.
    pub(crate) kernel_rsp: u64,
    /// The user's stack pointer for the first instructions of a system call.
    pub(crate) user_rsp: u64,
    /// Where to put the registers of the running program.
    pub(crate) registers: *mut user::Registers,
    /// Page table root in CR3.
    pub(crate) root: u64,
    /// Whose FP state is in the registers.
    pub(crate) fpu_live: *mut u8,
    /// Number of this CPU, from 0.
    pub(crate) id: u32,
    tss: TaskStateSegment,
    gdt: GlobalDescriptorTable<8>,
}

/// Offsets into [`PerCpu`] for the assembly.
pub(crate) mod at {
    use super::*;
    pub const KERNEL_RSP: usize = offset_of!(PerCpu, kernel_rsp);
    pub const USER_RSP: usize = offset_of!(PerCpu, user_rsp);
    pub const REGISTERS: usize = offset_of!(PerCpu, registers);
    /// RSP0 is 4 bytes into the TSS (Intel SDM volume 3, figure 9-11).
    pub const RSP0: usize = offset_of!(PerCpu, tss) + 4;
}

impl PerCpu {
    const fn new() -> Self {
        Self {
            me: core::ptr::null_mut(),
            kernel_rsp: 0,
            user_rsp: 0,
            registers: core::ptr::null_mut(),
            root: 0,
            fpu_live: core::ptr::null_mut(),
            id: 0,
            tss: TaskStateSegment::new(),
            gdt: GlobalDescriptorTable::empty(),
        }
    }
}

struct Boot(UnsafeCell<PerCpu>);
// SAFETY: only the boot CPU reaches it, through `init_boot` once and then through its own GS.
unsafe impl Sync for Boot {}
static BOOT: Boot = Boot(UnsafeCell::new(PerCpu::new()));

/// Is SMAP on? Read by assembly before `stac` and `clac`, which do not exist otherwise.
#[unsafe(no_mangle)]
pub(crate) static ARCH_SMAP: AtomicU8 = AtomicU8::new(0);

/// Kernel code, kernel data, (unused), user data, user code, TSS: the order that STAR demands.
pub(crate) const KERNEL_CS: u16 = 0x08;
pub(crate) const USER_SS: u16 = 0x20 | 3;
pub(crate) const USER_CS: u16 = 0x28 | 3;

/// Interrupt stack table slot (1-based, as in the TSS) of the fault stack.
pub(crate) const FAULT_IST: u16 = 0;

/// This CPU's state.
pub(crate) fn this() -> *mut PerCpu {
    let p: *mut PerCpu;
    // SAFETY: `install` put the address of a live PerCpu in GS base and in its first word, before any caller runs.
    unsafe { core::arch::asm!("mov {}, gs:[0]", out(reg) p, options(nostack, readonly, preserves_flags)) };
    p
}

/// Number of the CPU that runs this, from 0. Only after [`init_boot`].
pub fn id() -> u32 {
    // SAFETY: `this` is this CPU's own state; `id` does not change.
    unsafe { (*this()).id }
}

/// Sets up the boot CPU: protection bits, descriptor tables, system-call entry. Call once, first of all.
///
/// # Safety
/// On the boot CPU, once, in the address space that `boot` made.
pub unsafe fn init_boot() {
    let cpu = BOOT.0.get();
    let image = image();
    // SAFETY: only this CPU runs, and it calls this once.
    unsafe {
        (*cpu).tss.interrupt_stack_table[FAULT_IST as usize] = VirtAddr::new(image.fault_stack_top);
        install(cpu, 0);
    }
}

/// # Safety
/// `cpu` lives for ever and belongs to the CPU that runs this.
unsafe fn install(cpu: *mut PerCpu, id: u32) {
    let f = features();
    // SAFETY: by the caller; descriptors point into `cpu`, which lives for ever. Flags are only set when CPUID has them.
    unsafe {
        (*cpu).me = cpu;
        (*cpu).id = id;
        let tss = Descriptor::tss_segment_unchecked(&raw const (*cpu).tss);
        let gdt = &mut (*cpu).gdt;
        gdt.append(Descriptor::kernel_code_segment());
        let data = gdt.append(Descriptor::kernel_data_segment());
        gdt.append(Descriptor::user_data_segment());
        gdt.append(Descriptor::user_data_segment());
        gdt.append(Descriptor::user_code_segment());
        let tss = gdt.append(tss);
        gdt.load_unsafe();
        CS::set_reg(x86_64::structures::gdt::SegmentSelector(KERNEL_CS));
        SS::set_reg(data);
        DS::set_reg(data);
        ES::set_reg(data);
        load_tss(tss);
        trap::load_idt();

        let mut cr0 = Cr0::read();
        cr0.insert(Cr0Flags::WRITE_PROTECT | Cr0Flags::NUMERIC_ERROR | Cr0Flags::MONITOR_COPROCESSOR);
        cr0.remove(Cr0Flags::EMULATE_COPROCESSOR | Cr0Flags::TASK_SWITCHED);
        Cr0::write(cr0);
        let mut cr4 = Cr4::read() | Cr4Flags::OSFXSR | Cr4Flags::OSXMMEXCPT_ENABLE;
        cr4.set(Cr4Flags::PAGE_GLOBAL, f.pge);
        cr4.set(Cr4Flags::SUPERVISOR_MODE_EXECUTION_PROTECTION, f.smep);
        cr4.set(Cr4Flags::SUPERVISOR_MODE_ACCESS_PREVENTION, f.smap);
        cr4.set(Cr4Flags::USER_MODE_INSTRUCTION_PREVENTION, f.umip);
        cr4.set(Cr4Flags::FSGSBASE, f.fsgsbase);
        cr4.set(Cr4Flags::OSXSAVE, f.xsave);
        Cr4::write(cr4);
        ARCH_SMAP.store(f.smap.into(), Ordering::Relaxed);
        Efer::update(|e| {
            e.insert(EferFlags::SYSTEM_CALL_EXTENSIONS);
            e.set(EferFlags::NO_EXECUTE_ENABLE, f.nx);
        });

        GsBase::write(VirtAddr::from_ptr(cpu));
        KernelGsBase::write(VirtAddr::zero());
        // SYSRET takes CS from bits 63:48 + 16 and SS from + 8 (Intel SDM volume 2, SYSRET).
        Star::write_raw(0x18 | 3, KERNEL_CS);
        LStar::write(VirtAddr::new(user::syscall_entry_address()));
        SFMask::write(
            RFlags::INTERRUPT_FLAG
                | RFlags::TRAP_FLAG
                | RFlags::DIRECTION_FLAG
                | RFlags::ALIGNMENT_CHECK
                | RFlags::NESTED_TASK
                | RFlags::IOPL_LOW
                | RFlags::IOPL_HIGH
                | RFlags::RESUME_FLAG,
        );
        crate::fpu::init_cpu();
    }
}

/// CPUID leaf 1 EDX: what AT_HWCAP tells programs.
pub fn hwcap() -> u64 {
    u64::from(raw_cpuid::cpuid!(1).edx)
}

/// Writes the CPU's maker, model and features as /proc/cpuinfo has them.
///
/// # Errors
/// Those of `out`.
pub fn describe(out: &mut dyn core::fmt::Write) -> core::fmt::Result {
    let id = CpuId::new();
    if let Some(v) = id.get_vendor_info() {
        writeln!(out, "vendor_id\t: {}", v.as_str())?;
    }
    if let Some(i) = id.get_feature_info() {
        writeln!(out, "cpu family\t: {}\nmodel\t\t: {}", i.family_id(), i.model_id())?;
    }
    if let Some(b) = id.get_processor_brand_string() {
        writeln!(out, "model name\t: {}", b.as_str().trim())?;
    }
    if let Some(i) = id.get_feature_info() {
        writeln!(out, "stepping\t: {}", i.stepping_id())?;
    }
    writeln!(out, "cpu MHz\t\t: {}", crate::time::tsc_hz() / 1_000_000)?;
    let f = features();
    let leaf1 = raw_cpuid::cpuid!(1);
    write!(out, "flags\t\t: fpu tsc msr pae cx8 apic sep cmov fxsr sse sse2 syscall lm")?;
    let ecx = |bit: u32| leaf1.ecx & 1 << bit != 0;
    for (has, name) in [
        (f.nx, "nx"),
        (f.gib_pages, "pdpe1gb"),
        (ecx(0), "pni"),
        (ecx(1), "pclmulqdq"),
        (ecx(9), "ssse3"),
        (ecx(12) && f.avx, "fma"),
        (ecx(13), "cx16"),
        (ecx(19), "sse4_1"),
        (ecx(20), "sse4_2"),
        (ecx(22), "movbe"),
        (ecx(23), "popcnt"),
        (ecx(25), "aes"),
        (f.xsave, "xsave"),
        (f.avx, "avx"),
        (f.rdrand, "rdrand"),
        (f.fsgsbase, "fsgsbase"),
        (f.smep, "smep"),
        (f.smap, "smap"),
        (f.umip, "umip"),
        (f.clflushopt, "clflushopt"),
    ] {
        if has {
            write!(out, " {name}")?;
        }
    }
    writeln!(out, "\nclflush size\t: {}", f.line)
}

/// Waits for an interrupt, takes it, and masks again.
pub fn idle() {
    x86_64::instructions::interrupts::enable_and_hlt();
    x86_64::instructions::interrupts::disable();
}

/// Lets pending interrupts in for one instruction, without waiting.
pub fn poll_interrupts() {
    x86_64::instructions::interrupts::enable();
    x86_64::instructions::nop();
    x86_64::instructions::interrupts::disable();
}

/// 64 unpredictable bits: RDRAND, else mixed from the time-stamp counter (not for keys).
pub fn random() -> u64 {
    if features().rdrand
        && let Some(r) = x86_64::instructions::random::RdRand::new()
    {
        for _ in 0..10 {
            if let Some(v) = r.get_u64() {
                return v;
            }
        }
    }
    // splitmix64 over the counter.
    let mut z = crate::time::tsc().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Stops for ever.
pub fn halt() -> ! {
    loop {
        x86_64::instructions::interrupts::disable();
        x86_64::instructions::hlt();
    }
}
