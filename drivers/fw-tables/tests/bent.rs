//! IVRS, IORT and device trees that were cut, bent or made at random: an answer, never a panic, never without end.

mod common;

use common::Tree as Nothing;
use common::tree::Tree;
use common::{iort, ivrs, seal};
use fw_tables::{Source, Topology, parse_device_tree, parse_iort, parse_ivrs};
use iommu_types::{Error, StreamId, UnitId};
use proptest::prelude::*;

type Parse = fn(&[u8]) -> Result<Topology, Error>;

fn rich_ivrs() -> Vec<u8> {
    use ivrs::*;
    ivrs(
        INFO,
        &[
            ivhd(&Ivhd { kind: 0x10, ..Ivhd::default() }, &[entry4(3, 8, 0), entry4(4, 0xfffe, 0)]),
            ivhd(&Ivhd { efr: 1 << 9, ..Ivhd::default() }, &[entry4(2, 8, 0)]),
            ivhd(
                &Ivhd { kind: 0x40, ..Ivhd::default() },
                &[
                    entry4(3, 8, 0),
                    entry4(4, 0xfffe, 0),
                    alias(0x43, 0xff00, 0xa5),
                    entry4(4, 0xffff, 0),
                    alias(0x42, 0x200, 0xa5),
                    extended(0x46, 0x300, 1 << 31),
                    extended(0x47, 0x400, 1 << 31),
                    entry4(4, 0x4ff, 0),
                    special(0xd7, 0x80, 0xa0, 1),
                    special(0, 0, 0xa0, 2),
                    hid(0xa5, b"AMDI0020", 2, b"\\_SB.FUR0"),
                    hid(0xa6, b"AMDI0040", 1, &[7; 8]),
                ],
            ),
            ivhd(&Ivhd { device: 0x4002, base: 0xfe00_0000, segment: 1, ..Ivhd::default() }, &[entry4(1, 0, 0)]),
            ivmd(0x20, 7, (0, 0), 0x1000, 0x1000),
            ivmd(0x21, 3, (8, 0), 0x10_0000, 0x1000),
            ivmd(0x22, 8, (8, 9), 0x20_0000, 0x1000),
            unknown_block(0x51, 32),
        ],
    )
}

fn rich_iort() -> Vec<u8> {
    use iort::*;
    iort(&[
        its(&[0, 1]),
        smmu_v3(
            &Smmu { gsivs: [0; 4], index: 1, flags: 0xf, ..Smmu::default() },
            &[map(0, 0xffff, 0, 0), single(9, 0)],
        ),
        smmu_v2(0x1500_0000, 0x8_0000, &[map(0, 0xfff, 0x1_0000, 0)]),
        root(0, 7, &[map(0, 0x1ff, 0, 1), map(0x200, 0xfdff, 0x200, 0)]),
        component("\\_SB.GPU0", 0x13, &[single(0x40, 2), single(0x41, 2), map(5, 1, 0x50, 2)]),
        pmcg(0x2b44_2000, 0, 1, 0x2b45_2000, &[single(0x12, 0)]),
        rmr(&[(0x8000_0000, 0x1_0000), (0x9000_0000, 0x1_0000)], &[map(0, 3, 0x100, 1), map(0, 0, 0x40, 2)]),
        node(9, 0, vec![0; 24], &[]),
    ])
}

fn rich_tree() -> Vec<u8> {
    let mut tree = Tree::default();
    tree.begin("").cells("#address-cells", &[2]).cells("#size-cells", &[2]).cells("interrupt-parent", &[1]);
    tree.begin("gic").cells("phandle", &[1]).cells("#interrupt-cells", &[3]).flag("ranges").tag(4);
    tree.begin("its").cells("phandle", &[2]).flag("msi-controller").cells("reg", &[0, 1 << 20, 1]).end().end();
    tree.begin("smmu").text("compatible", "arm,smmu-v3").cells("reg", &[0, 1 << 24, 0, 0x2_0000]);
    tree.cells("phandle", &[3]).cells("#iommu-cells", &[1]).bytes("interrupt-names", b"eventq\0gerror\0");
    tree.cells("interrupts", &[0, 74, 1, 0, 75, 1]).end();
    tree.begin("v2").text("compatible", "arm,mmu-500").cells("reg", &[0, 2 << 24, 0, 0x2_0000]).end();
    tree.begin("pcie").text("device_type", "pci").text("compatible", "pci-host-ecam-generic");
    tree.cells("reg", &[0, 3 << 24, 0, 1 << 24]).cells("bus-range", &[0, 15]).cells("linux,pci-domain", &[0]);
    tree.cells("iommu-map", &[0, 3, 0, 0x100, 0x100, 3, 0x200, 0x100]).cells("iommu-map-mask", &[0xffff]);
    tree.cells("msi-map", &[0, 2, 0, 0x1_0000]).end();
    tree.begin("bus").cells("#address-cells", &[1]).cells("#size-cells", &[1]).cells("ranges", &[0, 0, 0, 1 << 31]);
    tree.begin("dev").cells("phandle", &[4]).cells("iommus", &[3, 0x40]).cells("msi-parent", &[2, 5]).end().end();
    tree.begin("mem").cells("reg", &[0, 1 << 28, 0, 0x1000]).cells("iommu-addresses", &[4, 1 << 28, 0x1000]).end();
    tree.end();
    tree.blob()
}

type Format = (&'static str, fn() -> Vec<u8>, Parse);
const FORMATS: [Format; 3] =
    [("IVRS", rich_ivrs, parse_ivrs), ("IORT", rich_iort, parse_iort), ("device tree", rich_tree, parse_device_tree)];

/// Reads, and asks every question of what was read.
fn digest(parse: Parse, table: &[u8]) -> Result<Topology, Error> {
    let topology = parse(table)?;
    let tree = Nothing::default();
    for id in [0, 8, 0xa0, 0x100, 0xffff, u32::MAX] {
        let stream = StreamId { segment: 0, id };
        assert_eq!(topology.unit_for(stream, &tree), topology.stream_for(stream, &tree).map(|(unit, _)| unit));
        topology.reserved_for(stream, &tree).count();
        topology.dte_settings(stream);
        topology.ats_allowed(stream, &tree);
        for source in [Source::Pci { segment: 0 }, Source::Device(0), Source::Unit(UnitId(0)), Source::Counters(0)] {
            topology.messages_of(source, id);
        }
    }
    for device in 0..topology.devices.len() as u32 {
        for (unit, first, last) in topology.device_streams(device) {
            assert!(first <= last && usize::from(unit.0) < topology.units.len());
        }
        topology.reserved_for_device(device).count();
    }
    topology.check_scopes(&tree);
    topology.ioapic(0x80, &tree);
    for region in &topology.reserved {
        assert!(region.range.first <= region.range.last);
        assert!(!region.why.to_string().is_empty());
    }
    let runs = topology.streams.iter().map(|route| route.ids);
    for (before, after) in runs.clone().zip(runs.skip(1)) {
        assert!(before.first <= before.last && after.first <= after.last && !before.overlaps(&after));
    }
    for finding in &topology.findings {
        assert!(!finding.to_string().is_empty());
    }
    Ok(topology)
}

#[test]
fn the_whole_tables_have_no_finding() {
    for (name, rich, parse) in FORMATS {
        assert_eq!(digest(parse, &rich()).unwrap().findings, [], "{name}");
    }
}

#[test]
fn cut_at_every_byte_gives_an_answer() {
    for (name, rich, parse) in FORMATS {
        let table = rich();
        for end in 0..table.len() {
            assert!(digest(parse, &table[..end]).is_err(), "{name} cut at {end}");
            let mut sealed = table[..end].to_vec();
            if name == "device tree" {
                if end >= 8 {
                    sealed[4..8].copy_from_slice(&(end as u32).to_be_bytes());
                }
            } else if end >= 48 {
                seal(&mut sealed);
            }
            let _ = digest(parse, &sealed);
        }
    }
}

#[test]
fn every_field_may_be_zero_one_or_the_most() {
    for (_, rich, parse) in FORMATS {
        let table = rich();
        for at in 0..table.len() {
            for width in [1, 2, 4, 8] {
                for value in [0u64, 1, 2, 3, 7, 0x7f, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
                    let mut bent = table.clone();
                    let end = (at + width).min(bent.len());
                    bent[at..end].copy_from_slice(&value.to_le_bytes()[..end - at]);
                    let _ = digest(parse, &bent);
                    bent[at..end].copy_from_slice(&value.to_be_bytes()[8 - (end - at)..]);
                    let _ = digest(parse, &bent);
                }
            }
        }
    }
}

/// Offset and width of every length of a structure, found without the parser.
fn lengths(name: &str, table: &[u8]) -> Vec<(usize, usize)> {
    let mut found = vec![(4, 4)];
    let mut at = 48;
    while at < table.len() {
        let field = if name == "IVRS" { at + 2 } else { at + 1 };
        found.push((field, 2));
        at += usize::from(u16::from_le_bytes([table[field], table[field + 1]]));
    }
    found
}

#[test]
fn no_wrong_length_of_a_structure_goes_unnoticed() {
    for (name, rich, parse) in [FORMATS[0], FORMATS[1]] {
        let table = rich();
        let lengths = lengths(name, &table);
        assert_eq!(lengths.len(), 9, "{name}");
        for (at, width) in lengths {
            for value in [0u64, 1, 2, 3, 5, 6, 7, 9, 15, 17, u64::MAX] {
                let mut bent = table.clone();
                bent[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
                if let Ok(topology) = digest(parse, &bent) {
                    // The checksum alone always tells; something else must, too.
                    assert!(topology.findings.len() > 1, "{name}: length {value} at {at} went unnoticed");
                }
            }
        }
    }
}

fn config() -> ProptestConfig {
    // A failure prints its smallest input; PROPTEST_RNG_SEED repeats a run.
    ProptestConfig { cases: 1000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        for (_, _, parse) in FORMATS {
            let _ = digest(parse, &bytes);
        }
    }

    #[test]
    fn random_bytes_behind_a_right_header(body in proptest::collection::vec(any::<u8>(), 0..400), nodes in 0u64..9) {
        let _ = digest(parse_ivrs, &ivrs::ivrs(ivrs::INFO, std::slice::from_ref(&body)));
        let mut table = iort::iort(&[]);
        table[36] = nodes as u8;
        table.extend(body);
        seal(&mut table);
        let _ = digest(parse_iort, &table);
    }

    #[test]
    fn random_ivhd_entries(bytes in proptest::collection::vec(prop_oneof![0u8..5, 0x40u8..0x49, any::<u8>()], 0..300)) {
        let table = ivrs::ivrs(ivrs::INFO, &[ivrs::ivhd(&ivrs::Ivhd::default(), &[bytes])]);
        digest(parse_ivrs, &table).expect("the blocks have right lengths");
    }

    #[test]
    fn random_mappings(
        maps in proptest::collection::vec(
            (0usize..6, any::<u16>(), prop_oneof![Just(0u32), 0u32..0x2000, any::<u32>()], any::<u32>(), 0u64..7, any::<bool>()),
            0..40,
        ),
    ) {
        use iort::*;
        let of = |node: usize| -> Vec<Vec<u8>> {
            let mine = maps.iter().filter(|map| map.0 == node);
            mine.map(|&(_, input, count, output, to, one)| {
                if one { single(output.into(), to) } else { map(input.into(), count.into(), (output >> 8).into(), to) }
            }).collect()
        };
        let table = iort(&[
            its(&[0]),
            smmu_v3(&Smmu { gsivs: [0; 4], ..Smmu::default() }, &of(1)),
            smmu_v3(&Smmu { base: 0x910_0000, ..Smmu::default() }, &of(2)),
            root(0, 0, &of(3)),
            component("X", 0, &of(4)),
            rmr(&[(0x1_0000, 0x1_0000)], &of(5)),
        ]);
        digest(parse_iort, &table).expect("the nodes have right lengths");
    }

    #[test]
    fn random_tags(
        tags in proptest::collection::vec(
            prop_oneof![Just(1u32), Just(2), Just(3), Just(4), Just(9), Just(0), any::<u32>(), 0u32..64],
            0..100,
        ),
        strings in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let mut tree = Tree::default();
        tree.begin("").flag("ranges");
        for tag in tags {
            tree.tag(tag);
        }
        tree.strings.extend(strings);
        let _ = digest(parse_device_tree, &tree.blob());
    }

    #[test]
    fn random_properties(
        nodes in proptest::collection::vec(
            proptest::collection::vec((0usize..22, proptest::collection::vec(prop_oneof![0u32..6, any::<u32>()], 0..9)), 0..9),
            0..8,
        ),
        nest in any::<u8>(),
    ) {
        const NAMES: [&str; 22] = [
            "phandle", "#iommu-cells", "iommu-map", "iommu-map-mask", "msi-map", "msi-parent", "iommus", "reg", "ranges",
            "#address-cells", "#size-cells", "interrupts", "interrupt-parent", "#interrupt-cells", "iommu-addresses",
            "linux,pci-domain", "bus-range", "dma-coherent", "msi-controller", "status", "interrupt-names", "pasid-num-bits",
        ];
        const KINDS: [&str; 4] = ["arm,smmu-v3", "arm,smmu-v2", "pci-host-ecam-generic", "other"];
        let mut tree = Tree::default();
        tree.begin("");
        let mut open = 1;
        for (at, node) in nodes.iter().enumerate() {
            tree.begin("n").text("compatible", KINDS[at % 4]);
            if at % 4 == 2 {
                tree.text("device_type", "pci");
            }
            for (name, value) in node {
                tree.cells(NAMES[*name], value);
            }
            if nest >> at & 1 != 0 {
                open += 1;
            } else {
                tree.end();
            }
        }
        (0..open).for_each(|_| _ = tree.end());
        digest(parse_device_tree, &tree.blob()).expect("the tags are right");
    }
}
