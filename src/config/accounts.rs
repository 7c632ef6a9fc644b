//! `--user` and `--group`: names become numbers by `/etc/passwd` and `/etc/group`, read here, so that a static binary asks
//! no name service.

use super::RunAs;
use super::error::{ConfigError, Exit};
use super::flags::Given;
use std::path::Path;

/// Whom to run as; `None`: as whoever started the process.
pub(super) fn run_as(given: &Given) -> Result<Option<RunAs>, ConfigError> {
    let (user, group) = (given.get("user"), given.get("group"));
    let passwd = if user.is_some() { table(Path::new("/etc/passwd")) } else { String::new() };
    let groups = if group.is_some() { table(Path::new("/etc/group")) } else { String::new() };
    resolve(user, group, &passwd, &groups)
}

/// A file that is not there names nobody: a number needs none.
fn table(path: &Path) -> String {
    std::fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn resolve(user: Option<&str>, group: Option<&str>, passwd: &str, groups: &str) -> Result<Option<RunAs>, ConfigError> {
    let unknown = |what: &str, name: &str, file: &str| {
        ConfigError::new(Exit::NoUser, format!("--{what}: {name:?} is not in {file}, and is no number"))
    };
    let by_user = user
        .map(|name| match (entry(passwd, name), name.parse().ok()) {
            (Some((uid, gid)), _) => Ok((uid, gid)),
            (None, Some(uid)) => Ok((uid, None)),
            (None, None) => Err(unknown("user", name, "/etc/passwd")),
        })
        .transpose()?;
    let by_group = group
        .map(|name| {
            let listed = entry(groups, name).map(|(gid, _)| gid);
            listed.or_else(|| name.parse().ok()).ok_or_else(|| unknown("group", name, "/etc/group"))
        })
        .transpose()?;
    let gid = by_group.or(by_user.and_then(|(_, gid)| gid));
    match (by_user, gid) {
        (None, None) => Ok(None),
        (user, Some(gid)) => Ok(Some(RunAs { uid: user.map(|(uid, _)| uid), gid })),
        (Some((uid, _)), None) => {
            Err(ConfigError::usage(format!("--user {uid} is not in /etc/passwd, so it has no group; add --group")))
        }
    }
}

/// The third and fourth field of the line for `name` (or its number): uid and gid in passwd(5), gid in group(5).
fn entry(table: &str, name: &str) -> Option<(u32, Option<u32>)> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let number = fields.get(2)?.parse().ok()?;
        let own = fields[0] == name || fields[2] == name;
        own.then(|| (number, fields.get(3).and_then(|f| f.parse().ok())))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nproxy:x:13:14::/:/bin/false\nbad\n";
        let groups = "root:x:0:\nssl:x:99:proxy,www\n";
        let read = |user, group| resolve(user, group, passwd, groups);
        let is = |uid, gid| Ok(Some(RunAs { uid, gid }));
        assert_eq!(read(None, None), Ok(None));
        assert_eq!(read(Some("proxy"), None), is(Some(13), 14));
        assert_eq!(read(Some("13"), None), is(Some(13), 14));
        assert_eq!(read(Some("proxy"), Some("ssl")), is(Some(13), 99));
        assert_eq!(read(Some("1234"), Some("99")), is(Some(1234), 99));
        assert_eq!(read(None, Some("1234")), is(None, 1234));
        for (user, group, exit) in [
            (Some("nobody"), None, Exit::NoUser),
            (Some("proxy"), Some("wheel"), Exit::NoUser),
            (Some("bad"), None, Exit::NoUser),
            (Some("1234"), None, Exit::Usage),
        ] {
            assert_eq!(read(user, group).expect_err("refused").exit, exit, "{user:?} {group:?}");
        }
    }
}
