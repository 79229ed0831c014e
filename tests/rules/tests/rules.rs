//! The rules of the design that can be read off the sources. Each names what breaks it.

use rules::{Package, closure, has_word, packages, root, sources, without_tests};
use std::collections::BTreeMap;

/// Fails with all complaints at once.
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

/// Crates of the workspace that `package` needs directly.
fn inside<'a>(packages: &'a BTreeMap<String, Package>, package: &'a Package) -> impl Iterator<Item = &'a Package> {
    package.normal.iter().filter_map(|name| packages.get(name))
}

#[test]
fn top_level_is_the_fixed_one() {
    let known = ["kernel", "drivers", "arch", "boot", "qemu-run", "tests", "docs", "target"];
    let mut complaints = Vec::new();
    for entry in std::fs::read_dir(root()).unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.path().is_dir() && !name.starts_with('.') && !known.contains(&name.as_str()) {
            complaints.push(format!("{name}: no such folder in the design"));
        }
        if name.starts_with("rust-toolchain") {
            complaints.push(format!("{name}: it would force downloads"));
        }
    }
    none(&complaints);
}

#[test]
fn drivers_need_drivers_only() {
    let packages = packages();
    let mut complaints = Vec::new();
    for package in packages.values().filter(|package| package.folder.starts_with("drivers/")) {
        for need in inside(&packages, package).filter(|need| !need.folder.starts_with("drivers/")) {
            complaints.push(format!("{} needs {}, which is not a driver crate", package.name, need.name));
        }
    }
    none(&complaints);
}

#[test]
fn pure_crates_never_reach_arch_boot_or_the_kernel_binary() {
    let packages = packages();
    let mut complaints = Vec::new();
    for package in packages.values().filter(|package| package.is_pure()) {
        for need in closure(&packages, &package.name).iter().filter_map(|name| packages.get(name)) {
            if need.folder.starts_with("arch/") || need.folder.starts_with("boot") || need.folder == "kernel/core" {
                complaints.push(format!("{} reaches {}", package.name, need.name));
            }
        }
    }
    none(&complaints);
}

#[test]
fn object_model_knows_no_vendor_and_no_table_format() {
    let packages = packages();
    let mut complaints = Vec::new();
    for name in ["ioas", "iommufd", "vfio", "syscall"] {
        for need in closure(&packages, name) {
            if ["vtd", "amdvi", "smmuv3", "io-pgtable", "edu", "igb"].contains(&need.as_str()) {
                complaints.push(format!("{name} reaches {need}"));
            }
        }
    }
    none(&complaints);
}

#[test]
fn named_dependencies_point_the_way_of_the_design() {
    // What each may need of the workspace; crates that are not listed have their own test.
    let allowed: [(&str, &[&str]); 11] = [
        ("iommu-types", &[]),
        ("migrate-wire", &[]),
        ("uapi", &["iommu-types"]),
        ("device-api", &["iommu-types"]),
        ("fw-tables", &["iommu-types"]),
        ("io-pgtable", &["iommu-types", "iommu-api"]),
        ("iommu-api", &["iommu-types"]),
        ("edu", &["device-api", "iommu-types"]),
        ("igb", &["device-api", "iommu-types"]),
        ("pci", &["iommu-api", "iommu-types", "fw-tables", "device-api"]),
        ("vtd", &["iommu-api", "io-pgtable", "iommu-types", "fw-tables"]),
    ];
    let packages = packages();
    let mut complaints = Vec::new();
    for (name, may) in allowed {
        for need in inside(&packages, &packages[name]) {
            if !may.contains(&need.name.as_str()) {
                complaints.push(format!("{name} needs {}", need.name));
            }
        }
    }
    none(&complaints);
}

#[test]
fn the_model_shares_only_the_words_with_what_it_checks() {
    let packages = packages();
    let needs: Vec<_> = inside(&packages, &packages["soft-iommu"]).map(|need| need.name.as_str()).collect();
    assert_eq!(needs, ["iommu-types"]);
}

#[test]
fn nothing_needs_the_kernel_binary() {
    let packages = packages();
    assert!(packages.values().all(|package| !package.normal.contains("kernel-core")));
}

/// Crates that the design names for the running image, and a path of theirs that the image's sources must use.
const NAMED: [(&str, &str); 6] = [
    ("x86_64", "x86_64::"),
    ("spin", "spin::"),
    ("bitvec", "bitvec::"),
    ("acpi", "acpi::"),
    ("volatile", "volatile::"),
    ("fdt", "fdt::"),
];
/// Those that come with the second architecture.
const NOT_YET: [&str; 1] = ["aarch64-cpu"];

#[test]
fn named_crates_are_normal_dependencies_of_the_image_and_used_by_it() {
    let packages = packages();
    let image = closure(&packages, "kernel-core");
    let folders: Vec<_> = packages
        .values()
        .filter(|package| image.contains(&package.name) || package.name == "kernel-core")
        .map(|package| format!("{}/src/", package.folder))
        .collect();
    let sources = sources();
    let mut complaints = Vec::new();
    for (name, path) in NAMED {
        if !image.contains(name) {
            complaints.push(format!("{name} is no normal dependency of the image"));
        }
        let used = sources.iter().any(|source| {
            let code = without_tests(&source.code);
            folders.iter().any(|folder| source.path.starts_with(folder))
                && code.match_indices(path).any(|(at, _)| {
                    // `arch_x86_64::` is not `x86_64::`, `crate::acpi::` is not `acpi::`.
                    let before = code[..at].chars().next_back();
                    let own = code[..at].ends_with("crate::") || code[..at].ends_with("self::");
                    !own && !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
                })
        });
        if !used {
            complaints.push(format!("{name} is a dependency of the image, but nothing says {path}"));
        }
    }
    for name in NOT_YET {
        if image.contains(name) {
            complaints.push(format!("{name} is there: move it from NOT_YET to NAMED"));
        }
    }
    none(&complaints);
}

#[test]
fn unsafe_lives_in_arch_boot_and_one_module_of_the_kernel() {
    let mut complaints = Vec::new();
    for source in sources() {
        let may = ["arch/", "boot/", "kernel/core/src/platform/"].iter().any(|folder| source.path.starts_with(folder))
            || source.path == "kernel/core/src/platform.rs";
        if !may {
            for (at, line) in source.code.lines().enumerate().filter(|(_, line)| has_word(line, "unsafe")) {
                complaints.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    none(&complaints);
}

#[test]
fn pure_crates_say_no_std_and_forbid_unsafe_code() {
    let mut complaints = Vec::new();
    for package in packages().values().filter(|package| package.is_pure()) {
        let lib = std::fs::read_to_string(root().join(&package.folder).join("src/lib.rs")).unwrap_or_default();
        for line in ["#![no_std]", "#![forbid(unsafe_code)]"] {
            if !lib.lines().any(|l| l.trim() == line) {
                complaints.push(format!("{}/src/lib.rs lacks {line}", package.folder));
            }
        }
    }
    none(&complaints);
}

#[test]
fn pure_crates_do_not_ask_for_the_architecture() {
    let folders: Vec<_> =
        packages().into_values().filter(Package::is_pure).map(|package| package.folder + "/").collect();
    let mut complaints = Vec::new();
    for source in sources() {
        if folders.iter().any(|folder| source.path.starts_with(folder)) && has_word(&source.code, "target_arch") {
            complaints.push(format!("{}: target_arch", source.path));
        }
    }
    none(&complaints);
}

#[test]
fn files_are_small_or_say_why_not() {
    let mut complaints = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        if lines > 800 && !source.text.lines().take(20).any(|line| line.contains("long because")) {
            complaints.push(format!("{}: {lines} lines, and no \"long because\" in its header", source.path));
        }
    }
    none(&complaints);
}

#[test]
fn every_dependency_is_pinned_and_has_its_reason() {
    let manifest = std::fs::read_to_string(root().join("Cargo.toml")).unwrap();
    let from = manifest.find("[workspace.dependencies]").unwrap();
    let mut complaints = Vec::new();
    for line in manifest[from..].lines().skip(1).take_while(|line| !line.starts_with('[')) {
        let (entry, reason) = line.split_once(" # ").map_or((line, ""), |(entry, reason)| (entry, reason.trim()));
        if entry.is_empty() || entry.starts_with('#') || entry.contains("path = ") {
            continue;
        }
        if !entry.contains("\"=") {
            complaints.push(format!("not pinned: {line}"));
        }
        if reason.len() < 5 {
            complaints.push(format!("no reason: {line}"));
        }
    }
    none(&complaints);
}

#[test]
fn every_crate_takes_versions_and_lints_from_the_workspace() {
    let mut complaints = Vec::new();
    for package in packages().values() {
        if !package.manifest.contains("[lints]\nworkspace = true") {
            complaints.push(format!("{}: no [lints] workspace = true", package.name));
        }
        let from = package.manifest.find("ependencies]").unwrap_or(package.manifest.len());
        for line in package.manifest[from..].lines().filter(|line| line.contains(" = ") && !line.starts_with('[')) {
            if !line.contains("workspace = true") {
                complaints.push(format!("{}: not from the workspace: {line}", package.name));
            }
        }
    }
    none(&complaints);
}

#[test]
fn pure_crates_do_not_panic_on_purpose() {
    let folders: Vec<_> =
        packages().into_values().filter(Package::is_pure).map(|package| package.folder + "/src/").collect();
    let mut complaints = Vec::new();
    for source in sources().iter().filter(|source| folders.iter().any(|folder| source.path.starts_with(folder))) {
        // Fakes that other crates' tests use as well.
        let fakes = ["/tests.rs", "/testing.rs"].iter().any(|name| source.path.ends_with(name));
        if fakes || source.path.contains("/tests/") || source.path.contains("test_") {
            continue;
        }
        for (at, line) in without_tests(&source.code).lines().enumerate() {
            if [".unwrap()", ".expect(", "panic!(", "todo!(", "unimplemented!("].iter().any(|word| line.contains(word))
            {
                complaints.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    none(&complaints);
}
