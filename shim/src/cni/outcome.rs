//! What plugins say that they have made (CNI specification 1.0.0, section 5, "Success").

use std::net::IpAddr;

use serde::Deserialize;
use serde_json::Value;

/// The most of each that is taken.
const MOST: usize = 64;

/// What is used of a result. What has another form than the specification's is not there.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) addresses: Vec<Address>,
    /// Of the interface in the container.
    pub(super) mac: Option<String>,
    pub(super) names: Names,
}

/// An address in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) ip: IpAddr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<IpAddr>,
}

/// Who knows other hosts' names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Names {
    pub(super) servers: Vec<IpAddr>,
    pub(super) search: Vec<String>,
    pub(super) options: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Given {
    interfaces: Vec<Interface>,
    ips: Vec<Ip>,
    dns: Dns,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Interface {
    name: String,
    mac: String,
    sandbox: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ip {
    address: String,
    gateway: Option<String>,
    interface: Option<i64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Dns {
    nameservers: Vec<String>,
    domain: Option<String>,
    search: Vec<String>,
    options: Vec<String>,
}

impl Outcome {
    /// Reads a result.
    ///
    /// # Errors
    /// What is not in the form of one.
    pub(super) fn of(result: &Value, interface: &str) -> Result<Self, String> {
        let given = Given::deserialize(result).map_err(|error| error.to_string())?;
        let interfaces = given.interfaces.get(..MOST).unwrap_or(&given.interfaces);
        let inside = |ip: &Ip| {
            // Without a number, or without interfaces, it is the container's.
            let number = ip.interface.and_then(|number| usize::try_from(number).ok());
            number
                .and_then(|number| interfaces.get(number))
                .is_none_or(|one| !one.sandbox.is_empty())
        };
        let address = |ip: &Ip| {
            let (own, prefix) = ip.address.split_once('/')?;
            let own: IpAddr = own.parse().ok()?;
            let most = if own.is_ipv4() { 32 } else { 128 };
            let prefix = prefix.parse().ok().filter(|&prefix: &u8| prefix <= most)?;
            let gateway = ip.gateway.as_deref().and_then(|gateway| gateway.parse().ok());
            Some(Address { ip: own, prefix, gateway })
        };
        let addresses =
            given.ips.iter().take(MOST).filter(|ip| inside(ip)).filter_map(address).collect();
        let mac = interfaces.iter().find(|one| one.name == interface && !one.sandbox.is_empty());
        let mac = mac.map(|one| one.mac.clone()).filter(|mac| is_word(mac));
        let Dns { nameservers, domain, search, options } = given.dns;
        let words =
            |list: Vec<String>| list.into_iter().take(MOST).filter(|word| is_word(word)).collect();
        let mut search: Vec<String> = words(search);
        if search.is_empty() {
            search.extend(domain.filter(|domain| is_word(domain)));
        }
        let servers = nameservers.iter().take(MOST).filter_map(|server| server.parse().ok());
        let names = Names { servers: servers.collect(), search, options: words(options) };
        Ok(Self { addresses, mac, names })
    }
}

/// One word of a line of a file.
fn is_word(text: &str) -> bool {
    (1..=255).contains(&text.len()) && text.chars().all(|c| c.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_result_is_read() {
        let result = json!({
            "cniVersion": "1.0.0",
            "interfaces": [
                { "name": "bulkhead0", "mac": "02:00:00:00:00:01" },
                { "name": "eth0", "mac": "02:00:00:00:00:02", "sandbox": "/n" },
            ],
            "ips": [
                { "address": "10.89.1.2/24", "gateway": "10.89.1.1", "interface": 1 },
                { "address": "fd00::2/64" },
                { "address": "10.89.1.1/24", "interface": 0 },
                { "address": "10.89.1.1/33", "interface": 1 },
                { "address": "rubbish", "interface": 1 },
            ],
            "dns": { "nameservers": ["10.0.0.53", "x"], "domain": "example", "options": ["ndots:2", "a\nb"] },
        });
        let outcome = Outcome::of(&result, "eth0").unwrap();
        let all: Vec<_> =
            outcome.addresses.iter().map(|one| format!("{}/{}", one.ip, one.prefix)).collect();
        assert_eq!(all, ["10.89.1.2/24", "fd00::2/64"]);
        assert_eq!(outcome.addresses[0].gateway, Some([10, 89, 1, 1].into()));
        assert_eq!(outcome.mac.as_deref(), Some("02:00:00:00:00:02"));
        let names = Names {
            servers: vec![[10, 0, 0, 53].into()],
            search: vec!["example".into()],
            options: vec!["ndots:2".into()],
        };
        assert_eq!(outcome.names, names);
        assert_eq!(Outcome::of(&json!({}), "eth0").unwrap(), Outcome::default());
        for bad in [
            json!(7),
            json!({ "ips": 7 }),
            json!({ "ips": [{ "address": 1 }] }),
            json!({ "dns": [1, 2, 3, 4, 5] }),
        ] {
            assert!(Outcome::of(&bad, "eth0").is_err(), "{bad}");
        }
    }

    proptest! {
        /// Whatever a plugin writes is read or refused, and what is told of it fits into lines.
        #[test]
        fn results_of_any_kind_are_survived(text in "[\\[\\]{}\",:a-z0-9/. \n]{0,200}", ip in ".{0,40}", server in ".{0,40}", word in ".{0,40}") {
            if let Ok(value) = serde_json::from_str::<Value>(&text) {
                let _ = Outcome::of(&value, "eth0");
            }
            let value = json!({ "ips": [{ "address": ip, "gateway": ip }], "dns": { "nameservers": [server], "search": [word], "options": [word] } });
            let outcome = Outcome::of(&value, "eth0").unwrap();
            prop_assert!(outcome.names.search.iter().all(|word| !word.contains(char::is_whitespace)));
        }
    }
}
