//! The upstream as the daemon would reach it, and the clock beside the upstream's. Asks `/readyz` as nobody, and `/api` with
//! each key pair: reads that need no rights, and that only who is not known is refused with 401.

use super::Report;
use crate::config::{Inspection, Pair, ServerConfig, UpstreamConfig, VerificationClock};
use crate::moment::{http_date, rfc3339, span};
use crate::upstream::{Credentials, Outgoing, Upstream};
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

const SUBJECT: &str = "upstream";

/// How long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// How far the clocks may be apart: what a second's rounding, a slow link and Kubernetes' own tokens bear.
const SKEW: Duration = Duration::from_secs(60);

/// How far apart they are where certificates and tokens that were just made are not valid yet, or not any more.
const GREAT_SKEW: Duration = Duration::from_secs(86_400);

/// Before this no clock is right: the first of 2024.
const EARLIEST: Duration = Duration::from_secs(1_704_067_200);

pub(super) fn look(at: &Inspection, now: SystemTime, report: &mut Report) {
    let mut heard = None;
    for server in &at.upstream.servers {
        // The moment is that of the question, not that of the whole look.
        heard = reach(at, server, report).or(heard);
    }
    clock(heard, now, report);
}

fn reach(at: &Inspection, server: &ServerConfig, report: &mut Report) -> Option<(SystemTime, SystemTime)> {
    let name = server.authority();
    if is_ourselves(at, server) {
        let cure = "name the cloud's kube-apiserver with --kube-apiserver-url";
        report.wrong(SUBJECT, format!("{name}: this is where the daemon itself listens"), cure);
        return None;
    }
    if !is_found(server, report) {
        return None;
    }
    let roots = at.upstream_roots.as_ref().and_then(|roots| roots.good()).cloned();
    if roots.is_none() && !at.upstream.insecure {
        let says = format!("{name}: not tried, because the CA of its certificate cannot be read");
        report.warning(SUBJECT, says, "see above");
        return None;
    }
    let good = at.pairs.iter().filter_map(|part| part.good());
    let pairs: BTreeMap<String, Arc<Pair>> =
        good.filter_map(|pair| Some((pair.common_name.clone()?, Arc::clone(pair)))).collect();
    let alone = UpstreamConfig { servers: vec![server.clone()], ..at.upstream.clone() };
    let upstream = match Upstream::to_try(&alone, roots, &pairs, VerificationClock::new(SystemTime::now)) {
        Ok(upstream) => upstream,
        Err(e) => {
            report.wrong(SUBJECT, format!("{name}: {e}"), "");
            return None;
        }
    };
    let answer = ask(&upstream, &Credentials::None, "/readyz");
    let heard = match answer {
        Err(why) => {
            let cure = cure_of(&why);
            report.wrong(SUBJECT, format!("{name}: {why}"), cure);
            None
        }
        Ok((status, date)) => {
            if at.upstream.insecure {
                let cure = "leave --insecure out, and name its CA with --apiserver-ca-file";
                report.warning(SUBJECT, format!("{name}: its certificate is not verified"), cure);
            }
            match status {
                200 => report.ok(SUBJECT, format!("{name}: reached, and ready")),
                401 | 403 => report.ok(SUBJECT, format!("{name}: reached; it tells nobody without credentials more")),
                status => {
                    let cure = "look there: `kubectl get --raw '/readyz?verbose'` names what is not";
                    report.warning(SUBJECT, format!("{name}: reached, and not ready: /readyz says {status}"), cure);
                }
            }
            let now = SystemTime::now();
            pairs.keys().fold(date.map(|date| (date, now)), |heard, cn| {
                let date = accepted(&upstream, &name, cn, report);
                heard.or(date.map(|date| (date, SystemTime::now())))
            })
        }
    };
    upstream.shutdown();
    heard
}

fn is_ourselves(at: &Inspection, server: &ServerConfig) -> bool {
    let ip = if server.host == "localhost" { "127.0.0.1" } else { &server.host };
    let Ok(ip) = ip.parse::<IpAddr>() else { return false };
    let is_here = |own: IpAddr| own == ip || own.is_unspecified() && ip.is_loopback();
    server.proxy.is_none() && at.listen.iter().any(|own| own.port() == server.port && is_here(own.ip()))
}

/// Whether its name, or that of the proxy before it, has addresses.
fn is_found(server: &ServerConfig, report: &mut Report) -> bool {
    let (host, port) = server.proxy.as_ref().map_or((&server.host, server.port), |p| (&p.host, p.port));
    if host.parse::<IpAddr>().is_ok() {
        return true;
    }
    match (host.as_str(), port).to_socket_addrs().map(|found| found.map(|a| a.ip().to_string()).collect::<Vec<_>>()) {
        Ok(found) if !found.is_empty() => {
            report.ok(SUBJECT, format!("{host}: {}", found.join(", ")));
            true
        }
        other => {
            let why = other.err().map_or_else(|| "no addresses".to_owned(), |e| e.to_string());
            let cure = "name its IP address, or put the name into /etc/hosts or a DNS server that this node asks";
            report.wrong(SUBJECT, format!("{host}: the name cannot be looked up: {why}"), cure);
            false
        }
    }
}

/// The status, and the moment that the answer's `Date` names.
fn ask(upstream: &Upstream, who: &Credentials, target: &str) -> Result<(u16, Option<SystemTime>), String> {
    let out =
        Outgoing { method: "GET", target, headers: &[], body: None, first_byte: PATIENCE, client: None, stop: None };
    let answer = upstream.fetch(&upstream.known(), who, out).map_err(|e| e.to_string())?;
    let date = answer.headers.iter().find(|(name, _)| name == "date");
    let date = date.and_then(|(_, value)| http_date(std::str::from_utf8(value).ok()?));
    Ok((answer.status, date))
}

/// Whether the upstream knows this name's certificate; the moment that its answer names.
fn accepted(upstream: &Upstream, name: &str, cn: &str, report: &mut Report) -> Option<SystemTime> {
    const SUBJECT: &str = "credentials";
    let answer = ask(upstream, &Credentials::Certificate(cn.to_owned()), "/api");
    let date = answer.as_ref().ok().and_then(|(_, date)| *date);
    match answer {
        Ok((200..=299 | 403, _)) => report.ok(SUBJECT, format!("{cn}: {name} knows who this is")),
        Ok((401, _)) => {
            let cure = "the cluster does not trust who signed this certificate, or not any more: join the node anew";
            report.wrong(SUBJECT, format!("{cn}: {name} refuses the certificate: 401"), cure);
        }
        Ok((status, _)) => {
            report.warning(SUBJECT, format!("{cn}: {name} says {status}"), "ask again when it is ready");
        }
        Err(why) => report.wrong(SUBJECT, format!("{cn}: {name}: {why}"), "see the cluster's log, which says why"),
    }
    date
}

/// What helps against what the upstream's room says.
fn cure_of(why: &str) -> &'static str {
    let cures = [
        ("not valid yet", "set this machine's clock"),
        ("expired", "renew the cluster's certificate, or set this machine's clock"),
        ("unknown authority", "name the CA that signed its certificate with --apiserver-ca-file"),
        ("made for another name", "name it as its certificate does"),
        ("not TLS", "is this kube-apiserver's port?"),
        ("refused", "does kube-apiserver listen there? a firewall may refuse, too"),
        ("no route", "look at this node's addresses and routes"),
        ("network", "look at this node's addresses and routes"),
        ("proxy", "look at HTTPS_PROXY and NO_PROXY"),
    ];
    cures
        .iter()
        .find(|(words, _)| why.contains(words))
        .map_or("is the cable in, and the firewall open?", |(_, cure)| cure)
}

/// `heard`: the upstream's time, and ours when it was heard.
fn clock(heard: Option<(SystemTime, SystemTime)>, now: SystemTime, report: &mut Report) {
    const SUBJECT: &str = "clock";
    let cure = "set it, best by NTP";
    let says = format!("it says {}", rfc3339(now));
    let Some((theirs, ours)) = heard else {
        if now < SystemTime::UNIX_EPOCH + EARLIEST {
            let cure = "set it: a daemon that has never reached its cluster needs a right clock; one that has judges by the newest time that the cluster vouched for";
            return report.warning(SUBJECT, says, cure);
        }
        return report.ok(SUBJECT, format!("{says}; there is none to compare it with"));
    };
    let (apart, word) = match ours.duration_since(theirs) {
        Ok(ahead) => (ahead, "ahead of"),
        Err(e) => (e.duration(), "behind"),
    };
    let says = format!("{says}, {} {word} the upstream's", span(apart));
    if apart >= GREAT_SKEW {
        report.wrong(SUBJECT, says, cure);
    } else if apart >= SKEW {
        report.warning(SUBJECT, says, cure);
    } else {
        report.ok(SUBJECT, says);
    }
}
