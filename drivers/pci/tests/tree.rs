//! Enumeration, capabilities, groups and aliases over trees built in memory.

mod fake;

use fake::*;
use iommu_types::StreamId;
use pci::*;

fn found(tree: &Tree) -> Vec<String> {
    tree.functions.iter().map(|function| function.stream.to_string()).collect()
}

fn scan(fake: &Fake) -> Tree {
    enumerate(fake, 0, 0, 255)
}

#[test]
fn functions_behind_bridges_are_found_with_their_parents() {
    let fake = Fake::new(vec![
        (at(0, 0, 0), Function::new(0x8086, 0x29c0, 0x06_0000)),
        (at(0, 2, 0), port(4, 0, 1, 3)),
        (at(0, 3, 0), Function::new(0x1234, 0x11e8, 0x00_ff00)),
        (at(1, 0, 0), port(5, 1, 2, 3)),
        (at(2, 4, 0), port(6, 2, 3, 3)),
        (at(3, 0, 0), endpoint(0x8086, 0x10c9)),
        (at(0x40, 1, 0), endpoint(1, 1)),
    ]);
    let tree = scan(&fake);
    assert_eq!(tree.findings, []);
    let want = [
        "0000:00:00.0",
        "0000:00:02.0",
        "0000:00:03.0",
        "0000:01:00.0",
        "0000:02:04.0",
        "0000:03:00.0",
        "0000:40:01.0",
    ];
    assert_eq!(found(&tree), want, "the last one is on a root bus that no bridge leads to");
    let card = tree.get(at(3, 0, 0)).unwrap();
    let above: Vec<_> = tree.above(card).map(|bridge| bridge.stream).collect();
    assert_eq!(above, [at(2, 4, 0), at(1, 0, 0), at(0, 2, 0)]);
    assert_eq!(tree.buses(at(1, 0, 0)), Some(Buses { secondary: 2, subordinate: 3 }));
    assert_eq!(card.config_len(), 4096);
    assert_eq!(tree.get(at(0, 3, 0)).unwrap().config_len(), 256);
    assert_eq!(card.ids.class, 0x02_0000);
    assert!(fake.log.lock().unwrap().is_empty(), "enumeration only reads");
}

#[test]
fn other_functions_are_looked_for_only_where_function_zero_says_so() {
    let fake = Fake::new(vec![
        (at(0, 1, 0), endpoint(1, 1).multi()),
        (at(0, 1, 5), endpoint(1, 2)),
        (at(0, 2, 0), endpoint(1, 3)),
        (at(0, 2, 1), endpoint(1, 4)),
        (at(0, 3, 1), endpoint(1, 5)),
    ]);
    let tree = scan(&fake);
    assert_eq!(found(&tree), ["0000:00:01.0", "0000:00:01.5", "0000:00:02.0"]);
    assert!(tree.functions[1].multi_function && !tree.functions[2].multi_function);
}

#[test]
fn a_port_leads_to_device_zero_only() {
    let fake =
        Fake::new(vec![(at(0, 1, 0), port(4, 0, 1, 1)), (at(1, 0, 0), endpoint(1, 1)), (at(1, 1, 0), endpoint(1, 1))]);
    assert_eq!(found(&scan(&fake)), ["0000:00:01.0", "0000:01:00.0"]);
}

#[test]
fn functions_above_seven_are_found_by_their_chain() {
    let ari = |offset, next: u8| endpoint(1, 1).ext(0x0e, offset, &[0, next]);
    let mut root = port(4, 0, 1, 1);
    root.bytes[0xc8] |= 0x20;
    let list = vec![
        (at(0, 1, 0), root),
        (at(1, 0, 0), ari(0x100, 0x81)),
        (at(1, 0x10, 1), ari(0x100, 0x82)),
        (at(1, 0x10, 2), ari(0x100, 0x80)),
    ];
    let tree = scan(&Fake::new(list));
    assert_eq!(found(&tree), ["0000:00:01.0", "0000:01:00.0", "0000:01:10.1", "0000:01:10.2"]);
    assert_eq!(tree.findings, [Finding { stream: at(1, 0x10, 2), reason: "next function number does not ascend" }]);
}

#[test]
fn bridges_that_lie_are_not_followed() {
    let cases: [(Vec<(StreamId, Function)>, &str); 7] = [
        (vec![(at(0, 1, 0), port(4, 0, 0, 5))], "bridge leads backwards, not followed"),
        (vec![(at(0, 1, 0), port(4, 0, 5, 4))], "bridge leads backwards, not followed"),
        (vec![(at(0, 1, 0), port(4, 0, 0, 0))], "bridge without bus numbers, not followed"),
        (
            vec![(at(0, 1, 0), port(4, 0, 1, 2)), (at(1, 0, 0), port(5, 1, 2, 3))],
            "bridge leads past the range of the bridge above, not followed",
        ),
        (
            vec![(at(0, 1, 0), port(4, 0, 1, 4)), (at(0, 2, 0), port(4, 0, 3, 5))],
            "bridge leads to buses of another bridge, not followed",
        ),
        (
            vec![(at(0, 1, 0), port(4, 0, 1, 4)), (at(0, 2, 0), port(4, 0, 1, 4))],
            "bridge leads to buses of another bridge, not followed",
        ),
        (
            vec![(at(0, 1, 0), port(4, 0, 1, 1)), (at(1, 0, 0), port(5, 1, 1, 1))],
            "bridge leads backwards, not followed",
        ),
    ];
    for (list, reason) in cases {
        let tree = scan(&Fake::new(list));
        assert!(tree.findings.iter().any(|finding| finding.reason == reason), "wanted {reason}: {:?}", tree.findings);
    }
    // A window of fewer buses than the bridge claims.
    let tree = enumerate(&Fake::new(vec![(at(0, 1, 0), port(4, 0, 1, 40))]), 0, 0, 31);
    assert_eq!(tree.findings[0].reason, "bridge leads past the range of the bridge above, not followed");
}

#[test]
fn every_function_a_bridge_to_everywhere_still_ends() {
    let mut list = Vec::new();
    for bus in 0..=255 {
        for device in 0..32 {
            list.push((at(bus, device, 0), port(4, bus, bus.wrapping_add(1), 255)));
        }
    }
    let tree = scan(&Fake::new(list));
    assert!(tree.functions.len() <= 256 * 32);
}

#[test]
fn a_header_of_unknown_type_is_left_out() {
    let mut odd = endpoint(1, 1);
    odd.bytes[0x0e] = 2;
    let tree = scan(&Fake::new(vec![(at(0, 1, 0), odd)]));
    assert_eq!(tree.functions.len(), 0);
    assert_eq!(tree.findings[0].reason, "header of unknown type, left out");
}

#[test]
fn capability_lists_that_loop_end() {
    let mut function = endpoint(1, 1).cap(5, 0x50, &[]);
    function.bytes[0x51] = 0xa0;
    let fake = Fake::new(vec![(at(0, 1, 0), function)]);
    let (list, sound) = capabilities(&fake, at(0, 1, 0));
    assert!(!sound);
    assert_eq!(list.iter().map(|c| (c.id, c.offset)).collect::<Vec<_>>(), [(0x10, 0xa0), (5, 0x50)]);
    for start in [0x04, 0x3c, 0xfc] {
        let mut function = endpoint(1, 1);
        function.bytes[0x34] = start;
        function.bytes[0xfd] = 0xfc;
        let fake = Fake::new(vec![(at(0, 1, 0), function)]);
        assert!(!capabilities(&fake, at(0, 1, 0)).1, "start {start:#x}");
    }
    let tree = scan(&fake);
    assert_eq!(tree.findings[0].reason, "capability list is broken, read as far as it goes");
}

#[test]
fn extended_lists_that_loop_or_lead_down_end() {
    for (next, sound) in [(0x100u32, false), (0x0f0, false), (0xffc, false), (0x200, false), (0, true)] {
        let mut function = endpoint(1, 1).ext(0x0f, 0x100, &[]).ext(0x1b, 0x140, &[]);
        function.put(0x140, 4, 0x1b | 1 << 16 | next << 20);
        let fake = Fake::new(vec![(at(0, 1, 0), function)]);
        let (list, got) = extended_capabilities(&fake, at(0, 1, 0));
        assert_eq!((got, list.len()), (sound, 2), "next {next:#x}");
    }
    let all_ones = {
        let mut function = endpoint(1, 1);
        function.bytes[0x100..].fill(0xff);
        Fake::new(vec![(at(0, 1, 0), function)])
    };
    assert_eq!(extended_capabilities(&all_ones, at(0, 1, 0)), (vec![], true));
}

#[test]
fn capabilities_are_decoded() {
    let function = endpoint(0x8086, 0x10c9)
        .cap(5, 0x50, &[0x86, 0x01]) // 8 vectors, 64 bit, maskable
        .cap(0x11, 0x70, &[9, 0x80, 3, 0x20, 0, 0, 3, 0x30, 0, 0])
        .ext(0x0d, 0x148, &[0x5f, 0, 0x1d, 0])
        .ext(0x0e, 0x150, &[0, 0])
        .ext(0x10, 0x160, &[0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 8, 0, 3, 0, 0, 0, 0x80, 0, 2, 0, 0, 0, 0xca, 0x10])
        .ext(0x0f, 0x1a0, &[])
        .ext(0x1b, 0x1b0, &[]);
    let tree = scan(&Fake::new(vec![(at(1, 0, 0), function)]));
    let card = &tree.functions[0];
    let messages = card.messages;
    assert_eq!(
        (messages.msi, messages.msi_vectors, messages.msi_wide, messages.msi_maskable),
        (Some(0x50), 8, true, true)
    );
    let msix = messages.msix.unwrap();
    assert_eq!((msix.capability, msix.vectors, msix.bar, msix.offset), (0x70, 10, 3, 0x2000));
    assert_eq!((msix.pending_bar, msix.pending_offset), (3, 0x3000));
    let acs = card.acs.unwrap();
    assert_eq!((acs.offset, acs.capable, acs.enabled, acs.isolates()), (0x148, 0x5f, 0x1d, true));
    let vfs = card.sriov.unwrap();
    assert_eq!((vfs.enabled, vfs.total, vfs.count, vfs.first, vfs.stride, vfs.device), (true, 8, 3, 128, 2, 0x10ca));
    assert_eq!(vfs.streams(card.stream).collect::<Vec<_>>(), [at(1, 16, 0), at(1, 16, 2), at(1, 16, 4)]);
    assert_eq!(tree.physical_function(at(1, 16, 2)), Some(at(1, 0, 0)));
    assert_eq!(tree.physical_function(at(1, 16, 1)), None);
    assert_eq!((card.ari, card.ats, card.pasid), (Some(0x150), Some(0x1a0), Some(0x1b0)));
    assert_eq!(card.express.unwrap().port, PortType::Endpoint);
    assert_eq!(
        line(card),
        "01:00.0 Ethernet controller [0200]: 8086:10c9 (rev 01), MSI, MSI-X 10, FLR, ACS, SR-IOV, ATS, PASID, ARI"
    );
}

#[test]
fn an_msix_table_in_a_bar_that_cannot_be_is_none() {
    let fake = Fake::new(vec![(at(0, 1, 0), endpoint(1, 1).cap(0x11, 0x70, &[0, 0, 7, 0, 0, 0, 0, 0, 0, 0]))]);
    assert_eq!(scan(&fake).functions[0].messages.msix, None);
}

fn grouped(fake: &Fake, acs: bool) -> Vec<(Vec<String>, Vec<String>)> {
    let mut tree = scan(fake);
    if acs {
        for function in &mut tree.functions {
            enable_acs(fake, function);
        }
    }
    let words = |group: Group| {
        let members = group.members.iter().map(|m| format!("{:02x}:{:02x}.{}", m.bus(), m.devfn() >> 3, m.devfn() & 7));
        (members.collect(), group.reasons.iter().map(ToString::to_string).collect())
    };
    groups(&tree).into_iter().map(words).collect()
}

fn want(groups: &[(&[&str], &[&str])]) -> Vec<(Vec<String>, Vec<String>)> {
    let own = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    groups.iter().map(|(members, reasons)| (own(members), own(reasons))).collect()
}

#[test]
fn one_endpoint_per_port_with_acs_is_a_group_of_its_own() {
    let fake = || {
        Fake::new(vec![
            (at(0, 2, 0), port(4, 0, 1, 1).acs(0x148, 0x5f)),
            (at(0, 3, 0), Function::new(0x1234, 0x11e8, 0xff00)),
            (at(1, 0, 0), endpoint(0x8086, 0x10c9)),
        ])
    };
    let isolated: &[&str] = &["isolated"];
    assert_eq!(
        grouped(&fake(), true),
        want(&[(&["00:02.0"], isolated), (&["00:03.0"], isolated), (&["01:00.0"], isolated)])
    );
    // The red twin: the capability is there but nobody switched it on.
    assert_eq!(
        grouped(&fake(), false),
        want(&[(&["00:02.0", "01:00.0"], &["port 0000:00:02.0 has no ACS"]), (&["00:03.0"], isolated)])
    );
}

#[test]
fn functions_of_one_device_without_acs_share_a_group() {
    let fake = Fake::new(vec![
        (at(0, 0x1f, 0), endpoint(1, 1).multi()),
        (at(0, 0x1f, 2), endpoint(1, 2)),
        (at(0, 0x1f, 3), endpoint(1, 3).acs(0x100, 0x1d)),
    ]);
    assert_eq!(
        grouped(&fake, true),
        want(&[
            (&["00:1f.0", "00:1f.2"], &["device 0000:00:1f.0 has several functions and no ACS"]),
            (&["00:1f.3"], &["isolated"])
        ])
    );
}

#[test]
fn a_switch_port_without_acs_joins_everything_below_the_topmost_such_port() {
    let fake = Fake::new(vec![
        (at(0, 1, 0), port(4, 0, 1, 4).acs(0x148, 0x1d)),
        (at(1, 0, 0), port(5, 1, 2, 4)),
        (at(2, 0, 0), port(6, 2, 3, 3)),
        (at(2, 1, 0), port(6, 2, 4, 4).acs(0x148, 0x1d)),
        (at(3, 0, 0), endpoint(1, 1)),
        (at(4, 0, 0), endpoint(1, 2)),
    ]);
    let isolated: &[&str] = &["isolated"];
    assert_eq!(
        grouped(&fake, true),
        want(&[
            (&["00:01.0"], isolated),
            (&["01:00.0"], isolated),
            (&["02:00.0", "03:00.0"], &["port 0000:02:00.0 has no ACS"]),
            (&["02:01.0"], isolated),
            (&["04:00.0"], isolated),
        ])
    );
}

#[test]
fn everything_behind_a_conventional_bridge_is_one_requester() {
    let conventional = || Function::new(1, 1, 0x06_0401).bridge(0, 1, 1);
    let fake = Fake::new(vec![
        (at(0, 1, 0), conventional()),
        (at(1, 3, 0), Function::new(1, 2, 0)),
        (at(1, 4, 0), Function::new(1, 3, 0)),
        (at(0, 5, 0), port(7, 0, 5, 5)),
        (at(5, 2, 0), Function::new(1, 4, 0)),
    ]);
    assert_eq!(
        grouped(&fake, true),
        want(&[
            (&["00:01.0", "01:03.0", "01:04.0"], &["bridge 0000:00:01.0 makes all behind it one requester"]),
            (&["00:05.0", "05:02.0"], &["bridge 0000:00:05.0 makes all behind it one requester"]),
        ])
    );
    let tree = scan(&fake);
    assert_eq!(tree.aliases(at(1, 3, 0)), [at(1, 3, 0), at(0, 1, 0)], "a conventional bridge uses its own id");
    assert_eq!(tree.aliases(at(5, 2, 0)), [at(5, 2, 0), at(5, 0, 0)], "a PCI Express bridge uses the bus behind it");
    assert_eq!(tree.aliases(at(0, 1, 0)), [at(0, 1, 0)]);
}
