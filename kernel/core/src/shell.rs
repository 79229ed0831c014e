//! The small shell on the serial console.

use crate::devices::Inventory;
use crate::{console, iommu, log as klog};
use alloc::string::{String, ToString};
use alloc::vec::Vec;

/// Longest line, in bytes; more is not taken.
const LONGEST: usize = 1024;

const HELP: &str = "\
lspci             PCI functions: class, ids, driver name for programs
lsiommu           IOMMU units: registers, mode, tracking, what they protect
lsgroup           IOMMU groups, and why each is as large as it is
dmesg             kernel messages
selftest          PASS or FAIL per IOMMU, with the reason; needs no special device
run PROGRAM ARGS  run a program of the initrd
poweroff          end the machine
";

/// What the shell asks its caller to do.
pub enum Command {
    /// Nothing; print the next prompt.
    Done,
    /// Run a program: path and arguments.
    Run(Vec<String>),
    /// End the machine.
    PowerOff,
}

/// One line editor: bytes in, lines out. Echoes, knows backspace and Ctrl-U.
#[derive(Default)]
pub struct Editor {
    line: String,
}

impl Editor {
    /// Prints the prompt.
    pub fn prompt(&self) {
        console::print(format_args!("portolan> "));
    }
    /// Takes a byte of input; a whole line when there is one.
    pub fn key(&mut self, byte: u8) -> Option<String> {
        match byte {
            b'\r' | b'\n' => {
                console::print(format_args!("\n"));
                return Some(core::mem::take(&mut self.line));
            }
            0x7f | 0x08 if self.line.pop().is_some() => console::print(format_args!("\u{8} \u{8}")),
            0x15 => {
                for _ in 0..self.line.len() {
                    console::print(format_args!("\u{8} \u{8}"));
                }
                self.line.clear();
            }
            0x20..=0x7e if self.line.len() < LONGEST => {
                self.line.push(byte as char);
                console::print(format_args!("{}", byte as char));
            }
            _ => {}
        }
        None
    }
}

/// Carries a line out.
pub fn execute(line: &str, inventory: &Inventory) -> Command {
    let mut words = line.split_whitespace();
    match words.next() {
        None => {}
        Some("help" | "?") => console::print(format_args!("{HELP}")),
        Some("lspci") => lspci(inventory),
        Some("lsiommu") => lsiommu(inventory),
        Some("lsgroup") => lsgroup(inventory),
        Some("dmesg") => console::print(format_args!("{}", klog::messages())),
        Some("selftest") => {
            iommu::selftest::run(inventory);
        }
        Some("run") => {
            let argv: Vec<String> = words.map(ToString::to_string).collect();
            if !argv.is_empty() {
                return Command::Run(argv);
            }
            console::print(format_args!("run: which program? (run PROGRAM [ARGS])\n"));
        }
        Some("poweroff" | "exit" | "halt") => return Command::PowerOff,
        Some(other) => console::print(format_args!("{other}: no such command; try help\n")),
    }
    Command::Done
}

fn lspci(inventory: &Inventory) {
    for f in &inventory.tree.functions {
        let device = inventory.devices.iter().find(|d| d.spec().stream == f.stream);
        let name = device.map_or("", |d| d.name());
        let blank = if name.is_empty() { "" } else { "  " };
        console::print(format_args!("{}{blank}{name}\n", pci::line(f)));
    }
}

fn lsiommu(inventory: &Inventory) {
    if inventory.units.is_empty() {
        console::print(format_args!("no IOMMU translates on this machine\n"));
    }
    for up in &inventory.units {
        let f = up.unit.features();
        let [cap, ecap] = up.unit.raw_capabilities();
        console::print(format_args!(
            "{}: {}, {} levels, iova {} bits, pa {} bits, CAP {cap:#018x}, ECAP {ecap:#018x}\n  {}\n",
            up.unit.name(),
            iommu::mode(&*up.unit, &up.report),
            f.levels,
            f.iova_bits,
            f.phys_bits,
            up.unit.status(),
        ));
        match f.dirty {
            iommu_types::DirtyRule::None => {
                console::print(format_args!("  cannot track writes: {} is missing\n", f.dirty_missing));
            }
            rule => console::print(format_args!("  tracks writes: {rule:?}\n")),
        }
        for quirk in &up.report.quirks {
            console::print(format_args!("  quirk {quirk}\n"));
        }
        for region in &up.report.reserved {
            let r = region.range;
            console::print(format_args!(
                "  {:#x}..={:#x} mapped for {:?}: {}\n",
                r.first.0, r.last.0, region.streams, region.reason
            ));
        }
    }
    for (stream, why) in &inventory.unprotected {
        console::print(format_args!("UNPROTECTED {stream}: {why}\n"));
    }
}

fn lsgroup(inventory: &Inventory) {
    for (id, group) in inventory.groups.iter().enumerate() {
        let reasons: Vec<_> = group.reasons.iter().map(ToString::to_string).collect();
        console::print(format_args!("group {id}: {}\n", reasons.join("; ")));
        for f in group.members.iter().filter_map(|s| inventory.tree.get(*s)) {
            console::print(format_args!("  {}\n", pci::line(f)));
        }
    }
}
