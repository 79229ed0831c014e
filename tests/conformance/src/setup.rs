//! The machines that every scenario runs on.

use iommu_types::TableKind;
use soft_iommu::vtd::{Caps, Config, Policy, Quirks};

/// One machine: a unit and the choices of its owner.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Its name in failures.
    pub name: &'static str,
    /// The unit.
    pub config: Config,
    /// OEM id of the DMAR table: quirks match on it.
    pub oem: [u8; 6],
    /// The table the driver must use.
    pub table: Option<TableKind>,
    /// Quirks not to be applied.
    pub quirks_off: Vec<&'static str>,
    /// Hide from the walker what was not published.
    pub stale: bool,
    /// Writes can be tracked.
    pub tracks: bool,
    /// A second unit; see [`Setup::second`].
    pub second: Option<Caps>,
    /// Red twin: descriptors of these types are ignored (bit n: type n).
    pub swallow: u16,
    /// Red twin: publishing has no effect.
    pub swallow_publish: bool,
}

impl Setup {
    /// A machine whose walks are snooped.
    pub fn new(name: &'static str, caps: Caps) -> Self {
        Self {
            name,
            config: Config::new(caps),
            oem: *b"PORTOL",
            table: None,
            quirks_off: Vec::new(),
            stale: !caps.coherent || caps.rwbf || (caps.scalable && !caps.smpwc),
            tracks: caps.smpwc && (caps.ssads || caps.first_stage),
            second: None,
            swallow: 0,
            swallow_publish: false,
        }
    }
    /// The same with another cache policy.
    pub fn policy(mut self, policy: Policy) -> Self {
        self.config.policy = policy;
        self
    }
    /// The same with a second unit of those capabilities: devices with an odd number are behind the second.
    pub fn second(mut self, caps: Caps) -> Self {
        self.second = Some(caps);
        self
    }
    /// PASIDs can be attached.
    pub fn pasids(&self) -> bool {
        self.config.caps.scalable && self.config.caps.pasid_bits > 0
    }
    /// QEMU 10.0 with first-stage tables and all it does differently.
    pub fn qemu_fs() -> Self {
        let quirks = Quirks { fs_ad: true, ad_store: true, pasid_in_context: true, compress_faults: true };
        let mut setup = Self::new("qemu-fs", Caps::qemu_fs());
        setup.config.quirks = quirks;
        setup.oem = *b"BOCHS ";
        setup.tracks = true;
        setup
    }
}

/// Every machine.
pub fn setups() -> Vec<Setup> {
    let (legacy, ss, fs) = (Caps::legacy(), Caps::scalable_ss(), Caps::scalable_fs());
    let mut both = Setup::new("sm-both-ss", Caps { first_stage: true, ..ss });
    both.table = Some(TableKind::VtdSecondStage);
    let mut both_fs = Setup::new("sm-both-fs", Caps { first_stage: true, ..ss });
    both_fs.table = Some(TableKind::X86FirstStage);
    vec![
        Setup::new("legacy4", legacy),
        Setup::new("legacy3", Caps::legacy39()),
        Setup::new("legacy4-cm", Caps { caching_mode: true, ..legacy }),
        Setup::new("legacy3-cm", Caps { caching_mode: true, ..Caps::legacy39() }),
        Setup::new("legacy4-unsnooped", Caps { coherent: false, ..legacy }),
        Setup::new("legacy4-rwbf", Caps { rwbf: true, ..legacy }),
        Setup::new("legacy4-few-ids", Caps { nd: 0, ..legacy }),
        Setup::new("legacy4-no-large", Caps { sslps: 0, ..legacy }),
        Setup::new("legacy4-small-mask", Caps { mamv: 0, drain: false, ..legacy }),
        Setup::new("legacy4-no-psi", Caps { psi: false, ..legacy }),
        Setup::new("sm-ss", ss),
        Setup::new("sm-ss-cm", Caps { caching_mode: true, ..ss }),
        Setup::new("sm-ss-few-ids", Caps { nd: 0, ..ss }),
        Setup::new("sm-ss-structures-unsnooped", Caps { coherent: false, ..ss }),
        Setup::new("sm-ss-unsnooped", Caps { coherent: false, smpwc: false, ..ss }),
        Setup::new("sm-ss-no-ad", Caps { ssads: false, ..ss }),
        Setup::new("sm-fs", fs),
        Setup::new("sm-fs-cm", Caps { caching_mode: true, ..fs }),
        Setup::new("sm-fs-few-ids", Caps { nd: 0, ..fs }),
        Setup::new("sm-fs-no-1g", Caps { fs1gp: false, ..fs }),
        Setup::new("sm-fs-unsnooped", Caps { coherent: false, smpwc: false, ..fs }),
        both,
        both_fs,
        Setup::qemu_fs(),
        Setup::new("legacy4-two-units", legacy).second(legacy),
        Setup::new("legacy4-two-units-one-cm", legacy).second(Caps { caching_mode: true, ..legacy }),
        Setup::new("sm-ss-two-units", ss).second(ss),
        Setup::new("sm-fs-two-units-one-cm", fs).second(Caps { caching_mode: true, mamv: 2, ..fs }),
        Setup::new("sm-fs-two-units-cm", Caps { caching_mode: true, ..fs }).second(Caps { caching_mode: true, ..fs }),
    ]
}

/// Those with one unit: the stories that break a unit on purpose look at the first.
pub fn single_setups() -> Vec<Setup> {
    setups().into_iter().filter(|s| s.second.is_none()).collect()
}

/// Those that can track writes.
pub fn dirty_setups() -> Vec<Setup> {
    setups().into_iter().filter(|s| s.tracks).collect()
}
