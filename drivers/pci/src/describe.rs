//! One line per function.

use crate::enumerate::FunctionInfo;
use alloc::format;
use alloc::string::String;

/// Words for a class code (24 bits), PCI Code and ID Assignment 1.15 section 1.
pub fn class_name(class: u32) -> &'static str {
    match (class >> 16, (class >> 8) & 0xff) {
        (0x00, 0x01) => "VGA compatible device",
        (0x00, _) => "Unclassified device",
        (0x01, 0x01) => "IDE interface",
        (0x01, 0x04) => "RAID controller",
        (0x01, 0x06) => "SATA controller",
        (0x01, 0x08) => "NVMe controller",
        (0x01, _) => "Storage controller",
        (0x02, 0x00) => "Ethernet controller",
        (0x02, _) => "Network controller",
        (0x03, 0x00) => "VGA controller",
        (0x03, _) => "Display controller",
        (0x04, 0x03) => "Audio device",
        (0x04, _) => "Multimedia controller",
        (0x05, _) => "Memory controller",
        (0x06, 0x00) => "Host bridge",
        (0x06, 0x01) => "ISA bridge",
        (0x06, 0x04) => "PCI bridge",
        (0x06, _) => "Bridge",
        (0x07, 0x00) => "Serial controller",
        (0x07, _) => "Communication controller",
        (0x08, 0x06) => "IOMMU",
        (0x08, _) => "System peripheral",
        (0x0c, 0x03) => "USB controller",
        (0x0c, 0x05) => "SMBus",
        (0x0c, _) => "Serial bus controller",
        (0x10, _) => "Encryption controller",
        (0x12, _) => "Processing accelerator",
        (0xff, _) => "Unassigned class",
        _ => "Device",
    }
}

/// As `00:1c.0 PCI bridge [0604]: 1b36:000c (rev 00), buses 01-05, MSI, MSI-X 2, ACS`.
pub fn line(function: &FunctionInfo) -> String {
    let (at, ids) = (function.stream, &function.ids);
    let segment = if at.segment == 0 { String::new() } else { format!("{:04x}:", at.segment) };
    let mut out = format!(
        "{segment}{:02x}:{:02x}.{} {} [{:04x}]: {:04x}:{:04x} (rev {:02x})",
        at.bus(),
        at.devfn() >> 3,
        at.devfn() & 7,
        class_name(ids.class),
        ids.class >> 8,
        ids.vendor,
        ids.device,
        ids.revision
    );
    if let Some(buses) = function.bridge {
        out += &format!(", buses {:02x}-{:02x}", buses.secondary, buses.subordinate);
    }
    if function.messages.msi.is_some() {
        out += ", MSI";
    }
    if let Some(msix) = function.messages.msix {
        out += &format!(", MSI-X {}", msix.vectors);
    }
    let flags = [
        (function.express.is_some_and(|express| express.flr), "FLR"),
        (function.acs.is_some(), "ACS"),
        (function.sriov.is_some(), "SR-IOV"),
        (function.ats.is_some(), "ATS"),
        (function.pasid.is_some(), "PASID"),
        (function.ari.is_some(), "ARI"),
    ];
    for (_, name) in flags.iter().filter(|(there, _)| *there) {
        out += ", ";
        out += name;
    }
    out
}
