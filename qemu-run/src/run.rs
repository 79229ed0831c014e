//! Commands run on the host: bounded in time, their last line shown as progress, all of it shown when they fail.

use crate::ui::{Phase, Ui};
use anyhow::{Context, Result, bail};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// What must not outlive this process, whatever ends it.
#[derive(Default)]
struct Registry {
    children: HashMap<u64, Arc<Mutex<Child>>>,
    dirs: HashMap<u64, PathBuf>,
}

static NEXT: AtomicU64 = AtomicU64::new(0);
static HANDS_OFF: AtomicBool = AtomicBool::new(false);

fn registry() -> MutexGuard<'static, Registry> {
    static REGISTRY: OnceLock<Mutex<Registry>> = OnceLock::new();
    REGISTRY.get_or_init(Mutex::default).lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes Ctrl-C, SIGTERM and SIGHUP end every child and remove every temporary directory, then exit with status 130.
pub fn end_children_on_signal() {
    // A second call (tests) finds the handler in place.
    let _ = ctrlc::set_handler(|| {
        if HANDS_OFF.load(Ordering::Relaxed) {
            return;
        }
        let registry = registry();
        for child in registry.children.values() {
            let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = child.kill();
            let _ = child.wait();
        }
        for dir in registry.dirs.values() {
            let _ = std::fs::remove_dir_all(dir);
        }
        eprintln!("\ninterrupted: nothing is left running");
        std::process::exit(130);
    });
}

/// While a child owns the terminal, signals are its business: it ends, and so do we.
pub fn leave_signals_to_the_child(yes: bool) {
    HANDS_OFF.store(yes, Ordering::Relaxed);
}

/// A child that is killed and waited for when this is dropped, and by the signal handler.
pub struct Guarded {
    id: u64,
    child: Arc<Mutex<Child>>,
}

impl Guarded {
    /// Starts `command`. `setpriv` (util-linux), where there is one, makes the kernel kill the child if this process
    /// dies without a chance to do it. `own_group` keeps the terminal's Ctrl-C away from the child.
    ///
    /// # Errors
    /// The program cannot be started.
    pub fn spawn(command: &Command, own_group: bool, stdio: [Stdio; 3]) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let program = command.get_program();
        let mut real = match find_in_path("setpriv") {
            Some(setpriv) => {
                let mut real = Command::new(setpriv);
                real.args(["--pdeathsig", "KILL", "--"]).arg(program);
                real
            }
            None => Command::new(program),
        };
        real.args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => real.env(name, value),
                None => real.env_remove(name),
            };
        }
        if let Some(dir) = command.get_current_dir() {
            real.current_dir(dir);
        }
        if own_group {
            real.process_group(0);
        }
        let [input, output, error] = stdio;
        let child = real
            .stdin(input)
            .stdout(output)
            .stderr(error)
            .spawn()
            .with_context(|| format!("cannot start {}", program.to_string_lossy()))?;
        let (id, child) = (NEXT.fetch_add(1, Ordering::Relaxed), Arc::new(Mutex::new(child)));
        registry().children.insert(id, Arc::clone(&child));
        Ok(Self { id, child })
    }

    /// The child itself, to take its pipes or look at its state.
    pub fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it ended; `None` if it still runs after `limit`.
    pub fn wait(&self, limit: Duration) -> Option<std::process::ExitStatus> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(Some(status)) = self.child().try_wait() {
                return Some(status);
            }
            if Instant::now() >= until {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it now.
    pub fn kill(&self) {
        let mut child = self.child();
        let _ = child.kill();
        let _ = child.wait();
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        self.kill();
        registry().children.remove(&self.id);
    }
}

/// A temporary directory that is also removed by the signal handler.
pub struct Scratch {
    id: u64,
    dir: tempfile::TempDir,
}

const SCRATCH: &str = "portolan-";

impl Scratch {
    /// Makes one, and removes those whose owner was killed before it could.
    ///
    /// # Errors
    /// The file system's.
    pub fn new() -> Result<Self> {
        let base = std::env::temp_dir();
        for entry in std::fs::read_dir(&base).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(pid) = name.strip_prefix(SCRATCH).and_then(|rest| rest.split('-').next()) else { continue };
            if pid.parse::<u32>().is_ok() && !PathBuf::from(format!("/proc/{pid}")).exists() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
        let dir = tempfile::Builder::new()
            .prefix(&format!("{SCRATCH}{}-", std::process::id()))
            .tempdir_in(&base)
            .with_context(|| format!("cannot make a directory in {}", base.display()))?;
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        registry().dirs.insert(id, dir.path().to_owned());
        Ok(Self { id, dir })
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        registry().dirs.remove(&self.id);
    }
}

/// The first executable of that name in PATH.
pub fn find_in_path(name: &str) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt;
    let executable = |path: &PathBuf| path.metadata().is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0);
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(name)).find(executable)
}

/// The command as a person would type it.
pub fn typed(command: &Command) -> String {
    let word = |word: &std::ffi::OsStr| {
        let word = word.to_string_lossy().into_owned();
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
        if !word.is_empty() && word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    };
    std::iter::once(command.get_program()).chain(command.get_args()).map(word).collect::<Vec<_>>().join(" ")
}

/// Runs a command that may take a while. Its last line of output is the progress.
///
/// # Errors
/// It cannot be started, is not done after `limit`, or fails; then with everything it printed.
pub fn shown(ui: &Ui, name: &str, command: &Command, limit: Duration) -> Result<()> {
    let phase = ui.phase(name, 0);
    let output = bounded(command, limit, Some(&phase))?;
    if !output.ok {
        drop(phase);
        bail!("{} failed:\n{}", typed(command), output.text.trim_end());
    }
    phase.done("");
    Ok(())
}

/// What a command left.
pub struct Output {
    /// Exit status 0.
    pub ok: bool,
    /// Standard output and standard error, in the order they came.
    pub text: String,
}

/// Runs a command to its end.
///
/// # Errors
/// It cannot be started or is not done after `limit` (it is killed then).
pub fn bounded(command: &Command, limit: Duration, phase: Option<&Phase>) -> Result<Output> {
    let guarded = Guarded::spawn(command, true, [Stdio::null(), Stdio::piped(), Stdio::piped()])?;
    let (tx, rx) = mpsc::channel::<String>();
    let pipes: [Option<Box<dyn Read + Send>>; 2] = {
        let mut child = guarded.child();
        [child.stdout.take().map(|p| Box::new(p) as _), child.stderr.take().map(|p| Box::new(p) as _)]
    };
    for pipe in pipes.into_iter().flatten() {
        let tx = tx.clone();
        std::thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let _ = tx.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
    }
    drop(tx);
    let (mut text, until) = (String::new(), Instant::now() + limit);
    loop {
        match rx.recv_timeout(Duration::from_millis(200)) {
            Ok(line) => {
                if let Some(phase) = phase {
                    phase.at(0, line.trim());
                }
                text.push_str(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                if let Some(phase) = phase {
                    phase.at(0, text.lines().next_back().unwrap_or("").trim());
                }
                // A grandchild may hold the pipe open after the command ended.
                if guarded.wait(Duration::ZERO).is_some() {
                    break;
                }
            }
        }
        if Instant::now() >= until {
            bail!("{} was not done after {} s:\n{}", typed(command), limit.as_secs(), text.trim_end());
        }
    }
    let left = until.saturating_duration_since(Instant::now()).max(Duration::from_secs(1));
    let Some(status) = guarded.wait(left) else {
        bail!("{} was not done after {} s:\n{}", typed(command), limit.as_secs(), text.trim_end());
    };
    text.extend(rx.try_iter());
    Ok(Output { ok: status.success(), text })
}

/// Standard output of a command that takes no time; `None` if it cannot be run or fails.
pub fn ask(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Option<String> {
    let output = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn a_failing_command_shows_everything_it_printed() {
        let error =
            shown(&Ui::quiet(), "x", &sh("echo one; echo two >&2; exit 3"), Duration::from_secs(9)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("one") && text.contains("two") && text.contains("sh -c"), "{text}");
    }

    #[test]
    fn a_command_that_hangs_is_killed() {
        let began = Instant::now();
        let error = shown(&Ui::quiet(), "x", &sh("echo on; sleep 60"), Duration::from_millis(300)).unwrap_err();
        assert!(error.to_string().contains("was not done"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn dropping_a_child_ends_it() {
        let guarded =
            Guarded::spawn(&sh("exec sleep 60"), true, [Stdio::null(), Stdio::null(), Stdio::null()]).unwrap();
        let pid = guarded.child().id();
        drop(guarded);
        assert!(!PathBuf::from(format!("/proc/{pid}")).exists());
    }

    #[test]
    fn a_dead_owners_scratch_is_removed() {
        let stale = std::env::temp_dir().join("portolan-4294967294-stale");
        std::fs::create_dir_all(&stale).unwrap();
        let scratch = Scratch::new().unwrap();
        assert!(!stale.exists());
        let path = scratch.path("");
        assert!(path.exists());
        drop(scratch);
        assert!(!path.exists());
    }

    #[test]
    fn typed_quotes_what_a_shell_would_split() {
        assert_eq!(typed(&sh("a b'c")), r"sh -c 'a b'\''c'");
    }
}
