//! Machine profiles: which QEMU command line gives which board.

use crate::setup::Version;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// A board with a name. The first four are offered on the command line; the others are red twins for the tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// VT-d, scalable mode, first-stage tables.
    VtdFs,
    /// VT-d, scalable mode, second-stage tables.
    VtdSs,
    /// VT-d, legacy mode, 4-level second stage.
    VtdLegacy,
    /// VT-d, legacy mode, 39-bit (3-level) second stage, caching mode.
    VtdLegacy39,
    /// As `VtdFs`, but every device on the root bus bypasses the unit.
    VtdFsBypass,
    /// No IOMMU at all.
    NoIommu,
}

impl Profile {
    /// Those a user may ask for, the default first.
    pub const OFFERED: [Self; 4] = [Self::VtdFs, Self::VtdSs, Self::VtdLegacy, Self::VtdLegacy39];
    /// All.
    pub const ALL: [Self; 6] =
        [Self::VtdFs, Self::VtdSs, Self::VtdLegacy, Self::VtdLegacy39, Self::VtdFsBypass, Self::NoIommu];

    /// The word for `--machine`.
    pub fn name(self) -> &'static str {
        match self {
            Self::VtdFs => "vtd-fs",
            Self::VtdSs => "vtd-ss",
            Self::VtdLegacy => "vtd-legacy",
            Self::VtdLegacy39 => "vtd-legacy39",
            Self::VtdFsBypass => "vtd-fs-bypass",
            Self::NoIommu => "no-iommu",
        }
    }

    /// A line about it.
    pub fn about(self) -> &'static str {
        match self {
            Self::VtdFs => "VT-d, scalable mode, first-stage tables (dirty bits)",
            Self::VtdSs => "VT-d, scalable mode, second-stage tables",
            Self::VtdLegacy => "VT-d, legacy mode, 4-level second stage",
            Self::VtdLegacy39 => "VT-d, legacy mode, 3-level second stage, caching mode",
            Self::VtdFsBypass => "as vtd-fs, but the root bus bypasses the unit",
            Self::NoIommu => "no IOMMU",
        }
    }

    /// By name.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|profile| profile.name() == name)
    }

    /// Whether its IOMMU reports dirty pages.
    pub fn tracks(self) -> bool {
        self == Self::VtdFs
    }

    fn iommu(self, version: Version) -> Option<String> {
        // 11.1 renamed the experimental properties.
        let (scalable, first) =
            if version < Version(11, 1, 0) { ("x-scalable-mode", "x-flts") } else { ("scalable-mode", "fsts") };
        Some(match self {
            Self::VtdFs | Self::VtdFsBypass => format!("intel-iommu,{scalable}=on,{first}=on"),
            Self::VtdSs => format!("intel-iommu,{scalable}=on"),
            Self::VtdLegacy => "intel-iommu".to_owned(),
            Self::VtdLegacy39 => "intel-iommu,caching-mode=on,aw-bits=39".to_owned(),
            Self::NoIommu => return None,
        })
    }
}

/// One side of the Ethernet link between two machines.
#[derive(Clone, Debug)]
pub struct Link {
    /// Unix socket.
    pub socket: PathBuf,
    /// This side listens; the other connects, and goes on trying.
    pub listens: bool,
    /// Last byte of the card's MAC address.
    pub mac: u8,
}

/// How the igb's wire ends on the host: datagrams, one per frame.
#[derive(Clone, Debug)]
pub struct Wire {
    /// Socket that QEMU binds.
    pub qemu: PathBuf,
    /// Socket that the host side binds.
    pub host: PathBuf,
}

/// MAC address of the igb, on both machines: it is the same card before and after the move.
pub const CARD_MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 1, 1];
/// MAC address of the host side.
pub const HOST_MAC: [u8; 6] = [2, 0, 0, 0x77, 0, 0xFF];

/// Everything about one machine.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The board.
    pub profile: Profile,
    /// `-accel`
    pub accel: String,
    /// RAM.
    pub memory_mib: u32,
    /// `-kernel`
    pub kernel: PathBuf,
    /// `-initrd`
    pub initrd: PathBuf,
    /// Words of the kernel's command line; see docs/protocol.md.
    pub words: Vec<String>,
    /// The link card's cable; `None`: plugged into nothing.
    pub link: Option<Link>,
    /// The igb's cable; `None`: plugged into nothing.
    pub wire: Option<Wire>,
    /// Trace events (patterns), and the file they are written to.
    pub trace: Option<(Vec<String>, PathBuf)>,
    /// QMP socket for QEMU to listen on.
    pub qmp: Option<PathBuf>,
    /// The terminal is the serial port, rather than pipes.
    pub on_terminal: bool,
    /// Further arguments, at the end.
    pub extra: Vec<String>,
}

impl Machine {
    /// A machine with 512 MiB and nothing plugged in.
    pub fn new(profile: Profile, kernel: &Path, initrd: &Path) -> Self {
        Self {
            profile,
            accel: "tcg".to_owned(),
            memory_mib: 512,
            kernel: kernel.to_owned(),
            initrd: initrd.to_owned(),
            words: Vec::new(),
            link: None,
            wire: None,
            trace: None,
            qmp: None,
            on_terminal: false,
            extra: Vec::new(),
        }
    }

    /// Adds the `exec=` word for a first program; nothing may follow it.
    pub fn first_program<S: AsRef<str>>(&mut self, path: &str, args: impl IntoIterator<Item = S>) {
        self.words.push(format!("exec={}", percent(path)));
        self.words.extend(args.into_iter().map(|arg| percent(arg.as_ref())));
    }

    /// QEMU's arguments.
    pub fn args(&self, version: Version) -> Vec<String> {
        let mut args: Vec<String> = Vec::new();
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        let bypass = if self.profile == Profile::VtdFsBypass { ",default_bus_bypass_iommu=on" } else { "" };
        add("-machine", format!("q35{bypass}"));
        add("-accel", self.accel.clone());
        // The nested KVM of some hosts announces a capability MSR that it does not have.
        add("-cpu", if self.accel.starts_with("kvm") { "max,-arch-capabilities" } else { "max" }.to_owned());
        add("-smp", "1".to_owned());
        add("-m", self.memory_mib.to_string());
        add("-display", "none".to_owned());
        add("-kernel", self.kernel.display().to_string());
        add("-initrd", self.initrd.display().to_string());
        add("-append", self.words.join(" "));
        add("-device", "isa-debug-exit,iobase=0xf4,iosize=4".to_owned());
        if self.on_terminal {
            // Ctrl-C ends QEMU, Ctrl-A X as well; Ctrl-A C is QEMU's monitor.
            add("-chardev", "stdio,id=serial,mux=on,signal=on".to_owned());
            add("-mon", "chardev=serial,mode=readline".to_owned());
        } else {
            add("-chardev", "stdio,id=serial,signal=off".to_owned());
        }
        add("-serial", "chardev:serial".to_owned());
        if let Some(iommu) = self.profile.iommu(version) {
            add("-device", iommu);
        }
        add("-netdev", self.link.as_ref().map_or_else(|| unplugged("link"), link_backend));
        let mac = self.link.as_ref().map_or(1, |link| link.mac);
        // An option ROM would only cost time: nothing boots from the network.
        let translated = "disable-legacy=on,iommu_platform=on,romfile=";
        add("-device", format!("virtio-net-pci,netdev=link,mac=52:54:00:77:00:{mac:02x},{translated}"));
        add("-netdev", self.wire.as_ref().map_or_else(|| unplugged("card"), wire_backend));
        // Behind a root port: on the root bus the igb shows phantom virtual functions.
        add("-device", "pcie-root-port,id=port1,chassis=1,slot=1".to_owned());
        add("-device", format!("igb,bus=port1,netdev=card,mac={},romfile=", mac_text(CARD_MAC)));
        add("-device", "edu,dma_mask=0xffffffffffff".to_owned());
        if let Some((events, file)) = &self.trace {
            for event in events {
                add("-trace", event.clone());
            }
            add("-D", file.display().to_string());
        }
        if let Some(socket) = &self.qmp {
            add("-qmp", format!("unix:{},server=on,wait=off", socket.display()));
        }
        args.extend(["-nodefaults".to_owned(), "-no-reboot".to_owned()]);
        args.extend(self.extra.iter().cloned());
        args
    }
}

/// A cable that leads nowhere: a card without any backend draws a warning.
fn unplugged(id: &str) -> String {
    format!("user,id={id},restrict=on")
}

fn link_backend(link: &Link) -> String {
    let side = if link.listens { "server=on" } else { "server=off,reconnect-ms=100" };
    format!("stream,id=link,{side},addr.type=unix,addr.path={}", link.socket.display())
}

fn wire_backend(wire: &Wire) -> String {
    let Wire { qemu, host } = wire;
    format!(
        "dgram,id=card,local.type=unix,local.path={},remote.type=unix,remote.path={}",
        qemu.display(),
        host.display()
    )
}

fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Writes what cannot stand in a word of the command line as `%HH`.
pub fn percent(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_graphic() && byte != b'%' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(profile: Profile, version: Version) -> String {
        Machine::new(profile, Path::new("/k"), Path::new("/i")).args(version).join(" ")
    }

    #[test]
    fn profiles_select_the_units_mode() {
        let v = Version(10, 0, 2);
        assert!(args(Profile::VtdFs, v).contains("-device intel-iommu,x-scalable-mode=on,x-flts=on "));
        assert!(args(Profile::VtdSs, v).contains("-device intel-iommu,x-scalable-mode=on "));
        assert!(args(Profile::VtdLegacy, v).contains("-device intel-iommu "));
        assert!(args(Profile::VtdLegacy39, v).contains("-device intel-iommu,caching-mode=on,aw-bits=39 "));
        assert!(!args(Profile::NoIommu, v).contains("intel-iommu"));
        assert!(args(Profile::VtdFsBypass, v).contains("-machine q35,default_bus_bypass_iommu=on "));
    }

    #[test]
    fn property_names_follow_the_version() {
        assert!(args(Profile::VtdFs, Version(11, 1, 0)).contains("intel-iommu,scalable-mode=on,fsts=on "));
        assert!(args(Profile::VtdSs, Version(11, 0, 3)).contains("intel-iommu,x-scalable-mode=on "));
    }

    #[test]
    fn every_machine_ends_rather_than_rebooting() {
        for profile in Profile::ALL {
            let args = args(profile, Version(10, 0, 2));
            assert!(args.contains("-no-reboot") && args.contains("isa-debug-exit,iobase=0xf4,iosize=4"), "{args}");
        }
    }

    #[test]
    fn an_empty_command_line_swallows_no_option() {
        let args = Machine::new(Profile::VtdFs, Path::new("/k"), Path::new("/i")).args(Version(10, 0, 2));
        let at = args.iter().position(|arg| arg == "-append").unwrap();
        assert_eq!((args[at + 1].as_str(), args[at + 2].as_str()), ("", "-device"));
    }

    #[test]
    fn names_are_unique_and_found_again() {
        for profile in Profile::ALL {
            assert_eq!(Profile::find(profile.name()), Some(profile));
        }
        assert_eq!(Profile::find("vtd"), None);
    }

    #[test]
    fn a_word_never_has_a_space() {
        assert_eq!(percent("a b%\u{e9}\n"), "a%20b%25%C3%A9%0A");
        let mut machine = Machine::new(Profile::VtdFs, Path::new("/k"), Path::new("/i"));
        machine.first_program("/bin/echo", ["two words", "x"]);
        assert_eq!(machine.words, ["exec=/bin/echo", "two%20words", "x"]);
    }
}
