//! Versions as programs and packages print them.

/// Major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl Version {
    /// The first `N.N` or `N.N.N` in the text; a missing patch number is 0.
    pub fn find(text: &str) -> Option<Self> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.').find_map(|word| {
            let mut numbers = word.trim_matches('.').split('.').map(str::parse);
            let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            Some(Self(major, minor, numbers.next().and_then(Result::ok).unwrap_or(0)))
        })
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_where_programs_print_them() {
        let qemu = "QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2+deb13u1~bpo12+1)\nCopyright (c) 2003-2025";
        assert_eq!(Version::find(qemu), Some(Version(10, 0, 2)));
        assert_eq!(
            Version::find("QEMU emulator version 7.2.17 (Debian 1:7.2+dfsg-7+deb12u13)"),
            Some(Version(7, 2, 17))
        );
        assert_eq!(Version::find("rustc 1.95.0 (59807616e 2026-04-14)"), Some(Version(1, 95, 0)));
        assert_eq!(Version::find("1.95.0+dfsg1-1~bpo13+1"), Some(Version(1, 95, 0)));
        assert_eq!(Version::find("version 11.1"), Some(Version(11, 1, 0)));
        assert_eq!(Version::find("no number 7"), None);
    }

    #[test]
    fn versions_compare_by_number_not_by_text() {
        assert!(Version(10, 0, 0) > Version(9, 2, 4));
        assert!(Version(10, 10, 0) > Version(10, 9, 9));
    }
}
