//! From capability registers to decisions: one [`Features`] struct, edited by quirks in one table (rule `caps-decide`).

use crate::UnitConfig;
use crate::spec::regs::{Cap, Ecap, TTM_LEGACY, TTM_SCALABLE};
use alloc::vec::Vec;
use iommu_types::{DirtyRule, Error, Features, PageSizes, TableKind};

/// What the unit is and how it will be used.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub scalable: bool,
    pub features: Features,
    pub quirks: Vec<&'static str>,
}

/// A deviation of one platform, and what it changes.
struct QuirkEntry {
    name: &'static str,
    matches: fn(&UnitConfig, &Features) -> bool,
    edit: fn(&mut Features),
}

/// OEM id of the tables that QEMU builds.
const QEMU: [u8; 6] = *b"BOCHS ";

/// Names of the quirks that [`UnitConfig::quirks_off`] understands.
///
/// * `qemu-fs-ad`: QEMU's first stage updates A and D although ECAP.SMPWC is 0, and never sets D in a page that was read
///   before it was written: tracking is allowed, by accessed-or-dirty.
/// * `qemu-ad-store`: that update is a plain store, which can bring an entry back that was just unmapped: after the flush
///   the range is read again, zeroed, flushed again.
pub const QUIRKS: &[&str] = &[TABLE[0].name, TABLE[1].name];

const TABLE: &[QuirkEntry] = &[
    QuirkEntry {
        name: "qemu-fs-ad",
        matches: |config, features| config.oem_id == QEMU && features.table == TableKind::X86FirstStage,
        edit: |features| {
            features.dirty = DirtyRule::AccessedOrDirty { accessed: 5, dirty: 6 };
            features.dirty_missing = "";
        },
    },
    QuirkEntry {
        name: "qemu-ad-store",
        matches: |config, features| config.oem_id == QEMU && features.table == TableKind::X86FirstStage,
        edit: |features| features.ad_plain_store = true,
    },
];

/// Refuses capability registers that cannot be.
pub(crate) fn validate(config: &UnitConfig, version: u32, cap: Cap, ecap: Ecap) -> Result<(), Error> {
    let impossible = |register, value| Err(Error::Impossible { unit: config.id, register, value });
    if version == u32::MAX || version >> 4 & 0xf == 0 {
        return impossible("VER", version.into());
    }
    let (raw_cap, raw_ecap) = (cap.into_bits(), ecap.into_bits());
    if raw_cap == u64::MAX || cap.nd() == 7 {
        return impossible("CAP", raw_cap);
    }
    // Offsets are in units of 16 bytes; nothing that the driver uses lies below 0xa0.
    let records = usize::from(cap.fro()) * 16;
    if records < 0xa0 || records + (usize::from(cap.nfr()) + 1) * 16 > config.window {
        return impossible("CAP", raw_cap);
    }
    if cap.sagaw() != 0 && cap.mgaw() < 29 {
        return impossible("CAP", raw_cap);
    }
    if raw_ecap == u64::MAX || usize::from(ecap.iro()) * 16 + 16 > config.window {
        return impossible("ECAP", raw_ecap);
    }
    if !ecap.qi() {
        return Err(Error::Unsupported("queued invalidation: ECAP.QI (bit 1)"));
    }
    Ok(())
}

/// Levels of the second stage: 4 if possible, else 3, else 5.
fn second_stage_levels(cap: Cap) -> Option<u8> {
    [4u8, 3, 5].into_iter().find(|levels| cap.sagaw() >> (levels - 2) & 1 != 0)
}

fn features(config: &UnitConfig, cap: Cap, ecap: Ecap, scalable: bool, table: TableKind) -> Option<Features> {
    let first = table == TableKind::X86FirstStage;
    let possible = match (scalable, first) {
        (true, true) => ecap.smts() && ecap.fsts(),
        (true, false) => ecap.smts() && ecap.ssts(),
        (false, first) => !first,
    };
    if !possible {
        return None;
    }
    let levels = if first { 4 } else { second_stage_levels(cap)? };
    let mut sizes = PageSizes::ONLY_4K;
    let (two_megs, one_gig) = if first { (true, cap.fs1gp()) } else { (cap.sslps() & 1 != 0, cap.sslps() & 2 != 0) };
    sizes.0 |= u64::from(two_megs) << 21 | u64::from(one_gig) << 30;
    // First-stage addresses are canonical: half of the table is out of a device's reach from below.
    let iova_bits = if first { 47 } else { (12 + 9 * levels).min(cap.mgaw() + 1) };
    let (dirty, dirty_missing) = match (scalable, first) {
        (false, _) => (DirtyRule::None, "scalable mode: ECAP.SMTS (bit 43)"),
        (true, true) if !ecap.smpwc() => (DirtyRule::None, "ECAP.SMPWC (bit 48)"),
        (true, true) => (DirtyRule::Bit(6), ""),
        (true, false) if !ecap.ssads() => (DirtyRule::None, "ECAP.SSADS (bit 45)"),
        // An A/D update through a walk that is not snooped is a fatal error of the unit.
        (true, false) if !ecap.smpwc() => (DirtyRule::None, "ECAP.SMPWC (bit 48)"),
        (true, false) => (DirtyRule::Bit(9), ""),
    };
    Some(Features {
        table,
        levels,
        iova_bits,
        phys_bits: config.phys_bits.clamp(32, 52),
        page_sizes: sizes,
        coherent_walk: if scalable { ecap.smpwc() } else { ecap.coherent() },
        domain_ids: 1 << (4 + 2 * u32::from(cap.nd())),
        caches_absent: cap.cm(),
        write_buffer: cap.rwbf(),
        snoop_control: ecap.sc(),
        dirty,
        dirty_missing,
        interrupt_remap: ecap.ir(),
        ad_plain_store: false,
    })
}

fn quirked(config: &UnitConfig, mut features: Features) -> (Features, Vec<&'static str>) {
    let mut applied = Vec::new();
    for quirk in TABLE {
        if (quirk.matches)(config, &features) && !config.quirks_off.contains(&quirk.name) {
            (quirk.edit)(&mut features);
            applied.push(quirk.name);
        }
    }
    (features, applied)
}

/// Chooses mode and table: one that tracks writes first, then second stage, first stage, legacy.
///
/// `entry_mode`: the TTM field that translation is on with now and that must be kept.
pub(crate) fn decide(config: &UnitConfig, cap: Cap, ecap: Ecap, entry_mode: Option<u8>) -> Result<Plan, Error> {
    let candidates =
        [(true, TableKind::VtdSecondStage), (true, TableKind::X86FirstStage), (false, TableKind::VtdSecondStage)];
    let mut best: Option<Plan> = None;
    for (scalable, table) in candidates {
        if config.table.is_some_and(|wanted| wanted != table)
            || entry_mode.is_some_and(|mode| mode != if scalable { TTM_SCALABLE } else { TTM_LEGACY })
        {
            continue;
        }
        let Some(raw) = features(config, cap, ecap, scalable, table) else { continue };
        let (features, quirks) = quirked(config, raw);
        let tracks = features.dirty != DirtyRule::None;
        if best.as_ref().is_none_or(|best| tracks && best.features.dirty == DirtyRule::None) {
            best = Some(Plan { scalable, features, quirks });
        }
    }
    best.ok_or(Error::Unsupported("no usable table: CAP.SAGAW (bits 12:8), ECAP.SSTS (bit 46), ECAP.FSTS (bit 47)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use iommu_types::UnitId;

    const CAP_LEGACY: u64 = 0x00d2_008c_222f_0606;
    const CAP_FLTS: u64 = 0x01d2_008c_222f_0606;

    fn plan(cap: u64, ecap: u64, edit: impl Fn(&mut UnitConfig)) -> Result<Plan, Error> {
        let mut config = UnitConfig::new(UnitId(0), "vtd0");
        config.oem_id = *b"BOCHS ";
        edit(&mut config);
        validate(&config, 0x10, Cap::from_bits(cap), Ecap::from_bits(ecap))?;
        decide(&config, Cap::from_bits(cap), Ecap::from_bits(ecap), None)
    }

    #[test]
    fn qemu_profiles_become_what_they_are() {
        let legacy = plan(CAP_LEGACY, 0xf42, |_| {}).unwrap();
        assert!(!legacy.scalable && legacy.quirks.is_empty());
        assert_eq!((legacy.features.table, legacy.features.levels), (TableKind::VtdSecondStage, 4));
        assert_eq!(legacy.features.domain_ids, 65536);
        assert_eq!(legacy.features.dirty_missing, "scalable mode: ECAP.SMTS (bit 43)");

        let narrow = plan(0x00d2_008c_2226_0206 | 1 << 7, 0xf42, |_| {}).unwrap();
        assert_eq!((narrow.features.levels, narrow.features.iova_bits), (3, 39));
        assert!(narrow.features.caches_absent);

        let second = plan(CAP_LEGACY, 0x4800_8000_0f42, |_| {}).unwrap();
        assert!(second.scalable && second.features.table == TableKind::VtdSecondStage);
        assert_eq!(second.features.dirty_missing, "ECAP.SSADS (bit 45)");

        let first = plan(CAP_FLTS, 0x8800_8000_0f42, |_| {}).unwrap();
        assert!(first.scalable && !first.features.coherent_walk && first.features.ad_plain_store);
        assert_eq!(first.features.table, TableKind::X86FirstStage);
        assert_eq!(first.features.dirty, DirtyRule::AccessedOrDirty { accessed: 5, dirty: 6 });
        assert_eq!(first.quirks, QUIRKS);
        assert!(first.features.page_sizes.has(1 << 30));
    }

    #[test]
    fn first_stage_without_smpwc_tracks_only_on_qemu() {
        for edit in
            [(|c: &mut UnitConfig| c.oem_id = *b"INTEL ") as fn(&mut UnitConfig), |c| c.quirks_off.push("qemu-fs-ad")]
        {
            let plan = plan(CAP_FLTS, 0x8800_8000_0f42, edit).unwrap();
            assert_eq!(plan.features.dirty, DirtyRule::None);
            assert_eq!(plan.features.dirty_missing, "ECAP.SMPWC (bit 48)");
        }
    }

    #[test]
    fn tracking_needs_both_capabilities() {
        const SS: u64 = 1 << 43 | 1 << 46 | 0xf42;
        for (bits, dirty) in [
            (0, DirtyRule::None),
            (1 << 45, DirtyRule::None),
            (1 << 48, DirtyRule::None),
            (1 << 45 | 1 << 48, DirtyRule::Bit(9)),
        ] {
            assert_eq!(plan(CAP_LEGACY, SS | bits, |c| c.oem_id = [0; 6]).unwrap().features.dirty, dirty);
        }
    }

    #[test]
    fn the_table_that_tracks_wins() {
        let both = 1 << 43 | 1 << 46 | 1 << 47 | 1 << 48 | 0xf42;
        let chosen = plan(CAP_FLTS, both, |c| c.oem_id = [0; 6]).unwrap();
        assert_eq!((chosen.features.table, chosen.features.dirty), (TableKind::X86FirstStage, DirtyRule::Bit(6)));
        let chosen = plan(CAP_FLTS, both | 1 << 45, |c| c.oem_id = [0; 6]).unwrap();
        assert_eq!(chosen.features.table, TableKind::VtdSecondStage);
    }

    #[test]
    fn impossible_registers_are_refused_by_name() {
        let refused = |cap: u64, ecap: u64| plan(cap, ecap, |_| {}).unwrap_err();
        assert!(matches!(refused(u64::MAX, 0xf42), Error::Impossible { register: "CAP", value: u64::MAX, .. }));
        assert!(matches!(refused(CAP_LEGACY | 7, 0xf42), Error::Impossible { register: "CAP", .. }));
        assert!(matches!(refused(CAP_LEGACY | 0x3ff << 24, 0xf42), Error::Impossible { register: "CAP", .. }));
        assert!(matches!(refused(CAP_LEGACY, 0x3ff42), Error::Impossible { register: "ECAP", .. }));
        assert!(matches!(refused(CAP_LEGACY, 0xf40), Error::Unsupported(what) if what.contains("QI")));
        assert!(matches!(refused(CAP_LEGACY & !0x1f00, 0xf42), Error::Unsupported(what) if what.contains("SAGAW")));
        let config = UnitConfig::new(UnitId(0), "vtd0");
        for version in [0, u32::MAX] {
            let got = validate(&config, version, Cap::from_bits(CAP_LEGACY), Ecap::from_bits(0xf42));
            assert!(matches!(got, Err(Error::Impossible { register: "VER", .. })));
        }
    }
}
