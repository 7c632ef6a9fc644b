//! The demonstration's six steps, told as they happen, and the table of what was seen.

use crate::Wish;
use crate::client;
use crate::edge::{NAME, SERVICE, Told};
use crate::kubectl::errors;
use crate::scene::{Count, Known, Scene};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long a pod is given to be answered as it must be.
const PATIENCE: Duration = Duration::from_secs(20);

/// What was seen in one run.
struct Seen {
    before: Count,
    cut: Count,
    dark: Count,
    healed: Count,
    /// From containerd's first answer until all of lite-demo answered, while cut.
    boot: Option<Duration>,
    /// The Service's address after the boot, while cut; and healed.
    service: [bool; 2],
    /// What a pod asked of the API was answered, and its watch held: before, cut, after the boot, healed.
    api: [bool; 4],
    /// The same, and all else, after another boot at the end of a long outage.
    outlasted: bool,
    /// Resident, and of it its own; bytes.
    memory: (u64, u64),
    watches: u64,
    recreated: usize,
    /// Started again at the healing.
    restarted: usize,
    /// Restarts that the cluster counts for each pod of the boot while cut; and of one that was not.
    counted: [u64; 2],
}

/// Tells it so often; whether everything came back each time.
pub fn tell(wish: &Wish) -> bool {
    let seen: Vec<Seen> = (1..=wish.runs)
        .map(|run| {
            println!("\nrun {run} of {}", wish.runs);
            once(wish)
        })
        .collect();
    table(&seen);
    seen.iter().all(|s| {
        let counts = [s.cut, s.dark, s.healed];
        let same = counts.iter().all(|c| *c == s.before) && s.recreated == 0 && s.restarted == 0;
        s.before.demo == wish.pods && same && s.api == [true; 4] && s.service == [true; 2] && s.outlasted
    })
}

fn once(wish: &Wish) -> Seen {
    let mut scene = Scene::install(wish);
    scene.deploy(wish.pods);
    ask(&scene);
    control(&scene, "drawer closed");
    let api_before = hears_of_changes(&scene);
    let before = scene.answers();
    let known = scene.known();
    // What a person has looked at while the link was up can be looked at again.
    for arguments in ["get pods -o wide", "get nodes", "describe pod -l app=lite-demo"] {
        scene.on_node(arguments);
    }
    // The record is made durable once a second.
    std::thread::sleep(Duration::from_secs(2));

    scene.edge.cut();
    let begun = Instant::now();
    scene.say("THE CABLE IS CUT");
    scene.wait("lite-apiserver finds out", 30, |s| s.edge.metric("lite_apiserver_link_up") == 0);
    scene.say("lite-apiserver has found out");
    ask(&scene);
    person(&scene);
    let api_cut = client::asks(&scene, "yellow", PATIENCE).is_some();
    let cut = scene.answers();

    scene.edge.power_off();
    scene.say("THE NODE'S POWER IS OFF");
    let up = scene.edge.boot();
    let boot = await_answers(&scene, up, wish.pods, before.len());
    match boot {
        Some(boot) => scene.say(&format!("all of lite-demo answers, {:.1} s after containerd", boot.as_secs_f32())),
        None => scene.say(&format!("NOT ALL OF lite-demo ANSWERS{}", scene.edge.logs())),
    }
    let patience = Instant::now() + Duration::from_secs(30);
    while !service_answers(&scene) && Instant::now() < patience {
        std::thread::sleep(Duration::from_millis(100));
    }
    scene.say(&format!("the Service has been asked until {:.1} s after containerd", up.elapsed().as_secs_f32()));
    ask(&scene);
    person(&scene);
    let dark = scene.answers();
    control(&scene, "drawer closed");
    let api_dark = client::asks(&scene, "yellow", PATIENCE).is_some();
    paint_news(&scene, "blue");
    scene.cloud.must("patch widget drawer --type=merge -p {\"spec\":{\"drawer\":\"open\"}}");
    let service_in_the_dark = service_answers(&scene);
    scene.wait("the cluster calls the node lost", 90, |s| {
        s.cloud.must(&format!("get node {NAME} -o jsonpath={{.status.conditions[?(@.type==\"Ready\")].status}}"))
            != "True"
    });
    scene.say("the cluster calls the node lost");
    std::thread::sleep(Duration::from_secs(5));
    let outlasted = wish.dark.is_zero() || outlasts(&mut scene, wish, begun, &before);
    let last = scene.answers();

    scene.edge.heal();
    scene.say("THE CABLE IS MENDED");
    scene.cloud_waits(&format!("wait --for=condition=Ready node/{NAME}"));
    scene.settled();
    let settled = Instant::now();
    scene.say("the node is Ready, and what is deployed is");
    // A token that has expired meanwhile is renewed by the kubelet when it next looks after the pod.
    let patience = if wish.dark.is_zero() { PATIENCE } else { Duration::from_secs(200) };
    let api_healed = client::asks(&scene, "blue", patience).is_some();
    // Whatever the controllers may think better of.
    std::thread::sleep(Duration::from_secs(10).saturating_sub(settled.elapsed()));
    ask(&scene);
    control(&scene, "drawer open");
    let (healed, known_after) = (scene.answers(), scene.known());
    println!("{}", scene.cloud.must("get nodes,pods -A -o wide"));
    let recreated = known.iter().filter(|(name, k)| known_after.get(*name).is_none_or(|after| after.uid != k.uid));
    let restarted =
        last.iter().filter(|(name, told)| healed.get(*name).is_none_or(|h| h["INSTANCE"] != told["INSTANCE"]));
    let (recreated, restarted) = (recreated.count(), restarted.count());
    let (memory, watches) = (scene.edge.memory(), scene.edge.metric("lite_apiserver_watches"));
    let service_healed = service_answers(&scene);

    // The same boot without a cut, for comparison.
    scene.edge.power_off();
    let up = scene.edge.boot();
    let online = await_answers(&scene, up, wish.pods, before.len());
    scene.settled();
    scene.say(&format!(
        "for comparison: after a boot with the cable whole, all answers after {:.1} s",
        online.unwrap_or_default().as_secs_f32()
    ));
    std::thread::sleep(Duration::from_secs(3));
    let restarts = |known: &BTreeMap<String, Known>| -> u64 {
        known.iter().filter(|(name, _)| before.contains_key(*name)).map(|(_, k)| k.restarts).sum()
    };
    let known_online = scene.known();
    let counted =
        [restarts(&known_after) - restarts(&known), restarts(&known_online).saturating_sub(restarts(&known_after))];
    let count = Count::of;
    Seen {
        before: count(&before),
        cut: count(&cut),
        dark: count(&dark),
        healed: count(&healed),
        boot,
        service: [service_in_the_dark, service_healed],
        api: [api_before, api_cut, api_dark, api_healed],
        outlasted,
        memory,
        watches,
        recreated,
        restarted,
        counted,
    }
}

/// The outage lasts, and the power goes once more at its end: whether all is there again, and a pod is still told what it
/// read.
fn outlasts(scene: &mut Scene, wish: &Wish, begun: Instant, before: &BTreeMap<String, Told>) -> bool {
    std::thread::sleep(wish.dark.saturating_sub(begun.elapsed()));
    scene.say(&format!("the cable has been cut for {} s", begun.elapsed().as_secs()));
    let still = client::asks(scene, "yellow", PATIENCE).is_some();
    scene.edge.power_off();
    scene.say("THE NODE'S POWER IS OFF, ONCE MORE");
    let up = scene.edge.boot();
    let took = await_answers(scene, up, wish.pods, before.len()).map_or(f32::NAN, |t| t.as_secs_f32());
    let answers = Count::of(&scene.answers());
    scene.say(&format!("{answers} answer, lite-demo {took:.1} s after containerd"));
    control(scene, "drawer closed");
    let again = client::asks(scene, "yellow", PATIENCE).is_some();
    still && again && answers == Count::of(before)
}

/// A pod's watch brings what changes, without another list.
fn hears_of_changes(scene: &Scene) -> bool {
    let first = client::asks(scene, "red", PATIENCE);
    paint_news(scene, "yellow");
    let lists = client::asks(scene, "yellow", PATIENCE);
    lists.is_some() && lists == first
}

fn paint_news(scene: &Scene, colour: &str) {
    scene.cloud.must(&format!("patch configmap news -p {{\"data\":{{\"colour\":\"{colour}\"}}}}"));
}

/// A person asks one pod of lite-demo, and the Service.
fn ask(scene: &Scene) {
    let answers = scene.edge.answers();
    let Some((_, told)) = answers.iter().find(|(name, _)| name.starts_with("lite-demo-")) else {
        println!("no pod of lite-demo answers");
        return;
    };
    let url = format!("http://{}:8080/", told["POD_IP"]);
    println!("$ curl {url}\n{}", scene.edge.curl(&url).trim_end());
    let served = if service_answers(scene) { "answers" } else { "does not answer" };
    println!("({} answer; the Service's address {SERVICE} {served})", Count::of(&scene.answers()));
}

/// The controller holds what it should: what was recorded, or what happened meanwhile. (It may have had to try again.)
fn control(scene: &Scene, widgets: &str) {
    let told = |s: &Scene| s.answers().into_iter().find(|(name, _)| name.starts_with("control-")).map(|(_, told)| told);
    scene.wait("the controller holds it", 20, |s| told(s).is_some_and(|told| told["HOLDS"] == widgets));
    let told = told(scene).unwrap_or_default();
    println!("the controller holds: {}; lists: {}; errors: {}", told["HOLDS"], told["LISTS"], told["WRONG"]);
}

/// Asked from the node and from a pod. kube-proxy chooses a pod at random: one answer proves little.
fn service_answers(scene: &Scene) -> bool {
    let right = |said: &str| said.contains("POD_NAME=lite-demo-");
    let here = || right(&scene.edge.curl(&format!("http://{SERVICE}/")));
    (0..4).all(|_| here()) && (0..4).all(|_| right(&client::by_the_service(scene)))
}

/// What kubectl says on the node while the link is down.
fn person(scene: &Scene) {
    let pod = scene.answers().into_keys().find(|name| name.starts_with("lite-demo-")).unwrap_or_default();
    for arguments in [
        "get pods -o wide".to_owned(),
        format!("describe pod {pod}"),
        format!("logs {pod}"),
        format!("exec {pod} -- /pod fetch"),
        format!("delete pod {pod}"),
    ] {
        let said = scene.on_node(&arguments);
        let lines = said.out.lines().count();
        println!("$ kubectl {arguments}: exit code {}, {lines} lines, {:.1} s", said.code, said.took.as_secs_f32());
        if arguments.starts_with("get") {
            print!("{}", said.out);
        }
        print!("{}", errors(&said.err));
    }
}

/// How long after `up` all of lite-demo answered; then waits a little for the others, too.
fn await_answers(scene: &Scene, up: Instant, demo: usize, all: usize) -> Option<Duration> {
    let answered = |enough: &dyn Fn(Count) -> bool, seconds: u64| {
        let patience = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < patience {
            if enough(Count::of(&scene.answers())) {
                return Some(up.elapsed());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        None
    };
    let took = answered(&|count| count.demo >= demo, 60);
    answered(&|count| count.demo + count.others >= all, 10);
    took
}

fn table(seen: &[Seen]) {
    println!("\n(n+m: n pods of lite-demo and m others answer. Memory: resident, and of it private.)");
    println!(
        "| run | before | cut | booted while cut | healed | from boot to all answering | Service in the dark, healed | a pod's list and watch: before, cut, booted, healed | recreated | restarted at healing | restarts counted, and of a boot uncut | memory | watches |"
    );
    println!("|{}", " --- |".repeat(13));
    let mega = |bytes: u64| format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10);
    for (i, s) in seen.iter().enumerate() {
        let boot = s.boot.map_or("never".to_owned(), |b| format!("{:.1} s", b.as_secs_f32()));
        let yes = |so: bool| if so { "yes" } else { "no" };
        println!(
            "| {} | {} | {} | {} | {} | {boot} | {}, {} | {} | {} | {} | {}, {} | {}, {} | {} |",
            i + 1,
            s.before,
            s.cut,
            s.dark,
            s.healed,
            yes(s.service[0]),
            yes(s.service[1]),
            s.api.map(yes).join(", "),
            s.recreated,
            s.restarted,
            s.counted[0],
            s.counted[1],
            mega(s.memory.0),
            mega(s.memory.1),
            s.watches
        );
    }
}
