//! Reading the machine's apt sources, and a private apt configuration beside them.
//!
//! Nothing under /etc is changed: what is needed beyond the machine's own sources is written to a directory of ours, and
//! apt is told to use that directory for sources, lists and cache.

use anyhow::{Context, Result};
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// One entry of the sources, one-line or deb822.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// Archive roots.
    pub uris: Vec<String>,
    /// Suites: `bookworm`, `bookworm-updates`, ...
    pub suites: Vec<String>,
    /// `main`, ...
    pub components: Vec<String>,
    /// Key file or embedded key, as written (an embedded key has several lines).
    pub signed_by: Option<String>,
    /// `Trusted: yes`
    pub trusted: bool,
}

/// Parses the one-line format of sources.list(5): `deb [option=value ...] uri suite component...`.
pub fn one_line(text: &str) -> Vec<Source> {
    let entry = |line: &str| {
        let rest = line.split('#').next()?.trim().strip_prefix("deb")?;
        let rest = rest.strip_prefix([' ', '\t'])?.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            Some(rest) => rest.split_once(']')?,
            None => ("", rest),
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (uri, suite) = (words.next()?, words.next()?);
        let mut source =
            Source { uris: vec![uri], suites: vec![suite], components: words.collect(), ..Source::default() };
        for (name, value) in options.split_whitespace().filter_map(|option| option.split_once('=')) {
            match name {
                "signed-by" => source.signed_by = Some(value.to_owned()),
                "trusted" => source.trusted = value == "yes",
                _ => {}
            }
        }
        Some(source)
    };
    text.lines().filter_map(entry).collect()
}

/// Parses the deb822 format of sources.list(5): stanzas of `Field: value` with continuation lines.
pub fn deb822(text: &str) -> Vec<Source> {
    let mut sources = Vec::new();
    let mut stanza: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            sources.extend(of_stanza(&std::mem::take(&mut stanza)));
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = stanza.last_mut() {
                let _ = write!(value, "\n{line}");
            }
        } else if let Some((name, value)) = line.split_once(':') {
            stanza.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    sources
}

fn of_stanza(stanza: &[(String, String)]) -> Option<Source> {
    let field = |name: &str| stanza.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let words = |name: &str| field(name).unwrap_or("").split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let on = field("enabled").is_none_or(|value| !value.eq_ignore_ascii_case("no"));
    let source = Source {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
        trusted: field("trusted").is_some_and(|value| value.eq_ignore_ascii_case("yes")),
    };
    (on && words("types").iter().any(|t| t == "deb") && !source.uris.is_empty()).then_some(source)
}

/// All entries of the machine whose apt configuration is in `etc` (`/etc/apt`), in apt's order.
pub fn of_machine(etc: &Path) -> Vec<Source> {
    let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
    let mut sources = one_line(&read(&etc.join("sources.list")));
    let parts = std::fs::read_dir(etc.join("sources.list.d"));
    let mut parts: Vec<PathBuf> = parts.into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    parts.sort();
    for part in parts {
        match part.extension().and_then(|e| e.to_str()) {
            Some("list") => sources.extend(one_line(&read(&part))),
            Some("sources") => sources.extend(deb822(&read(&part))),
            _ => {}
        }
    }
    sources
}

/// The entry the release itself comes from: the one with exactly this suite and component `main`.
pub fn release<'a>(sources: &'a [Source], codename: &str) -> Option<&'a Source> {
    sources.iter().find(|source| {
        source.suites.iter().any(|suite| suite == codename)
            && source.components.iter().any(|component| component == "main")
            && source.uris.iter().any(|uri| !uri.starts_with("cdrom:"))
    })
}

/// The same mirror and key with other suites, component `main`, in deb822 format.
pub fn with_suites(base: &Source, suites: &[&str]) -> String {
    let uris: Vec<&str> = base.uris.iter().map(String::as_str).filter(|uri| !uri.starts_with("cdrom:")).collect();
    let mut text = format!("Types: deb\nURIs: {}\nSuites: {}\nComponents: main\n", uris.join(" "), suites.join(" "));
    if let Some(key) = &base.signed_by {
        let _ = writeln!(text, "Signed-By: {key}");
    }
    if base.trusted {
        text.push_str("Trusted: yes\n");
    }
    text
}

/// A private apt configuration: sources, lists and cache in one directory.
pub struct Private {
    dir: PathBuf,
}

impl Private {
    /// Writes the configuration.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(dir: &Path, sources: &str) -> Result<Self> {
        for sub in ["sources.list.d", "lists/partial", "cache/archives/partial"] {
            std::fs::create_dir_all(dir.join(sub)).with_context(|| format!("cannot make {}", dir.display()))?;
        }
        std::fs::write(dir.join("sources.list.d/portolan.sources"), sources)
            .with_context(|| format!("cannot write in {}", dir.display()))?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// Options for apt-get and apt-cache. The sandbox user could not read a directory below somebody's home.
    pub fn options(&self) -> Vec<String> {
        let dir = self.dir.display();
        [
            "Dir::Etc::sourcelist=/dev/null".to_owned(),
            format!("Dir::Etc::sourceparts={dir}/sources.list.d"),
            format!("Dir::State::lists={dir}/lists"),
            format!("Dir::Cache={dir}/cache"),
            "APT::Sandbox::User=root".to_owned(),
            "Acquire::http::Timeout=30".to_owned(),
            "Acquire::Retries=2".to_owned(),
            "Acquire::Languages=none".to_owned(),
        ]
        .into_iter()
        .flat_map(|option| ["-o".to_owned(), option])
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEB822: &str = "\
Types: deb
# a comment inside
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm
Components: main

Types: deb
Enabled: no
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
URIs: https://embedded.example/debian
Suites: trixie
Components: main contrib
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mDMEY865UxYJKwYBBAHaRw8BAQdAd7Z0srwuhlB6JKFkcf4HU4SSS
 -----END PGP PUBLIC KEY BLOCK-----
";

    #[test]
    fn deb822_skips_sources_comments_and_disabled_stanzas() {
        let sources = deb822(DEB822);
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].suites, ["bookworm", "bookworm-updates"]);
        assert_eq!(sources[0].signed_by.as_deref(), Some("/usr/share/keyrings/debian-archive-keyring.gpg"));
        assert_eq!(sources[1].components, ["main", "contrib"]);
    }

    #[test]
    fn an_embedded_key_survives_the_way_into_the_private_file() {
        let sources = deb822(DEB822);
        let text = with_suites(&sources[1], &["trixie-backports"]);
        assert!(text.contains("Suites: trixie-backports\nComponents: main\n"), "{text}");
        let again = deb822(&text);
        assert_eq!(again.len(), 1);
        assert_eq!(again[0].signed_by.as_ref().unwrap().lines().count(), 5);
        assert_eq!(again[0].uris, ["https://embedded.example/debian"]);
    }

    #[test]
    fn one_line_reads_options_and_ignores_the_rest() {
        let sources = one_line(
            "# deb http://no.example/debian bookworm main\n\
             deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main contrib # why\n\
             deb-src http://mirror.example/debian bookworm main\n\
             deb [trusted=yes] file:/srv/debian ./\n\
             debug\n",
        );
        assert_eq!(sources.len(), 2);
        assert_eq!(sources[0].uris, ["http://mirror.example/debian"]);
        assert_eq!(sources[0].components, ["main", "contrib"]);
        assert_eq!(sources[0].signed_by.as_deref(), Some("/k.gpg"));
        assert!(sources[1].trusted && sources[1].components.is_empty());
    }

    #[test]
    fn the_backports_line_has_the_mirror_and_key_of_the_release() {
        let mut sources =
            one_line("deb cdrom:[Debian]/ bookworm main\ndeb https://other.example/apt bookworm stable\n");
        sources.extend(deb822(DEB822));
        let base = release(&sources, "bookworm").unwrap();
        assert_eq!(
            with_suites(base, &["bookworm", "bookworm-backports"]),
            "Types: deb\nURIs: http://deb.debian.org/debian\nSuites: bookworm bookworm-backports\nComponents: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
        );
        assert_eq!(release(&sources, "sid"), None);
    }
}
