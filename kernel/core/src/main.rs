//! The kernel binary: wiring only.
#![no_std]
#![no_main]

extern crate alloc;

mod acpi;
mod console;
mod devices;
mod events;
mod exit;
mod files;
mod iommu;
mod link;
mod log;
mod machine;
mod memory;
mod nodes;
mod panic;
mod pci;
mod platform;
mod run;
mod selftest;
mod session;
mod shell;
mod symbols;

use ::log::info;
use alloc::boxed::Box;
use arch_x86_64::{apic, cpu, time, trap};
use boot::BootInfo;

/// How often the units are asked for faults while programs run.
const FAULTS_NS: u64 = 5_000_000;

/// Everything, in order. Called by `platform::start` once the CPU is set up.
fn main(info: BootInfo) -> ! {
    log::init(info.option("quiet").is_some());
    trap::on_fatal(panic::exception);
    let image = arch_x86_64::image();
    memory::init(&info, &image);
    let archive = platform::start::initrd(&info);
    symbols::init(archive);
    apic::init(&platform::windows::map);
    events::send("boot", &[("image_bytes", events::Value::Number(image.data.1 - image.text.0))]);
    info!("portolan {} on x86-64", env!("CARGO_PKG_VERSION"));
    report(&info);
    acpi::init(info.rsdp);
    let inventory = devices::init(&info, acpi::dmar(), acpi::mcfg());
    iommu::drain_faults(&inventory.units);
    link::init(&info, inventory);
    match info.option("selftest") {
        Some("link") => match link::selftest::run(&info) {
            Ok(words) => {
                console::print(format_args!("PASS link: {words}\n"));
                exit::with_status(0)
            }
            Err(words) => {
                iommu::drain_faults(&inventory.units);
                console::print(format_args!("FAIL link: {words}\n"));
                exit::with_status(1)
            }
        },
        Some("iommu") => exit::with_status(u8::from(!iommu::selftest::run(inventory))),
        Some("stray") => match iommu::stray::run(inventory) {
            Ok(words) => {
                console::print(format_args!("PASS stray: {words}\n"));
                exit::with_status(0)
            }
            Err(words) => {
                console::print(format_args!("FAIL stray: {words}\n"));
                exit::with_status(1)
            }
        },
        _ => {}
    }
    selftest::run(&info);
    let runner = run::Runner::new(archive);
    nodes::install(&runner.kernel.tree, inventory);
    let mut looked = 0;
    run::on_poll(Box::new(move || {
        let now = time::now_ns();
        if now >= looked + FAULTS_NS {
            looked = now;
            iommu::drain_faults(&inventory.units);
        }
        None
    }));
    runner.kernel.set_sockets(alloc::sync::Arc::new(link::stack().clone()));
    run::on_poll(Box::new(|| link::stack().poll()));
    session::run(&info, &runner, inventory)
}

/// What the machine is like.
fn report(info: &BootInfo) {
    for r in info.memory.regions() {
        info!("memory {:#012x}..={:#012x} {:?}", r.base, r.end() - 1, r.kind);
    }
    if info.memory.dropped() > 0 {
        ::log::warn!("{} memory regions left out", info.memory.dropped());
    }
    info!("command line: {}", info.cmdline());
    let f = cpu::features();
    info!(
        "cpu: nx {} smep {} smap {} umip {} fsgsbase {} x2apic {} avx {}",
        f.nx, f.smep, f.smap, f.umip, f.fsgsbase, f.x2apic, f.avx
    );
    info!(
        "tsc {} kHz, timer {} kHz, wall clock {}",
        time::tsc_hz() / 1000,
        apic::timer_hz() / 1000,
        time::wall_clock_seconds()
    );
    info!("memory in use: {} KiB", memory::frames().used_bytes() >> 10);
    if let Some((first, end)) = memory::frames().reserve() {
        info!("kept for a next kernel: {first:#x}..={:#x}", end - 1);
    }
}
