//! Device trees with one thing in them each, and what the topology says of it.

mod common;

use common::Tree as Nothing;
use common::tree::Tree;
use fw_tables::{Detail, Interrupt, Source, Topology, UnitKind, parse_device_tree};
use iommu_types::{At, Error, Phys, PhysRange, StreamId, UnitId};

const GIC: u32 = 1;
const ITS: u32 = 2;
const SMMU: u32 = 3;
const DEVICE: u32 = 4;

/// A board: GIC with ITS, one SMMUv3, one PCI host; `more` adds nodes to the root.
fn board(host: impl Fn(&mut Tree), more: impl Fn(&mut Tree)) -> Vec<u8> {
    let mut tree = Tree::default();
    tree.begin("").cells("#address-cells", &[2]).cells("#size-cells", &[2]).cells("interrupt-parent", &[GIC]);
    tree.begin("intc@8000000").cells("phandle", &[GIC]).cells("#interrupt-cells", &[3]);
    tree.cells("#address-cells", &[2]).cells("#size-cells", &[2]).flag("ranges");
    tree.begin("its@8080000").cells("phandle", &[ITS]).flag("msi-controller").cells("#msi-cells", &[1]);
    tree.cells("reg", &[0, 0x808_0000, 0, 0x2_0000]).end().end();
    smmu(&mut tree, SMMU, 0x905_0000);
    tree.begin("pcie@10000000").text("device_type", "pci").text("compatible", "pci-host-ecam-generic");
    tree.cells("reg", &[0x40, 0x1000_0000, 0, 0x1000_0000]).cells("bus-range", &[0, 255]);
    tree.cells("linux,pci-domain", &[0]).flag("dma-coherent");
    host(&mut tree);
    tree.end();
    more(&mut tree);
    tree.end();
    tree.blob()
}

fn smmu(tree: &mut Tree, phandle: u32, base: u32) {
    tree.begin(&format!("iommu@{base:x}")).text("compatible", "arm,smmu-v3").cells("reg", &[0, base, 0, 0x2_0000]);
    tree.cells("phandle", &[phandle]).cells("#iommu-cells", &[1]).flag("dma-coherent");
    tree.bytes("interrupt-names", b"eventq\0priq\0cmdq-sync\0gerror\0");
    tree.cells("interrupts", &[0, 74, 1, 0, 75, 1, 0, 76, 1, 0, 77, 4]).end();
}

fn none(_: &mut Tree) {}

fn read(host: impl Fn(&mut Tree), more: impl Fn(&mut Tree)) -> Topology {
    parse_device_tree(&board(host, more)).unwrap()
}

fn reasons(topology: &Topology) -> Vec<&'static str> {
    topology.findings.iter().map(|finding| finding.0.reason).collect()
}

fn stream(topology: &Topology, segment: u16, id: u32) -> Option<(UnitId, u32)> {
    topology.stream_for(StreamId { segment, id }, &Nothing::default())
}

#[test]
fn the_board_of_qemu_is_read() {
    let topology = read(
        |host| {
            host.cells("iommu-map", &[0, SMMU, 0, 0x1_0000]).cells("msi-map", &[0, ITS, 0x4_0000, 0x1_0000]);
        },
        none,
    );
    assert_eq!(reasons(&topology), [] as [&str; 0]);
    let unit = &topology.units[0];
    assert_eq!((unit.kind, unit.base, unit.size), (UnitKind::SmmuV3, Phys(0x905_0000), 0x2_0000));
    let Detail::SmmuV3(smmu) = &unit.detail else { panic!() };
    assert!(smmu.coherent);
    let line = |gsiv, edge| Some(Interrupt { gsiv, edge });
    let lines = smmu.interrupts;
    assert_eq!((lines.event, lines.pri), (line(106, true), line(107, true)), "SPI n is INTID n + 32");
    assert_eq!((lines.sync, lines.gerror, lines.combined), (line(108, true), line(109, false), None));
    assert_eq!(stream(&topology, 0, 0xffff), Some((UnitId(0), 0xffff)));
    assert_eq!(stream(&topology, 0, 0x1_0000), None);
    let (its, id) = topology.messages_of(Source::Pci { segment: 0 }, 0x21).unwrap();
    assert_eq!((its.name.as_str(), its.base, id), ("/intc@8000000/its@8080000", Some(Phys(0x808_0000)), 0x4_0021));
    let host = &topology.hosts[0];
    assert_eq!((host.name.as_str(), host.buses, host.coherent), ("/pcie@10000000", Some((0, 255)), true));
    let ecam = PhysRange { first: Phys(0x40_1000_0000), last: Phys(0x40_1fff_ffff) };
    assert_eq!(host.ecam, Some(ecam));
}

#[test]
fn the_mask_is_applied_before_the_map() {
    let topology = read(
        |host| {
            host.cells("iommu-map", &[0x100, SMMU, 0x20, 2]).cells("iommu-map-mask", &[0xfff8]);
            host.cells("msi-map", &[0, ITS, 0, 0x100]).cells("msi-map-mask", &[0xff]);
        },
        none,
    );
    assert_eq!(stream(&topology, 0, 0x107), Some((UnitId(0), 0x20)), "all functions of a device are one stream");
    assert_eq!(stream(&topology, 0, 0x108), None);
    let (_, id) = topology.messages_of(Source::Pci { segment: 0 }, 0x9921).unwrap();
    assert_eq!(id, 0x21);
}

#[test]
fn a_map_may_have_holes_and_several_units() {
    let topology = read(
        |host| {
            host.cells("iommu-map", &[0, SMMU, 0, 0x10, 0x11, 9, 0x1011, 0xffef]);
        },
        |root| smmu(root, 9, 0x907_0000),
    );
    assert_eq!(stream(&topology, 0, 0xf), Some((UnitId(0), 0xf)));
    assert_eq!(stream(&topology, 0, 0x10), None);
    assert_eq!(stream(&topology, 0, 0x12), Some((UnitId(1), 0x1012)));
}

#[test]
fn devices_have_streams_messages_and_regions() {
    let topology = read(none, |root| {
        root.begin("soc").cells("#address-cells", &[1]).cells("#size-cells", &[1]).cells("ranges", &[0, 0, 0, 1 << 31]);
        root.begin("dma@1000").cells("phandle", &[DEVICE]).cells("iommus", &[SMMU, 0x40, SMMU, 0x41]);
        root.cells("msi-parent", &[ITS, 0x77]).cells("pasid-num-bits", &[8]).flag("dma-can-stall").end();
        root.end();
        root.begin("reserved-memory").cells("#address-cells", &[2]).cells("#size-cells", &[2]).flag("ranges");
        root.begin("frame@80000000").cells("reg", &[0, 0x8000_0000, 0, 0x10_0000]);
        root.cells("iommu-addresses", &[DEVICE, 0x8000_0000, 0x10_0000]).end();
        root.begin("hole").cells("iommu-addresses", &[DEVICE, 0, 0x1000, DEVICE, 0x1000_0000, 0x1000]).end();
        root.end();
    });
    assert_eq!(reasons(&topology), [] as [&str; 0]);
    let device = &topology.devices[0];
    assert_eq!(
        (device.name.as_str(), device.pasid_bits, device.stall, device.coherent),
        ("/soc/dma@1000", 8, true, false)
    );
    assert_eq!(topology.device_streams(0).collect::<Vec<_>>(), [(UnitId(0), 0x40, 0x40), (UnitId(0), 0x41, 0x41)]);
    assert_eq!(topology.messages_of(Source::Device(0), 0).unwrap().1, 0x77);
    let regions: Vec<_> =
        topology.reserved_for_device(0).map(|r| (r.range.first.0, r.range.last.0, r.direct)).collect();
    assert_eq!(
        regions,
        [(0x8000_0000, 0x800f_ffff, true), (0, 0xfff, false), (0x1000_0000, 0x1000_0fff, false)],
        "only what is at the same address in memory is one to one"
    );
}

#[test]
fn registers_are_translated_through_buses() {
    let topology = read(none, |root| {
        root.begin("bus").cells("#address-cells", &[1]).cells("#size-cells", &[1]);
        root.cells("ranges", &[0, 0x12, 0, 0x1000_0000, 0x4000_0000, 0x13, 0, 0x1000_0000]);
        root.begin("iommu@40020000").text("compatible", "arm,smmu-v3").cells("reg", &[0x4002_0000, 0x2_0000]).end();
        root.end();
    });
    assert_eq!(topology.units[1].base, Phys(0x13_0002_0000));
}

#[test]
fn other_iommus_are_recognised() {
    let topology = read(
        |host| {
            host.begin("virtio_iommu@2,0").cells("phandle", &[9]).cells("#iommu-cells", &[1]).end();
        },
        |root| {
            root.begin("iommu@1").bytes("compatible", b"qcom,sm8550-smmu-500\0arm,mmu-500\0");
            root.cells("reg", &[0, 0x1500_0000, 0, 0x10_0000]).cells("#global-interrupts", &[1]);
            root.cells("interrupts", &[0, 65, 4, 1, 5, 4]).end();
            root.begin("gone@1").text("status", "disabled").text("compatible", "arm,smmu-v3");
            root.begin("below").text("compatible", "arm,smmu-v3").end().end();
        },
    );
    assert_eq!(topology.units.len(), 2);
    let Detail::SmmuV2(smmu) = &topology.units[1].detail else { panic!() };
    assert_eq!((smmu.model, smmu.coherent), (3, false));
    assert_eq!(smmu.global, [Interrupt { gsiv: 97, edge: false }]);
    assert_eq!(smmu.contexts, [Interrupt { gsiv: 21, edge: false }], "PPI n is INTID n + 16");
    assert_eq!(topology.notes.len(), 1);
    assert!(topology.notes[0].to_string().contains("IOMMU without a driver here"), "{}", topology.notes[0]);
}

#[test]
fn hosts_without_a_domain_are_numbered_and_bridges_are_no_hosts() {
    let mut tree = Tree::default();
    tree.begin("").cells("interrupt-parent", &[GIC]);
    tree.begin("its").flag("msi-controller").cells("phandle", &[ITS]).end();
    for name in ["pcie@1", "pcie@2"] {
        tree.begin(name).text("device_type", "pci").cells("msi-parent", &[ITS]).flag("ats-supported");
        tree.begin("pci@0").text("device_type", "pci").end().end();
    }
    tree.end();
    let topology = parse_device_tree(&tree.blob()).unwrap();
    assert_eq!(topology.hosts.iter().map(|host| host.segment).collect::<Vec<_>>(), [0, 1]);
    assert!(topology.hosts[1].ats && topology.ats_allowed(StreamId::pci(1, 0, 1, 0), &Nothing::default()));
    assert_eq!(topology.messages_of(Source::Pci { segment: 1 }, 0x1234).unwrap().1, 0x1234);
}

#[test]
fn nop_tags_are_not_seen() {
    let mut tree = Tree::default();
    tree.tag(4).begin("").tag(4).cells("#address-cells", &[2]).tag(4).cells("#size-cells", &[2]).tag(4);
    smmu(&mut tree, SMMU, 0x905_0000);
    tree.tag(4);
    smmu(&mut tree, 9, 0x907_0000);
    tree.tag(4).end().tag(4);
    let topology = parse_device_tree(&tree.blob()).unwrap();
    assert_eq!(topology.units.len(), 2);
    // 56 header, NOP, root with its name, NOP, property of 16, NOP, property of 16, NOP.
    assert_eq!(topology.units[0].offset, 56 + 4 + 8 + 4 + 16 + 4 + 16 + 4, "offsets are those of the blob as it came");
}

#[test]
fn each_contradiction_is_found() {
    type Add = fn(&mut Tree);
    let cases: &[(Add, Add, &str)] = &[
        (none, |root| smmu(root, SMMU, 0x907_0000), "phandle of another node too"),
        (none, |root| smmu(root, 9, 0x906_0000), "registers overlap those of another unit"),
        (
            none,
            |root| {
                root.begin("a").text("compatible", "arm,smmu-v3").end();
            },
            "unit without registers, left out",
        ),
        (
            none,
            |root| {
                root.begin("a").text("compatible", "arm,smmu-v3").cells("reg", &[0, 0x1000, 0, 0]).end();
            },
            "unit whose registers have no length, left out",
        ),
        (
            none,
            |root| {
                root.begin("a").text("compatible", "arm,smmu-v3").cells("reg", &[0, 0, 0, 1]).end();
            },
            "unit without a usable register address, left out",
        ),
        (
            none,
            |root| {
                let reg = [u32::MAX, 0xffff_f000, 0, 0x2000];
                root.begin("a").text("compatible", "arm,smmu-v3").cells("reg", &reg).end();
            },
            "unit whose registers pass the last address, left out",
        ),
        (
            none,
            |root| {
                root.begin("bus")
                    .begin("a")
                    .text("compatible", "arm,smmu-v3")
                    .cells("reg", &[0, 0x1000, 1])
                    .end()
                    .end();
            },
            "registers behind a bus that does not translate them",
        ),
        (
            none,
            |root| {
                root.begin("b").cells("#address-cells", &[0]).cells("#size-cells", &[0]).cells("ranges", &[1, 2]);
                root.begin("a").text("compatible", "arm,smmu-v3").cells("reg", &[]).end().end();
            },
            "registers behind a bus that does not translate them",
        ),
        (
            none,
            |root| {
                root.begin("i").cells("phandle", &[8]).cells("#interrupt-cells", &[1]).end();
                root.begin("a")
                    .text("compatible", "arm,smmu-v3")
                    .cells("interrupts", &[1])
                    .cells("interrupt-parent", &[8]);
                root.cells("reg", &[0, 0x1000_0000, 0, 1]).end();
            },
            "interrupts of a controller that is no GIC, left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[0, 99, 0, 1]);
            },
            none,
            "iommu-map points at no node, left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[0, ITS, 0, 1]);
            },
            none,
            "iommu-map points at a node that is no IOMMU, left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[0, SMMU, 0, 0]);
            },
            none,
            "map of ids has an entry of no length, left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[u32::MAX, SMMU, 0, 2]);
            },
            none,
            "map of ids passes the last id, left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[0, SMMU, u32::MAX, 2]);
            },
            none,
            "map of ids passes the last id, left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[0, SMMU, 0]);
            },
            none,
            "map of ids is cut, its last entry is left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[0, SMMU, 0, 1].repeat(4097));
            },
            none,
            "more map entries than can be followed, the rest is left out",
        ),
        (
            |host| {
                host.cells("iommu-map", &[0, SMMU, 0, 9, 8, SMMU, 0, 9]);
            },
            none,
            "iommu-map names ids twice, the first counts",
        ),
        (
            |host| {
                host.cells("msi-map", &[0, SMMU, 0, 9]);
            },
            none,
            "msi-map points at no MSI controller, left out",
        ),
        (
            |host| {
                host.cells("msi-map", &[0, ITS, 0, 9, 8, ITS, 0, 9]);
            },
            none,
            "msi-map names ids twice, the first counts",
        ),
        (
            |host| {
                host.cells("msi-parent", &[99]);
            },
            none,
            "msi-parent points at no MSI controller, left out",
        ),
        (
            none,
            |root| {
                root.begin("pcie@2").text("device_type", "pci").cells("linux,pci-domain", &[0]).end();
            },
            "second PCI host of its segment",
        ),
        (
            none,
            |root| {
                root.begin("pcie@2").text("device_type", "pci").cells("linux,pci-domain", &[0x1_0000]).end();
            },
            "PCI host of a segment above 65535, left out",
        ),
        (
            none,
            |root| {
                root.begin("pcie@2").text("device_type", "pci").cells("bus-range", &[9, 8]).end();
            },
            "bus range that cannot be, left out",
        ),
        (
            none,
            |root| {
                root.begin("d").cells("iommus", &[99, 1]).end();
            },
            "iommus points at no node, the rest of it is left out",
        ),
        (
            none,
            |root| {
                root.begin("d").cells("iommus", &[ITS, 1]).end();
            },
            "iommus points at a node that is no IOMMU, the rest of it is left out",
        ),
        (
            none,
            |root| {
                root.begin("d").cells("iommus", &[SMMU]).end();
            },
            "iommus is cut",
        ),
        (
            none,
            |root| {
                root.begin("d").cells("iommus", &[SMMU, 1]).cells("msi-parent", &[SMMU]).end();
            },
            "msi-parent points at no MSI controller, left out",
        ),
        (
            none,
            |root| {
                root.begin("r").cells("iommu-addresses", &[99, 1]).end();
            },
            "iommu-addresses points at no node, the rest of it is left out",
        ),
        (
            none,
            |root| {
                root.begin("r").cells("iommu-addresses", &[SMMU, 0, 0, 0]).end();
            },
            "iommu-addresses is cut",
        ),
        (
            none,
            |root| {
                root.begin("r").cells("iommu-addresses", &[SMMU, 0, 0, 0, 0]).end();
            },
            "region of no length, left out",
        ),
        (
            none,
            |root| {
                root.begin("r").cells("iommu-addresses", &[SMMU, u32::MAX, u32::MAX, 0, 2]).end();
            },
            "region passes the last address, left out",
        ),
        (
            none,
            |root| {
                root.begin("r").cells("iommu-addresses", &[SMMU, 0, 0, 0, 0x1000]).end();
            },
            "region of a device that no IOMMU translates for, left out",
        ),
        (
            none,
            |root| {
                root.begin("d").cells("phandle", &[DEVICE]).cells("iommus", &[SMMU, 1]).end();
                root.begin("r").cells("iommu-addresses", &[DEVICE, 0, 0, 0, 0x800]).end();
            },
            "region is not whole pages, widened",
        ),
    ];
    for (host, more, reason) in cases {
        let found = reasons(&read(host, more));
        assert!(found.contains(reason), "wanted {reason}, got {found:?}");
    }
}

#[test]
fn a_blob_that_the_crate_would_trip_over_is_refused_with_its_place() {
    let fail = |blob: &[u8]| match parse_device_tree(blob) {
        Err(Error::Firmware(At { table, offset, reason })) => {
            assert_eq!(&table, b"fdt ");
            (offset, reason)
        }
        other => panic!("{other:?}"),
    };
    let tree = |build: fn(&mut Tree)| {
        let mut tree = Tree::default();
        build(&mut tree);
        tree.blob()
    };
    let good = tree(|tree| {
        tree.begin("").cells("a", &[1]).end();
    });
    assert!(parse_device_tree(&good).is_ok());
    let patched = |word: usize, value: u32| {
        let mut blob = good.clone();
        blob[4 * word..4 * word + 4].copy_from_slice(&value.to_be_bytes());
        blob
    };
    assert_eq!(fail(&good[..39]), (4, "total size past the memory that holds the blob"));
    assert_eq!(fail(&good[..3]), (0, "shorter than a header"));
    assert_eq!(fail(&patched(0, 0xfeed_d00d)), (0, "another magic number"));
    assert_eq!(fail(&patched(1, 39)), (4, "total size below the header"));
    assert_eq!(fail(&patched(5, 16)), (20, "version of the format is not 17 or compatible"));
    assert_eq!(fail(&patched(6, 18)), (20, "version of the format is not 17 or compatible"));
    for value in [0, 39, 0x1000, u32::MAX] {
        assert_eq!(fail(&patched(2, value)).1, "structure block outside the blob", "{value}");
        assert_eq!(fail(&patched(3, value)).1, "strings block outside the blob", "{value}");
    }
    assert_eq!(fail(&patched(8, u32::MAX)), (32, "strings block outside the blob"));
    assert_eq!(fail(&patched(9, u32::MAX)), (36, "structure block outside the blob"));
    assert_eq!(fail(&patched(2, 57)), (8, "structure block is not aligned"));
    assert_eq!(fail(&patched(8, 0)), (64, "property name does not end"));
    assert_eq!(fail(&patched(8, 1)), (64, "property name does not end"));
    assert_eq!(fail(&patched(9, 0)), (56, "structure block is cut"));
    assert_eq!(fail(&patched(9, 20)), (76, "structure block is cut"));

    type Case = (fn(&mut Tree), &'static str);
    let cases: &[Case] = &[
        (|_| {}, "end of the tree inside a node"),
        (|t| _ = t.begin(""), "end of the tree inside a node"),
        (|t| _ = t.end(), "end of a node that did not begin"),
        (|t| _ = t.begin("").end().begin("").end(), "second root node"),
        (|t| _ = t.begin("x").end(), "name of the root, or none of another node"),
        (|t| _ = t.begin("").begin("").end().end(), "name of the root, or none of another node"),
        (|t| _ = t.cells("a", &[1]).begin("").end(), "property outside every node"),
        (|t| _ = t.begin("").end().cells("a", &[1]), "property outside every node"),
        (|t| _ = t.begin("").begin("x").end().cells("a", &[1]).end(), "property behind a child node"),
        (|t| _ = t.begin("").tag(5).end(), "unknown tag"),
        (|t| _ = t.begin("").tag(3).tag(u32::MAX).tag(1).end(), "property name outside the strings block"),
        (|t| _ = t.begin("").bytes("b", &[]).tag(3).tag(u32::MAX).tag(0).end(), "structure block is cut"),
        (|t| _ = t.begin("").begin(&"n".repeat(256)).end().end(), "node name does not end"),
        (|t| _ = t.begin("").flag(&"n".repeat(256)).end(), "property name does not end"),
        (
            |t| {
                t.begin("").tag(1);
                t.structure.extend([0xff, 0, 0, 0]);
                t.end().end();
            },
            "node name is no text",
        ),
        (
            |t| {
                t.begin("").flag("a").end();
                t.strings[0] = 0xff;
            },
            "property name is no text",
        ),
        (
            |t| {
                t.begin("");
                (0..32).for_each(|_| _ = t.begin("n"));
                (0..33).for_each(|_| _ = t.end());
            },
            "tree deeper than 32 nodes",
        ),
    ];
    for (build, reason) in cases {
        assert_eq!(fail(&tree(*build)).1, *reason);
    }
    let deepest = tree(|t| {
        t.begin("");
        (0..31).for_each(|_| _ = t.begin("n"));
        (0..32).for_each(|_| _ = t.end());
    });
    assert!(parse_device_tree(&deepest).is_ok());
}
