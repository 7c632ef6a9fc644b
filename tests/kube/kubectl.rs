//! Real kubectl, as a person on the node runs it; but that it remembers nothing: each run has a home of its own, so that
//! discovery and openapi are asked for each time, too.

use crate::support::TempDir;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

/// kubectl with one kubeconfig.
pub struct Kubectl {
    kube: PathBuf,
    kubeconfig: PathBuf,
    environment: &'static [(&'static str, &'static str)],
}

/// What a run said.
#[derive(Debug, Clone)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
    pub took: Duration,
}

/// A run that goes on; killed when dropped.
pub struct Running {
    child: Child,
    home: TempDir,
    begun: Instant,
}

/// No run takes longer, unless something hangs.
const PATIENCE: Duration = Duration::from_secs(30);

impl Kubectl {
    pub fn new(kube: &Path, kubeconfig: PathBuf) -> Kubectl {
        Kubectl { kube: kube.to_owned(), kubeconfig, environment: &[] }
    }

    /// The same with another kubeconfig.
    pub fn by(&self, kubeconfig: PathBuf) -> Kubectl {
        Kubectl { kube: self.kube.clone(), kubeconfig, environment: self.environment }
    }

    /// The same with these variables set.
    pub fn with(&self, environment: &'static [(&'static str, &'static str)]) -> Kubectl {
        Kubectl { kube: self.kube.clone(), kubeconfig: self.kubeconfig.clone(), environment }
    }

    /// The same for whoever has this token, and no certificate.
    pub fn with_token(&self, token: &str) -> Kubectl {
        let mut config = self.config();
        config["users"][0]["user"] = serde_json::json!({"token": token});
        let sum = ring::digest::digest(&ring::digest::SHA256, token.as_bytes());
        let name: String = sum.as_ref().iter().take(8).map(|b| format!("{b:02x}")).collect();
        let path = self.kubeconfig.with_extension(name);
        fs::write(&path, config.to_string()).expect("written");
        Kubectl::new(&self.kube, path)
    }

    /// Its kubeconfig, which is JSON.
    pub fn config(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(&self.kubeconfig).expect("a kubeconfig")).expect("JSON")
    }

    /// Starts it with these arguments, separated by blanks.
    pub fn start(&self, arguments: &str) -> Running {
        let arguments: Vec<&str> = arguments.split(' ').collect();
        self.start_fed(&arguments, Stdio::null())
    }

    /// The same with arguments that hold blanks, and something to read.
    pub fn start_fed(&self, arguments: &[&str], input: Stdio) -> Running {
        let home = TempDir::new();
        let file = |name: &str| File::create(home.path().join(name)).expect("a file");
        let child = Command::new(&self.kube)
            .arg("kubectl")
            // Before the arguments, behind which may be a command's own.
            .arg("--cache-dir")
            .arg(home.path().join("cache"))
            .args(arguments)
            // Not what the machine has set: no proxy, no other cluster, no settings of its user.
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", home.path())
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(self.environment.iter().copied())
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kube/manifests"))
            .stdin(input)
            .stdout(file("out"))
            .stderr(file("err"))
            .spawn()
            .expect("kubectl starts");
        Running { child, home, begun: Instant::now() }
    }

    /// Runs it to its end.
    pub fn run(&self, arguments: &str) -> Said {
        let mut running = self.start(arguments);
        running.end_within(PATIENCE).unwrap_or_else(|| panic!("kubectl {arguments} hangs: {}", running.err()))
    }

    /// Runs it, and it must succeed.
    pub fn must(&self, arguments: &str) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, 0, "kubectl {arguments}: {}{}", said.out, said.err);
        said.out
    }
}

impl Running {
    /// What it reads, where that is a pipe. Dropped, it has an end.
    pub fn input(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("a pipe")
    }

    /// What it has printed so far.
    pub fn out(&self) -> String {
        fs::read_to_string(self.home.path().join("out")).unwrap_or_default()
    }

    pub fn err(&self) -> String {
        fs::read_to_string(self.home.path().join("err")).unwrap_or_default()
    }

    /// Its end, if it comes within this time.
    pub fn end_within(&mut self, at_most: Duration) -> Option<Said> {
        let deadline = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait().expect("waited") {
                let took = self.begun.elapsed();
                return Some(Said { code: status.code().unwrap_or(-1), out: self.out(), err: self.err(), took });
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A text without what the clock does to it: spans of time that stand alone in a column (`5s`, `2m10s`) become `AGE`,
/// and the blanks between columns, whose number depends on how long the spans are, become two.
pub fn ageless(text: &str) -> String {
    let column = |cell: &str| if is_span(cell) { "AGE".to_owned() } else { cell.to_owned() };
    let line = |line: &str| {
        let indent = line.len() - line.trim_start().len();
        let cells: Vec<String> = line.trim().split("  ").map(str::trim).filter(|c| !c.is_empty()).map(column).collect();
        format!("{}{}\n", &line[..indent], cells.join("  "))
    };
    text.lines().map(line).collect()
}

fn is_span(cell: &str) -> bool {
    let mut digits = 0;
    cell.ends_with(['s', 'm', 'h', 'd'])
        && cell.chars().all(|c| match c {
            '0'..='9' => {
                digits += 1;
                true
            }
            's' | 'm' | 'h' | 'd' => std::mem::take(&mut digits) > 0,
            _ => false,
        })
}

/// What kubectl said on stderr without its warnings, which it prints for the `Warning` fields of an answer.
pub fn errors(err: &str) -> String {
    err.lines().filter(|l| !l.starts_with("Warning: ")).map(|l| format!("{l}\n")).collect()
}

#[test]
fn only_ages_are_taken_out_of_a_table() {
    let table = |age: &str| ageless(&format!("NAME     DATA   AGE\nprices   1      {age}\n5s-map   12     {age}\n"));
    assert_eq!(table("5s"), table("2m10s"));
    assert_eq!(table("5s"), "NAME  DATA  AGE\nprices  1  AGE\n5s-map  12  AGE\n");
    for (one, other) in [("12", "13"), ("Running", "Pending"), ("m", "s"), ("1x", "2x"), ("<none>", "1s")] {
        assert_ne!(table(one), table(other));
    }
    assert_eq!(errors("Warning: 299\nError from server\n"), "Error from server\n");
}
