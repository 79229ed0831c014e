//! Memory that devices reach.

use ioas::PageSource;
use iommu_types::{Phys, PhysRun};
use mm::testing::TestMachine;
use mm::{AddressSpace, Backing, Frames, MapRequest, Memfd, PAGE, Prot};
use std::sync::Arc;
use uapi::linux::mman::*;
use uapi::{Errno, UserMem};
use vfs::{File, OpenFile};

fn anon(space: &AddressSpace, length: u64, prot: Prot) -> u64 {
    let request =
        MapRequest { address: 0, length, prot, flags: MAP_PRIVATE | MAP_ANONYMOUS, backing: Backing::Anonymous };
    space.map(request).unwrap()
}

/// What a device reads at the first byte of each page.
fn device(machine: &TestMachine, runs: &[PhysRun]) -> Vec<u8> {
    let pages = runs.iter().flat_map(|run| (0..run.length / PAGE).map(|page| Phys(run.base.0 + page * PAGE)));
    pages
        .map(|page| {
            let mut byte = [0];
            machine.read(page, &mut byte);
            byte[0]
        })
        .collect()
}

#[test]
fn program_and_device_see_the_same_memory_whatever_the_program_does() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 4 * PAGE, Prot::RW);
    let mut runs = Vec::new();
    space.pin(at, 4 * PAGE, true, &mut runs).unwrap();
    assert_eq!(runs.iter().map(|run| run.length).sum::<u64>(), 4 * PAGE);
    machine.store(&space, at + PAGE, &[5]).unwrap();
    assert_eq!(device(&machine, &runs), [0, 5, 0, 0]);
    // A fork between: the child gets copies, the parent keeps its frames.
    let child = space.fork().unwrap();
    machine.store(&space, at, &[6]).unwrap();
    machine.store(&child, at, &[7]).unwrap();
    assert_eq!(device(&machine, &runs), [6, 5, 0, 0]);
    machine.write(runs[0].base, &[8]);
    assert_eq!(machine.byte(&space, at), Ok(8));
    assert_eq!(machine.byte(&child, at), Ok(7));
    // After clear_refs too.
    space.clear_soft_dirty();
    machine.store(&space, at + 2 * PAGE, &[9]).unwrap();
    assert_eq!(device(&machine, &runs), [8, 5, 9, 0]);
    space.unpin(&runs);
}

#[test]
fn pins_break_copy_on_write_also_for_reading() {
    let machine = TestMachine::new(100);
    let parent = machine.space();
    let at = anon(&parent, PAGE, Prot::RW);
    machine.store(&parent, at, &[1]).unwrap();
    let child = parent.fork().unwrap();
    let mut runs = Vec::new();
    child.pin(at, PAGE, false, &mut runs).unwrap();
    machine.store(&child, at, &[2]).unwrap();
    assert_eq!(device(&machine, &runs), [2]);
    machine.store(&parent, at, &[3]).unwrap();
    assert_eq!(device(&machine, &runs), [2]);
    child.unpin(&runs);
    // A private mapping of a file is unshared too.
    let file = OpenFile::new(Arc::new(Memfd::new(machine.clone(), false)), 2);
    file.file.write(0, b"f").unwrap();
    let backing =
        Backing::File { file: file.clone(), offset: 0, mapping: file.file.mmap(0, PAGE, false, true).unwrap() };
    let request = MapRequest { address: 0, length: PAGE, prot: Prot::RW, flags: MAP_PRIVATE, backing };
    let at = child.map(request).unwrap();
    assert_eq!(machine.byte(&child, at), Ok(b'f'));
    let mut runs = Vec::new();
    child.pin(at, PAGE, false, &mut runs).unwrap();
    machine.store(&child, at, b"g").unwrap();
    assert_eq!(device(&machine, &runs), [b'g']);
    child.unpin(&runs);
}

#[test]
fn pins_outlive_munmap_and_the_program() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 2 * PAGE, Prot::RW);
    machine.store(&space, at, &[1]).unwrap();
    let mut runs = Vec::new();
    space.pin(at, 2 * PAGE, true, &mut runs).unwrap();
    assert_eq!(space.counters().pinned, 2 * PAGE);
    space.unmap(at, PAGE).unwrap();
    assert_eq!(device(&machine, &runs), [1, 0]);
    space.destroy();
    assert_eq!(device(&machine, &runs), [1, 0]);
    assert_eq!(machine.used(), 2);
    assert_eq!(space.pin(at + PAGE, PAGE, true, &mut Vec::new()), Err(Errno::EFAULT));
    // Given back in parts, cut where the caller likes.
    for run in runs {
        for page in 0..run.length / PAGE {
            space.unpin(&[PhysRun { base: Phys(run.base.0 + page * PAGE), length: PAGE }]);
        }
    }
    assert_eq!(machine.used(), 0);
    assert_eq!(space.counters().pinned, 0);
}

#[test]
fn a_failed_pin_leaves_nothing_pinned_and_the_callers_runs_alone() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 4 * PAGE, Prot::RW);
    space.unmap(at + 2 * PAGE, PAGE).unwrap();
    let own = PhysRun { base: Phys(0xf000), length: PAGE };
    let mut runs = vec![own];
    assert_eq!(space.pin(at, 4 * PAGE, true, &mut runs), Err(Errno::EFAULT));
    assert_eq!(runs, [own]);
    assert_eq!(space.counters().pinned, 0);
    space.unmap(at, 4 * PAGE).unwrap();
    assert_eq!(machine.used(), 0);
    // Rights.
    let read_only = anon(&space, PAGE, Prot::from_bits(1));
    assert_eq!(space.pin(read_only, PAGE, true, &mut runs), Err(Errno::EFAULT));
    space.pin(read_only, PAGE, false, &mut runs).unwrap();
    space.unpin(&runs[1..]);
    let none = anon(&space, PAGE, Prot::NONE);
    assert_eq!(space.pin(none, PAGE, false, &mut runs), Err(Errno::EFAULT));
    for (address, length) in [(1, PAGE), (!0xfff, PAGE), (0, u64::MAX), (1 << 47, PAGE)] {
        assert_eq!(space.pin(address, length, false, &mut runs), Err(Errno::EFAULT));
    }
}

#[test]
fn a_memfd_is_pinned_by_offset() {
    let machine = TestMachine::new(100);
    let file = Memfd::new(machine.clone(), false);
    file.truncate(2 * PAGE).unwrap();
    file.write(PAGE, &[4]).unwrap();
    let mut runs = Vec::new();
    file.0.pin(0, 2 * PAGE, true, &mut runs).unwrap();
    assert_eq!(device(&machine, &runs), [0, 4]);
    assert_eq!(file.0.pin(PAGE, 2 * PAGE, true, &mut Vec::new()), Err(Errno::EFAULT));
    file.truncate(0).unwrap();
    assert_eq!(machine.used(), 2);
    file.0.unpin(&runs);
    assert_eq!(machine.used(), 0);
}

#[test]
fn bits_are_ored_into_user_memory() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 2 * PAGE, Prot::RW);
    space.copy_out(at + PAGE - 1, &[0x01, 0x80]).unwrap();
    space.or_bits(at + PAGE - 1, &[0x10, 0x01]).unwrap();
    let mut bytes = [0; 2];
    space.copy_in(at + PAGE - 1, &mut bytes).unwrap();
    assert_eq!(bytes, [0x11, 0x81]);
}
