use super::*;
use crate::config::Exit;
use crate::config::tests::given;

fn read(line: &str, environment: &[(&str, &str)]) -> Result<UpstreamConfig, ConfigError> {
    let variable = |name: &str| environment.iter().find(|(n, _)| *n == name).map(|(_, value)| (*value).to_owned());
    upstream(&given(line), ByKubeconfig::default(), &variable).map(|found| found.expect("an upstream"))
}

#[test]
fn an_upstream_is_named_in_every_usual_way() {
    let read = |text| server("--kube-apiserver-url", text, 443);
    for (text, host, port, path) in [
        ("apiserver.example", "apiserver.example", 443, ""),
        ("10.0.0.1:6443", "10.0.0.1", 6443, ""),
        ("https://h", "h", 443, ""),
        ("https://h:6443/", "h", 6443, ""),
        ("https://h/clusters/c1/", "h", 443, "/clusters/c1"),
        ("fd00::1", "fd00::1", 443, ""),
        ("https://[fd00::1]:6443/x", "fd00::1", 6443, "/x"),
    ] {
        let (host, base_path) = (host.to_owned(), path.to_owned());
        assert_eq!(read(text), Ok(ServerConfig { host, port, base_path, proxy: None }), "{text}");
    }
    for text in ["http://h", "https://", "h:0", "h:70000", "h:x", "user@h", "https://h/?a", "[fd00::1", "a b", ""] {
        let error = read(text).expect_err(text);
        assert!(error.message.starts_with("--kube-apiserver-url: ") && error.exit == Exit::Usage, "{}", error.message);
    }
}

#[test]
fn several_servers_and_the_ways_to_them_keep_their_order() {
    let config =
        read("--kube-apiserver-url a,https://b:1/p --kube-apiserver-url c,a --kube-apiserver-port 6443 --lb-mode rr --network-interface wan0,lte0 --network-interface wlan0 --source-address 10.0.0.7", &[])
            .expect("good");
    let servers: Vec<String> = config.servers.iter().map(ServerConfig::authority).collect();
    assert_eq!(servers, ["a:6443", "b:1", "c:6443"]);
    assert_eq!(
        (config.balance, config.interfaces),
        (Balance::RoundRobin, ["wan0", "lte0", "wlan0"].map(Into::into).into())
    );
    assert_eq!(config.source, Some([10, 0, 0, 7].into()));
    assert_eq!(read("--kube-apiserver-url a", &[]).expect("good").balance, Balance::Priority);
    for line in
        ["--lb-mode first", "--source-address eth0", "--network-interface a/b", "--network-interface sixteen-letters-"]
    {
        let error = read(&format!("--kube-apiserver-url a {line}"), &[]).expect_err(line);
        assert!(line.starts_with(error.message.split(':').next().unwrap_or_default()), "{}", error.message);
    }
}

#[test]
fn a_proxy_is_used_as_go_programs_use_it() {
    let proxied = |host: &str, no_proxy: &str| {
        let environment = [("HTTPS_PROXY", "http://p:3128"), ("NO_PROXY", no_proxy)];
        read(&format!("--kube-apiserver-url {host}"), &environment).expect("good").servers[0].proxy.is_some()
    };
    for (host, no_proxy, expected) in [
        ("api.example.com", "", true),
        ("localhost", "", false),
        ("127.0.0.9", "", false),
        ("::1", "", false),
        ("api.example.com", "*", false),
        ("api.example.com", "other.com, example.com", false),
        ("API.example.com", ".EXAMPLE.com", false),
        ("example.com", "example.com", false),
        ("example.com", ".example.com", true),
        ("example.com", "*.example.com", true),
        ("api.example.com", "*.example.com", false),
        ("notexample.com", "example.com", true),
        ("api.example.com:6443", "api.example.com:6443", false),
        ("api.example.com:6443", "api.example.com:443", true),
        ("10.1.2.3", "10.0.0.0/8", false),
        ("11.1.2.3", "10.0.0.0/8", true),
        ("10.1.2.3", "0.0.0.0/0", false),
        ("10.1.2.3", "10.1.2.3", false),
        ("10.1.2.3", "10.1.2.4", true),
        ("fd00::1", "fd00::/8", false),
        ("fd00::1", "10.0.0.0/8", true),
    ] {
        assert_eq!(proxied(host, no_proxy), expected, "{host} {no_proxy}");
    }
}

#[test]
fn a_proxys_address_and_credentials_are_read_and_never_shown() {
    let by = |url: &str| read("--kube-apiserver-url a", &[("https_proxy", url)]).map(|c| c.servers[0].proxy.clone());
    for (url, authority, authorization) in [
        ("p", "p:80", None),
        ("http://p:3128/", "p:3128", None),
        ("http://[fd00::1]:8080", "[fd00::1]:8080", None),
        ("http://me:s%3Acret@p", "p:80", Some("Basic bWU6czpjcmV0")),
    ] {
        let proxy = by(url).expect(url).expect("a proxy");
        assert_eq!((proxy.authority().as_str(), proxy.authorization.as_deref()), (authority, authorization), "{url}");
        assert!(!format!("{proxy:?}").contains("bWU6"), "{proxy:?}");
    }
    for url in ["socks5://p", "https://p", "http://p:x", "http://u:se%zz@p", "http://"] {
        let error = by(url).expect_err(url);
        assert!(error.message.starts_with("HTTPS_PROXY: ") && !error.message.contains("se%"), "{}", error.message);
    }
}

#[test]
fn a_kubeconfigs_proxy_is_used_whatever_the_environment_says() {
    let servers = vec![server("server", "https://10.0.0.1:6443", 443).expect("good")];
    let proxy = Some(("proxy-url".to_owned(), "http://q:1".to_owned()));
    let file = ByKubeconfig { servers, tls_server_name: Some("api".into()), insecure: false, proxy };
    let environment = |name: &str| (name == "NO_PROXY").then(|| "*".to_owned());
    let config = upstream(&given(""), file, &environment).expect("good").expect("an upstream");
    assert_eq!(config.servers[0].proxy.as_ref().map(ProxyConfig::authority).as_deref(), Some("q:1"));
    assert_eq!(config.tls_server_name.as_deref(), Some("api"));
}
