//! A box: an emulated one with 64 MB, whose disk outlives it, and whose power can be cut.

use crate::archive::Archive;
use crate::parts::{Kind, Parts};
use crate::support::client::{Client, tls};
use crate::support::free_port;
use crate::support::pki::Pki;
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// For whatever a box does: emulated, on a machine that has other work.
const PATIENCE: Duration = Duration::from_secs(240);

/// What the daemon's port and the status page are in the box.
const PORTS: [u16; 2] = [51003, 8081];

/// How much of a network the box has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// The upstream can be reached.
    Up,
    /// There is a card, and the box can be asked over it, but it reaches nobody.
    Cut,
    /// There is no card.
    None,
}

/// A box that can be switched on: its kernel, its initial file system, its disk.
pub struct Machine {
    kind: Kind,
    kernel: PathBuf,
    initial: PathBuf,
    disk: PathBuf,
    console: PathBuf,
}

/// A box that is on; switched off when dropped.
pub struct Running {
    emulator: Child,
    ports: [u16; 2],
    console: PathBuf,
    /// When its power came.
    pub since: Instant,
}

impl Machine {
    /// Puts it together in `folder`. It knows itself by certificates of `pki`, and acts as `node`.
    pub fn new(kind: Kind, parts: &Parts, pki: &Pki, node: &str, folder: &Path) -> Machine {
        let machine = Machine {
            kind,
            kernel: parts.kernel.clone(),
            initial: folder.join("initial"),
            disk: folder.join("disk"),
            console: folder.join("console"),
        };
        fs::write(&machine.initial, initial(parts, pki, node)).expect("written");
        fs::File::create(&machine.disk).and_then(|f| f.set_len(64 << 20)).expect("a disk");
        let content = folder.join("content");
        fs::create_dir_all(&content).expect("a folder");
        fs::copy(&parts.program, content.join("lite-apiserver")).expect("copied");
        let mut mkfs = Command::new("mkfs.ext4");
        let made = mkfs.arg("-q").arg("-d").arg(&content).arg(&machine.disk).status().expect("mkfs.ext4 (e2fsprogs)");
        assert!(made.success(), "mkfs.ext4: {made}");
        machine
    }

    /// Switches it on. It has the time from the network: without one its clock stands at the beginning of 1970, as that of a
    /// box without a battery.
    pub fn power_on(&self, network: Network, command_line: &str) -> Running {
        let (emulator, processor) = self.kind.emulator();
        let ports = [free_port(), free_port()];
        let _ = fs::remove_file(&self.console);
        let mut command = Command::new(emulator);
        command.args([
            "-M",
            "virt",
            "-cpu",
            processor,
            "-m",
            "64",
            "-display",
            "none",
            "-monitor",
            "none",
            "-no-reboot",
        ]);
        command.arg("-serial").arg(format!("file:{}", self.console.display()));
        if network != Network::Up {
            command.args(["-rtc", "base=1970-01-01T00:00:00"]);
        }
        command.arg("-kernel").arg(&self.kernel).arg("-initrd").arg(&self.initial);
        command.args(["-append", &format!("console=ttyAMA0 quiet panic=-1 nr_cpus=1 {command_line}")]);
        command.args(["-device", "virtio-blk-device,drive=disk", "-drive"]);
        command.arg(format!("id=disk,if=none,format=raw,file={}", self.disk.display()));
        if network == Network::None {
            command.args(["-nic", "none"]);
        } else {
            let forwarded: String = ports
                .iter()
                .zip(PORTS)
                .map(|(here, there)| format!(",hostfwd=tcp:127.0.0.1:{here}-:{there}"))
                .collect();
            let restrict = if network == Network::Cut { ",restrict=on" } else { "" };
            // As a small box's card: without the large buffers that save a server work.
            let card =
                "virtio-net-device,netdev=card,mrg_rxbuf=off,guest_tso4=off,guest_tso6=off,guest_ufo=off,guest_ecn=off";
            command.args(["-device", card, "-netdev"]);
            command.arg(format!("user,id=card{forwarded}{restrict}"));
        }
        let since = Instant::now();
        let emulator = command.stdin(Stdio::null()).spawn().unwrap_or_else(|e| panic!("{emulator}: {e}"));
        Running { emulator, ports, console: self.console.clone(), since }
    }
}

impl Running {
    /// Waits for a line of the box's on its console; what follows `beginning` on it.
    pub fn hears(&mut self, beginning: &str) -> String {
        loop {
            let text = self.console();
            // The last line may not be whole yet.
            let whole = &text[..text.rfind('\n').unwrap_or(0)];
            if let Some(rest) = whole.lines().find_map(|l| l.trim().strip_prefix(beginning)) {
                return rest.to_owned();
            }
            self.waits_for(beginning);
        }
    }

    /// Waits until the daemon answers, and is asked as this identity; how long after the power came.
    pub fn serves(&mut self, pki: &Pki, cn: &str) -> Duration {
        self.hears("box: starting");
        loop {
            let answer = self.connects(pki, Some(cn)).and_then(|mut client| client.try_get("/version"));
            if answer.is_ok_and(|reply| reply.status() == 200) {
                return self.since.elapsed();
            }
            self.waits_for("an HTTPS answer");
        }
    }

    /// A connection to the daemon, as this identity.
    pub fn client(&mut self, pki: &Pki, cn: Option<&str>) -> Client {
        self.connects(pki, cn).expect("a connection")
    }

    fn connects(&self, pki: &Pki, cn: Option<&str>) -> std::io::Result<Client> {
        let tls = tls(&pki.ca(), cn.map(|cn| pki.pair(cn)).as_ref());
        Client::try_connect_to(SocketAddr::from(([127, 0, 0, 1], self.ports[0])), &tls, Duration::from_secs(60))
    }

    /// What the kernel says of the daemon, in KiB by name: `VmRSS`, `MemAvailable` and their like.
    pub fn status(&self, name: &str) -> u64 {
        let mut socket = TcpStream::connect(("127.0.0.1", self.ports[1])).expect("the status page");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("set");
        write!(socket, "GET /cgi-bin/status HTTP/1.0\r\n\r\n").expect("sent");
        let mut page = String::new();
        socket.read_to_string(&mut page).expect("the status page");
        let value = page.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':'));
        let number = value.and_then(|v| v.trim().trim_end_matches(" kB").trim().parse().ok());
        number.unwrap_or_else(|| panic!("no {name} in: {page}"))
    }

    /// Cuts its power: nothing is written any more, nothing is closed.
    pub fn power_cut(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let _ = self.emulator.kill();
        let _ = self.emulator.wait();
    }

    fn console(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.console).unwrap_or_default()).into_owned()
    }

    fn waits_for(&mut self, what: &str) {
        let ended = self.emulator.try_wait().expect("waited");
        let late = self.since.elapsed() > PATIENCE;
        assert!(ended.is_none() && !late, "no {what}; ended: {ended:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
        if std::thread::panicking() {
            eprintln!("the box's console:\n{}", self.console());
        }
    }
}

/// What the kernel finds: busybox, the modules it needs, what the daemon reads, and the packaged init script. The daemon itself is on
/// the disk, so that its code is not in memory twice.
fn initial(parts: &Parts, pki: &Pki, node: &str) -> Vec<u8> {
    let read = |path: &Path| fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut archive = Archive::new();
    for folder in ["proc", "sys", "dev", "data", "sbin"] {
        archive.folder(folder);
    }
    archive.program("init", include_bytes!("guest/init"));
    archive.program("www/cgi-bin/status", include_bytes!("guest/status"));
    archive.program("etc/init.d/lite-apiserver", include_bytes!("../../packaging/sysv/lite-apiserver"));
    // Where the program is, and the test's upstream: the kernel's command line says.
    let options = "DAEMON=/data/lite-apiserver\nOPTIONS=--kube-apiserver-port=$UPSTREAM_PORT\n";
    archive.file("etc/default/lite-apiserver", options.as_bytes());
    archive.program("bin/busybox", &read(&parts.busybox));
    let modules = parts.modules(&["virtio_mmio", "virtio_blk", "virtio_net", "crc32c", "ext4"]);
    let mut order = String::new();
    for module in &modules {
        let name = module.file_name().expect("a name").to_string_lossy();
        archive.file(&format!("modules/{name}"), &read(module));
        order.push_str(&format!("{name}\n"));
    }
    archive.file("modules/base", order.as_bytes());
    let (serving, own) = (pki.pair("lite-apiserver"), pki.pair(node));
    let at = |name: &str| format!("etc/lite-apiserver/{name}");
    for (name, file) in [
        ("ca.crt", &pki.ca()),
        ("serving.crt", &serving.cert),
        ("serving.key", &serving.key),
        ("node.crt", &own.cert),
        ("node.key", &own.key),
    ] {
        archive.file(&at(name), &read(file));
    }
    let pairs = serde_json::json!([{"cert": "/etc/lite-apiserver/node.crt", "key": "/etc/lite-apiserver/node.key"}]);
    archive.file(&at("pairs.json"), pairs.to_string().as_bytes());
    let flags = [
        "address=0.0.0.0",
        "port=51003",
        "ca-file=/etc/lite-apiserver/ca.crt",
        "tls-cert-file=/etc/lite-apiserver/serving.crt",
        "tls-private-key-file=/etc/lite-apiserver/serving.key",
        "apiserver-ca-file=/etc/lite-apiserver/ca.crt",
        "kube-apiserver-url=10.0.2.2",
        "tls-config-file=/etc/lite-apiserver/pairs.json",
        "file-cache-path=/data/record",
    ];
    let lines: String = flags.iter().map(|f| format!("--{f}\n")).collect();
    archive.file(&at("flags"), lines.as_bytes());
    archive.finish()
}
