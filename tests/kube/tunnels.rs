//! exec, attach, port-forward, cp and `logs -f` of real kubectl, by WebSocket and by SPDY, through the proxy and a real
//! kube-apiserver to a node that streams with the kubelet's own code: bytes identical, exit codes too; how fast, next to
//! kubectl without the proxy, is printed. And what becomes of them when the cable is cut.

use crate::bed::Program;
use crate::cable::Cable;
use crate::kubectl::{Kubectl, Running, Said};
use crate::scene::Scene;
use crate::support::pki::Pki;
use crate::support::proxy::Proxy;
use crate::support::{TempDir, eventually};
use serde_json::json;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// kubectl 1.34 asks for WebSocket, unless it is told not to.
const SPDY: &[(&str, &str)] =
    &[("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"), ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false")];
const WEBSOCKET: &[(&str, &str)] = &[];

/// What is copied.
const SIZE: usize = 50 << 20;
/// As often is a throughput measured, each way in turn.
const ROUNDS: usize = 5;
/// Tunnels at once.
const MANY: usize = 50;

const LONG: Duration = Duration::from_secs(60);

/// The node; ended when dropped.
struct Node {
    child: Child,
    port: u16,
}

impl Node {
    fn start(pki: &Pki) -> Node {
        let pair = pki.pair("edge1");
        let mut command = Command::new(Program::Node.built());
        let piped = command.arg(pair.cert).arg(pair.key).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = piped.spawn().expect("the node starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
        Node { child, port: line.trim().parse().expect("a port") }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn exec_and_its_kin_as_kubectl_has_them() {
    let scene = Scene::start();
    let node = Node::start(&scene.proxy.pki);
    let folder = TempDir::new();
    pod(&scene, &node, folder.path());
    let source = folder.path().join("source");
    fs::write(&source, noise(SIZE)).expect("written");
    for (name, environment) in [("WebSocket", WEBSOCKET), ("SPDY", SPDY)] {
        println!("\n{name}");
        let kubectl = scene.node.with(environment);
        exec(&kubectl);
        copy(&kubectl, &source, &folder.path().join(name));
        attach(&kubectl);
        port_forward(&kubectl);
    }
    let through_it = scene.proxy.metric("lite_apiserver_tunnels_total");
    assert!(through_it >= 10, "{through_it} tunnels");
    eventually("all tunnels are over", || scene.proxy.metric("lite_apiserver_tunnels") == 0);
    logs(&scene.node);
    many(&scene);
    throughput(&scene, &source);
    dark(&scene);
}

/// A pod on that node, as far as the apiserver knows.
fn pod(scene: &Scene, node: &Node, folder: &Path) {
    scene.namespace("tunnels");
    let ready = json!({"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": node.port}}});
    let edge = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "edge1"}, "status": ready});
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "runner", "namespace": "tunnels"},
        "spec": {"nodeName": "edge1", "containers": [{"name": "main", "image": "localhost/runner:1", "stdin": true}]}});
    for object in [edge, pod] {
        let file = folder.join("object.json");
        fs::write(&file, object.to_string()).expect("written");
        scene.node.must(&format!("create -f {}", file.display()));
    }
    scene.node.must("patch pod runner -n tunnels --subresource=status -p {\"status\":{\"phase\":\"Running\"}}");
}

/// Bytes that no compression makes fewer.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn run(kubectl: &Kubectl, arguments: &[&str], input: Stdio) -> Said {
    let mut running = kubectl.start_fed(arguments, input);
    running.end_within(LONG).unwrap_or_else(|| panic!("kubectl {arguments:?} hangs: {}", running.err()))
}

fn exec(kubectl: &Kubectl) {
    let script = "echo to out; echo to err >&2; exit 3";
    let said = run(kubectl, &["exec", "runner", "-n", "tunnels", "--", "sh", "-c", script], Stdio::null());
    assert_eq!((said.code, said.out.as_str()), (3, "to out\n"), "{said:?}");
    assert!(said.err.contains("to err\n") && said.err.contains("exit code 3"), "{said:?}");
    let said = run(kubectl, &["exec", "nobody", "-n", "tunnels", "--", "true"], Stdio::null());
    assert!(said.code == 1 && said.err.contains("\"nobody\" not found"), "{said:?}");
    println!("exec: as it is asked for");
}

/// cp there and back.
fn copy(kubectl: &Kubectl, source: &Path, folder: &Path) {
    fs::create_dir_all(folder).expect("a folder");
    let (there, back) = (folder.join("there"), folder.join("back"));
    let remote = format!("tunnels/runner:{}", there.display());
    let shown = |path: &Path| path.display().to_string();
    for arguments in [["cp", &shown(source), &remote], ["cp", &remote, &shown(&back)]] {
        let said = run(kubectl, &arguments, Stdio::null());
        assert_eq!(said.code, 0, "{said:?}");
        println!("kubectl {arguments:?}: {:.2} s", said.took.as_secs_f32());
    }
    let wanted = fs::read(source).expect("read");
    for copy in [&there, &back] {
        assert!(fs::read(copy).expect("read") == wanted, "{} is not what was copied", copy.display());
        fs::remove_file(copy).expect("removed");
    }
}

fn attach(kubectl: &Kubectl) {
    let mut attached = kubectl.start_fed(&["attach", "-i", "runner", "-n", "tunnels"], Stdio::piped());
    let mut input = attached.input();
    for word in ["one", "two"] {
        writeln!(input, "{word}").expect("written");
        eventually("an answer to each line", || attached.out().contains(&format!("heard {word}\n")));
    }
    drop(input);
    let said = attached.end_within(LONG).expect("attach ends when its input does");
    assert_eq!((said.code, said.out.as_str()), (0, "heard one\nheard two\n"), "{said:?}");
    println!("attach: each line is answered");
}

fn port_forward(kubectl: &Kubectl) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let target = listener.local_addr().expect("an address").port();
    let echoing = std::thread::spawn(move || {
        for socket in listener.incoming().take(3).flatten() {
            std::thread::spawn(move || std::io::copy(&mut &socket, &mut &socket));
        }
    });
    let forwarding = kubectl.start(&format!("port-forward runner -n tunnels :{target}"));
    let mut port = None;
    eventually("the port is told", || {
        let out = forwarding.out();
        let told =
            out.lines().find_map(|l| l.strip_prefix("Forwarding from 127.0.0.1:")?.split(' ').next()?.parse().ok());
        port = told;
        port.is_some()
    });
    let begun = Instant::now();
    for length in [5, 1 << 20, 20 << 20] {
        let sent = noise(length);
        let socket = TcpStream::connect(("127.0.0.1", port.unwrap_or(0_u16))).expect("connected");
        socket.set_read_timeout(Some(LONG)).expect("a timeout");
        let mut writer = socket.try_clone().expect("cloned");
        let copy = sent.clone();
        let writing = std::thread::spawn(move || writer.write_all(&copy));
        let mut back = vec![0; length];
        (&socket).read_exact(&mut back).expect("all comes back");
        assert!(back == sent, "{length} bytes");
        writing.join().expect("joined").expect("written");
    }
    echoing.join().expect("joined");
    println!("port-forward: 21 MB there and back in {:.2} s", begun.elapsed().as_secs_f32());
}

/// Each line as it is written, for as long as somebody follows.
fn logs(kubectl: &Kubectl) {
    let following = kubectl.start("logs -f runner -n tunnels");
    let mut seen = Vec::new();
    let begun = Instant::now();
    eventually("four lines", || {
        let lines = following.out().lines().count();
        if lines > seen.len() {
            seen.resize(lines, begun.elapsed());
        }
        lines >= 4
    });
    println!("\nlogs -f: lines after {seen:.1?}");
    // One a second, each at once: none waits for the next.
    let gaps: Vec<Duration> = seen.windows(2).map(|pair| pair[1].saturating_sub(pair[0])).collect();
    assert!(gaps.iter().all(|gap| *gap > Duration::from_millis(300)), "{gaps:?}");
}

/// Many at once: none hears what another does.
fn many(scene: &Scene) {
    let before = scene.proxy.peak_memory();
    let begun = Instant::now();
    let start = |n: usize| {
        let script = format!("read -r word; echo {n} $word");
        scene.node.start_fed(&["exec", "-i", "runner", "-n", "tunnels", "--", "sh", "-c", &script], Stdio::piped())
    };
    let mut all: Vec<Running> = (0..MANY).map(start).collect();
    let metric = || scene.proxy.metric("lite_apiserver_tunnels");
    while metric() < MANY as u64 {
        assert!(begun.elapsed() < LONG, "{} tunnels are open", metric());
        std::thread::sleep(Duration::from_millis(50));
    }
    println!("\n{MANY} tunnels are open after {:.1} s", begun.elapsed().as_secs_f32());
    for (n, running) in all.iter_mut().enumerate() {
        writeln!(running.input(), "word-{n}").expect("written");
    }
    for (n, running) in all.iter_mut().enumerate() {
        let said = running.end_within(LONG).expect("it ends");
        assert_eq!((said.code, said.out), (0, format!("{n} word-{n}\n")), "{}", said.err);
    }
    eventually("all tunnels are over", || metric() == 0);
    println!("peak memory of the proxy: {} kB more than before", (scene.proxy.peak_memory() - before) >> 10);
}

/// Next to kubectl without the proxy, both without the cable: median of some rounds.
fn throughput(scene: &Scene, source: &Path) {
    let folder = TempDir::new();
    let program = [env!("CARGO_BIN_EXE_lite-apiserver").to_owned()];
    let pki = Pki::new(&folder.path().join("pki"));
    let proxy = Proxy::start_with_kubeconfig(&program, pki, &scene.control_plane.admin(), &[]);
    let through = scene.node.by(proxy.data().join("client.kubeconfig"));
    println!("\n{:<24} {:>12} {:>14} {:>6}", "50 MB", "direct, MB/s", "through, MB/s", "ratio");
    let there = folder.path().join("there").display().to_string();
    let (remote, local) = (format!("tunnels/runner:{there}"), source.display().to_string());
    let back = folder.path().join("back").display().to_string();
    let up = format!("cat > {there}");
    let down = format!("cat {local}");
    let sent = ["exec", "-i", "runner", "-n", "tunnels", "--", "sh", "-c", &up];
    let fetched = ["exec", "runner", "-n", "tunnels", "--", "sh", "-c", &down];
    let (copied, brought) = (["cp", &local, &remote], ["cp", &remote, &back]);
    let cases: [(&str, &[&str]); 4] =
        [("cp there", &copied), ("cp back", &brought), ("exec up", &sent), ("exec down", &fetched)];
    for (protocol, environment) in [("WebSocket", WEBSOCKET), ("SPDY", SPDY)] {
        for (name, arguments) in &cases {
            let mut rates = [Vec::new(), Vec::new()];
            for round in 0..ROUNDS * 2 {
                // Each begins as often as the other.
                let who = (round + round / 2) % 2;
                let kubectl = [&scene.direct, &through][who].with(environment);
                let said = run(&kubectl, arguments, File::open(source).expect("opened").into());
                assert_eq!(said.code, 0, "{name}: {}", said.err);
                rates[who].push((f64::from(SIZE as u32) / 1e6) / said.took.as_secs_f64());
            }
            let [direct, through] = rates.map(|mut r| {
                r.sort_by(f64::total_cmp);
                r[r.len() / 2]
            });
            println!("{:<24} {direct:>12.0} {through:>14.0} {:>6.2}", format!("{name}, {protocol}"), through / direct);
        }
    }
}

/// What is open when the cable is cut ends; what comes then is told why not, at once.
fn dark(scene: &Scene) {
    for cable in [Cable::BlackHole, Cable::Refused] {
        let mut open = scene.node.start_fed(&["exec", "-i", "runner", "-n", "tunnels", "--", "cat"], Stdio::piped());
        let mut input = open.input();
        writeln!(input, "before").expect("written");
        eventually("an answer", || open.out() == "before\n");
        scene.relay.set(cable);
        let cut = Instant::now();
        let said = open.end_within(LONG).expect("it ends");
        println!("\n{cable:?}: exec ended {:.1} s after the cut: {}", cut.elapsed().as_secs_f32(), said.err.trim());
        assert!(said.code != 0, "{said:?}");
        eventually("the link is found down", || {
            scene.node.run("get --raw /livez");
            scene.proxy.metric("lite_apiserver_link_up") == 0
        });
        for environment in [WEBSOCKET, SPDY] {
            let kubectl = scene.node.with(environment);
            for arguments in [
                "exec runner -n tunnels -- true",
                "attach runner -n tunnels",
                "port-forward runner -n tunnels :80",
                "cp tunnels/runner:/x /tmp/x",
                "logs -f runner -n tunnels",
            ] {
                let said = kubectl.run(arguments);
                println!(
                    "kubectl {arguments}: {:.2} s\n    {}",
                    said.took.as_secs_f32(),
                    said.err.lines().last().unwrap_or_default()
                );
                assert!(said.code != 0 && said.err.contains("is down since 20"), "{said:?}");
                assert!(said.took < Duration::from_secs(5), "{said:?}");
            }
        }
        scene.relay.set(Cable::Whole);
        scene.proxy.await_link(true);
    }
    exec(&scene.node);
}
