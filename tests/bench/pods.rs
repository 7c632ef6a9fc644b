//! Pods as a cluster has them, of about 5 KB, no two alike; as kube-apiserver writes them in JSON and in protobuf. And
//! configmaps of 3 KB, for watch events.

use crate::support::protobuf::{self, message, put, unknown, varint};

/// How an upstream writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    Json,
    Protobuf,
}

impl Encoding {
    pub const BOTH: [Encoding; 2] = [Encoding::Json, Encoding::Protobuf];

    pub fn name(self) -> &'static str {
        match self {
            Encoding::Json => "JSON",
            Encoding::Protobuf => "protobuf",
        }
    }

    pub fn media_type(self) -> &'static str {
        match self {
            Encoding::Json => "application/json",
            Encoding::Protobuf => "application/vnd.kubernetes.protobuf",
        }
    }
}

/// A whole list of pods, in the order of their keys, as etcd has them. From one round to the next each pod has changed.
pub fn list(encoding: Encoding, count: u64, round: u64) -> Vec<u8> {
    let version = (round + 1) * 1_000_000;
    let mut numbers: Vec<u64> = (0..count).collect();
    numbers.sort_by_cached_key(|n| format!("{}/{}", namespace(*n), name(*n)));
    match encoding {
        Encoding::Json => {
            let mut list = format!(
                r#"{{"kind":"PodList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":["#
            );
            let items: Vec<String> = numbers.into_iter().map(|number| json(number, round)).collect();
            list.push_str(&items.join(","));
            list.push_str("]}");
            list.into_bytes()
        }
        Encoding::Protobuf => {
            let meta = message(&[(1, b""), (2, version.to_string().as_bytes()), (3, b"")]);
            let mut list = message(&[(1, &meta)]);
            numbers.into_iter().for_each(|number| put(2, &protobuf(number, round), &mut list));
            unknown("v1", "PodList", &list)
        }
    }
}

/// An event about a configmap of so many bytes: the event, and how long the object in it is.
pub fn event(encoding: Encoding, name: &str, version: u64, size: usize) -> (Vec<u8>, usize) {
    let version = version.to_string();
    let filling = |around: usize| filling(size - around, version.len() as u64);
    match encoding {
        Encoding::Json => {
            let object = |filling: &str| {
                format!(
                    r#"{{"kind":"ConfigMap","apiVersion":"v1","metadata":{{"name":"{name}","namespace":"shop","uid":"{}","resourceVersion":"{version}"}},"data":{{"settings.conf":"{filling}"}}}}"#,
                    uid(name.len() as u64)
                )
            };
            let object = object(&filling(object("").len()));
            (format!("{{\"type\":\"MODIFIED\",\"object\":{object}}}\n").into_bytes(), object.len())
        }
        Encoding::Protobuf => {
            let object = |filling: &str| {
                let uid = uid(name.len() as u64);
                let meta = message(&[(1, name.as_bytes()), (3, b"shop"), (5, uid.as_bytes()), (6, version.as_bytes())]);
                let data = message(&[(1, b"settings.conf"), (2, filling.as_bytes())]);
                message(&[(1, &meta), (2, &data)])
            };
            let object = object(&filling(object("").len() + 2));
            (protobuf::event("MODIFIED", &unknown("v1", "ConfigMap", &object)), object.len())
        }
    }
}

/// An empty list of configmaps.
pub fn no_maps(encoding: Encoding, version: u64) -> Vec<u8> {
    match encoding {
        Encoding::Json => format!(
            r#"{{"kind":"ConfigMapList","apiVersion":"v1","metadata":{{"resourceVersion":"{version}"}},"items":[]}}"#
        )
        .into_bytes(),
        Encoding::Protobuf => {
            let meta = message(&[(1, b""), (2, version.to_string().as_bytes()), (3, b"")]);
            unknown("v1", "ConfigMapList", &message(&[(1, &meta)]))
        }
    }
}

fn name(number: u64) -> String {
    format!("front-{:010x}-{:05x}", scramble(number / 10) & 0xff_ffff_ffff, scramble(number) & 0xf_ffff)
}

fn namespace(number: u64) -> String {
    format!("team-{:02}", number % 20)
}

fn version(number: u64, round: u64) -> String {
    (round * 1_000_000 + 100_000 + number).to_string()
}

fn uid(number: u64) -> String {
    let (a, b) = (scramble(number), scramble(!number));
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        a >> 16 & 0xffff,
        a & 0xfff,
        b >> 52,
        b & 0xffff_ffff_ffff
    )
}

fn address(number: u64) -> String {
    format!("10.244.{}.{}", number / 250 % 250, number % 250 + 1)
}

/// Bits that look like chance.
fn scramble(number: u64) -> u64 {
    let mixed = (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^ mixed >> 32
}

/// Text of a length that is plain in JSON.
fn filling(length: usize, number: u64) -> String {
    let words = ["listen", "answer", "queue", "retry", "limit", "region", "shard", "level"];
    let mut text = String::with_capacity(length + 16);
    for index in 0.. {
        if text.len() >= length {
            break;
        }
        let bits = scramble(number << 16 | index);
        text.push_str(words[(bits & 7) as usize]);
        text.push_str(&format!("={};", bits >> 8 & 0xffff));
    }
    text.truncate(length);
    text
}

/// What a server-side apply leaves in every object.
const SPEC_FIELDS: &str = r#"{"f:metadata":{"f:annotations":{".":{},"f:checksum/config":{}},"f:generateName":{},"f:labels":{".":{},"f:app":{},"f:pod-template-hash":{},"f:release":{}},"f:ownerReferences":{".":{},"k:{\"uid\":\"5f7d6c1e-90d4-4a7e-8f3c-0123456789ab\"}":{}}},"f:spec":{"f:containers":{"k:{\"name\":\"front\"}":{".":{},"f:env":{".":{},"k:{\"name\":\"SETTING_00\"}":{".":{},"f:name":{},"f:value":{}},"k:{\"name\":\"SETTING_01\"}":{".":{},"f:name":{},"f:value":{}},"k:{\"name\":\"SETTING_02\"}":{".":{},"f:name":{},"f:value":{}},"k:{\"name\":\"SETTING_03\"}":{".":{},"f:name":{},"f:value":{}}},"f:image":{},"f:imagePullPolicy":{},"f:name":{},"f:ports":{".":{},"k:{\"containerPort\":8080,\"protocol\":\"TCP\"}":{".":{},"f:containerPort":{},"f:protocol":{}}},"f:resources":{".":{},"f:limits":{".":{},"f:memory":{}},"f:requests":{".":{},"f:cpu":{}}},"f:terminationMessagePath":{},"f:terminationMessagePolicy":{}}},"f:dnsPolicy":{},"f:enableServiceLinks":{},"f:restartPolicy":{},"f:schedulerName":{},"f:securityContext":{},"f:terminationGracePeriodSeconds":{}}}"#;
const STATUS_FIELDS: &str = r#"{"f:status":{"f:conditions":{"k:{\"type\":\"ContainersReady\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}},"k:{\"type\":\"Initialized\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}},"k:{\"type\":\"Ready\"}":{".":{},"f:lastProbeTime":{},"f:lastTransitionTime":{},"f:status":{},"f:type":{}}},"f:containerStatuses":{},"f:hostIP":{},"f:phase":{},"f:podIP":{},"f:podIPs":{".":{},"k:{\"ip\":\"10.244.0.1\"}":{".":{},"f:ip":{}}},"f:startTime":{}}}"#;
const TIME: &str = "2026-11-24T14:05:15Z";
const SECONDS: u64 = 1_795_529_115;
const CONDITIONS: [&str; 4] = ["Initialized", "Ready", "ContainersReady", "PodScheduled"];

fn settings(number: u64) -> impl Iterator<Item = (String, String)> {
    (0..12).map(move |n| (format!("SETTING_{n:02}"), filling(56, number << 4 | n)))
}

fn image(number: u64) -> String {
    format!("registry.example.com/shop/front@sha256:{:016x}{:016x}", scramble(number / 10), scramble(!number / 10))
}

fn json(number: u64, round: u64) -> String {
    let (name, namespace, version, address) =
        (name(number), namespace(number), version(number, round), address(number));
    let (uid, owner, image) = (uid(number), uid(number / 10), image(number));
    let generate = &name[..name.len() - 5];
    let env: Vec<String> = settings(number).map(|(n, v)| format!(r#"{{"name":"{n}","value":"{v}"}}"#)).collect();
    let env = env.join(",");
    let conditions: Vec<String> = CONDITIONS
        .map(|c| format!(r#"{{"type":"{c}","status":"True","lastProbeTime":null,"lastTransitionTime":"{TIME}"}}"#))
        .into();
    let conditions = conditions.join(",");
    format!(
        r#"{{"metadata":{{"name":"{name}","generateName":"{generate}","namespace":"{namespace}","uid":"{uid}","resourceVersion":"{version}","creationTimestamp":"{TIME}","labels":{{"app":"front","pod-template-hash":"{:010x}","release":"r{}"}},"annotations":{{"checksum/config":"{:016x}{:016x}"}},"ownerReferences":[{{"apiVersion":"apps/v1","kind":"ReplicaSet","name":"{generate}","uid":"{owner}","controller":true,"blockOwnerDeletion":true}}],"managedFields":[{{"manager":"kube-controller-manager","operation":"Update","apiVersion":"v1","time":"{TIME}","fieldsType":"FieldsV1","fieldsV1":{SPEC_FIELDS}}},{{"manager":"kubelet","operation":"Update","apiVersion":"v1","time":"{TIME}","fieldsType":"FieldsV1","fieldsV1":{STATUS_FIELDS},"subresource":"status"}}]}},"spec":{{"containers":[{{"name":"front","image":"{image}","ports":[{{"containerPort":8080,"protocol":"TCP"}}],"env":[{env}],"resources":{{"limits":{{"memory":"128Mi"}},"requests":{{"cpu":"50m"}}}},"terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent"}}],"restartPolicy":"Always","terminationGracePeriodSeconds":30,"dnsPolicy":"ClusterFirst","serviceAccountName":"front","nodeName":"edge{}","securityContext":{{}},"schedulerName":"default-scheduler","enableServiceLinks":true}},"status":{{"phase":"Running","conditions":[{conditions}],"hostIP":"10.0.0.{}","podIP":"{address}","podIPs":[{{"ip":"{address}"}}],"startTime":"{TIME}","containerStatuses":[{{"name":"front","state":{{"running":{{"startedAt":"{TIME}"}}}},"lastState":{{}},"ready":true,"restartCount":0,"image":"{image}","imageID":"{image}","containerID":"containerd://{:016x}{:016x}","started":true}}],"qosClass":"Burstable"}}}}"#,
        scramble(number / 10) & 0xff_ffff_ffff,
        number % 7,
        scramble(number << 1),
        scramble(number << 2),
        number % 200,
        number % 200 + 1,
        scramble(number << 3),
        scramble(number << 4),
    )
}

/// Field numbers of `k8s.io/api/core/v1/generated.proto` and `apimachinery/pkg/apis/meta/v1/generated.proto`.
fn protobuf(number: u64, round: u64) -> Vec<u8> {
    let (name, address, image) = (name(number), address(number), image(number));
    let generate = &name.as_bytes()[..name.len() - 5];
    let time = [b"\x08".as_slice(), &varint(SECONDS)].concat();
    let pair = |key: &str, value: &str| message(&[(1, key.as_bytes()), (2, value.as_bytes())]);
    let owner = uid(number / 10);
    let owner = message(&[(1, b"ReplicaSet"), (3, generate), (4, owner.as_bytes()), (5, b"apps/v1")]);
    let managed = |manager: &[u8], fields: &str| {
        let fields = message(&[(1, fields.as_bytes())]);
        message(&[(1, manager), (2, b"Update"), (3, b"v1"), (4, &time), (6, b"FieldsV1"), (7, &fields)])
    };
    let meta = message(&[
        (1, name.as_bytes()),
        (2, generate),
        (3, namespace(number).as_bytes()),
        (4, b""),
        (5, uid(number).as_bytes()),
        (6, version(number, round).as_bytes()),
        (8, &time),
        (11, &pair("app", "front")),
        (11, &pair("pod-template-hash", &format!("{:010x}", scramble(number / 10) & 0xff_ffff_ffff))),
        (11, &pair("release", &format!("r{}", number % 7))),
        (12, &pair("checksum/config", &format!("{:016x}{:016x}", scramble(number << 1), scramble(number << 2)))),
        (13, &owner),
        (17, &managed(b"kube-controller-manager", SPEC_FIELDS)),
        (17, &managed(b"kubelet", STATUS_FIELDS)),
    ]);
    let mut container = message(&[(1, b"front"), (2, image.as_bytes()), (6, b"\x18\x90\x3f\x22\x03TCP")]);
    settings(number).for_each(|(name, value)| put(7, &pair(&name, &value), &mut container));
    container.extend(message(&[(13, b"/dev/termination-log"), (14, b"IfNotPresent"), (20, b"File")]));
    let spec = message(&[
        (2, &container),
        (3, b"Always"),
        (6, b"ClusterFirst"),
        (8, b"front"),
        (10, format!("edge{}", number % 200).as_bytes()),
        (19, b"default-scheduler"),
    ]);
    let running = message(&[(2, &message(&[(1, &time)]))]);
    let id = format!("containerd://{:016x}{:016x}", scramble(number << 3), scramble(number << 4));
    let state =
        message(&[(1, b"front"), (2, &running), (6, image.as_bytes()), (7, image.as_bytes()), (8, id.as_bytes())]);
    let mut status = message(&[(1, b"Running")]);
    for condition in CONDITIONS {
        put(2, &message(&[(1, condition.as_bytes()), (2, b"True"), (4, &time)]), &mut status);
    }
    let host = format!("10.0.0.{}", number % 200 + 1);
    status.extend(message(&[
        (5, host.as_bytes()),
        (6, address.as_bytes()),
        (7, &time),
        (8, &state),
        (9, b"Burstable"),
    ]));
    message(&[(1, &meta), (2, &spec), (3, &status)])
}
