//! Reports of writes: exact bits, nothing past the range, nothing lost when delivery fails.
#![allow(missing_docs)]

mod common;

use common::fakes::FakeDomain;
use common::{DATA, END, MIB, Random, World, stream};
use iommufd::DeviceHandle;
use std::collections::BTreeSet;
use std::sync::Arc;
use uapi::Errno;
use uapi::extension::{HWPT_GET_DIRTY_STRICT, IOAS_UNMAP_DIRTY, IoasUnmapDirty};
use uapi::iommufd as abi;

struct Tracked {
    world: World,
    device: DeviceHandle,
    ioas: u32,
    hwpt: u32,
    domain: Arc<FakeDomain>,
}

fn tracked(huge: bool) -> Tracked {
    let mut world = World::new(true);
    if huge {
        // Neighbours in the program are neighbours in memory, 2 MiB at a time.
        let source = common::fakes::FakeSource::new(&world.machine, 1 << 32, 512);
        world.program.source = source;
    }
    let ioas = world.ioas();
    if !huge {
        world.no_huge(ioas);
    }
    let device = world.bind(0);
    let hwpt = world.hwpt(device.id(), ioas, abi::HWPT_DIRTY_TRACKING).unwrap();
    device.attach(hwpt).unwrap();
    world.tracking(hwpt, true).unwrap();
    let domain = world.unit.at(stream(0)).unwrap();
    Tracked { world, device, ioas, hwpt, domain }
}

impl Tracked {
    fn body(&self, iova: u64, length: u64, page_size: u64) -> abi::HwptGetDirtyBitmap {
        abi::HwptGetDirtyBitmap {
            size: 48,
            hwpt_id: self.hwpt,
            iova,
            length,
            page_size,
            data: DATA,
            ..Default::default()
        }
    }
    fn get(&self, command: u32, flags: u32, iova: u64, length: u64, page_size: u64) -> Result<i64, Errno> {
        let mut body = abi::HwptGetDirtyBitmap { flags, ..self.body(iova, length, page_size) };
        self.world.call(command, &mut body)
    }
    /// Bits set by a report over a clean bitmap, and that nothing around it was touched.
    fn bits(&self, flags: u32, iova: u64, length: u64, page_size: u64) -> BTreeSet<u64> {
        let bytes = (length / page_size).div_ceil(8);
        self.world.program.put(DATA - 8, &vec![0; bytes as usize + 16]);
        assert_eq!(self.get(abi::HWPT_GET_DIRTY_BITMAP, flags, iova, length, page_size), Ok(0));
        let all = self.world.program.get(DATA - 8, bytes as usize + 16);
        assert_eq!(all[..8], [0; 8]);
        assert_eq!(all[8 + bytes as usize..], [0; 8]);
        let bit = |n: &u64| all[8 + (n / 8) as usize] & 1 << (n % 8) != 0;
        let set: BTreeSet<u64> = (0..bytes * 8).filter(bit).collect();
        assert!(set.iter().all(|n| *n < length / page_size), "bits past the range: {set:?}");
        set
    }
}

#[test]
fn checks_come_in_the_published_order() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, MIB, 0).unwrap();
    let get = |change: fn(&mut abi::HwptGetDirtyBitmap)| {
        let mut body = t.body(0, MIB, 4096);
        change(&mut body);
        t.world.call(abi::HWPT_GET_DIRTY_BITMAP, &mut body)
    };
    assert_eq!(get(|b| (b.flags, b.hwpt_id) = (2, 99)), Err(Errno::EOPNOTSUPP));
    assert_eq!(get(|b| b.reserved = 1), Err(Errno::EOPNOTSUPP));
    assert_eq!(get(|b| (b.hwpt_id, b.length) = (99, u64::MAX)), Err(Errno::ENOENT));
    assert_eq!(get(|b| (b.iova, b.length) = (0x1000, u64::MAX)), Err(Errno::EOVERFLOW));
    assert_eq!(get(|b| (b.iova, b.length) = (0x1000, 0)), Err(Errno::EOVERFLOW));
    assert_eq!(get(|b| b.iova = 0x800), Err(Errno::EINVAL));
    assert_eq!(get(|b| b.length = 0x800), Err(Errno::EINVAL));
    assert_eq!(get(|b| b.page_size = 0), Err(Errno::EINVAL));
    assert_eq!(get(|b| b.page_size = 2 * MIB), Err(Errno::EINVAL));
    assert_eq!(get(|b| (b.iova, b.length, b.page_size) = (0x1000, 0x2000, 0x2000)), Err(Errno::EINVAL));
    assert_eq!(get(|_| ()), Ok(0));
    // A table without tracking: everything mapped counts as dirty, and the program is told so.
    let plain = t.world.hwpt(t.device.id(), t.ioas, 0).unwrap();
    let mut body = abi::HwptGetDirtyBitmap { hwpt_id: plain, ..t.body(0, MIB, 4096) };
    assert_eq!(t.world.call(abi::HWPT_GET_DIRTY_BITMAP, &mut body), Err(Errno::EOPNOTSUPP));
    body.page_size = 0;
    assert_eq!(t.world.call(abi::HWPT_GET_DIRTY_BITMAP, &mut body), Err(Errno::EINVAL));
}

#[test]
fn page_sizes_up_to_2_to_the_63_and_odd_ones_do_not_panic() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, MIB, 0).unwrap();
    for shift in 0..64 {
        for (iova, length) in [(0, 0), (0, MIB), (MIB, MIB), (1 << 63, 1 << 63), (0, 1 << 63)] {
            for command in [abi::HWPT_GET_DIRTY_BITMAP, HWPT_GET_DIRTY_STRICT] {
                let result = t.get(command, 0, iova, length, 1 << shift);
                assert!(matches!(result, Ok(0) | Err(Errno::EINVAL | Errno::ENOENT)), "{shift} {iova:#x}: {result:?}");
            }
        }
    }
    // 3 * 4096: the lowest bit counts.
    t.domain.write(0x1000);
    assert_eq!(t.get(abi::HWPT_GET_DIRTY_BITMAP, 0, 0, 12 * 4096, 12288), Ok(0));
    assert_eq!(t.world.program.get(DATA, 1)[0] & 2, 2);
    assert_eq!(t.get(HWPT_GET_DIRTY_STRICT, 0, 0, 12 * 4096, 12288), Err(Errno::EINVAL));
}

#[test]
fn bit_0_is_the_given_iova_and_a_report_clears() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, 4 * MIB, 16 * MIB).unwrap();
    for at in [0, 0x5fff, 2 * MIB, 4 * MIB - 1] {
        assert!(t.domain.write(16 * MIB + at));
    }
    let all = BTreeSet::from([0, 5, 512, 1023]);
    assert_eq!(t.bits(abi::GET_DIRTY_NO_CLEAR, 16 * MIB, 4 * MIB, 4096), all);
    assert_eq!(t.bits(0, 16 * MIB + 0x5000, 0x3000, 4096), BTreeSet::from([0]));
    assert_eq!(t.bits(0, 16 * MIB, 4 * MIB, 4096), BTreeSet::from([0, 512, 1023]));
    assert_eq!(t.bits(0, 16 * MIB, 4 * MIB, 4096), BTreeSet::new());
    assert!(t.domain.write(16 * MIB));
    assert_eq!(t.bits(0, 16 * MIB, 4 * MIB, 4096), BTreeSet::from([0]));
}

#[test]
fn other_bits_of_the_program_stay() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, MIB, 0).unwrap();
    t.world.program.put(DATA, &[0xa5; 32]);
    t.domain.write(0x1000);
    t.get(abi::HWPT_GET_DIRTY_BITMAP, 0, 0, MIB, 4096).unwrap();
    let mut want = [0xa5; 32];
    want[0] |= 2;
    assert_eq!(t.world.program.get(DATA, 32), want);
}

#[test]
fn small_and_large_bits() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, 4 * MIB, 0).unwrap();
    t.domain.write(0x3000);
    assert_eq!(t.bits(abi::GET_DIRTY_NO_CLEAR, 0, MIB, 512), (24..32).collect());
    assert_eq!(t.bits(abi::GET_DIRTY_NO_CLEAR, 0, MIB, 2048), BTreeSet::from([6, 7]));
    assert_eq!(t.bits(abi::GET_DIRTY_NO_CLEAR, 0, 0x8000, 1), (0x3000..0x4000).collect());
    assert_eq!(t.bits(abi::GET_DIRTY_NO_CLEAR, 0, 4 * MIB, MIB), BTreeSet::from([0]));
    t.domain.write(3 * MIB);
    assert_eq!(t.bits(0, 0, 4 * MIB, MIB), BTreeSet::from([0, 3]));
    assert_eq!(t.bits(0, 0, 4 * MIB, MIB), BTreeSet::new());
}

#[test]
fn a_dirty_large_leaf_sets_no_bit_past_the_range_and_its_rest_is_not_lost() {
    let t = tracked(true);
    t.world.map(t.ioas, 0, 4 * MIB, 0).unwrap();
    assert_eq!(t.domain.largest_leaf(), 2 * MIB);
    t.domain.write(0x10_0000);
    // 64 KiB in the middle of the leaf: its bits, no others, and the leaf stays dirty.
    assert_eq!(t.bits(0, 0x8000, 0x1_0000, 4096), (0..16).collect());
    assert_eq!(t.bits(0, 0, MIB, 4096), (0..256).collect()); // cut at its end
    assert_eq!(t.bits(0, MIB, 3 * MIB, 4096), (0..256).collect()); // cut at its start
    assert_eq!(t.bits(0, 0, 2 * MIB, 4096), (0..512).collect()); // whole: cleared
    assert_eq!(t.bits(0, 0, 4 * MIB, 4096), BTreeSet::new());
}

#[test]
fn holes_answer_0_and_what_is_behind_them_is_reported() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, MIB, 0).unwrap();
    t.world.map(t.ioas, 4 * MIB, MIB, 4 * MIB).unwrap();
    t.domain.write(0);
    t.domain.write(4 * MIB);
    assert_eq!(t.get(HWPT_GET_DIRTY_STRICT, 0, 0, 8 * MIB, 4096), Err(Errno::ENOENT));
    assert_eq!(t.get(HWPT_GET_DIRTY_STRICT, 0, 16 * MIB, MIB, 4096), Err(Errno::ENOENT));
    assert_eq!(t.bits(0, 0, 8 * MIB, 4096), BTreeSet::from([0, 1024]));
    assert_eq!(t.bits(0, 16 * MIB, MIB, 4096), BTreeSet::new());
    assert_eq!(t.get(HWPT_GET_DIRTY_STRICT, 0, 0, MIB, 4096), Ok(0));
}

#[test]
fn a_bitmap_fault_answers_0_and_the_writes_come_with_the_next_report() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, 4 * MIB, 0).unwrap();
    let written = BTreeSet::from([0, 7, 8, 1000]);
    for command in [abi::HWPT_GET_DIRTY_BITMAP, HWPT_GET_DIRTY_STRICT] {
        for page in &written {
            t.domain.write(page * 4096);
        }
        // The bitmap's first bytes can be written, its end cannot.
        *t.world.program.read_only_from.lock().unwrap() = DATA + 100;
        let want = if command == HWPT_GET_DIRTY_STRICT { Err(Errno::EFAULT) } else { Ok(0) };
        assert_eq!(t.get(command, 0, 0, 4 * MIB, 4096), want);
        *t.world.program.read_only_from.lock().unwrap() = END;
        assert_eq!(t.bits(0, 0, 4 * MIB, 4096), written);
        assert_eq!(t.bits(0, 0, 4 * MIB, 4096), BTreeSet::new());
    }
}

#[test]
fn a_report_that_fails_in_its_second_window_gives_the_first_again() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, 512 * MIB, 0).unwrap();
    let (low, high) = (5u64, 65536 + 9);
    t.domain.write(low * 4096);
    t.domain.write(high * 4096);
    // The first window's 8 KiB of bitmap can be written, the second's cannot.
    *t.world.program.read_only_from.lock().unwrap() = DATA + 8192;
    assert_eq!(t.get(HWPT_GET_DIRTY_STRICT, 0, 0, 512 * MIB, 4096), Err(Errno::EFAULT));
    *t.world.program.read_only_from.lock().unwrap() = END;
    t.world.program.put(DATA, &[0; 16384]);
    let again = t.bits(0, 0, 512 * MIB, 4096);
    assert!(again.contains(&low) && again.contains(&high));
    // Only what had been reported may come twice.
    assert!(again.iter().all(|page| *page < 65536 || *page == high));
    assert_eq!(t.bits(0, 0, 512 * MIB, 4096), BTreeSet::new());
}

#[test]
fn a_flush_that_fails_is_eio_and_nothing_is_lost() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, 4 * MIB, 0).unwrap();
    t.domain.write(0x7000);
    t.world.machine.break_flush.store(true, std::sync::atomic::Ordering::Relaxed);
    assert_eq!(t.get(abi::HWPT_GET_DIRTY_BITMAP, 0, 0, 4 * MIB, 4096), Err(Errno::EIO));
    assert_eq!(t.bits(0, 0, 4 * MIB, 4096), BTreeSet::from([7]));
}

#[test]
fn a_report_over_256_mib_is_one_flush() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, 256 * MIB, 0).unwrap();
    for page in [0, 4000, 65535] {
        t.domain.write(page * 4096);
    }
    let before = t.domain.syncs.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(t.bits(0, 0, 256 * MIB, 4096), BTreeSet::from([0, 4000, 65535]));
    assert_eq!(t.domain.syncs.load(std::sync::atomic::Ordering::Relaxed) - before, 1);
    // Nothing dirty: nothing to flush, nothing written to the program.
    let written = *t.world.program.bytes_written.lock().unwrap();
    assert_eq!(t.bits(0, 0, 256 * MIB, 4096), BTreeSet::new());
    assert_eq!(t.domain.syncs.load(std::sync::atomic::Ordering::Relaxed) - before, 1);
    assert_eq!(*t.world.program.bytes_written.lock().unwrap(), written);
}

#[test]
fn windows_do_not_cut_leaves() {
    let t = tracked(true);
    // The window's end (65536 pages from the asked iova) lies inside a 2 MiB leaf.
    t.world.map(t.ioas, 0, 300 * MIB, 0).unwrap();
    for at in [MIB, 255 * MIB, 256 * MIB, 257 * MIB, 299 * MIB] {
        t.domain.write(at);
    }
    let from = 0x3000;
    let want: BTreeSet<u64> =
        [0, 254, 256, 298].into_iter().flat_map(|mib| (mib * 256u64)..(mib * 256 + 512)).collect();
    let want: BTreeSet<u64> = want.into_iter().filter(|page| *page >= 3).map(|page| page - 3).collect();
    assert_eq!(t.bits(0, from, 300 * MIB - from, 4096), want);
    // All leaves but the one that the range cuts are clean now.
    assert_eq!(t.bits(0, 0, 300 * MIB, 4096), (0..512).collect());
}

#[test]
fn starting_clears_what_was_written_before() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, MIB, 0).unwrap();
    t.domain.write(0x1000);
    t.world.tracking(t.hwpt, true).unwrap();
    assert_eq!(t.bits(0, 0, MIB, 4096), BTreeSet::new());
    t.domain.write(0x2000);
    t.world.tracking(t.hwpt, false).unwrap();
    // While it is off nobody knows: everything mapped, and the strict form says that it cannot tell.
    t.world.map(t.ioas, 0, MIB, 2 * MIB).unwrap();
    assert_eq!(t.bits(0, 0, 3 * MIB, 4096), (0..256).chain(512..768).collect());
    assert_eq!(t.get(HWPT_GET_DIRTY_STRICT, 0, 0, MIB, 4096), Err(Errno::EINVAL));
}

#[test]
fn unmap_dirty_reports_and_removes() {
    let t = tracked(false);
    t.world.map(t.ioas, 0, MIB, 0).unwrap();
    t.world.map(t.ioas, 4 * MIB, MIB, 2 * MIB).unwrap();
    t.domain.write(0x1000);
    t.domain.write(2 * MIB);
    let good = IoasUnmapDirty {
        size: 48,
        hwpt_id: t.hwpt,
        iova: 0,
        length: 4 * MIB,
        page_size: 4096,
        data: DATA,
        ..Default::default()
    };
    let call = |body: IoasUnmapDirty| {
        let mut body = body;
        t.world.call(IOAS_UNMAP_DIRTY, &mut body).map(|_| body.length)
    };
    assert_eq!(call(IoasUnmapDirty { flags: 1, ..good }), Err(Errno::EOPNOTSUPP));
    assert_eq!(call(IoasUnmapDirty { hwpt_id: t.ioas, ..good }), Err(Errno::ENOENT));
    for page_size in [0, 2048, 12288] {
        assert_eq!(call(IoasUnmapDirty { page_size, ..good }), Err(Errno::EINVAL));
    }
    assert_eq!(call(IoasUnmapDirty { length: 0, ..good }), Err(Errno::EINVAL));
    assert_eq!(call(IoasUnmapDirty { data: END, ..good }), Err(Errno::EFAULT)); // and nothing is removed
    assert_eq!(t.domain.mapped_bytes(), 2 * MIB);
    t.world.program.put(DATA, &[0; 128]);
    assert_eq!(call(good), Ok(2 * MIB));
    let bits = t.world.program.get(DATA, 128);
    assert_eq!((bits[0], bits[64]), (2, 1));
    assert_eq!(bits.iter().map(|byte| byte.count_ones()).sum::<u32>(), 2);
    assert_eq!(call(good), Err(Errno::ENOENT));
    assert_eq!(t.world.machine.pinned(), 0);
}

#[test]
fn random_writes_and_ranges_agree_with_a_set() {
    for (seed, huge) in [(1, false), (2, true), (3, false), (4, true)] {
        let t = tracked(huge);
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ seed);
        let base = 64 * MIB;
        let pages = 16 * 256;
        // Areas with a hole between them.
        t.world.map(t.ioas, 0, 6 * MIB, base).unwrap();
        t.world.map(t.ioas, 8 * MIB, 8 * MIB, base + 8 * MIB).unwrap();
        let leaf = |page: u64| if huge { page & !511 } else { page };
        let size = if huge { 512 } else { 1 };
        let mut dirty: BTreeSet<u64> = BTreeSet::new();
        for _ in 0..300 {
            for _ in 0..random.below(20) {
                let page = random.below(pages);
                if t.domain.write(base + page * 4096) {
                    dirty.extend(leaf(page)..leaf(page) + size);
                }
            }
            let (a, b) = (random.below(pages), random.below(pages));
            let (first, last) = (a.min(b), a.max(b));
            let clear = random.below(2) == 0;
            let flags = if clear { 0 } else { abi::GET_DIRTY_NO_CLEAR };
            // A fault on the way must lose nothing.
            if random.below(4) == 0 {
                *t.world.program.read_only_from.lock().unwrap() = DATA + random.below(64);
                t.get(abi::HWPT_GET_DIRTY_BITMAP, 0, base + first * 4096, (last - first + 1) * 4096, 4096).unwrap();
                *t.world.program.read_only_from.lock().unwrap() = END;
                let left = t.bits(abi::GET_DIRTY_NO_CLEAR, base, pages * 4096, 4096);
                let delivered: BTreeSet<u64> = dirty.difference(&left).copied().collect();
                let bitmap_whole = delivered.iter().all(|page| (first..=last).contains(page));
                assert!(bitmap_whole, "a fault lost pages that were not asked for");
                dirty = left;
            }
            let want: BTreeSet<u64> = dirty.range(first..=last).map(|page| page - first).collect();
            let got = t.bits(flags, base + first * 4096, (last - first + 1) * 4096, 4096);
            assert_eq!(got, want, "seed {seed}, pages {first}..={last}");
            if clear {
                dirty.retain(|page| leaf(*page) < first || leaf(*page) + size - 1 > last);
            }
        }
    }
}
