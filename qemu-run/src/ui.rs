//! Progress: bars on a terminal, plain lines elsewhere. Everything here goes to standard error.

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Where progress goes.
pub struct Ui {
    bars: Option<MultiProgress>,
    quiet: bool,
}

impl Ui {
    /// Bars if standard error is a terminal, else plain lines.
    pub fn new() -> Self {
        Self { bars: std::io::stderr().is_terminal().then(MultiProgress::new), quiet: false }
    }

    /// Says nothing but what `say` is given; for tests.
    pub fn quiet() -> Self {
        Self { bars: None, quiet: true }
    }

    /// One line for the user, above any bar.
    pub fn say(&self, line: &str) {
        match &self.bars {
            Some(bars) => bars.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Begins something that may take more than two seconds. `total` 0: its size is not known.
    pub fn phase(&self, name: &str, total: u64) -> Phase {
        let bar = self.bars.as_ref().map(|bars| {
            let (bar, template) = match total {
                0 => (ProgressBar::new_spinner(), "{spinner} {prefix:<28} {elapsed:>4} {wide_msg}"),
                _ => (
                    ProgressBar::new(total),
                    "{spinner} {prefix:<28} {elapsed:>4} [{bar:24}] {percent:>3} % {wide_msg}",
                ),
            };
            let bar = bars.add(bar);
            bar.set_style(ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        Phase { bar, quiet: self.quiet, name: name.to_owned(), total, began: Instant::now(), said: Mutex::new(None) }
    }
}

impl Default for Ui {
    fn default() -> Self {
        Self::new()
    }
}

/// Something under way; [`Phase::done`] ends it with a line, dropping it ends it without.
pub struct Phase {
    bar: Option<ProgressBar>,
    quiet: bool,
    name: String,
    total: u64,
    began: Instant,
    said: Mutex<Option<Instant>>,
}

/// Without a terminal the first line appears after this time: what is done sooner has only its last line.
const PLAIN_FIRST: Duration = Duration::from_millis(1500);
/// And then one this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

impl Phase {
    /// How far it is, in the unit of `total`, and a few words.
    pub fn at(&self, done: u64, words: &str) {
        match &self.bar {
            Some(bar) => {
                bar.set_position(done);
                bar.set_message(words.to_owned());
            }
            None => self.plain(|| match (done * 100).checked_div(self.total) {
                Some(percent) => format!("{percent} % {words}"),
                None => format!("{} s {words}", self.began.elapsed().as_secs()),
            }),
        }
    }

    /// It is still under way; nothing more is known.
    pub fn tick(&self) {
        if self.bar.is_none() {
            self.plain(|| format!("{} s", self.began.elapsed().as_secs()));
        }
    }

    fn plain(&self, words: impl Fn() -> String) {
        let Ok(mut said) = self.said.lock() else { return };
        let due = said.map_or(self.began + PLAIN_FIRST, |last| last + PLAIN_EVERY);
        if !self.quiet && Instant::now() >= due {
            *said = Some(Instant::now());
            eprintln!("{} ... {}", self.name, words());
        }
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Ends it with a line.
    pub fn done(self, words: &str) {
        let line = format!("{:<30} {:>6.1} s  {words}", self.name, self.began.elapsed().as_secs_f64());
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{}", line.trim_end())),
            None if self.quiet => {}
            None => eprintln!("{}", line.trim_end()),
        }
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
