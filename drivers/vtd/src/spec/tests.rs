//! Every layout against (msb, lsb, value) triples typed from the figures (rule `spec-triples`).

use super::context::{LegacyContext, RootEntry, ScalableContext};
use super::fault::{Record, reason};
use super::pasid::{DirectoryEntry, PasidHigh, PasidLow, Pgtt};
use super::queue::{ContextInvalidate, IotlbInvalidate, PasidCacheInvalidate, PasidIotlbInvalidate, Wait};
use super::regs::{Cap, Ecap, FaultStatus, QueueAddress, RootAddress, global};
use iommu_types::FaultReason;

fn bits(triples: &[(u32, u32, u128)]) -> u128 {
    triples.iter().fold(0, |all, (msb, lsb, value)| {
        assert!(msb - lsb == 127 || value >> (msb - lsb + 1) == 0, "{value:#x} does not fit {msb}:{lsb}");
        all | value << lsb
    })
}

fn b64(triples: &[(u32, u32, u128)]) -> u64 {
    u64::try_from(bits(triples)).unwrap()
}

#[test]
fn root_and_context_entries_match_the_figures() {
    // 9.1, 9.2
    let root = RootEntry::new().with_present(true).with_frame(0x1234);
    assert_eq!(root.into_bits(), b64(&[(0, 0, 1), (63, 12, 0x1234)]));
    // 9.3
    let legacy = LegacyContext::new().with_present(true).with_table(0xabcde).with_width(2).with_domain(0x8001);
    assert_eq!(legacy.into_bits(), bits(&[(0, 0, 1), (63, 12, 0xabcde), (66, 64, 2), (87, 72, 0x8001)]));
    let legacy = LegacyContext::new().with_fault_disable(true).with_translation(2);
    assert_eq!(legacy.into_bits(), bits(&[(1, 1, 1), (3, 2, 2)]));
    // 9.4
    let scalable = ScalableContext::new().with_present(true).with_device_tlb(true).with_pasid_enable(true);
    let scalable =
        scalable.with_page_request(true).with_directory_size(2).with_directory(0x77).with_rid_pasid(0xf_ffff);
    let want = [(0, 0, 1), (2, 2, 1), (3, 3, 1), (4, 4, 1), (11, 9, 2), (63, 12, 0x77), (83, 64, 0xf_ffff)];
    assert_eq!(scalable.into_bits(), bits(&want));
}

#[test]
fn pasid_entries_match_the_figures() {
    // 9.5
    let entry = DirectoryEntry::new().with_present(true).with_fault_disable(true).with_table(0x55);
    assert_eq!(entry.into_bits(), b64(&[(0, 0, 1), (1, 1, 1), (63, 12, 0x55)]));
    // 9.6
    let low = PasidLow::new().with_present(true).with_width(2).with_translation(Pgtt::SECOND_STAGE.0);
    let low =
        low.with_ss_ad_enable(true).with_ss_table(0x1234).with_domain(7).with_walk_snoop(true).with_page_snoop(true);
    let want = [(0, 0, 1), (4, 2, 2), (8, 6, 2), (9, 9, 1), (63, 12, 0x1234), (79, 64, 7), (87, 87, 1), (88, 88, 1)];
    assert_eq!(low.into_bits(), bits(&want));
    let high = PasidHigh::new().with_supervisor(true).with_fs_mode(1).with_write_protect(true).with_fs_table(0x4321);
    // Typed with the figure's bit numbers, less 128.
    let want = [(128 - 128, 0, 1), (131 - 128, 130 - 128, 1), (132 - 128, 4, 1), (191 - 128, 140 - 128, 0x4321)];
    assert_eq!(high.into_bits(), bits(&want));
}

#[test]
fn descriptors_match_the_figures() {
    // 6.5.2.1
    let context = ContextInvalidate::new().with_kind(1).with_granularity(3).with_domain(5).with_source(0x20);
    assert_eq!(
        context.with_function_mask(3).into_bits(),
        bits(&[(3, 0, 1), (5, 4, 3), (31, 16, 5), (47, 32, 0x20), (49, 48, 3)])
    );
    // 6.5.2.2
    let pasid = PasidCacheInvalidate::new().with_kind(7).with_granularity(1).with_domain(5).with_pasid(0xabcde);
    assert_eq!(pasid.into_bits(), bits(&[(3, 0, 7), (5, 4, 1), (31, 16, 5), (51, 32, 0xabcde)]));
    // 6.5.2.3
    let iotlb = IotlbInvalidate::new().with_kind(2).with_granularity(3).with_drain_writes(true).with_drain_reads(true);
    let iotlb = iotlb.with_domain(5).with_mask(9).with_leaf_only(true).with_frame(0x200);
    let want = [(3, 0, 2), (5, 4, 3), (6, 6, 1), (7, 7, 1), (31, 16, 5), (69, 64, 9), (70, 70, 1), (127, 76, 0x200)];
    assert_eq!(iotlb.into_bits(), bits(&want));
    // 6.5.2.4
    let piotlb = PasidIotlbInvalidate::new().with_kind(6).with_granularity(3).with_domain(5).with_pasid(3);
    let piotlb = piotlb.with_mask(9).with_leaf_only(true).with_frame(0x200);
    let want = [(3, 0, 6), (5, 4, 3), (31, 16, 5), (51, 32, 3), (69, 64, 9), (70, 70, 1), (127, 76, 0x200)];
    assert_eq!(piotlb.into_bits(), bits(&want));
    // 6.5.2.8
    let wait = Wait::new().with_kind(5).with_interrupt(true).with_status_write(true).with_fence(true).with_drain(true);
    let wait = wait.with_status(0x1234_5678).with_address(0x400);
    let want = [(3, 0, 5), (4, 4, 1), (5, 5, 1), (6, 6, 1), (7, 7, 1), (63, 32, 0x1234_5678), (127, 66, 0x400)];
    assert_eq!(wait.into_bits(), bits(&want));
}

#[test]
fn registers_match_the_figures() {
    // 11.4.2, with the value of an emulated unit decoded by hand.
    let cap = Cap::from_bits(0x01d2_008c_222f_0686);
    assert_eq!((cap.nd(), cap.sagaw(), cap.mgaw(), cap.fro()), (6, 0b0_0110, 47, 0x22));
    assert_eq!((cap.sslps(), cap.nfr(), cap.mamv()), (3, 0, 18));
    assert!(cap.cm() && cap.psi() && cap.dwd() && cap.drd() && cap.fs1gp() && !cap.rwbf() && !cap.plmr());
    let want = b64(&[(2, 0, 6), (4, 4, 1), (5, 5, 1), (6, 6, 1), (22, 22, 1), (59, 59, 1), (60, 60, 1), (63, 63, 1)]);
    let cap = Cap::new().with_nd(6).with_rwbf(true).with_plmr(true).with_phmr(true).with_zlr(true);
    assert_eq!(cap.with_pi(true).with_fs5lp(true).with_esrtps(true).into_bits(), want);
    // 11.4.3
    let ecap = Ecap::new().with_coherent(true).with_qi(true).with_sc(true).with_iro(0xf).with_nest(true).with_pss(19);
    let ecap = ecap.with_pasid(true).with_smts(true).with_ssads(true).with_ssts(true).with_fsts(true);
    let want = b64(&[
        (0, 0, 1),
        (1, 1, 1),
        (7, 7, 1),
        (17, 8, 0xf),
        (26, 26, 1),
        (39, 35, 19),
        (40, 40, 1),
        (43, 43, 1),
        (45, 45, 1),
        (46, 46, 1),
        (47, 47, 1),
        (48, 48, 1),
        (49, 49, 1),
        (52, 52, 1),
    ]);
    assert_eq!(ecap.with_smpwc(true).with_rps(true).with_adms(true).into_bits(), want);
    // 11.4.5, 11.4.9.3, 11.4.7.1, 11.4.4
    assert_eq!(RootAddress::new().with_mode(1).with_frame(9).into_bits(), b64(&[(11, 10, 1), (63, 12, 9)]));
    let queue = QueueAddress::new().with_size(1).with_wide(true).with_frame(9);
    assert_eq!(queue.into_bits(), b64(&[(2, 0, 1), (11, 11, 1), (63, 12, 9)]));
    let status = FaultStatus::new().with_overflow(true).with_pending(true).with_queue_error(true);
    let status = status.with_completion_error(true).with_timeout_error(true).with_index(3);
    assert_eq!(status.into_bits(), 1 | 1 << 1 | 1 << 4 | 1 << 5 | 1 << 6 | 3 << 8);
    assert_eq!(global::LASTING, 1 << 31 | 1 << 28 | 1 << 26 | 1 << 25 | 1 << 23);
    assert_eq!((global::ROOT_POINTER, global::WRITE_BUFFER), (1 << 30, 1 << 27));
}

#[test]
fn fault_records_match_the_figure() {
    // 11.4.7.5
    let record = Record::from_bits(bits(&[
        (63, 12, 0x1000),
        (79, 64, 0x20),
        (92, 92, 1),
        (95, 95, 1),
        (103, 96, 0x71),
        (123, 104, 0xabcde),
        (126, 126, 1),
        (127, 127, 1),
    ]));
    assert_eq!((record.frame(), record.source(), record.reason()), (0x1000, 0x20, 0x71));
    assert_eq!((record.pasid(), record.has_pasid()), (0xabcde, true));
    assert!(record.type1() && record.type2() && record.valid() && !record.execute() && !record.privileged());
}

#[test]
fn every_reason_code_has_words_and_a_kind() {
    let known = [0x01..=0x0d, 0x20..=0x28, 0x30..=0x32, 0x38..=0x3a, 0x40..=0x48, 0x50..=0x52, 0x58..=0x5d];
    let known = known.into_iter().chain([0x70..=0x7c, 0x80..=0x87, 0x90..=0x91]).flatten();
    for code in known {
        let (kind, words) = reason(code);
        assert!(kind != FaultReason::Other && words.len() > 10, "{code:#x}");
    }
    assert_eq!(reason(0xff).0, FaultReason::Other);
    assert_eq!(reason(0x02).0, FaultReason::Blocked);
    assert_eq!(reason(0x71).0, FaultReason::NotPresent);
    assert_eq!(reason(0x85).0, FaultReason::Permission);
}
