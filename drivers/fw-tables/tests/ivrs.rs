//! IVRS tables with one thing in them each, and what the topology says of it.

mod common;

use common::Tree;
use common::ivrs::*;
use fw_tables::{Detail, DteSettings, ReservedKind, ScopeKind, Source, Topology, UniqueId, UnitKind, parse_ivrs};
use iommu_types::{Access, At, Error, Phys, PhysRange, StreamId, UnitId};

fn read(blocks: &[Vec<u8>]) -> Topology {
    parse_ivrs(&ivrs(INFO, blocks)).unwrap()
}

fn reasons(topology: &Topology) -> Vec<(u32, &'static str)> {
    topology.findings.iter().map(|finding| (finding.0.offset, finding.0.reason)).collect()
}

fn all() -> Vec<Vec<u8>> {
    vec![entry4(3, 0x0008, 0), entry4(4, 0xfffe, 0)]
}

fn stream(topology: &Topology, id: u32) -> Option<(UnitId, u32)> {
    topology.stream_for(StreamId { segment: 0, id }, &Tree::default())
}

#[test]
fn header_fields_are_those_of_section_5_2_1() {
    let topology = read(&[ivhd(&Ivhd::default(), &all())]);
    assert_eq!((topology.host_address_bits, topology.flags.dma_opt_in), (48, true));
    let old = parse_ivrs(&ivrs(0x20_2840, &[ivhd(&Ivhd::default(), &all())])).unwrap();
    assert_eq!((old.host_address_bits, old.flags.dma_opt_in), (40, false));
    assert_eq!(reasons(&old), []);
}

#[test]
fn a_unit_has_its_registers_function_and_features() {
    let of = Ivhd { kind: 0x40, device: 0x4002, segment: 3, base: 0xefd0_0000, attributes: 0x2_0400, efr: 0x5_0123 };
    let topology = read(&[ivhd(&of, &all())]);
    let unit = &topology.units[0];
    assert_eq!((unit.kind, unit.base, unit.size, unit.segment), (UnitKind::AmdVi, Phys(0xefd0_0000), 0x4000, 3));
    let Detail::AmdVi(amd) = &unit.detail else { panic!("{:?}", unit.detail) };
    assert_eq!(amd.function, StreamId::pci(3, 0x40, 0, 2));
    assert_eq!((amd.capability, amd.ivhd, amd.flags, amd.info), (0x40, 0x40, 0xb0, 0x0102));
    assert_eq!((amd.attributes, amd.efr, amd.efr2), (0x2_0400, Some(0x5_0123), Some(0x77)));
    assert_eq!(reasons(&topology), []);
}

#[test]
fn performance_counters_make_the_window_larger() {
    let with = read(&[ivhd(&Ivhd { efr: 1 << 9, ..Ivhd::default() }, &all())]);
    assert_eq!(with.units[0].size, 0x8_0000, "EFR bit 9");
    let old = read(&[ivhd(&Ivhd { kind: 0x10, attributes: 2 << 17, ..Ivhd::default() }, &all())]);
    assert_eq!(old.units[0].size, 0x8_0000, "counter banks in bits 22:17");
    let Detail::AmdVi(amd) = &old.units[0].detail else { panic!() };
    assert_eq!((amd.efr, amd.efr2), (None, None));
}

#[test]
fn the_highest_type_of_a_unit_counts_whatever_the_order() {
    let block = |kind| ivhd(&Ivhd { kind, ..Ivhd::default() }, &[entry4(2, 0x100 + kind, 0)]);
    for order in [[0x10, 0x11, 0x40], [0x40, 0x11, 0x10], [0x11, 0x40, 0x10]] {
        let topology = read(&order.map(block));
        assert_eq!(topology.units.len(), 1);
        assert!(matches!(&topology.units[0].detail, Detail::AmdVi(amd) if amd.ivhd == 0x40));
        assert_eq!(stream(&topology, 0x140), Some((UnitId(0), 0x140)));
        assert_eq!(stream(&topology, 0x110), None, "entries of lower types say nothing");
        assert_eq!(reasons(&topology), []);
    }
}

#[test]
fn two_units_share_a_segment() {
    // PRIME-X399-A: 0008..3ffe at the first, 4008..fffe at the second, ff00..ffff under the id of the southbridge.
    let first = ivhd(
        &Ivhd::default(),
        &[
            entry4(3, 0x0008, 0),
            entry4(4, 0x3ffe, 0),
            alias(0x43, 0xff00, 0x00a4),
            entry4(4, 0xffff, 0),
            entry4(0, 0, 0),
            special(0, 0, 0x00a0, 2),
            special(0xd7, 0x80, 0x00a0, 1),
            special(0, 0x81, 0x0001, 1),
        ],
    );
    let second = ivhd(
        &Ivhd { device: 0x4002, base: 0xb7b0_0000, ..Ivhd::default() },
        &[entry4(3, 0x4008, 0), entry4(4, 0xfffe, 0), special(0, 0x82, 0x4001, 1)],
    );
    let topology = read(&[first, second]);
    assert_eq!(reasons(&topology), [(96, "device id named by two units, the narrower range counts")]);
    assert_eq!(stream(&topology, 0xfeff), Some((UnitId(1), 0xfeff)));
    assert_eq!(stream(&topology, 0x0008), Some((UnitId(0), 0x0008)));
    assert_eq!(stream(&topology, 0x3ffe), Some((UnitId(0), 0x3ffe)));
    assert_eq!(stream(&topology, 0x3fff), None);
    assert_eq!(stream(&topology, 0x4008), Some((UnitId(1), 0x4008)));
    assert_eq!(stream(&topology, 0xff80), Some((UnitId(0), 0x00a4)), "legacy PCI comes under an alias");
    let tree = Tree::default();
    assert_eq!(topology.ioapic(0x80, &tree), Some((UnitId(0), StreamId::pci(0, 0, 0x14, 0))));
    assert_eq!(topology.ioapic(0x81, &tree), Some((UnitId(0), StreamId::pci(0, 0, 0, 1))));
    assert_eq!(topology.ioapic(0x82, &tree), Some((UnitId(1), StreamId::pci(0, 0x40, 0, 1))));
    assert_eq!(topology.hpet(0, &tree), Some((UnitId(0), StreamId::pci(0, 0, 0x14, 0))));
    assert_eq!(topology.dte_settings(StreamId::pci(0, 0, 0x14, 0)).data, 0xd7);
    assert!(topology.flags.interrupt_remapping);
}

#[test]
fn later_entries_win_over_earlier_ones() {
    let entries = [
        entry4(3, 0x0000, 1),
        entry4(4, 0xffff, 0),
        entry4(2, 0x0010, 2),
        alias(0x42, 0x0100, 0x0010),
        extended(0x46, 0x0200, 1 << 31),
        extended(0x47, 0x0300, 1 << 31),
        entry4(4, 0x03ff, 0),
    ];
    let topology = read(&[ivhd(&Ivhd::default(), &entries)]);
    let settings = |id| topology.dte_settings(StreamId { segment: 0, id });
    assert_eq!(settings(0x000f), DteSettings { data: 1, extended: 0 });
    assert_eq!(settings(0x0010), DteSettings { data: 2, extended: 0 });
    assert_eq!(stream(&topology, 0x0100), Some((UnitId(0), 0x0010)));
    assert!(settings(0x0200).ats_disabled() && settings(0x0300).ats_disabled() && settings(0x03ff).ats_disabled());
    assert!(!settings(0x0400).ats_disabled());
    assert_eq!(stream(&topology, 0xffff), Some((UnitId(0), 0xffff)));
    assert_eq!(reasons(&topology), []);
}

#[test]
fn entry_all_takes_the_rest_of_the_segment() {
    let named = ivhd(&Ivhd { device: 3, base: 0xfe00_0000, ..Ivhd::default() }, &[entry4(2, 0x0500, 0)]);
    let topology = read(&[ivhd(&Ivhd::default(), &[entry4(1, 0, 0x47)]), named]);
    assert!(topology.units[0].coverage.rest_of_segment && !topology.units[1].coverage.rest_of_segment);
    assert_eq!(stream(&topology, 0x0500), Some((UnitId(1), 0x0500)));
    assert_eq!(stream(&topology, 0x0501), Some((UnitId(0), 0x0501)));
    assert_eq!(topology.dte_settings(StreamId { segment: 0, id: 0x0501 }).data, 0x47);
    assert_eq!(topology.stream_for(StreamId { segment: 1, id: 0x0501 }, &Tree::default()), None);
}

#[test]
fn acpi_devices_have_ids_and_streams() {
    let entries = [
        hid(0x00a5, b"AMDI0020", 2, b"\\_SB.FUR0"),
        hid(0x00a6, b"AMDI0040", 1, &7u64.to_le_bytes()),
        hid(0x00a7, b"ACPI0001", 0, b""),
    ];
    let topology = read(&[ivhd(&Ivhd { kind: 0x40, ..Ivhd::default() }, &entries)]);
    let names: Vec<&str> = topology.devices.iter().map(|device| device.name.as_str()).collect();
    assert_eq!(names, ["AMDI0020:\\_SB.FUR0", "AMDI0040:7", "ACPI0001"]);
    let ids = topology.devices[0].acpi.as_ref().unwrap();
    assert_eq!((ids.hardware.as_str(), &ids.unique), ("AMDI0020", &UniqueId::Text("\\_SB.FUR0".into())));
    assert_eq!(topology.device_streams(1).collect::<Vec<_>>(), [(UnitId(0), 0xa6, 0xa6)]);
    assert_eq!(topology.route(Source::Device(2), 0).map(|route| route.unit), Some(UnitId(0)));
    assert_eq!(reasons(&topology), []);
}

#[test]
fn memory_is_reserved_for_all_one_or_a_range() {
    let topology = read(&[
        ivhd(&Ivhd::default(), &all()),
        ivmd(0x20, 0b0111, (0, 0), 0x1000, 0x1000),
        ivmd(0x21, 0b0011, (0x0300, 0), 0x10_0000, 0x2000),
        ivmd(0x22, 0b1000, (0x0100, 0x01ff), 0x20_0000, 0x1000),
    ]);
    let tree = Tree::default();
    let of = |id| {
        let found = topology.reserved_for(StreamId { segment: 0, id }, &tree);
        found.map(|r| (r.range.first.0, r.access, r.why.kind)).collect::<Vec<_>>()
    };
    let everywhere = (0x1000, Access::READ | Access::WRITE, ReservedKind::IvmdUnity);
    assert_eq!(of(0x0008), [everywhere]);
    assert_eq!(of(0x0300), [everywhere, (0x10_0000, Access::READ, ReservedKind::IvmdUnity)]);
    assert_eq!(of(0x01ff), [everywhere, (0x20_0000, Access::READ | Access::WRITE, ReservedKind::IvmdExclusion)]);
    assert_eq!(of(0x0200), [everywhere]);
    assert_eq!(topology.reserved[1].range, PhysRange { first: Phys(0x10_0000), last: Phys(0x10_1fff) });
    assert_eq!(topology.reserved[1].why.to_string(), "IVRS+0x80 (IVMD unity)");
    assert_eq!(reasons(&topology), []);
}

#[test]
fn type_51_blocks_are_skipped_by_their_length() {
    // ThinkPad T14 Gen 3 and others: an IVMD of type 21h and the same bytes again under type 51h.
    let memory = ivmd(0x21, 0b1000, (0x0300, 0), 0x7132_f000, 0x2_6000);
    let mut twin = memory.clone();
    twin[0] = 0x51;
    let topology = read(&[ivhd(&Ivhd::default(), &all()), memory, twin, unknown_block(0x77, 5 + 3)]);
    let notes: Vec<String> = topology.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        ["IVRS+0x80: block of unknown type 0x51, skipped", "IVRS+0xa0: block of unknown type 0x77, skipped"]
    );
    assert_eq!((topology.reserved.len(), reasons(&topology)), (1, vec![]));
}

#[test]
fn unknown_entries_are_skipped_by_the_length_of_their_type() {
    let mut long = vec![0xc5; 32];
    long[1..].fill(0);
    let mut middle = vec![0x85; 16];
    middle[1..].fill(0);
    let entries = [entry4(0x3f, 0, 0), extended(0x7f, 0, 0), middle, long, entry4(2, 0x0123, 0)];
    let topology = read(&[ivhd(&Ivhd::default(), &entries)]);
    assert_eq!(topology.notes.iter().map(|note| note.kind).collect::<Vec<_>>(), [0x3f, 0x7f, 0x85, 0xc5]);
    assert_eq!(stream(&topology, 0x0123), Some((UnitId(0), 0x0123)));
}

#[test]
fn each_contradiction_is_found() {
    let unit = |entries: &[Vec<u8>]| vec![ivhd(&Ivhd::default(), entries)];
    let with = |block: Vec<u8>| vec![ivhd(&Ivhd::default(), &[]), block];
    let other = |of: Ivhd| with(ivhd(&of, &[entry4(2, 8, 0)]));
    let mut cut_ivhd = place_block(0x11, 39);
    cut_ivhd[2] = 39;
    let cases: &[(Vec<Vec<u8>>, u32, &str)] = &[
        (vec![], 0, "no IOMMU"),
        (vec![ivhd(&Ivhd { base: 0, ..Ivhd::default() }, &[])], 48, "unit without a usable register address, left out"),
        (
            vec![ivhd(&Ivhd { base: 0x1000, ..Ivhd::default() }, &[])],
            48,
            "unit without a usable register address, left out",
        ),
        (
            vec![ivhd(&Ivhd { base: 0xffff_ffff_ffff_c000, efr: 1 << 9, ..Ivhd::default() }, &[])],
            48,
            "unit whose registers pass the last address, left out",
        ),
        (vec![ivhd(&Ivhd { base: 1 << 48, ..Ivhd::default() }, &[])], 48, "registers above the host address width"),
        (other(Ivhd::default()), 88, "unit described twice by blocks of one type, the first counts"),
        (
            other(Ivhd { kind: 0x10, base: 0xfe00_0000, ..Ivhd::default() }),
            88,
            "blocks of one unit name different registers, the highest type counts",
        ),
        (other(Ivhd { device: 3, ..Ivhd::default() }), 88, "registers overlap those of another unit"),
        (
            vec![
                ivhd(&Ivhd::default(), &[entry4(2, 8, 0)]),
                ivhd(&Ivhd { device: 3, base: 0xfe00_0000, ..Ivhd::default() }, &[entry4(2, 8, 0)]),
            ],
            88,
            "device id named by two units, the narrower range counts",
        ),
        (
            vec![
                ivhd(&Ivhd::default(), &[entry4(1, 0, 0)]),
                ivhd(&Ivhd { device: 3, base: 0xfe00_0000, ..Ivhd::default() }, &[entry4(1, 0, 0)]),
            ],
            92,
            "second unit that takes the rest of its segment, the first counts",
        ),
        (with(cut_ivhd), 88, "block shorter than its fixed part, left out"),
        (unit(&[entry4(4, 8, 0)]), 88, "end of a range that did not begin"),
        (unit(&[entry4(3, 8, 0)]), 88, "range without its end, left out"),
        (unit(&[entry4(3, 8, 0), entry4(2, 8, 0)]), 88, "range without its end, left out"),
        (unit(&[entry4(3, 8, 0), entry4(4, 7, 0)]), 88, "range ends before it begins, left out"),
        (unit(&[entry4(0xf1, 0, 0)]), 88, "entry of unknown type and length, the rest of the block is left out"),
        (unit(&[vec![0x48, 0, 0, 0]]), 88, "entry runs past its block, left out"),
        (unit(&[vec![0xf0, 0, 0, 0]]), 88, "entry runs past its block, left out"),
        (unit(&[special(0, 1, 2, 1), special(0, 1, 3, 1)]), 96, "IOAPIC or HPET named twice, the first counts"),
        (
            unit(&[hid(1, b"AMDI0020", 1, b"1234")]),
            88,
            "unique id does not have the length of its format, taken as none",
        ),
        (unit(&[hid(1, &[0; 8], 0, b"")]), 88, "ACPI device without a hardware id"),
        (with(ivmd(0x20, 7, (0, 0), 0x1000, 0)), 88, "region of no length, left out"),
        (with(ivmd(0x20, 7, (0, 0), u64::MAX, 2)), 88, "region passes the last address, left out"),
        (with(ivmd(0x22, 7, (9, 8), 0x1000, 0x1000)), 88, "region whose devices end before they begin, left out"),
        (with(ivmd(0x20, 6, (0, 0), 0x1000, 0x1000)), 88, "region that is neither unity mapped nor excluded, left out"),
        (with(ivmd(0x20, 1, (0, 0), 0x1000, 0x1000)), 88, "region that nobody may read or write, left out"),
        (with(ivmd(0x22, 8, (0, 9), 0x9618_e000, 1)), 88, "region is not whole pages, widened"),
        (with(ivmd(0x20, 7, (0, 0), 0xfd00_0000, 0x1000)), 88, "region covers the registers of a unit"),
        (with(ivmd(0x20, 7, (0, 0), 1 << 48, 0x1000)), 88, "region above the host address width"),
        (
            vec![
                ivhd(&Ivhd::default(), &[]),
                ivmd(0x20, 7, (0, 0), 0x1000, 0x2000),
                ivmd(0x20, 7, (0, 0), 0x2000, 0x2000),
            ],
            120,
            "region overlaps another one in part",
        ),
        (with(vec![0x20, 7, 8, 0, 0, 0, 0, 0]), 88, "block shorter than its fixed part, left out"),
        (with(vec![0; 7]), 88, "zero bytes behind the last block"),
    ];
    for (blocks, offset, reason) in cases {
        let found = reasons(&read(blocks));
        assert!(found.contains(&(*offset, reason)), "wanted {offset} {reason}, got {found:?}");
    }
}

fn place_block(kind: u8, bytes: usize) -> Vec<u8> {
    let mut out = vec![0; bytes];
    out[0] = kind;
    out
}

#[test]
fn a_cut_block_of_the_highest_type_leaves_the_lower_one() {
    let low = ivhd(&Ivhd { kind: 0x10, ..Ivhd::default() }, &all());
    let mut high = ivhd(&Ivhd { kind: 0x40, ..Ivhd::default() }, &[]);
    high.truncate(30);
    high[2] = 30;
    let topology = read(&[low, high]);
    assert!(matches!(&topology.units[0].detail, Detail::AmdVi(amd) if amd.ivhd == 0x10));
    assert_eq!(reasons(&topology), [(80, "block shorter than its fixed part, left out")]);
}

#[test]
fn a_wrong_checksum_and_address_size_are_findings() {
    let mut table = ivrs(INFO, &[ivhd(&Ivhd::default(), &all())]);
    table[9] ^= 1;
    assert_eq!(reasons(&parse_ivrs(&table).unwrap()), [(9, "checksum is wrong")]);
    for bits in [0, 31, 65, 127] {
        let topology = parse_ivrs(&ivrs(bits << 8, &[ivhd(&Ivhd::default(), &all())])).unwrap();
        assert_eq!(topology.host_address_bits, 64);
        assert_eq!(reasons(&topology), [(36, "physical address size that cannot be, taken as 64 bits")]);
    }
}

#[test]
fn what_cannot_be_walked_is_an_error_with_its_place() {
    let fail = |table: &[u8]| match parse_ivrs(table) {
        Err(Error::Firmware(At { table, offset, reason })) => (table, offset, reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(fail(b"IVRS"), (*b"IVRS", 0, "shorter than a table header"));
    let one = |block: Vec<u8>| ivrs(INFO, &[ivhd(&Ivhd::default(), &[]), block]);
    assert_eq!(fail(&one(vec![0x10, 0, 5, 0, 0, 0])), (*b"IVRS", 88, "block length below its header"));
    assert_eq!(fail(&one(vec![0x10, 0, 7, 0, 0, 0])), (*b"IVRS", 88, "block runs past the table"));
    assert_eq!(fail(&one(vec![0x10, 0, 7])), (*b"IVRS", 88, "cut in a block header"));
    let scope = read(&[ivhd(&Ivhd::default(), &[special(0, 3, 0x00a0, 1)])]).units[0].coverage.scopes[0].clone();
    assert_eq!((scope.kind, scope.offset), (ScopeKind::IoApic(3), 88));
}
