//! The certificates: whether they can be read, are valid by the clock, fit what they are for, and chain to the CAs.

use super::Report;
use crate::config::{ConfigError, Exit, Inspected, Inspection, Pair, Roots};
use crate::moment::{rfc3339, span};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, SystemTime};

/// How long before its end a certificate should have a successor.
const SOON: Duration = Duration::from_secs(7 * 86_400);

pub(super) fn look(at: &Inspection, now: SystemTime, report: &mut Report) {
    serving(at, now, report);
    for (subject, roots) in [("client CA", &at.client_roots), ("upstream CA", &at.upstream_roots)] {
        if let Some(roots) = roots {
            authorities(subject, roots, now, report);
        }
    }
    pairs(at, now, report);
}

fn serving(at: &Inspection, now: SystemTime, report: &mut Report) {
    const SUBJECT: &str = "serving";
    let part = &at.serving;
    let pair = match &part.read {
        Err(e) => return unusable(SUBJECT, e, report),
        Ok(None) => return report.ok(SUBJECT, format!("{}: made when the daemon first starts", part.place)),
        Ok(Some(pair)) => pair,
    };
    let cure = "have it made anew: `lite-apiserver setup`, or `lite-apiserver cert` where pods are to trust it";
    let until = valid(SUBJECT, part, pair, now, cure, report);
    let lacking: Vec<String> = reached_by(at).filter(|ip| !pair.is_for(*ip)).map(|ip| ip.to_string()).collect();
    if !lacking.is_empty() {
        let says = format!("{}: is not for {}, where the daemon listens", part.place, lacking.join(", "));
        report.wrong(SUBJECT, says, cure);
    }
    let known = [&at.serving_ca, &at.client_roots, &at.upstream_roots];
    let judged = pair.begins.unwrap_or(now);
    let signers = known.into_iter().flatten().filter_map(|roots| Some((&roots.place, roots.good()?)));
    let signer = signers.into_iter().find(|(_, roots)| roots.signed_server(&pair.key.cert, judged));
    match signer {
        None => {
            let says = format!("{}: no CA that is known here has signed it", part.place);
            report.warning(SUBJECT, says, "clients must be given the CA that has, in their kubeconfigs");
        }
        Some((place, _)) if lacking.is_empty() => {
            if let Some(until) = until {
                report.ok(SUBJECT, format!("{}: by {place}, for every address listened on; {until}", part.place));
            }
        }
        Some(_) => {}
    }
}

/// A file that cannot be used, which its error names; what is wrong within one is said there, with its cure.
fn unusable(subject: &'static str, e: &ConfigError, report: &mut Report) {
    let cure = match e.exit {
        Exit::NoPermission => "check as the daemon's user; if you did, let that user read it",
        Exit::NoInput => "name the file that is meant; `lite-apiserver setup` makes what a daemon needs",
        _ => "",
    };
    report.wrong(subject, e.message.clone(), cure);
}

/// The addresses by which clients call.
fn reached_by(at: &Inspection) -> impl Iterator<Item = IpAddr> {
    let ips: BTreeSet<IpAddr> = at
        .listen
        .iter()
        .map(|address| match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        })
        .collect();
    ips.into_iter()
}

/// Says what is wrong with a certificate's time; the words for its end where nothing is.
fn valid(
    subject: &'static str,
    part: &Inspected<Pair>,
    pair: &Pair,
    now: SystemTime,
    cure: &str,
    report: &mut Report,
) -> Option<String> {
    let (Some(begins), Some(expires)) = (pair.begins, pair.expires) else {
        report.warning(subject, format!("{}: its validity cannot be read", part.place), cure);
        return None;
    };
    if now < begins {
        let says = format!("{}: valid from {} only, and the clock says {}", part.place, rfc3339(begins), rfc3339(now));
        report.wrong(subject, says, "set the clock, or have it made anew if the clock is right");
        return None;
    }
    let Ok(left) = expires.duration_since(now) else {
        report.wrong(subject, format!("{}: expired at {}", part.place, rfc3339(expires)), cure);
        return None;
    };
    if left < SOON {
        report.warning(subject, format!("{}: expires in {}", part.place, span(left)), cure);
        return None;
    }
    Some(format!("valid until {}", rfc3339(expires)))
}

fn authorities(subject: &'static str, roots: &Inspected<Roots>, now: SystemTime, report: &mut Report) {
    let read = match &roots.read {
        Err(e) => return unusable(subject, e, report),
        Ok(None) => return,
        Ok(Some(read)) => read,
    };
    let ended: Vec<&str> = read.expiries.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.as_str()).collect();
    if ended.is_empty() {
        let last =
            read.expiries.values().min().map_or_else(String::new, |at| format!(", valid until {}", rfc3339(*at)));
        return report.ok(subject, format!("{}: {} CA{last}", roots.place, read.store.roots.len()));
    }
    let says = format!("{}: expired: {}", roots.place, ended.join(", "));
    let cure = "put the cluster's current CA there, which kubeadm has in /etc/kubernetes/pki/ca.crt";
    if ended.len() < read.expiries.len() {
        report.warning(subject, says, cure);
    } else {
        report.wrong(subject, says, cure);
    }
}

fn pairs(at: &Inspection, now: SystemTime, report: &mut Report) {
    const SUBJECT: &str = "key pair";
    if let Some(e) = &at.no_list {
        unusable(SUBJECT, e, report);
    }
    let mut names = BTreeSet::new();
    for part in &at.pairs {
        let pair = match &part.read {
            Err(e) => {
                unusable(SUBJECT, e, report);
                continue;
            }
            Ok(None) => continue,
            Ok(Some(pair)) => pair,
        };
        let Some(name) = &pair.common_name else {
            report.wrong(
                SUBJECT,
                format!("{}: has no single CN, by which a pair is chosen", part.place),
                "use another",
            );
            continue;
        };
        if !names.insert(name.clone()) {
            report.warning(SUBJECT, format!("{}: has the CN {name:?}, as another pair has", part.place), "keep one");
        }
        let cure = "the kubelet renews its own while the cluster can be reached; others: where they came from";
        let Some(until) = valid(SUBJECT, part, pair, now, cure, report) else { continue };
        let judged = pair.begins.unwrap_or(now);
        match at.client_roots.as_ref().and_then(|roots| Some((&roots.place, roots.good()?))) {
            Some((place, roots)) if !roots.signed_client(&pair.key.cert, judged) => report.warning(
                SUBJECT,
                format!("{}: {name}: not signed by {place}, so a client that shows it is refused", part.place),
                "name the CA of client certificates with --ca-file, if clients show this one",
            ),
            _ => report.ok(SUBJECT, format!("{}: {name}, {until}", part.place)),
        }
    }
    if at.pairs.is_empty() && at.no_list.is_none() {
        report.ok(SUBJECT, "none: clients go up with their tokens, or as nobody");
    }
}
