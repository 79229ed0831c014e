//! Tables that were cut, bent or made at random: an answer, never a panic, never without end.

mod common;

use common::*;
use fw_tables::{Topology, parse_dmar, parse_mcfg};
use iommu_types::{Error, StreamId};
use proptest::prelude::*;

fn rich() -> Vec<u8> {
    dmar(
        46,
        7,
        &[
            drhd(0, 0, 0, 0xfed9_0000, &[scope(1, 0, 0, 0, &[(2, 0)]), scope(2, 0, 0, 0, &[(0x1c, 0), (1, 0)])]),
            drhd(1, 1, 0, 0xfed9_2000, &[scope(3, 0, 2, 0xf0, &[(0x1f, 0)]), scope(4, 0, 0, 0, &[(0xf, 0)])]),
            rmrr(0, 0x7b80_0000, 0x7fff_ffff, &[scope(1, 0, 0, 0, &[(2, 0)])]),
            atsr(0, 0, &[scope(2, 0, 0, 0, &[(0x1c, 0)])]),
            rhsa(0xfed9_0000, 1),
            andd(1, b"\\_SB.X\0"),
            satc(1, 0, &[scope(1, 0, 0, 0, &[(5, 0)])]),
            sidp(0, &[scope(1, 9, 0, 0, &[(6, 0)])]),
            unknown(9, 10),
        ],
    )
}

/// Reads, and asks every question of what was read.
fn digest(table: &[u8]) -> Result<Topology, Error> {
    let topology = parse_dmar(table)?;
    let tree = Tree { bridges: vec![(StreamId::pci(0, 0, 0x1c, 0), 0, 255)], ..Tree::default() };
    for stream in [StreamId::pci(0, 0, 2, 0), StreamId::pci(0, 1, 0, 0), StreamId::pci(1, 0, 0, 0)] {
        topology.unit_for(stream, &tree);
        topology.reserved_for(stream, &tree).count();
        topology.ats_allowed(stream, &tree);
    }
    topology.check_scopes(&tree);
    topology.ioapic(2, &tree);
    for region in &topology.reserved {
        assert!(region.range.first <= region.range.last);
    }
    Ok(topology)
}

#[test]
fn the_whole_table_has_no_finding() {
    let topology = digest(&rich()).unwrap();
    assert_eq!(topology.findings, []);
    assert_eq!(topology.notes.len(), 1);
}

#[test]
fn cut_at_every_byte_gives_an_answer() {
    let table = rich();
    for end in 0..table.len() {
        assert!(digest(&table[..end]).is_err(), "length field past the memory, cut at {end}");
        if end >= 48 {
            let mut sealed = table[..end].to_vec();
            seal(&mut sealed);
            let _ = digest(&sealed);
        }
    }
}

#[test]
fn every_length_field_may_be_anything() {
    let table = rich();
    let mut at = 48;
    let mut lengths = vec![(4, 4)];
    while at < table.len() {
        let length = usize::from(u16::from_le_bytes([table[at + 2], table[at + 3]]));
        lengths.push((at + 2, 2));
        // First scope of the structures that have any: its length byte.
        if let Some(fixed) = [(0, 16), (1, 24), (2, 8), (5, 8), (6, 8)].iter().find(|(kind, _)| *kind == table[at]) {
            lengths.push((at + fixed.1 + 1, 1));
        }
        at += length;
    }
    assert_eq!(lengths.len(), 1 + 9 + 6);
    for (at, width) in lengths {
        for value in [0u64, 1, 2, 3, 4, 5, 6, 7, u64::MAX] {
            let mut bent = table.clone();
            bent[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            if let Ok(topology) = digest(&bent) {
                assert!(!topology.findings.is_empty(), "length {value} at {at} went unnoticed");
            }
        }
    }
}

#[test]
fn every_byte_may_be_anything() {
    let table = rich();
    for at in 0..table.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bent = table.clone();
            bent[at] = value;
            let _ = digest(&bent);
        }
    }
}

fn config() -> ProptestConfig {
    // A failure prints its smallest input; PROPTEST_RNG_SEED repeats a run.
    ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = digest(&bytes);
        let _ = parse_mcfg(&bytes);
    }

    #[test]
    fn random_bytes_behind_a_right_header(body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let _ = digest(&dmar(46, 1, &[body]));
    }

    #[test]
    fn random_structures(
        parts in proptest::collection::vec((0u16..9, proptest::collection::vec(any::<u8>(), 0..60)), 0..12),
    ) {
        let structures: Vec<Vec<u8>> = parts
            .into_iter()
            .map(|(kind, body)| {
                let mut out = kind.to_le_bytes().to_vec();
                out.extend((body.len() as u16 + 4).to_le_bytes());
                out.extend(body);
                out
            })
            .collect();
        digest(&dmar(46, 1, &structures)).expect("lengths are right, so the walk ends at the end");
    }
}
