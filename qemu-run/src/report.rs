//! The result of the main job: what is measured, what is judged, how it is shown.

use serde::Serialize;
use std::fmt::Write;

/// One pre-copy round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Round {
    /// 0: everything, whether it was written or not. From 1 on: what was written since the round before.
    pub round: u64,
    /// Pages (4 KiB) that the devices wrote.
    pub pages_device: u64,
    /// Pages that the CPU wrote.
    pub pages_cpu: u64,
    /// Either: what was sent.
    pub pages_dirty: u64,
    /// Sent, headers included.
    pub bytes: u64,
    /// Time it took.
    pub ms: u64,
}

/// Everything that `--json` writes. Sizes in bytes, times in milliseconds, pages of 4 KiB; null is "not known".
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Profile.
    pub machine: String,
    /// The IOMMU reports dirty pages.
    pub tracking: bool,
    /// Pages of the region.
    pub pages: u64,
    /// Pre-copy rounds.
    pub rounds: Vec<Round>,
    /// Last round: pages and bytes sent while the device stood still.
    pub stop_copy: Option<Round>,
    /// Device state within `bytes_stop_copy`.
    pub bytes_state: u64,
    /// Everything sent over the link.
    pub bytes_total: u64,
    /// Of that, sent while the device stood still.
    pub bytes_stop_copy: u64,
    /// From the source's stop to the destination's running, without verification.
    pub blackout_ms: Option<u64>,
    /// Time to compare all pages.
    pub verify_ms: Option<u64>,
    /// Pages that differ from the source's digests: must be 0.
    pub pages_lost: Option<u64>,
    /// The file that was sent.
    pub sha256_input: String,
    /// A pass that began on the source and ended on the destination.
    pub sha256_destination: Option<String>,
    /// Fold over the region's page digests.
    pub digest_source: Option<String>,
    /// The same, computed by the destination.
    pub digest_destination: Option<String>,
    /// Registers that the destination wrote between RESUMING and its first frame: must be 0.
    pub register_writes: Option<u64>,
    /// Data frames sent, and sent again.
    pub frames_sent: u64,
    /// Of those, sent more than once.
    pub frames_resent: u64,
    /// Frames sent again that the source had acknowledged: must be 0.
    pub frames_resent_acknowledged: u64,
    /// Frames that the source had acknowledged and the destination did not have: must be 0.
    pub frames_forgotten: u64,
    /// Everything agrees.
    pub verified: bool,
    /// What does not.
    pub problems: Vec<String>,
    /// QEMU's start to the first IOAS.
    pub boot_ms: Option<u64>,
    /// Size of the kernel's ELF file.
    pub kernel_image_bytes: u64,
    /// RAM in use before the first program, image included.
    pub ram_idle_bytes: Option<u64>,
    /// Lines of the machines for the user.
    pub notes: Vec<String>,
}

impl Report {
    /// Fills `problems` and `verified`.
    pub fn judge(&mut self) {
        let mut problems = Vec::new();
        let mut hold = |good: bool, problem: String| {
            if !good {
                problems.push(problem);
            }
        };
        match self.pages_lost {
            // Then the destination refuses to run, and there is nothing more to judge.
            Some(lost @ 1..) => {
                self.problems.push(format!("{lost} pages differ: the destination refused to run"));
                return;
            }
            Some(_) => {}
            None => hold(false, "the destination did not compare its pages".to_owned()),
        }
        hold(
            self.digest_source.is_some() && self.digest_source == self.digest_destination,
            "the digests of the region differ or are missing".to_owned(),
        );
        hold(
            self.sha256_destination.as_ref() == Some(&self.sha256_input),
            "the pass that crossed the switch is not the file that was sent, or did not end".to_owned(),
        );
        match self.register_writes {
            Some(writes) => {
                hold(writes == 0, format!("registers written between RESUMING and the first frame: {writes}"))
            }
            None => hold(false, "no frame after the switch".to_owned()),
        }
        hold(
            self.frames_resent_acknowledged == 0,
            format!("frames sent again although acknowledged: {}", self.frames_resent_acknowledged),
        );
        hold(self.frames_forgotten == 0, format!("frames acknowledged and forgotten: {}", self.frames_forgotten));
        hold(self.stop_copy.is_some() && self.blackout_ms.is_some(), "there was no switch-over".to_owned());
        if self.tracking {
            // Without dirty bits everything would have to be sent again, so it is sent once, while the devices stand still.
            hold(!self.rounds.is_empty(), "no pre-copy round".to_owned());
            for round in self.rounds.iter().filter(|round| round.round > 0) {
                let (number, pages) = (round.round, round.pages_device);
                hold(pages > 0 && pages < self.pages, format!("round {number}: {pages} pages written by the device"));
            }
        }
        self.problems.extend(problems);
        self.verified = self.problems.is_empty();
    }

    /// The table at the end, at most 100 columns.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let mut line = |text: String| {
            let _ = writeln!(out, "{}", text.trim_end());
        };
        line(format!(
            "\n  {:>6} {:>15} {:>12} {:>11} {:>12} {:>10}",
            "round", "device wrote", "CPU wrote", "sent pages", "bytes", "time"
        ));
        for (name, round) in self
            .rounds
            .iter()
            .map(|round| (round.round.to_string(), round))
            .chain(self.stop_copy.iter().map(|round| ("stop".to_owned(), round)))
        {
            let all = if name == "stop" { !self.tracking } else { round.round == 0 };
            let wrote = |pages: u64| if all { "all".to_owned() } else { pages.to_string() };
            line(format!(
                "  {:>6} {:>15} {:>12} {:>11} {:>12} {:>10}",
                name,
                wrote(round.pages_device),
                wrote(round.pages_cpu),
                round.pages_dirty,
                mib(round.bytes),
                format!("{:.2} s", round.ms as f64 / 1000.0)
            ));
        }
        let or = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let ms = |value: Option<u64>| or(value.map(|ms| format!("{ms} ms")));
        let share = (self.pages > 0).then(|| self.bytes_stop_copy as f64 * 100.0 / (self.pages as f64 * 4096.0));
        line(String::new());
        line(format!("  region           {} pages, {}", self.pages, mib(self.pages * 4096)));
        line(format!("  sent in all      {}", mib(self.bytes_total)));
        line(format!(
            "  stop-and-copy    {} ({}), device state {} bytes",
            mib(self.bytes_stop_copy),
            or(share.map(|share| format!("{share:.1} % of the region"))),
            self.bytes_state
        ));
        line(format!("  blackout         {}, and verification {}", ms(self.blackout_ms), ms(self.verify_ms)));
        line(format!(
            "  frames           {} sent, {} of them again; acknowledged ones again: {}, forgotten: {}",
            self.frames_sent + self.frames_resent,
            self.frames_resent,
            self.frames_resent_acknowledged,
            self.frames_forgotten
        ));
        line(format!(
            "  registers        {} written between RESUMING and the first frame",
            or(self.register_writes.map(|writes| writes.to_string()))
        ));
        line(format!("  boot             {} to the first IOAS", ms(self.boot_ms)));
        line(format!(
            "  kernel           image {} KiB, idle RAM {}",
            self.kernel_image_bytes.div_ceil(1024),
            or(self.ram_idle_bytes.map(mib))
        ));
        for note in &self.notes {
            line(format!("  note             {note}"));
        }
        line(String::new());
        line(format!("  region digest    source      {}", or(self.digest_source.clone())));
        line(format!("                   destination {}", or(self.digest_destination.clone())));
        line(format!("  file SHA-256     sent    {}", self.sha256_input));
        line(format!("                   arrived {}", or(self.sha256_destination.clone())));
        line(format!(
            "  pages lost: {}",
            or(self.pages_lost.map(|n| if n == 0 { "0".to_owned() } else { format!("{n} > 0") }))
        ));
        if self.verified {
            line("  verified: every page, the file, and every acknowledged frame".to_owned());
        } else {
            line("  NOT VERIFIED".to_owned());
            for problem in &self.problems {
                line(format!("    {problem}"));
            }
        }
        out
    }
}

/// Bytes as MiB with one decimal, small ones as KiB.
fn mib(bytes: u64) -> String {
    if bytes < 1 << 20 {
        format!("{:.1} KiB", bytes as f64 / 1024.0)
    } else {
        format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Report {
        Report {
            machine: "vtd-fs".to_owned(),
            tracking: true,
            pages: 65536,
            rounds: vec![
                Round { round: 0, pages_dirty: 65536, bytes: 268_500_000, ms: 12_000, ..Round::default() },
                Round { round: 1, pages_device: 3000, pages_cpu: 2500, pages_dirty: 5100, bytes: 20_900_000, ms: 900 },
            ],
            stop_copy: Some(Round {
                round: 2,
                pages_device: 90,
                pages_cpu: 60,
                pages_dirty: 140,
                bytes: 600_000,
                ms: 40,
            }),
            bytes_state: 900,
            bytes_total: 290_000_000,
            bytes_stop_copy: 600_000,
            blackout_ms: Some(80),
            verify_ms: Some(300),
            pages_lost: Some(0),
            sha256_input: "ab".repeat(32),
            sha256_destination: Some("ab".repeat(32)),
            digest_source: Some("1".to_owned()),
            digest_destination: Some("1".to_owned()),
            register_writes: Some(0),
            boot_ms: Some(400),
            ram_idle_bytes: Some(9 << 20),
            ..Report::default()
        }
    }

    #[test]
    fn all_in_order_is_verified() {
        let mut report = good();
        report.judge();
        assert_eq!(report.problems, [""; 0]);
        assert!(report.verified);
    }

    #[test]
    fn each_condition_alone_spoils_it() {
        let spoil: [fn(&mut Report); 12] = [
            |r| r.pages_lost = Some(3),
            |r| r.pages_lost = None,
            |r| r.digest_destination = Some("2".to_owned()),
            |r| r.sha256_destination = None,
            |r| r.sha256_destination = Some("cd".repeat(32)),
            |r| r.register_writes = Some(1),
            |r| r.frames_resent_acknowledged = 1,
            |r| r.frames_forgotten = 1,
            |r| r.rounds[1].pages_device = 0,
            |r| r.rounds[1].pages_device = 65536,
            |r| r.blackout_ms = None,
            |r| (r.digest_source, r.digest_destination) = (None, None),
        ];
        for (at, spoil) in spoil.iter().enumerate() {
            let mut report = good();
            spoil(&mut report);
            report.judge();
            assert!(!report.verified && report.problems.len() == 1, "{at}: {:?}", report.problems);
        }
    }

    #[test]
    fn without_dirty_bits_rounds_are_not_counted() {
        let mut report = good();
        report.tracking = false;
        report.rounds.clear();
        report.judge();
        assert!(report.verified);
        report.tracking = true;
        report.judge();
        assert!(!report.verified);
    }

    #[test]
    fn json_has_the_promised_names() {
        let mut report = good();
        report.judge();
        let json = serde_json::to_value(&report).unwrap();
        for name in [
            "rounds",
            "bytes_total",
            "bytes_stop_copy",
            "blackout_ms",
            "verify_ms",
            "pages_lost",
            "sha256_input",
            "sha256_destination",
            "verified",
            "boot_ms",
            "kernel_image_bytes",
            "ram_idle_bytes",
        ] {
            assert!(!json[name].is_null(), "{name}");
        }
        assert_eq!(
            (&json["rounds"][1]["pages_dirty"], &json["rounds"][1]["bytes"]),
            (&5100.into(), &20_900_000.into())
        );
    }

    #[test]
    fn the_table_fits_100_columns_and_names_the_loss() {
        let mut report = good();
        report.pages_lost = Some(17);
        report.judge();
        let table = report.table();
        assert!(table.lines().all(|line| line.chars().count() <= 100), "{table}");
        assert!(table.contains("pages lost: 17 > 0") && table.contains("NOT VERIFIED"), "{table}");
    }
}
