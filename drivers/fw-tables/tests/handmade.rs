//! Tables with one thing in them each, and what the topology says of it.

mod common;

use common::*;
use fw_tables::{Hop, Reserved, ScopeKind, Topology, UnitKind, parse_dmar, parse_mcfg};
use iommu_types::{At, Error, Phys, PhysRange, StreamId, UnitId};

fn read(structures: &[Vec<u8>]) -> Topology {
    parse_dmar(&dmar(46, 1, structures)).unwrap()
}

fn reasons(topology: &Topology) -> Vec<(u32, &'static str)> {
    topology.findings.iter().map(|finding| (finding.0.offset, finding.0.reason)).collect()
}

const ALL: u64 = 1;

fn plain() -> Vec<u8> {
    drhd(ALL, 0, 0, 0xfed9_0000, &[])
}

#[test]
fn header_fields_are_those_of_section_8_1() {
    let topology = parse_dmar(&dmar(0x2e, 0b101, &[plain()])).unwrap();
    assert_eq!(topology.host_address_bits, 47);
    assert!(topology.flags.interrupt_remapping && !topology.flags.x2apic_opt_out && topology.flags.dma_opt_in);
    let topology = parse_dmar(&dmar(0x26, 0b010, &[plain()])).unwrap();
    assert_eq!(topology.host_address_bits, 39);
    assert!(!topology.flags.interrupt_remapping && topology.flags.x2apic_opt_out && !topology.flags.dma_opt_in);
    assert_eq!(reasons(&topology), []);
}

#[test]
fn a_unit_has_its_base_size_segment_and_scopes() {
    let scopes =
        [scope(1, 0, 0, 0, &[(2, 0)]), scope(2, 0, 0, 0, &[(0x1c, 4), (0, 0)]), scope(3, 0, 8, 0xf0, &[(0x1f, 7)])];
    let topology = read(&[drhd(0, 2, 5, 0xfed9_0000, &scopes), drhd(ALL, 0, 5, 0xfed9_4000, &[])]);
    let unit = &topology.units[0];
    assert_eq!(
        (unit.id, unit.kind, unit.base, unit.size, unit.segment),
        (UnitId(0), UnitKind::Vtd, Phys(0xfed9_0000), 0x4000, 5)
    );
    assert!(!unit.coverage.rest_of_segment);
    assert_eq!(unit.coverage.scopes[1].kind, ScopeKind::SubHierarchy);
    assert_eq!(unit.coverage.scopes[1].path, [Hop { device: 0x1c, function: 4 }, Hop { device: 0, function: 0 }]);
    assert_eq!(unit.coverage.scopes[2].kind, ScopeKind::IoApic(8));
    assert_eq!(unit.coverage.scopes[2].start_bus, 0xf0);
    assert_eq!(topology.units[1].id, UnitId(1));
    assert!(topology.units[1].coverage.rest_of_segment);
    assert_eq!(reasons(&topology), []);
    assert_eq!(topology.ioapic(8, &Tree::default()), Some((UnitId(0), StreamId::pci(5, 0xf0, 0x1f, 7))));
    assert_eq!(topology.ioapic(9, &Tree::default()), None);
    assert_eq!(topology.hpet(8, &Tree::default()), None);
}

fn tree() -> Tree {
    let bridge = |bus, device, secondary, subordinate| (StreamId::pci(0, bus, device, 0), secondary, subordinate);
    Tree {
        functions: vec![StreamId::pci(0, 0, 2, 0), StreamId::pci(0, 5, 0, 0), StreamId::pci(0, 9, 0, 0)],
        bridges: vec![bridge(0, 0x1c, 3, 9), bridge(3, 1, 5, 8), bridge(5, 2, 7, 8)],
        virtual_functions: vec![(StreamId::pci(0, 6, 0x10, 0), StreamId::pci(0, 0, 2, 0))],
    }
}

#[test]
fn a_path_is_followed_through_bridges() {
    let topology = read(&[drhd(0, 0, 0, 0x1000, &[scope(1, 0, 0, 0, &[(0x1c, 0), (1, 0), (0, 0)])]), plain()]);
    let tree = tree();
    assert_eq!(topology.unit_for(StreamId::pci(0, 5, 0, 0), &tree), Some(UnitId(0)));
    assert_eq!(topology.unit_for(StreamId::pci(0, 5, 0, 1), &tree), Some(UnitId(1)), "only that function");
    // Nobody behind a bridge that is not there.
    assert_eq!(topology.unit_for(StreamId::pci(0, 5, 0, 0), &Tree::default()), Some(UnitId(1)));
}

#[test]
fn a_sub_hierarchy_covers_the_bridge_and_all_buses_behind_it() {
    let topology = read(&[drhd(0, 0, 0, 0x1000, &[scope(2, 0, 0, 0, &[(0x1c, 0)])])]);
    let tree = tree();
    for (bus, device, want) in
        [(0, 0x1c, true), (3, 0, true), (9, 31, true), (10, 0, false), (2, 0, false), (0, 2, false)]
    {
        let stream = StreamId::pci(0, bus, device, 0);
        assert_eq!(topology.unit_for(stream, &tree), want.then_some(UnitId(0)), "{stream}");
    }
    assert_eq!(topology.unit_for(StreamId::pci(1, 3, 0, 0), &tree), None, "another segment");
}

#[test]
fn a_named_function_wins_over_the_bridge_above_it_and_over_the_rest() {
    let behind = drhd(0, 0, 0, 0x1000, &[scope(2, 0, 0, 0, &[(0x1c, 0)])]);
    let named = drhd(0, 0, 0, 0x2000, &[scope(1, 0, 0, 5, &[(0, 0)])]);
    let topology = read(&[behind, named, plain()]);
    let tree = tree();
    assert_eq!(topology.unit_for(StreamId::pci(0, 5, 0, 0), &tree), Some(UnitId(1)));
    assert_eq!(topology.unit_for(StreamId::pci(0, 5, 1, 0), &tree), Some(UnitId(0)));
    assert_eq!(topology.unit_for(StreamId::pci(0, 0, 3, 0), &tree), Some(UnitId(2)));
}

#[test]
fn a_virtual_function_belongs_to_the_unit_of_its_physical_one() {
    let topology = read(&[drhd(0, 0, 0, 0x1000, &[scope(1, 0, 0, 0, &[(2, 0)])]), plain()]);
    assert_eq!(topology.unit_for(StreamId::pci(0, 6, 0x10, 0), &tree()), Some(UnitId(0)));
}

#[test]
fn without_a_catching_unit_the_others_are_unprotected() {
    let topology = read(&[drhd(0, 0, 0, 0x1000, &[scope(1, 0, 0, 0, &[(2, 0)])])]);
    assert_eq!(topology.unit_for(StreamId::pci(0, 0, 3, 0), &tree()), None);
}

#[test]
fn a_region_is_reserved_for_its_devices_only_and_says_why() {
    let region = rmrr(0, 0x7b80_0000, 0x7fff_ffff, &[scope(1, 0, 0, 0, &[(2, 0)])]);
    let topology = read(&[plain(), region]);
    let tree = tree();
    let mine: Vec<&Reserved> = topology.reserved_for(StreamId::pci(0, 0, 2, 0), &tree).collect();
    assert_eq!(mine.len(), 1);
    assert_eq!(mine[0].range, PhysRange { first: Phys(0x7b80_0000), last: Phys(0x7fff_ffff) });
    assert_eq!(mine[0].why.to_string(), "DMAR+0x40 (RMRR)");
    assert_eq!(topology.reserved_for(StreamId::pci(0, 0, 3, 0), &tree).count(), 0);
    assert_eq!(reasons(&topology), []);
}

#[test]
fn a_region_may_name_an_acpi_device() {
    let topology = read(&[
        plain(),
        rmrr(0, 0x1000, 0x1fff, &[scope(5, 0, 7, 0xfa, &[(0x1e, 3)])]),
        andd(7, b"\\_SB.PCI0.I2C0\0\0\0"),
    ]);
    assert_eq!(topology.reserved[0].scopes[0].kind, ScopeKind::AcpiDevice(7));
    assert_eq!(topology.acpi_name(7), Some("\\_SB.PCI0.I2C0"));
    assert_eq!(topology.acpi_name(8), None);
    assert_eq!(topology.reserved_for(StreamId::pci(0, 0xfa, 0x1e, 3), &Tree::default()).count(), 1);
    assert_eq!(reasons(&topology), []);
}

#[test]
fn ats_ports_are_named_or_all() {
    let port = StreamId::pci(0, 0, 0x1c, 0);
    let named = read(&[plain(), atsr(0, 0, &[scope(2, 0, 0, 0, &[(0x1c, 0)])])]);
    assert!(named.ats_allowed(port, &tree()));
    assert!(!named.ats_allowed(StreamId::pci(0, 0, 0x1d, 0), &tree()));
    let all = read(&[plain(), atsr(1, 2, &[])]);
    assert!(all.ats_allowed(StreamId::pci(2, 0, 1, 0), &tree()));
    assert!(!all.ats_allowed(port, &tree()), "another segment");
}

#[test]
fn affinity_properties_and_satc_are_read() {
    let topology = read(&[
        plain(),
        rhsa(0xfed9_0000, 3),
        satc(1, 0, &[scope(1, 0, 0, 0, &[(2, 0)])]),
        sidp(0, &[scope(1, 0b1_0101, 0, 0, &[(3, 0)])]),
    ]);
    assert_eq!(topology.proximity_of(&topology.units[0]), Some(3));
    assert!(topology.properties[0].atc_required && topology.properties[0].flags == 0);
    assert!(topology.properties[1].atc_required && topology.properties[1].flags == 0b1_0101);
    assert_eq!(reasons(&topology), []);
}

#[test]
fn unknown_structures_and_scopes_are_skipped_with_a_note() {
    let topology = read(&[
        unknown(0x77, 12),
        drhd(ALL, 0, 0, 0x1000, &[scope(9, 0, 0, 0, &[(1, 0)]), scope(1, 0, 0, 0, &[(2, 0)])]),
    ]);
    assert_eq!(topology.units.len(), 1);
    assert_eq!(topology.units[0].coverage.scopes.len(), 1);
    let notes: Vec<String> = topology.notes.iter().map(ToString::to_string).collect();
    assert_eq!(
        notes,
        ["DMAR+0x30: structure of unknown type 0x77, skipped", "DMAR+0x4c: scope of unknown type 0x9, skipped"]
    );
}

#[test]
fn each_contradiction_is_found() {
    let endpoint = || scope(1, 0, 0, 0, &[(2, 0)]);
    let cases: &[(&[Vec<u8>], u32, &str)] = &[
        (&[], 0, "no remapping unit"),
        (&[drhd(ALL, 0, 0, 0, &[]), plain()], 48, "unit without a usable register address, left out"),
        (&[drhd(ALL, 0, 0, 0x1234, &[]), plain()], 48, "unit without a usable register address, left out"),
        (
            &[drhd(ALL, 15, 0, 0xffff_ffff_ffff_f000, &[]), plain()],
            48,
            "unit whose registers pass the last address, left out",
        ),
        (
            &[drhd(0, 1, 0, 0x1000, &[endpoint()]), drhd(ALL, 0, 0, 0x2000, &[])],
            72,
            "registers overlap those of another unit",
        ),
        (
            &[plain(), drhd(0, 0, 0, 0x1000, &[endpoint()])],
            64,
            "unit behind the one that takes the rest of its segment",
        ),
        (&[plain(), drhd(ALL, 0, 0, 0x1000, &[])], 64, "unit behind the one that takes the rest of its segment"),
        (&[drhd(ALL, 0, 0, 1 << 47, &[])], 48, "registers above the host address width"),
        (
            &[drhd(0, 0, 0, 0x1000, &[endpoint()]), drhd(ALL, 0, 0, 0x2000, &[endpoint()])],
            88,
            "device named by a second scope, the first counts",
        ),
        (&[plain(), rmrr(0, 0x2000, 0xfff, &[endpoint()])], 64, "region ends before it begins, left out"),
        (&[plain(), rmrr(0, 0x2000, 0x1fff, &[endpoint()])], 64, "region of no length, left out"),
        (&[plain(), rmrr(0, 0x2000, 0x2fff, &[])], 64, "region for no device"),
        (&[plain(), rmrr(0, 0x2004, 0x2fff, &[endpoint()])], 64, "region is not whole pages, widened"),
        (&[plain(), rmrr(0, 0x2000, 0x7fff_ffff_ffff, &[endpoint()])], 64, "region covers the registers of a unit"),
        (&[plain(), rmrr(0, 1 << 47, (1 << 47) + 0xfff, &[endpoint()])], 64, "region above the host address width"),
        (&[plain(), rhsa(0x1000, 1)], 0, "affinity of a unit that is not listed"),
        (&[plain(), andd(1, b"NAME")], 64, "device name without its closing zero"),
        (&[plain(), andd(1, b"A\0"), andd(1, b"B\0")], 74, "device number declared twice, the first name counts"),
        (
            &[drhd(ALL, 0, 0, 0x1000, &[scope(5, 0, 3, 0, &[(2, 0)])])],
            64,
            "scope of an ACPI device that is not declared",
        ),
        (&[drhd(ALL, 0, 0, 0x1000, &[scope(1, 0, 0, 0, &[])])], 64, "scope path is empty or odd, left out"),
        (
            &[drhd(ALL, 0, 0, 0x1000, &[scope(1, 0, 0, 0, &[(32, 0)])])],
            64,
            "scope path has a device above 31 or a function above 7, left out",
        ),
        (
            &[drhd(ALL, 0, 0, 0x1000, &[scope(1, 0, 0, 0, &[(0, 8)])])],
            64,
            "scope path has a device above 31 or a function above 7, left out",
        ),
        (
            &[drhd(ALL, 0, 0, 0x1000, &[vec![1, 5, 0, 0, 0, 0]])],
            64,
            "scope length below its header, the rest of the structure is left out",
        ),
        (&[drhd(ALL, 0, 0, 0x1000, &[vec![1, 9, 0, 0, 0, 0]])], 64, "scope runs past its structure, left out"),
        (&[drhd(ALL, 0, 0, 0x1000, &[vec![1, 8, 0]])], 64, "bytes behind the last scope"),
        (&[vec![0, 0, 8, 0, 0, 0, 0, 0], plain()], 48, "structure shorter than its fixed part, left out"),
        (&[plain(), vec![0; 6]], 64, "zero bytes behind the last structure"),
    ];
    for (structures, offset, reason) in cases {
        let topology = read(structures);
        assert!(
            reasons(&topology).contains(&(*offset, reason)),
            "wanted {offset} {reason}, got {:?}",
            reasons(&topology)
        );
    }
}

#[test]
fn a_wrong_checksum_is_a_finding_and_a_wide_address_too() {
    let mut table = dmar(46, 1, &[plain()]);
    table[9] ^= 1;
    assert_eq!(reasons(&parse_dmar(&table).unwrap()), [(9, "checksum is wrong")]);
    let wide = parse_dmar(&dmar(255, 1, &[plain()])).unwrap();
    assert_eq!((wide.host_address_bits, reasons(&wide)[0].0), (64, 36));
}

#[test]
fn what_cannot_be_walked_is_an_error_with_its_place() {
    let fail = |table: &[u8]| match parse_dmar(table) {
        Err(Error::Firmware(At { table, offset, reason })) => (table, offset, reason),
        other => panic!("{other:?}"),
    };
    assert_eq!(fail(b"DMAR"), (*b"DMAR", 0, "shorter than a table header"));
    let mut other = dmar(46, 1, &[plain()]);
    other[0] = b'X';
    assert_eq!(fail(&other), (*b"DMAR", 0, "another signature"));
    let mut short = dmar(46, 1, &[plain()]);
    short[4] = 47;
    assert_eq!(fail(&short), (*b"DMAR", 4, "length below the fixed part of the table"));
    let table = dmar(46, 1, &[plain()]);
    assert_eq!(fail(&table[..table.len() - 1]), (*b"DMAR", 4, "length past the memory that holds the table"));
    assert_eq!(fail(&dmar(46, 1, &[plain(), vec![0, 0, 3, 0]])), (*b"DMAR", 64, "structure length below its header"));
    assert_eq!(fail(&dmar(46, 1, &[plain(), vec![0, 0, 9, 0]])), (*b"DMAR", 64, "structure runs past the table"));
    assert_eq!(fail(&dmar(46, 1, &[plain(), vec![1, 0, 1]])), (*b"DMAR", 64, "cut in a structure header"));
}

#[test]
fn scopes_are_checked_against_the_tree() {
    let scopes = [
        scope(1, 0, 0, 0, &[(2, 0)]),         // there
        scope(1, 0, 0, 0, &[(4, 0)]),         // not there
        scope(1, 0, 0, 0, &[(2, 0), (0, 0)]), // through an endpoint
        scope(2, 0, 0, 9, &[(0, 0)]),         // no bridge
        scope(1, 0, 0, 0, &[(0x1c, 0)]),      // a bridge
        scope(3, 0, 0, 0xff, &[(0, 0)]),      // an interrupt source may be nowhere
    ];
    let topology = read(&[drhd(0, 0, 0, 0x1000, &scopes), plain()]);
    let found: Vec<&str> = topology.check_scopes(&tree()).iter().map(|finding| finding.0.reason).collect();
    assert_eq!(
        found,
        [
            "scope names a function that is not there",
            "scope path goes through a function that is no bridge",
            "scope calls a bridge what is none",
            "scope calls an endpoint what is a bridge",
        ]
    );
}

/// PCI Firmware 3.3 table 4-2: base 0:8, segment 8:2, start bus 10:1, end bus 11:1.
fn mcfg(entries: &[(u64, u64, u64, u64)]) -> Vec<u8> {
    let mut out = place(44, &[(8, 1, 1)]);
    out[0..4].copy_from_slice(b"MCFG");
    for &(base, segment, first, last) in entries {
        out.extend(place(16, &[(0, 8, base), (8, 2, segment), (10, 1, first), (11, 1, last)]));
    }
    seal(&mut out);
    out
}

#[test]
fn configuration_windows_are_read() {
    let read = parse_mcfg(&mcfg(&[(0xb000_0000, 0, 0, 255), (0x4010_0000_0000, 1, 0x20, 0x3f)])).unwrap();
    assert_eq!(read.findings, []);
    assert_eq!(read.windows[0].span(), (Phys(0xb000_0000), Phys(0xbfff_ffff)));
    assert_eq!(read.windows[1].segment, 1);
    assert_eq!(read.windows[1].span(), (Phys(0x4010_0200_0000), Phys(0x4010_03ff_ffff)));
}

#[test]
fn configuration_windows_that_cannot_be_are_left_out() {
    let read = parse_mcfg(&mcfg(&[
        (0xb000_0000, 0, 0, 15),
        (0xc000_0000, 0, 15, 16),
        (0xc000_0000, 0, 9, 3),
        (0, 1, 0, 0),
        (0x123, 2, 0, 0),
        (u64::MAX << 20, 3, 0, 255),
    ]))
    .unwrap();
    assert_eq!(read.windows.len(), 1);
    let reasons: Vec<_> = read.findings.iter().map(|finding| (finding.0.offset, finding.0.reason)).collect();
    assert_eq!(
        reasons,
        [
            (60, "window for buses that have one already, left out"),
            (76, "window ends before it begins, left out"),
            (92, "window without a usable address, left out"),
            (108, "window without a usable address, left out"),
            (124, "window without a usable address, left out"),
        ]
    );
    let mut cut = mcfg(&[(0xb000_0000, 0, 0, 15)]);
    cut.truncate(50);
    seal(&mut cut);
    assert_eq!(parse_mcfg(&cut).unwrap().findings[0].0.reason, "cut in an entry, left out");
    assert!(parse_mcfg(&dmar(46, 1, &[])).is_err());
}

#[test]
fn scopes_and_makers_print_on_one_line() {
    let scopes = [
        scope(1, 0, 0, 0, &[(2, 0)]),
        scope(2, 0, 0, 0, &[(0x1c, 4), (0, 1)]),
        scope(3, 0, 8, 0xf0, &[(0x1f, 7)]),
        scope(4, 0, 1, 0, &[(0xf, 0)]),
        scope(5, 0, 7, 0xfa, &[(0x1e, 3)]),
    ];
    let mut table = dmar(46, 1, &[drhd(ALL, 0, 0, 0x1000, &scopes), andd(7, b"X\0")]);
    table[10..24].copy_from_slice(b"MAKER\0BOARD\n  ");
    table[24] = 0x12;
    let topology = parse_dmar(&table).unwrap();
    let text: Vec<String> = topology.units[0].coverage.scopes.iter().map(ToString::to_string).collect();
    assert_eq!(
        text,
        ["function 00:02.0", "bridge 00:1c.4/00.1", "ioapic 8 f0:1f.7", "hpet 1 00:0f.0", "acpi device 7 fa:1e.3"]
    );
    assert_eq!(topology.oem.to_string(), "MAKER BOARD 0x12");
}

#[test]
fn a_wrong_checksum_of_mcfg_is_a_finding() {
    let mut table = mcfg(&[(0xb000_0000, 0, 0, 255)]);
    table[9] ^= 1;
    let read = parse_mcfg(&table).unwrap();
    assert_eq!((read.windows.len(), read.findings[0].0.reason), (1, "checksum is wrong"));
}
