//! Address spaces as the CPU and the program see them.

use mm::testing::TestMachine;
use mm::{AddressSpace, Backing, Fault, MapRequest, Memfd, PAGE, Prot};
use std::sync::Arc;
use uapi::linux::mman::*;
use uapi::{Errno, UserMem};
use vfs::OpenFile;

const DIRTY: u64 = PAGEMAP_SOFT_DIRTY;
const PRESENT: u64 = PAGEMAP_PRESENT;

fn anon(space: &AddressSpace, length: u64) -> u64 {
    map(space, 0, length, MAP_PRIVATE | MAP_ANONYMOUS).unwrap()
}

fn map(space: &AddressSpace, address: u64, length: u64, flags: u64) -> Result<u64, Errno> {
    space.map(MapRequest { address, length, prot: Prot::RW, flags, backing: Backing::Anonymous })
}

fn map_file(space: &AddressSpace, file: &Arc<OpenFile>, flags: u64, prot: Prot, offset: u64) -> Result<u64, Errno> {
    let mapping = file.file.mmap(offset, PAGE, flags & MAP_SHARED != 0, prot.write)?;
    let backing = Backing::File { file: file.clone(), offset, mapping };
    space.map(MapRequest { address: 0, length: 3 * PAGE, prot, flags, backing })
}

fn memfd(machine: &Arc<TestMachine>, size: u64) -> Arc<OpenFile> {
    let file = OpenFile::new(Arc::new(Memfd::new(machine.clone(), true)), 2);
    file.file.truncate(size).unwrap();
    file
}

/// Present and soft-dirty bits of `count` pages.
fn pagemap(space: &AddressSpace, va: u64, count: usize) -> Vec<u64> {
    let mut bytes = vec![0xff; count * 8];
    assert_eq!(space.pagemap(va / PAGE * 8, &mut bytes), Ok(count * 8));
    let words = bytes.chunks(8).map(|word| u64::from_le_bytes(word.try_into().unwrap()));
    words
        .inspect(|word| assert_eq!(word & ((1 << 55) - 1), 0, "no frame number is shown"))
        .map(|w| w & (DIRTY | PRESENT))
        .collect()
}

#[test]
fn memory_is_zero_comes_on_demand_and_goes_with_munmap() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 10 * PAGE);
    assert_eq!(machine.used(), 0);
    assert_eq!(machine.byte(&space, at + 5 * PAGE), Ok(0));
    machine.store(&space, at + PAGE - 1, b"ab").unwrap();
    assert_eq!(machine.used(), 3);
    assert_eq!(space.counters().resident, 3 * PAGE);
    space.unmap(at + PAGE, PAGE).unwrap();
    assert_eq!(machine.byte(&space, at + PAGE), Err(Fault::NoMapping));
    assert_eq!(machine.byte(&space, at + PAGE - 1), Ok(b'a'));
    assert_eq!(machine.used(), 2);
    space.destroy();
    assert_eq!(machine.used(), 0);
    assert_eq!(map(&space, 0, PAGE, MAP_PRIVATE | MAP_ANONYMOUS), Err(Errno::ENOMEM));
}

#[test]
fn rights_are_enforced_for_program_and_kernel() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 4 * PAGE);
    machine.store(&space, at, &[1]).unwrap();
    assert_eq!(machine.fetch(&space, at), Err(Fault::Access));
    space.protect(at, PAGE, Prot::from_bits(PROT_READ)).unwrap();
    assert_eq!(machine.store(&space, at, &[2]), Err(Fault::Access));
    assert_eq!(space.copy_out(at, &[2]), Err(Errno::EFAULT));
    assert_eq!(machine.byte(&space, at), Ok(1));
    space.protect(at, PAGE, Prot::NONE).unwrap();
    assert_eq!(machine.byte(&space, at), Err(Fault::Access));
    assert_eq!(space.copy_in(at, &mut [0]), Err(Errno::EFAULT));
    space.protect(at, PAGE, Prot::from_bits(PROT_READ | PROT_EXEC)).unwrap();
    machine.fetch(&space, at).unwrap();
    space.protect(at, PAGE, Prot::RW).unwrap();
    machine.store(&space, at, &[3]).unwrap();
    assert_eq!(space.protect(at, 100 * PAGE, Prot::RW), Err(Errno::ENOMEM));
    assert_eq!(space.protect(at + 1, PAGE, Prot::RW), Err(Errno::EINVAL));
    // Half of a copy may be done, never a byte past the mapping.
    space.unmap(at + 2 * PAGE, 2 * PAGE).unwrap();
    assert_eq!(space.copy_out(at + 2 * PAGE - 2, &[7; 4]), Err(Errno::EFAULT));
    for hostile in [u64::MAX, u64::MAX - 3, 0x7fff_ffff_f000 - 2, 1 << 47, 0xffff_8000_0000_0000] {
        assert_eq!(space.copy_in(hostile, &mut [0; 4]), Err(Errno::EFAULT));
        assert_eq!(space.copy_out(hostile, &[0; 4]), Err(Errno::EFAULT));
        assert_eq!(space.or_bits(hostile, &[0; 4]), Err(Errno::EFAULT));
        assert!(machine.byte(&space, hostile).is_err());
    }
}

#[test]
fn a_forked_child_shares_until_somebody_writes() {
    let machine = TestMachine::new(100);
    let parent = machine.space();
    let at = anon(&parent, 3 * PAGE);
    machine.store(&parent, at, b"parent").unwrap();
    machine.store(&parent, at + PAGE, b"both").unwrap();
    let used = machine.used();
    let child = parent.fork().unwrap();
    assert_eq!(machine.used(), used);
    // The parent's cached right to write is gone: its write does not show in the child.
    machine.store(&parent, at, b"PARENT").unwrap();
    let mut bytes = [0; 6];
    machine.load(&child, at, &mut bytes).unwrap();
    assert_eq!(&bytes, b"parent");
    machine.store(&child, at, b"child!").unwrap();
    child.copy_out(at + PAGE, b"B").unwrap();
    machine.load(&parent, at, &mut bytes).unwrap();
    assert_eq!(&bytes, b"PARENT");
    assert_eq!(machine.byte(&parent, at + PAGE), Ok(b'b'));
    drop(child);
    assert_eq!(machine.used(), used);
    // Alone again: writing copies nothing.
    machine.store(&parent, at + PAGE, b"x").unwrap();
    assert_eq!(machine.used(), used);
}

#[test]
fn shared_memory_stays_shared_across_fork_and_names_one_futex() {
    let machine = TestMachine::new(100);
    let parent = machine.space();
    let at = map(&parent, 0, 2 * PAGE, MAP_SHARED | MAP_ANONYMOUS).unwrap();
    let private = anon(&parent, PAGE);
    let child = parent.fork().unwrap();
    machine.store(&child, at + PAGE, b"c").unwrap();
    assert_eq!(machine.byte(&parent, at + PAGE), Ok(b'c'));
    assert_eq!(parent.futex_key(at + 8, false), child.futex_key(at + 8, false));
    assert_ne!(parent.futex_key(private, false), child.futex_key(private, false));
    assert_eq!(parent.futex_key(private, false), parent.futex_key(private, true));
    assert_eq!(parent.futex_key(at + 2, false), Err(Errno::EINVAL));
    assert_eq!(parent.futex_key(8, false), Err(Errno::EFAULT));
    drop(parent);
    assert_eq!(machine.byte(&child, at + PAGE), Ok(b'c'));
    drop(child);
    assert_eq!(machine.used(), 0);
}

#[test]
fn soft_dirty_reports_each_page_written_after_clear_refs_and_no_other() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 6 * PAGE);
    for page in 0..4 {
        machine.store(&space, at + page * PAGE, &[1]).unwrap();
    }
    assert_eq!(
        pagemap(&space, at, 6),
        [PRESENT | DIRTY, PRESENT | DIRTY, PRESENT | DIRTY, PRESENT | DIRTY, DIRTY, DIRTY]
    );
    space.clear_soft_dirty();
    assert_eq!(pagemap(&space, at, 6), [PRESENT, PRESENT, PRESENT, PRESENT, 0, 0]);
    // The program's own write, through a translation that was writable before.
    machine.store(&space, at, &[2]).unwrap();
    // The kernel's copy-out (read(2) into a buffer), and or-ing bits in (a dirty bitmap).
    space.copy_out(at + PAGE, &[2]).unwrap();
    space.or_bits(at + 2 * PAGE, &[2]).unwrap();
    // Reading is no writing.
    assert_eq!(machine.byte(&space, at + 3 * PAGE), Ok(1));
    space.copy_in(at + 3 * PAGE, &mut [0]).unwrap();
    assert_eq!(pagemap(&space, at, 4), [PRESENT | DIRTY, PRESENT | DIRTY, PRESENT | DIRTY, PRESENT]);
    space.clear_soft_dirty();
    // What appears is reported: a page filled for the first time, a page dropped, a new mapping.
    assert_eq!(machine.byte(&space, at + 5 * PAGE), Ok(0));
    space.advise(at, PAGE, MADV_DONTNEED).unwrap();
    assert_eq!(pagemap(&space, at, 6), [DIRTY, PRESENT, PRESENT, PRESENT, 0, PRESENT | DIRTY]);
    assert_eq!(machine.byte(&space, at), Ok(0));
    let new = anon(&space, 2 * PAGE);
    assert_eq!(pagemap(&space, new, 2), [DIRTY, DIRTY]);
    space.unmap(at + PAGE, PAGE).unwrap();
    map(&space, at + PAGE, PAGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED).unwrap();
    assert_eq!(pagemap(&space, at + PAGE, 2), [DIRTY, PRESENT]);
}

#[test]
fn soft_dirty_survives_fork_protect_and_remap() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = anon(&space, 3 * PAGE);
    (0..3).for_each(|page| machine.store(&space, at + page * PAGE, &[1]).unwrap());
    space.clear_soft_dirty();
    machine.store(&space, at, &[2]).unwrap();
    let child = space.fork().unwrap();
    assert_eq!(pagemap(&child, at, 3), [PRESENT | DIRTY, PRESENT, PRESENT]);
    machine.store(&space, at + PAGE, &[3]).unwrap();
    assert_eq!(pagemap(&space, at, 3), [PRESENT | DIRTY, PRESENT | DIRTY, PRESENT]);
    space.clear_soft_dirty();
    // Making it read-only and writable again must not give the write right back unseen.
    space.protect(at, 3 * PAGE, Prot::from_bits(PROT_READ)).unwrap();
    space.protect(at, 3 * PAGE, Prot::RW).unwrap();
    assert_eq!(pagemap(&space, at, 3), [PRESENT, PRESENT, PRESENT]);
    machine.store(&space, at + 2 * PAGE, &[4]).unwrap();
    assert_eq!(pagemap(&space, at, 3), [PRESENT, PRESENT, PRESENT | DIRTY]);
    let moved = space.remap(at, 3 * PAGE, 5 * PAGE, MREMAP_MAYMOVE, 0).unwrap();
    assert!(pagemap(&space, moved, 5).iter().all(|bits| bits & DIRTY != 0));
}

#[test]
fn pagemap_refuses_odd_requests_and_ends_with_the_user_half() {
    let space = TestMachine::new(4).space();
    assert_eq!(space.pagemap(4, &mut [0; 8]), Err(Errno::EINVAL));
    assert_eq!(space.pagemap(0, &mut [0; 7]), Err(Errno::EINVAL));
    assert_eq!(space.pagemap(!7, &mut [0; 8]), Ok(0));
    let last = (mm::USER_END / PAGE - 1) * 8;
    assert_eq!(space.pagemap(last, &mut [0; 64]), Ok(8));
    assert_eq!(space.pagemap(0, &mut []), Ok(0));
}

#[test]
fn places_are_chosen_fixed_and_refused() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let flags = MAP_PRIVATE | MAP_ANONYMOUS;
    let first = map(&space, 0, PAGE, flags).unwrap();
    let second = map(&space, 0, PAGE, flags).unwrap();
    assert_eq!(second, first - PAGE);
    assert_eq!(map(&space, 0x40_0000, PAGE, flags), Ok(0x40_0000));
    assert_ne!(map(&space, 0x40_0000, PAGE, flags), Ok(0x40_0000));
    assert_eq!(map(&space, 0x40_0000, PAGE, flags | MAP_FIXED_NOREPLACE), Err(Errno::EEXIST));
    machine.store(&space, 0x40_0000, &[1]).unwrap();
    assert_eq!(map(&space, 0x40_0000, PAGE, flags | MAP_FIXED), Ok(0x40_0000));
    assert_eq!(machine.byte(&space, 0x40_0000), Ok(0));
    assert_eq!(map(&space, 0x40_0001, PAGE, flags | MAP_FIXED), Err(Errno::EINVAL));
    assert_eq!(map(&space, 0, PAGE, flags | MAP_FIXED), Err(Errno::EPERM));
    assert_eq!(map(&space, 0, 0, flags), Err(Errno::EINVAL));
    assert_eq!(map(&space, 0, PAGE, MAP_ANONYMOUS), Err(Errno::EINVAL));
    for hostile in [u64::MAX, u64::MAX - PAGE, 1 << 62, 1 << 47] {
        assert_eq!(map(&space, 0, hostile, flags), Err(Errno::ENOMEM));
        assert!(map(&space, hostile & !(PAGE - 1), PAGE, flags | MAP_FIXED).is_err());
        assert!(map(&space, 0x40_0000, hostile, flags | MAP_FIXED).is_err());
        assert_eq!(space.unmap(0x40_0000, hostile), Err(Errno::EINVAL));
    }
    assert!(map(&space, 0, PAGE, flags | MAP_32BIT).unwrap() < 1 << 31);
    assert_eq!(space.unmap(1, PAGE), Err(Errno::EINVAL));
    assert_eq!(space.unmap(0x1234_5000, PAGE), Ok(()));
}

#[test]
fn neighbours_become_one_mapping() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    for _ in 0..50 {
        anon(&space, PAGE);
    }
    assert_eq!(space.maps().lines().count(), 1);
    let at = anon(&space, 3 * PAGE);
    space.protect(at + PAGE, PAGE, Prot::NONE).unwrap();
    assert_eq!(space.maps().lines().count(), 3);
    space.protect(at + PAGE, PAGE, Prot::RW).unwrap();
    assert_eq!(space.maps().lines().count(), 1);
}

#[test]
fn the_heap_grows_shrinks_and_stops_at_neighbours() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let start = space.brk(0);
    assert_eq!(start, 0);
    let file = elf_file(&machine);
    mm::load(&space, &program(&file)).unwrap();
    let start = space.brk(0);
    assert_eq!(space.brk(start + 100), start + 100);
    machine.store(&space, start + 99, &[1]).unwrap();
    assert_eq!(machine.byte(&space, start + PAGE), Err(Fault::NoMapping));
    assert_eq!(space.brk(start - 1), start + 100);
    assert_eq!(space.brk(u64::MAX), start + 100);
    map(&space, start + 4 * PAGE, PAGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED).unwrap();
    assert_eq!(space.brk(start + 4 * PAGE), start + 100);
    assert_eq!(space.brk(start), start);
    assert_eq!(machine.byte(&space, start), Err(Fault::NoMapping));
}

#[test]
fn private_and_shared_mappings_of_a_memfd() {
    let machine = TestMachine::new(100);
    let (one, two) = (machine.space(), machine.space());
    let file = memfd(&machine, 2 * PAGE);
    file.file.write(0, b"file").unwrap();
    let shared = map_file(&one, &file, MAP_SHARED, Prot::RW, 0).unwrap();
    let other = map_file(&two, &file, MAP_SHARED, Prot::RW, 0).unwrap();
    let private = map_file(&two, &file, MAP_PRIVATE, Prot::RW, 0).unwrap();
    assert_eq!(machine.byte(&two, private), Ok(b'f'));
    machine.store(&one, shared, b"F").unwrap();
    assert_eq!(machine.byte(&two, other), Ok(b'F'));
    assert_eq!(machine.byte(&two, private), Ok(b'F'));
    machine.store(&two, private, b"p").unwrap();
    assert_eq!(machine.byte(&two, other), Ok(b'F'));
    // The third page is past the end of the object.
    assert_eq!(machine.byte(&one, shared + 2 * PAGE), Err(Fault::Bus));
    assert_eq!(one.copy_in(shared + 2 * PAGE, &mut [0]), Err(Errno::EFAULT));
    // Seals.
    assert_eq!(file.file.seal(2 | 8), Ok(10));
    assert_eq!(file.file.truncate(0), Err(Errno::EPERM));
    assert_eq!(file.file.write(0, b"x"), Err(Errno::EPERM));
    assert_eq!(map_file(&one, &file, MAP_SHARED, Prot::RW, 0), Err(Errno::EPERM));
    drop(file);
    drop((one, two));
    assert_eq!(machine.used(), 0);
}

#[test]
fn a_shared_mapping_of_a_read_only_file_never_becomes_writable() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let file = OpenFile::new(memfd(&machine, PAGE).file.clone(), 0);
    assert_eq!(map_file(&space, &file, MAP_SHARED, Prot::RW, 0), Err(Errno::EACCES));
    let at = map_file(&space, &file, MAP_SHARED, Prot::from_bits(1), 0).unwrap();
    assert_eq!(space.protect(at, PAGE, Prot::RW), Err(Errno::EACCES));
    let at = map_file(&space, &file, MAP_PRIVATE, Prot::RW, 0).unwrap();
    machine.store(&space, at, &[1]).unwrap();
    let write_only = OpenFile::new(file.file.clone(), 1);
    assert_eq!(map_file(&space, &write_only, MAP_SHARED, Prot::RW, 0), Err(Errno::EACCES));
}

#[test]
fn truncation_hides_what_was_cut_off() {
    let machine = TestMachine::new(100);
    let file = memfd(&machine, 0);
    file.file.write(0, &[7; 5000]).unwrap();
    file.file.truncate(10).unwrap();
    file.file.truncate(5000).unwrap();
    let mut bytes = [1; 5000];
    assert_eq!(file.file.read(0, &mut bytes), Ok(5000));
    assert_eq!(&bytes[..10], &[7; 10]);
    assert!(bytes[10..].iter().all(|byte| *byte == 0));
    assert_eq!(file.file.truncate(u64::MAX), Err(Errno::EFBIG));
    assert_eq!(file.file.write(u64::MAX - 1, &[0; 4]), Err(Errno::EFBIG));
}

#[test]
fn remap_grows_moves_and_shrinks_with_the_contents() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let at = map(&space, 0x1000_0000, 2 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS).unwrap();
    machine.store(&space, at + PAGE, b"tail").unwrap();
    assert_eq!(space.remap(at, 2 * PAGE, 4 * PAGE, 0, 0), Ok(at));
    map(&space, at + 4 * PAGE, PAGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED).unwrap();
    space.protect(at + 4 * PAGE, PAGE, Prot::NONE).unwrap();
    assert_eq!(space.remap(at, 4 * PAGE, 8 * PAGE, 0, 0), Err(Errno::ENOMEM));
    let moved = space.remap(at, 4 * PAGE, 8 * PAGE, MREMAP_MAYMOVE, 0).unwrap();
    assert_ne!(moved, at);
    assert_eq!(machine.byte(&space, moved + PAGE), Ok(b't'));
    assert_eq!(machine.byte(&space, moved + 7 * PAGE), Ok(0));
    assert_eq!(machine.byte(&space, at), Err(Fault::NoMapping));
    let fixed = space.remap(moved, 8 * PAGE, 2 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, 0x2000_0000).unwrap();
    assert_eq!(fixed, 0x2000_0000);
    assert_eq!(machine.byte(&space, fixed + PAGE), Ok(b't'));
    assert_eq!(machine.byte(&space, moved + 7 * PAGE), Err(Fault::NoMapping));
    assert_eq!(space.remap(fixed, 2 * PAGE, PAGE, 0, 0), Ok(fixed));
    assert_eq!(machine.byte(&space, fixed + PAGE), Err(Fault::NoMapping));
    assert_eq!(space.remap(fixed, PAGE, PAGE, MREMAP_FIXED, 0x3000_0000), Err(Errno::EINVAL));
    assert_eq!(space.remap(fixed, PAGE, PAGE, 3, fixed), Err(Errno::EINVAL));
    assert_eq!(space.remap(0x7000_0000, PAGE, PAGE, 1, 0), Err(Errno::EFAULT));
    assert_eq!(space.remap(fixed, PAGE, u64::MAX, 1, 0), Err(Errno::ENOMEM));
    assert_eq!(space.remap(fixed, u64::MAX, PAGE, 1, 0), Err(Errno::EINVAL));
    assert_eq!(machine.used(), 0);
}

#[test]
fn populate_costs_one_flush_and_no_fault() {
    let machine = TestMachine::new(3000);
    let space = machine.space();
    let before = machine.flushes(&space);
    let at = map(&space, 0, 2048 * PAGE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE).unwrap();
    assert_eq!(machine.used(), 2048);
    assert_eq!(machine.flushes(&space), before + 1);
    space.clear_soft_dirty();
    assert_eq!(machine.flushes(&space), before + 2);
    assert!(machine.entry(&space, at).is_some_and(|pte| !pte.write));
    assert_eq!(space.counters().faults, 0);
}

#[test]
fn device_memory_is_mapped_uncached_and_closed_to_the_kernel() {
    struct Bar;
    impl vfs::File for Bar {
        fn stat(&self) -> vfs::Stat {
            vfs::Stat::anonymous(vfs::FileKind::Device)
        }
        fn mmap(&self, offset: u64, _: u64, _: bool, _: bool) -> Result<vfs::Mapping, Errno> {
            Ok(vfs::Mapping::Device { base: iommu_types::Phys(0xfe00_0000 + offset), keep: Arc::new(()) })
        }
    }
    let machine = TestMachine::new(10);
    let space = machine.space();
    let file = OpenFile::new(Arc::new(Bar), 2);
    let at = map_file(&space, &file, MAP_SHARED, Prot::RW, 0x2000).unwrap();
    space.handle_fault(at + PAGE + 8, true, false).unwrap();
    let pte = machine.entry(&space, at + PAGE).unwrap();
    assert_eq!(pte, mm::Pte { phys: iommu_types::Phys(0xfe00_3000), write: true, exec: false, device: true });
    assert_eq!(space.copy_in(at, &mut [0]), Err(Errno::EFAULT));
    assert_eq!(space.copy_out(at, &[0]), Err(Errno::EFAULT));
    assert_eq!(ioas::PageSource::pin(&*space, at, PAGE, false, &mut Vec::new()), Err(Errno::EFAULT));
    space.protect(at, 3 * PAGE, Prot::from_bits(1)).unwrap();
    assert_eq!(machine.entry(&space, at + PAGE), None);
    assert_eq!(space.handle_fault(at + PAGE, true, false), Err(Fault::Access));
    // The window does not grow over what lies behind it, and moving it leaves nothing behind.
    space.handle_fault(at + PAGE, false, false).unwrap();
    assert_eq!(space.remap(at, 3 * PAGE, 4 * PAGE, MREMAP_MAYMOVE, 0), Err(Errno::EFAULT));
    assert_eq!(space.remap(at, 3 * PAGE, 4 * PAGE, 3, 0x2000_0000), Err(Errno::EFAULT));
    assert_eq!(space.remap(at, 3 * PAGE, 3 * PAGE, 3, 0x2000_0000), Ok(0x2000_0000));
    assert_eq!(machine.entry(&space, at + PAGE), None);
    space.handle_fault(0x2000_1000, false, false).unwrap();
    assert_eq!(machine.entry(&space, 0x2000_1000).unwrap().phys, iommu_types::Phys(0xfe00_3000));
    space.unmap(0x2000_0000, 3 * PAGE).unwrap();
    assert_eq!(machine.entry(&space, 0x2000_1000), None);
    assert_eq!(Arc::strong_count(&file), 1);
    assert_eq!(map_file(&space, &file, MAP_PRIVATE, Prot::RW, 0), Err(Errno::EINVAL));
}

fn elf_file(machine: &Arc<TestMachine>) -> Arc<OpenFile> {
    let file = memfd(machine, 0);
    file.file.write(0, &sample_elf()).unwrap();
    file
}

fn program(file: &Arc<OpenFile>) -> mm::Program<'_> {
    mm::Program {
        file: file.clone(),
        name: b"/bin/sample",
        argv: &[],
        envp: &[],
        machine: 62,
        hwcap: [0xbfeb_fbff, 2],
        platform: "x86_64",
        random: [9; 16],
        min_signal_stack: 2048,
    }
}

/// An ET_EXEC with a text segment and a data segment that has bss. Typed from the ELF-64 object file format.
fn sample_elf() -> Vec<u8> {
    let mut elf = vec![0; 0x1100];
    let mut put = |at: usize, bytes: &[u8]| elf[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"\x7fELF\x02\x01\x01");
    put(16, &2u16.to_le_bytes());
    put(18, &62u16.to_le_bytes());
    put(20, &1u32.to_le_bytes());
    put(24, &0x40_0100u64.to_le_bytes());
    put(32, &64u64.to_le_bytes());
    put(52, &64u16.to_le_bytes());
    put(54, &56u16.to_le_bytes());
    put(56, &2u16.to_le_bytes());
    let mut phdr = |index: usize, flags: u32, words: [u64; 6]| {
        let at = 64 + index * 56;
        put(at, &1u32.to_le_bytes());
        put(at + 4, &flags.to_le_bytes());
        for (word, value) in words.iter().enumerate() {
            put(at + 8 + word * 8, &value.to_le_bytes());
        }
    };
    phdr(0, 5, [0, 0x40_0000, 0x40_0000, 0x200, 0x200, 0x1000]);
    phdr(1, 6, [0x1000, 0x40_1000, 0x40_1000, 0x100, 0x2800, 0x1000]);
    elf[0x100] = 0xc3;
    elf[0x1000..0x1100].fill(0xdd);
    elf
}

#[test]
fn a_program_is_laid_out_as_the_abi_says() {
    let machine = TestMachine::new(200);
    let space = machine.space();
    let file = elf_file(&machine);
    let argv = [b"sample".to_vec(), b"one two".to_vec()];
    let envp = [b"HOME=/".to_vec()];
    let start = mm::load(&space, &mm::Program { argv: &argv, envp: &envp, ..program(&file) }).unwrap();
    assert_eq!(start.entry, 0x40_0100);
    assert_eq!(machine.byte(&space, 0x40_0100), Ok(0xc3));
    machine.fetch(&space, 0x40_0100).unwrap();
    assert_eq!(machine.store(&space, 0x40_0100, &[0]), Err(Fault::Access));
    assert_eq!(machine.byte(&space, 0x40_10ff), Ok(0xdd));
    // bss: the rest of the page, and the pages after it.
    assert_eq!(machine.byte(&space, 0x40_1100), Ok(0));
    machine.store(&space, 0x40_37ff, &[1]).unwrap();
    assert_eq!(machine.byte(&space, 0x40_4000), Err(Fault::NoMapping));
    assert_eq!(space.brk(0), 0x40_4000);
    // Data of the file stays as it was.
    machine.store(&space, 0x40_1000, &[1]).unwrap();
    let mut byte = [0];
    file.file.read(0x1000, &mut byte).unwrap();
    assert_eq!(byte, [0xdd]);

    assert_eq!(start.stack % 16, 0);
    let word = |at: u64| {
        let mut bytes = [0; 8];
        machine.load(&space, at, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let string = |at: u64| space.copy_in_string(at, 4096).unwrap();
    assert_eq!(word(start.stack), 2);
    assert_eq!(string(word(start.stack + 8)), b"sample");
    assert_eq!(string(word(start.stack + 16)), b"one two");
    assert_eq!(word(start.stack + 24), 0);
    assert_eq!(string(word(start.stack + 32)), b"HOME=/");
    assert_eq!(word(start.stack + 40), 0);
    let vector: std::collections::BTreeMap<u64, u64> = (0..)
        .map(|index| (word(start.stack + 48 + index * 16), word(start.stack + 56 + index * 16)))
        .take_while(|(kind, _)| *kind != 0)
        .collect();
    // AT_PHDR, AT_PHENT, AT_PHNUM, AT_PAGESZ, AT_ENTRY, AT_SECURE, AT_HWCAP, AT_MINSIGSTKSZ
    for (kind, want) in
        [(3, 0x40_0040), (4, 56), (5, 2), (6, 4096), (9, 0x40_0100), (23, 0), (16, 0xbfeb_fbff), (51, 2048)]
    {
        assert_eq!(vector.get(&kind), Some(&want), "entry {kind}");
    }
    let mut random = [0; 16];
    machine.load(&space, vector[&25], &mut random).unwrap();
    assert_eq!(random, [9; 16]);
    assert_eq!(string(vector[&31]), b"/bin/sample");
    assert_eq!(string(vector[&15]), b"x86_64");
}

#[test]
fn the_stack_grows_to_its_limit_and_not_past_it() {
    let machine = TestMachine::new(200);
    let space = machine.space();
    let start = mm::load(&space, &program(&elf_file(&machine))).unwrap();
    machine.store(&space, start.stack - (1 << 20), &[1]).unwrap();
    machine.store(&space, start.stack - (7 << 20), &[1]).unwrap();
    assert_eq!(machine.byte(&space, start.stack - (9 << 20)), Err(Fault::NoMapping));
    assert!(space.maps().contains("[stack]"));
}

#[test]
fn arguments_that_are_too_long_are_e2big() {
    let machine = TestMachine::new(4000);
    let file = elf_file(&machine);
    let load = |argv: &[Vec<u8>]| mm::load(&machine.space(), &mm::Program { argv, ..program(&file) });
    assert_eq!(load(&[vec![b'a'; 128 << 10]]), Err(Errno::E2BIG));
    assert_eq!(load(&vec![vec![b'a'; 100_000]; 21]), Err(Errno::E2BIG));
    assert_eq!(load(&vec![vec![]; 300_000]), Err(Errno::E2BIG));
    assert!(load(&vec![vec![b'a'; 100_000]; 20]).is_ok());
}

#[test]
fn a_static_pie_is_moved_as_a_whole() {
    let machine = TestMachine::new(200);
    let space = machine.space();
    let mut elf = sample_elf();
    elf[16] = 3;
    elf[24..32].copy_from_slice(&0x100u64.to_le_bytes());
    for (index, address) in [(0, 0u64), (1, 0x1000)] {
        elf[64 + index * 56 + 16..][..8].copy_from_slice(&address.to_le_bytes());
    }
    let file = memfd(&machine, 0);
    file.file.write(0, &elf).unwrap();
    let start = mm::load(&space, &program(&file)).unwrap();
    assert_eq!(start.entry, 0x5555_5555_4100);
    machine.fetch(&space, start.entry).unwrap();
    assert_eq!(machine.byte(&space, start.entry + 0xf00), Ok(0xdd));
}

#[test]
fn broken_programs_are_enoexec_and_leave_nothing_behind() {
    let machine = TestMachine::new(400);
    let whole = sample_elf();
    let try_one = |elf: &[u8]| {
        let file = memfd(&machine, 0);
        file.file.write(0, elf).unwrap();
        let result = mm::load(&machine.space(), &program(&file));
        drop(file);
        assert_eq!(machine.used(), 0, "frames are left");
        result
    };
    assert!(try_one(&whole).is_ok());
    for cut in 0..whole.len() {
        assert_eq!(try_one(&whole[..cut]), Err(Errno::ENOEXEC), "cut at {cut}");
    }
    // Every byte of the headers with extreme values: refused or loaded, never a panic or a leak.
    for at in 0..64 + 2 * 56 {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut elf = whole.clone();
            elf[at] = value;
            let _ = try_one(&elf);
        }
    }
    let word = |at: usize, value: u64| {
        let mut elf = whole.clone();
        elf[at..at + 8].copy_from_slice(&value.to_le_bytes());
        elf
    };
    for (at, value, what) in [
        (24, 0x40_1000, "entry in data"),
        (24, u64::MAX, "entry outside"),
        (32, u64::MAX, "program headers outside"),
        (64 + 16, 0x7fff_ffff_0000, "segment on the stack"),
        (64 + 16, !0xfff, "segment wraps"),
        (64 + 16, 0, "segment at zero"),
        (64 + 40, u64::MAX, "segment size wraps"),
        (64 + 32, 0x300, "more file than memory"),
        (120 + 16, 0x40_0000, "segments share a page"),
        (120 + 16, 0x40_1008, "address and offset disagree"),
        (120 + 8, !0xfff, "offset outside"),
        (120 + 48, 0x3000, "alignment is no power of two"),
    ] {
        assert_eq!(try_one(&word(at, value)), Err(Errno::ENOEXEC), "{what}");
    }
    let mut dynamic = whole.clone();
    dynamic[120] = 3;
    assert_eq!(try_one(&dynamic), Err(Errno::ENOEXEC), "PT_INTERP");
    let mut foreign = whole.clone();
    foreign[18] = 183;
    assert_eq!(try_one(&foreign), Err(Errno::ENOEXEC), "aarch64");
}

#[test]
fn running_out_of_memory_anywhere_leaks_nothing() {
    let machine = TestMachine::new(500);
    let file = elf_file(&machine);
    let idle = machine.used();
    let mut failures = 0;
    for n in 0.. {
        machine.fail_after(None);
        let space = machine.space();
        let at = anon(&space, 8 * PAGE);
        (0..4).for_each(|page| machine.store(&space, at + page * PAGE, &[page as u8 + 1]).unwrap());
        let mut runs = Vec::new();
        ioas::PageSource::pin(&*space, at, PAGE, true, &mut runs).unwrap();
        machine.fail_after(Some(n));
        let results = [
            space.fork().map(drop),
            map(&space, 0, 600 * PAGE, MAP_SHARED | MAP_ANONYMOUS).map(drop),
            space.copy_out(at + 4 * PAGE, &[1]),
            space.remap(at, 8 * PAGE, 2000 * PAGE, MREMAP_MAYMOVE, 0).map(drop),
            space.advise(anon(&space, 3 * PAGE), 3 * PAGE, MADV_POPULATE_WRITE),
            AddressSpace::new(machine.clone(), machine.tables())
                .and_then(|new| mm::load(&new, &program(&file)))
                .map(drop),
            ioas::PageSource::pin(&*space, anon(&space, 2 * PAGE), 2 * PAGE, false, &mut Vec::new()),
        ];
        machine.fail_after(None);
        assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(Errno::ENOMEM))), "{results:?}");
        // The contents are where the mapping is now, whatever failed.
        let now = if machine.byte(&space, at).is_ok() {
            at
        } else {
            space
                .maps()
                .lines()
                .find_map(|line| {
                    let start = u64::from_str_radix(line.split('-').next()?, 16).ok()?;
                    (machine.byte(&space, start) == Ok(1)).then_some(start)
                })
                .unwrap()
        };
        for page in 0..4 {
            assert_eq!(machine.byte(&space, now + page * PAGE), Ok(page as u8 + 1));
        }
        ioas::PageSource::unpin(&*space, &runs);
        if results[6].is_ok() {
            // What the last call pinned: everything that is still pinned.
            assert!(results.iter().all(Result::is_ok));
            break;
        }
        drop(space);
        assert_eq!(machine.used(), idle, "after failing allocation {n}");
        failures += 1;
    }
    assert!(failures > 10);
}

#[test]
fn programs_leave_the_kernel_its_share_and_files_leave_programs_theirs() {
    let machine = TestMachine::new(640);
    let file = memfd(&machine, 0);
    let mut at = 0;
    let full = loop {
        match file.file.write(at, &[1; 4096]) {
            Ok(count) => at += count as u64,
            Err(error) => break error,
        }
    };
    // One in sixteen frames is kept from files, one in sixty-four from programs.
    assert_eq!((full, at / PAGE), (Errno::ENOSPC, 600));
    let space = machine.space();
    let start = anon(&space, 100 * PAGE);
    let last = (0..100).find(|page| machine.store(&space, start + page * PAGE, &[1]).is_err());
    assert_eq!(last, Some(30));
    assert_eq!(machine.byte(&space, start + 30 * PAGE), Err(Fault::NoMemory));
    assert_eq!(space.copy_out(start + 30 * PAGE, &[1]), Err(Errno::ENOMEM));
    file.file.truncate(0).unwrap();
    machine.store(&space, start + 30 * PAGE, &[1]).unwrap();
}

#[test]
fn a_move_costs_what_is_there_and_not_what_is_mapped() {
    let machine = TestMachine::new(100);
    let space = machine.space();
    let noreserve = MAP_PRIVATE | MAP_ANONYMOUS;
    // 64 TiB: with room made for all of it, the move would take 128 GiB.
    let at = map(&space, 0x1000_0000, 1 << 46, noreserve).unwrap();
    machine.store(&space, at + (1 << 40), b"x").unwrap();
    let to = at + (1 << 46) + PAGE;
    assert_eq!(space.remap(at, 1 << 46, 1 << 46, MREMAP_MAYMOVE | MREMAP_FIXED, to), Err(Errno::EINVAL));
    let half = 1 << 45;
    let to = at + (1 << 46);
    assert_eq!(space.remap(at, half, half, MREMAP_MAYMOVE | MREMAP_FIXED, to), Ok(to));
    assert_eq!(machine.byte(&space, to + (1 << 40)), Ok(b'x'));
    assert_eq!(pagemap(&space, to + (1 << 40), 1), [PRESENT | DIRTY]);
}

#[test]
fn hints_and_locks_do_not_cut_a_mapping_into_more_pieces_than_there_may_be() {
    let machine = TestMachine::new(10);
    let space = machine.space();
    let at = anon(&space, 200_000 * PAGE);
    let pieces = |space: &AddressSpace| space.maps().lines().count();
    let every_second = || (0..100_000).map(|n| at + n * 2 * PAGE);
    let refused = every_second().find_map(|page| space.advise(page, PAGE, MADV_DONTFORK).err());
    assert_eq!(refused, Some(Errno::ENOMEM));
    assert!(pieces(&space) <= 32768);
    let space = machine.space();
    let at = space
        .map(MapRequest {
            address: at,
            length: 200_000 * PAGE,
            prot: Prot::NONE,
            flags: MAP_PRIVATE | MAP_ANONYMOUS,
            backing: Backing::Anonymous,
        })
        .unwrap();
    for n in 0..100_000 {
        assert_eq!(space.set_locked(at + n * 2 * PAGE, PAGE, true), Err(Errno::ENOMEM));
    }
    assert!(pieces(&space) <= 32768);
}

#[test]
fn the_kernel_grows_the_stack_as_the_program_does() {
    let machine = TestMachine::new(200);
    let file = elf_file(&machine);
    let space = machine.space();
    let start = mm::load(&space, &program(&file)).unwrap();
    let buffer = start.stack - (1 << 20);
    assert_eq!(space.copy_out(buffer, b"read"), Ok(()));
    assert_eq!(machine.byte(&space, buffer), Ok(b'r'));
    assert_eq!(space.copy_out(start.stack - (16 << 20), b"x"), Err(Errno::EFAULT));
}

#[test]
fn writing_nothing_does_not_make_a_file_larger() {
    let machine = TestMachine::new(10);
    let file = memfd(&machine, 5);
    assert_eq!(file.file.write(1 << 20, &[]), Ok(0));
    assert_eq!(file.file.stat().size, 5);
}
