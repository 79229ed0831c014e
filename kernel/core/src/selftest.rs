//! `selftest=NAME` on the command line: tests that only the bare machine can run.

use crate::exit;
use crate::platform::start::faults;
use arch_x86_64::paging::kernel_access;
use arch_x86_64::{DIRECT_MAP, KERNEL_BASE};
use boot::BootInfo;
use log::info;

/// Runs what the command line asks for.
pub fn run(info: &BootInfo) {
    let Some(name) = info.option("selftest") else { return };
    match name {
        "layout" => layout(),
        "wx" => faults::write_text(),
        "wx-alias" => faults::write_text_alias(),
        "nx" => faults::execute_data(),
        "null" => {
            faults::null();
        }
        "stack" => {
            faults::overflow(0);
        }
        "panic" => panic!("asked for"),
        _ => {
            log::error!("selftest: no test {name:?}");
            exit::machine(2);
        }
    }
    exit::machine(1)
}

/// No page of the kernel is writable and executable, and each part has the access it should have.
fn layout() {
    let image = arch_x86_64::image();
    let mut wrong = 0;
    let mut expect = |what: &str, at: u64, want: (bool, bool, bool)| {
        let got = kernel_access(at);
        if got != want {
            log::error!("selftest: {what} at {at:#x}: present, writable, executable {got:?}, wanted {want:?}");
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
    info!("selftest layout: {}", if wrong == 0 { "PASS" } else { "FAIL" });
    exit::machine(u32::from(wrong != 0));
}
