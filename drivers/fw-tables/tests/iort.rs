//! IORT tables with one thing in them each, and what the topology says of it.

mod common;

use common::Tree;
use common::iort::*;
use common::place;
use fw_tables::{
    CountsFor, Detail, Interrupt, Output, QUIRK_ID_COUNT, SmmuInterrupts, Source, Topology, UnitKind, parse_iort,
};
use iommu_types::{At, Error, Phys, PhysRange, StreamId, UnitId};

fn read(nodes: &[Vec<u8>]) -> Topology {
    parse_iort(&iort(nodes)).unwrap()
}

fn reasons(topology: &Topology) -> Vec<(u32, &'static str)> {
    topology.findings.iter().map(|finding| (finding.0.offset, finding.0.reason)).collect()
}

fn stream(topology: &Topology, segment: u16, id: u32) -> Option<(UnitId, u32)> {
    topology.stream_for(StreamId { segment, id }, &Tree::default())
}

fn message(topology: &Topology, source: Source, id: u32) -> Option<(Vec<u32>, u32)> {
    topology.messages_of(source, id).map(|(controller, id)| (controller.its.clone(), id))
}

fn v3(topology: &Topology, unit: usize) -> &fw_tables::SmmuV3 {
    match &topology.units[unit].detail {
        Detail::SmmuV3(smmu) => smmu,
        other => panic!("{other:?}"),
    }
}

const PCI: Source = Source::Pci { segment: 0 };

#[test]
fn a_host_behind_an_smmu_reaches_the_its_through_both_mappings() {
    // QEMU virt with bridges: 0..=1ff through the SMMU, 200 and above straight to the ITS.
    let topology = read(&[
        its(&[0]),
        smmu_v3(&Smmu { flags: 1, ..Smmu::default() }, &[map(0, 0xffff, 0x10_0000, 0)]),
        root(0, 0, &[map(0, 0x1ff, 0, 1), map(0x200, 0xfdff, 0x200, 0)]),
    ]);
    assert_eq!(reasons(&topology), []);
    assert_eq!(stream(&topology, 0, 0), Some((UnitId(0), 0)));
    assert_eq!(stream(&topology, 0, 0x1ff), Some((UnitId(0), 0x1ff)), "the count is one less than the ids");
    assert_eq!(stream(&topology, 0, 0x200), None);
    assert_eq!(stream(&topology, 1, 0), None, "another segment");
    assert_eq!(message(&topology, PCI, 0x1ff), Some((vec![0], 0x10_01ff)), "both mappings in a chain");
    assert_eq!(message(&topology, PCI, 0x200), Some((vec![0], 0x200)));
    assert_eq!(message(&topology, PCI, 0xffff), Some((vec![0], 0xffff)));
    assert_eq!(message(&topology, PCI, 0x1_0000), None);
    let unit = &topology.units[0];
    assert_eq!((unit.kind, unit.base, unit.size), (UnitKind::SmmuV3, Phys(0x905_0000), 0x2_0000));
    let line = |gsiv| Some(Interrupt { gsiv, edge: true });
    let lines = SmmuInterrupts { event: line(106), pri: line(107), gerror: line(109), sync: line(108), combined: None };
    assert_eq!((v3(&topology, 0).coherent, v3(&topology, 0).interrupts), (true, lines));
}

#[test]
fn altra_has_no_wires_and_sends_its_messages_through_a_single_mapping() {
    // Node revision 2, all GSIVs 0, index 1; output bases 0x10000 apart, several segments.
    let smmu =
        |base, proximity| Smmu { revision: 2, base, flags: 8, gsivs: [0; 4], proximity, index: 1, ..Smmu::default() };
    let topology = read(&[
        its(&[0]),
        smmu_v3(&smmu(0x2_4000_0000, 0), &[map(0, 0xffff, 0, 0), single(0xfff8, 0)]),
        its(&[1]),
        smmu_v3(&smmu(0x2_6000_0000, 1), &[map(0, 0xffff, 0x1_0000, 2), single(0x1_fff8, 2)]),
        root(12, 1, &[map(0, 0xffff, 0, 1)]),
        root(13, 1, &[map(0, 0xffff, 0, 3)]),
    ]);
    assert_eq!(reasons(&topology), []);
    for (unit, segment, its, own) in [(0, 12, 0, 0xfff8), (1, 13, 1, 0x1_fff8)] {
        assert_eq!(v3(&topology, unit).interrupts, SmmuInterrupts::default());
        assert!(!v3(&topology, unit).coherent);
        assert_eq!(message(&topology, Source::Unit(UnitId(unit as u16)), 0), Some((vec![its], own)));
        assert_eq!(topology.proximity_of(&topology.units[unit]), Some(unit as u32));
        assert_eq!(stream(&topology, segment, 0x123), Some((UnitId(unit as u16), 0x123)));
        let base = unit as u32 * 0x1_0000;
        assert_eq!(message(&topology, Source::Pci { segment }, 0x123), Some((vec![its], base + 0x123)));
        assert!(topology.ats_allowed(StreamId::pci(segment, 0, 1, 0), &Tree::default()));
        assert_eq!(topology.units[unit].segment, segment);
    }
}

#[test]
fn the_mapping_index_is_valid_by_the_rules_of_its_revision() {
    let own = |revision, size, flags, gsivs| {
        let smmu = Smmu { revision, size, flags, gsivs, index: 1, ..Smmu::default() };
        let topology = read(&[its(&[0]), smmu_v3(&smmu, &[map(0, 9, 0, 0), single(0x99, 0)])]);
        message(&topology, Source::Unit(UnitId(0)), 0).map(|(_, id)| id)
    };
    let (wired, half) = ([1, 2, 3, 4], [1, 0, 3, 4]);
    assert_eq!(own(0, 60, 0, half), None, "no such field");
    assert_eq!(own(0, 68, 0, half), None, "revision 0 has no such field, whatever the length");
    assert_eq!(own(1, 68, 0, half), Some(0x99));
    assert_eq!(own(4, 68, 0, wired), None, "all wired");
    assert_eq!(own(5, 68, 0, half), None, "since revision 5 the flag says it");
    assert_eq!(own(5, 68, 0x10, wired), Some(0x99));
}

#[test]
fn overrides_are_those_of_the_flags() {
    for (flags, coherent, httu) in [(0, false, 0), (1, true, 0), (2, false, 1), (4, false, 2), (7, true, 3)] {
        let topology = read(&[smmu_v3(&Smmu { flags, ..Smmu::default() }, &[])]);
        assert_eq!((v3(&topology, 0).coherent, v3(&topology, 0).httu_override), (coherent, httu), "{flags:#x}");
    }
}

#[test]
fn fields_of_later_revisions_are_there_by_length_not_by_revision() {
    // 60 bytes, proximity flag set: there is no proximity field.
    let topology = read(&[smmu_v3(&Smmu { revision: 0, size: 60, flags: 8, ..Smmu::default() }, &[])]);
    assert_eq!((topology.proximity.len(), topology.units.len()), (0, 1));
    // The mapping begins where the field would be.
    let short = smmu_v3(&Smmu { revision: 0, size: 60, flags: 8, ..Smmu::default() }, &[map(0, 1, 0, 1)]);
    assert_eq!(read(&[short, its(&[0])]).proximity.len(), 0);
    // Root complex of 36 bytes: no PASID.
    let old = node(2, 0, place(36, &[(16, 4, 1), (28, 4, 5), (33, 2, 20)]), &[]);
    let topology = read(&[old, root(6, 7, &[])]);
    assert_eq!((topology.hosts[0].segment, topology.hosts[0].pasid_bits), (5, 0));
    let host = &topology.hosts[1];
    assert_eq!((host.ats, host.pri, host.pasid_forward, host.pasid_bits), (true, true, true, 20));
    assert_eq!((host.address_bits, host.coherent), (48, true));
}

#[test]
fn named_components_have_a_stream_for_each_single_mapping() {
    let topology = read(&[
        smmu_v2(0x1500_0000, 0x10_0000, &[]),
        component("\\_SB.GPU0", 0b1011, &[single(0x40, 0), single(0x41, 0)]),
        component("\\_SB.SDC0", 0, &[map(0, 3, 0x100, 0)]),
        its(&[7]),
        component("\\_SB.MBI0", 0, &[single(0x4_0b1c, 3)]),
    ]);
    assert_eq!(reasons(&topology), []);
    let device = &topology.devices[0];
    assert_eq!((device.name.as_str(), device.stall, device.pasid_bits), ("\\_SB.GPU0", true, 5));
    assert_eq!((device.coherent, device.address_bits), (true, 40));
    let streams = |device| topology.device_streams(device).collect::<Vec<_>>();
    assert_eq!(streams(0), [(UnitId(0), 0x40, 0x40), (UnitId(0), 0x41, 0x41)]);
    assert_eq!(streams(1), [(UnitId(0), 0x100, 0x103)]);
    assert_eq!(streams(2), []);
    assert_eq!(message(&topology, Source::Device(2), 0), Some((vec![7], 0x4_0b1c)));
    assert_eq!(topology.route(Source::Device(0), 1).map(|route| route.output), Some(Output::Always(0x41)));
}

#[test]
fn smmu_v2_is_recognised_and_reported() {
    let topology = read(&[smmu_v2(0x1500_0000, 0x8_0000, &[]), root(0, 0, &[map(0x8703_0000, 0x7f, 0x1c80, 0)])]);
    let unit = &topology.units[0];
    assert_eq!((unit.kind, unit.base, unit.size), (UnitKind::SmmuV2, Phys(0x1500_0000), 0x8_0000));
    let Detail::SmmuV2(smmu) = &unit.detail else { panic!() };
    assert_eq!((smmu.model, smmu.dvm, smmu.coherent), (3, false, true));
    assert_eq!(smmu.global, [Interrupt { gsiv: 0x61, edge: true }]);
    assert_eq!(smmu.contexts, [Interrupt { gsiv: 0x81, edge: false }, Interrupt { gsiv: 0x82, edge: true }]);
    // Qualcomm laptops: requester ids that no PCI function has.
    assert_eq!(reasons(&topology)[0].1, "ids above ffff, which no PCI function has");
    assert_eq!(stream(&topology, 0, 0x8703_0001), Some((UnitId(0), 0x1c81)));
}

#[test]
fn counters_tell_what_they_count_for() {
    let topology = read(&[
        its(&[3]),
        smmu_v3(&Smmu::default(), &[]),
        root(0, 0, &[map(0, 0xffff, 0, 1)]),
        component("\\_SB.X", 0, &[]),
        pmcg(0x2b44_2000, 0, 1, 0x2b45_2000, &[single(0x12, 0)]),
        pmcg(0x2b44_3000, 77, 2, 0, &[]),
        pmcg(0x2b44_4000, 78, 3, 0, &[]),
        pmcg(0x2b44_5000, 79, 99, 0, &[]),
    ]);
    let of: Vec<_> = topology.counters.iter().map(|counters| counters.of).collect();
    assert_eq!(of, [CountsFor::Unit(UnitId(0)), CountsFor::Host(0), CountsFor::Device(0), CountsFor::Unknown]);
    let first = &topology.counters[0];
    assert_eq!((first.base, first.page1, first.overflow), (Phys(0x2b44_2000), Some(Phys(0x2b45_2000)), None));
    assert_eq!(topology.counters[1].overflow, Some(Interrupt { gsiv: 77, edge: true }));
    assert_eq!(message(&topology, Source::Counters(0), 0), Some((vec![3], 0x12)));
    assert_eq!(reasons(&topology).len(), 1);
    assert_eq!(reasons(&topology)[0].1, "counters of a node that is not there");
}

#[test]
fn reserved_ranges_belong_to_the_streams_of_their_outputs() {
    let topology = read(&[
        smmu_v3(&Smmu::default(), &[]),
        root(0, 0, &[map(0, 0xffff, 0x1000, 0)]),
        component("\\_SB.DSP", 0, &[single(0x20, 0)]),
        // Inputs say nothing: streams 1100..=1103, and 20.
        rmr(&[(0x8000_0000, 0x1_0000), (0x9000_0000, 0x2_0000)], &[map(0xdead, 3, 0x1100, 0), map(0, 0, 0x20, 0)]),
    ]);
    assert_eq!(reasons(&topology), []);
    let of = |id| topology.reserved_for(StreamId { segment: 0, id }, &Tree::default()).count();
    assert_eq!((of(0xff), of(0x100), of(0x103), of(0x104)), (0, 2, 2, 0));
    assert_eq!(topology.reserved_for_device(0).count(), 2);
    assert_eq!(topology.reserved[1].range, PhysRange { first: Phys(0x9000_0000), last: Phys(0x9001_ffff) });
    assert!(topology.reserved[0].direct);
    assert!(topology.reserved[0].why.to_string().ends_with("(RMR)"));
}

#[test]
fn hisilicon_counts_ids_and_not_ids_minus_one() {
    let mut table = iort(&[its(&[0]), root(0, 0, &[map(0x7a00, 0x100, 0x7a00, 0), map(0x7b00, 0x100, 0x7b00, 0)])]);
    let plain = parse_iort(&table).unwrap();
    assert_eq!(reasons(&plain)[0].1, "id mappings of one node overlap, the first counts");
    table[10..24].copy_from_slice(b"HISI  HIP08   ");
    common::seal(&mut table);
    let quirk = parse_iort(&table).unwrap();
    assert_eq!((reasons(&quirk), quirk.quirks.as_slice()), (vec![], [QUIRK_ID_COUNT].as_slice()));
    assert_eq!(message(&quirk, PCI, 0x7bff), Some((vec![0], 0x7bff)));
    assert_eq!(message(&quirk, PCI, 0x7c00), None);
    table[24] = 1;
    common::seal(&mut table);
    assert_eq!(parse_iort(&table).unwrap().quirks, [] as [&str; 0], "a later OEM revision is right");
}

#[test]
fn loops_are_found_and_not_walked_for_ever() {
    let smmu = |base| Smmu { base, ..Smmu::default() };
    let topology = read(&[
        smmu_v3(&smmu(0x900_0000), &[map(0, 0xffff, 0, 1)]),
        smmu_v3(&smmu(0x910_0000), &[map(0, 0xffff, 0, 0), map(0, 0xffff, 0, 1)]),
        root(0, 0, &[map(0, 0xffff, 0, 0)]),
    ]);
    let found = reasons(&topology);
    assert!(found.contains(&(48, "id mappings go in a loop")), "{found:?}");
    assert!(found.contains(&(136, "id mappings go in a loop")), "{found:?}");
    assert_eq!(stream(&topology, 0, 5), Some((UnitId(0), 5)), "the first SMMU on the way counts");
}

#[test]
fn unknown_nodes_are_skipped_with_a_note() {
    let topology = read(&[node(7, 0, place(24, &[]), &[]), smmu_v3(&Smmu::default(), &[])]);
    assert_eq!(topology.notes[0].to_string(), "IORT+0x30: node of unknown type 0x7, skipped");
    assert_eq!((topology.units.len(), reasons(&topology)), (1, vec![]));
}

#[test]
fn each_contradiction_is_found() {
    let smmu = || smmu_v3(&Smmu::default(), &[]);
    let at = |base| smmu_v3(&Smmu { base, ..Smmu::default() }, &[]);
    let short = |kind, bytes| node(kind, 0, place(bytes, &[]), &[]);
    let mut late = its(&[0]);
    late[16] = 9;
    let mut outside = root(0, 0, &[map(0, 1, 0, 0)]);
    outside[12] = 200;
    let mut many = root(0, 0, &[map(0, 1, 0, 0)]);
    many[8] = 2;
    let mut nameless = component("X", 0, &[]);
    let length = nameless.len();
    nameless[29..length].fill(b'x');
    let mut ranges = rmr(&[(0x1_0000, 0x1_0000)], &[map(0, 0, 0, 0)]);
    ranges[24] = 0xff;
    let mut lines = smmu_v2(0x1500_0000, 0x1000, &[]);
    lines[44] = 200;
    let mut out_of_its = its(&[0]);
    out_of_its = node(0, 1, out_of_its, &[map(0, 1, 0, 0)]);
    let wrong_index = Smmu { gsivs: [0; 4], index: 7, ..Smmu::default() };
    let cases: &[(Vec<Vec<u8>>, u32, &str)] = &[
        (vec![short(4, 59)], 48, "node shorter than its fixed part, left out"),
        (vec![short(0, 19)], 48, "node shorter than its fixed part, left out"),
        (vec![short(2, 31)], 48, "node shorter than its fixed part, left out"),
        (vec![short(5, 31)], 48, "node shorter than its fixed part, left out"),
        (vec![short(6, 27)], 48, "node shorter than its fixed part, left out"),
        (vec![its(&[])], 48, "ITS group without an ITS"),
        (vec![late], 48, "more ITSs counted than the group holds"),
        (vec![out_of_its], 72, "id mapping out of an interrupt controller"),
        (vec![smmu(), outside], 116, "id mappings outside their node, left out"),
        (vec![smmu(), many], 116, "more id mappings counted than the node holds"),
        (vec![smmu(), root(0, 0, &[map(1, 0xffff_ffff, 0, 0)])], 156, "id mapping passes the last id, left out"),
        (vec![smmu(), root(0, 0, &[map(0, 1, 0xffff_ffff, 0)])], 156, "id mapping passes the last id, left out"),
        (vec![smmu(), root(0, 0, &[map(0, 1, 0, 9)])], 156, "id mapping points at no node, left out"),
        (vec![smmu(), root(0, 0, &[map(0, 1, 0, 1)])], 156, "id mapping points at a node that takes no ids, left out"),
        (
            vec![at(0), root(0, 0, &[map(0, 1, 0, 0)])],
            156,
            "id mapping points at a node that is left out, left out too",
        ),
        (
            vec![smmu(), root(0, 0, &[map(0, 1, 0, 0), map(1, 1, 9, 0)])],
            176,
            "id mappings of one node overlap, the first counts",
        ),
        (
            vec![smmu(), smmu_v3(&Smmu { base: 0x910_0000, ..Smmu::default() }, &[map(0, 1, 0, 0)])],
            184,
            "id mapping from one SMMU into another",
        ),
        (
            vec![smmu(), root(0, 0, &[map(0, 1, 0, 0)]), root(0, 0, &[map(1, 1, 0, 0)])],
            216,
            "ids of a segment mapped twice, the first counts",
        ),
        (vec![root(0, 0, &[]), root(0, 0, &[])], 88, "second root complex of its segment"),
        (vec![root(0x1_0000, 0, &[])], 48, "root complex of a segment above 65535, left out"),
        (vec![nameless], 48, "device name without its closing zero"),
        (vec![at(0)], 48, "unit without a usable register address, left out"),
        (vec![at(0x1234)], 48, "unit without a usable register address, left out"),
        (vec![at(0x905_1000)], 48, "SMMUv3 registers do not begin at 64 KiB"),
        (vec![at(0xffff_ffff_ffff_0000)], 48, "unit whose registers pass the last address, left out"),
        (vec![smmu_v2(0x1000, 0, &[])], 48, "SMMU whose registers have no length, left out"),
        (vec![lines], 48, "interrupts outside their node, left out"),
        (vec![smmu(), at(0x906_0000)], 116, "registers overlap those of another unit"),
        (
            vec![its(&[0]), smmu_v3(&wrong_index, &[single(1, 0)])],
            72,
            "mapping index does not lead to a single mapping",
        ),
        (vec![smmu(), ranges], 116, "memory ranges outside their node, left out"),
        (vec![smmu(), rmr(&[], &[map(0, 0, 0, 0)])], 116, "reserved range node without a range"),
        (vec![smmu(), rmr(&[(0x1_0000, 0x1_0000)], &[])], 116, "region for no device"),
        (vec![smmu(), rmr(&[(0x1_0000, 0)], &[map(0, 0, 0, 0)])], 164, "region of no length, left out"),
        (vec![smmu(), rmr(&[(u64::MAX, 2)], &[map(0, 0, 0, 0)])], 164, "region passes the last address, left out"),
        (vec![smmu(), rmr(&[(0x1_0800, 0x800)], &[map(0, 0, 0, 0)])], 164, "region is not whole pages, widened"),
        (vec![smmu(), rmr(&[(0x1_1000, 0x1000)], &[map(0, 0, 0, 0)])], 164, "region is not whole pages of 64 KiB"),
        (
            vec![smmu(), rmr(&[(0x905_0000, 0x1_0000)], &[map(0, 0, 0, 0)])],
            164,
            "region covers the registers of a unit",
        ),
        (
            vec![smmu(), its(&[0]), rmr(&[(0x1_0000, 0x1_0000)], &[map(0, 0, 0, 1)])],
            168,
            "reserved range for an interrupt controller, left out",
        ),
    ];
    let missed: Vec<_> = cases
        .iter()
        .map(|(nodes, offset, reason)| (reasons(&read(nodes)), (*offset, *reason)))
        .filter(|(found, wanted)| !found.contains(wanted))
        .collect();
    assert!(missed.is_empty(), "found, wanted: {missed:#?}");
}

#[test]
fn node_count_and_checksum_are_checked() {
    let mut table = iort(&[its(&[0])]);
    table[36] = 2;
    common::seal(&mut table);
    assert_eq!(reasons(&parse_iort(&table).unwrap()), [(36, "more nodes counted than there are")]);
    table[36] = 0;
    common::seal(&mut table);
    assert_eq!(reasons(&parse_iort(&table).unwrap()), [(48, "bytes behind the last node")]);
    table[36] = 1;
    assert_eq!(reasons(&parse_iort(&table).unwrap()), [(9, "checksum is wrong")]);
}

#[test]
fn too_many_pieces_are_left_out_and_reported() {
    // 200 x 200 mappings of an SMMU into itself.
    let many: Vec<_> = (0..200).map(|_| map(0, 0xffff, 0, 0)).collect();
    let topology = read(&[smmu_v3(&Smmu::default(), &many), root(0, 0, &[map(0, 0xffff, 0, 0)])]);
    assert!(reasons(&topology).contains(&(0, "more id ranges than can be followed, the rest is left out")));
}

#[test]
fn what_cannot_be_walked_is_an_error_with_its_place() {
    let fail = |table: &[u8]| match parse_iort(table) {
        Err(Error::Firmware(At { table, offset, reason })) => (table, offset, reason),
        other => panic!("{other:?}"),
    };
    let table = |nodes: &[Vec<u8>], patch: &[(usize, u8)]| {
        let mut table = iort(nodes);
        for &(at, value) in patch {
            table[at] = value;
        }
        table
    };
    assert_eq!(fail(b"IORT"), (*b"IORT", 0, "shorter than a table header"));
    assert_eq!(fail(&table(&[its(&[0])], &[(40, 47)])), (*b"IORT", 40, "nodes begin inside the fixed part"));
    assert_eq!(fail(&table(&[its(&[0])], &[(40, 200)])), (*b"IORT", 40, "nodes begin behind the table"));
    assert_eq!(fail(&table(&[its(&[0])], &[(49, 15)])), (*b"IORT", 48, "node length below its header"));
    assert_eq!(fail(&table(&[its(&[0])], &[(49, 25)])), (*b"IORT", 48, "node runs past the table"));
    assert_eq!(fail(&table(&[its(&[0])], &[(36, 2), (49, 16)])), (*b"IORT", 64, "cut in a node header"));
}
