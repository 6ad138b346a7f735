//! Servers in network namespaces of their own, with a router between them that drops packets silently, as a cable does that
//! is cut: no proxy takes part, the kernel's TCP is on its own. Refuses to leave a namespace behind.

use std::net::Ipv4Addr;
use std::process::Command;

/// A namespace for each server, one for the router between them, and the way to the router from here.
pub struct Namespaces {
    name: String,
    /// 10.NET.SERVER.0/24 has a server and the router, 10.NET.0.0/24 this process and the router.
    net: u8,
    servers: u16,
}

fn ip(words: &str) -> Result<(), String> {
    let output = Command::new("ip").args(words.split(' ')).output().map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', ", ");
    if output.status.success() { Ok(()) } else { Err(format!("ip {words}: {said}")) }
}

impl Namespaces {
    pub fn new(servers: u16) -> Result<Namespaces, String> {
        let pid = std::process::id();
        let made = Namespaces { name: format!("falconer-{pid}"), net: 100 + (pid % 100) as u8, servers };
        made.build()?;
        Ok(made)
    }

    fn build(&self) -> Result<(), String> {
        let (name, net) = (&self.name, self.net);
        ip(&format!("netns add {name}-r"))?;
        ip(&format!("netns exec {name}-r sysctl -q -w net.ipv4.ip_forward=1"))?;
        // Names of interfaces have 15 bytes.
        let link = |place: &str| format!("fv{net}{place}");
        for server in 0..=self.servers {
            let (inside, outside) = (link(&format!("i{server}")), link(&format!("o{server}")));
            ip(&format!("link add {inside} type veth peer name {outside}"))?;
            ip(&format!("link set {outside} netns {name}-r"))?;
            ip(&format!("-n {name}-r addr add 10.{net}.{server}.1/24 dev {outside}"))?;
            ip(&format!("-n {name}-r link set {outside} up"))?;
            let place = if server == 0 {
                String::new()
            } else {
                ip(&format!("netns add {name}-{server}"))?;
                ip(&format!("link set {inside} netns {name}-{server}"))?;
                ip(&format!("-n {name}-{server} link set lo up"))?;
                format!("-n {name}-{server} ")
            };
            ip(&format!("{place}addr add 10.{net}.{server}.2/24 dev {inside}"))?;
            ip(&format!("{place}link set {inside} up"))?;
            let route = if server == 0 { format!("10.{net}.0.0/16") } else { "default".into() };
            ip(&format!("{place}route add {route} via 10.{net}.{server}.1"))?;
        }
        Ok(())
    }

    pub fn address(&self, server: u16) -> Ipv4Addr {
        Ipv4Addr::new(10, self.net, server as u8, 2)
    }

    /// What a command for this server begins with.
    pub fn inside(&self, server: u16) -> Vec<String> {
        ["ip", "netns", "exec", &format!("{}-{server}", self.name)].map(str::to_owned).to_vec()
    }

    /// No packet gets from one to the other any more.
    pub fn cut(&self, from: u16, to: u16) {
        let (from, to) = (self.address(from), self.address(to));
        ip(&format!("-n {}-r rule add from {from} to {to} blackhole", self.name)).expect("the router takes rules: that was probed");
    }

    pub fn heal(&self) {
        for from in 1..=self.servers {
            for to in 1..=self.servers {
                // Most of them are not there.
                let _ = ip(&format!("-n {}-r rule del from {} to {} blackhole", self.name, self.address(from), self.address(to)));
            }
        }
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        // The router takes every cable with it. What was not made cannot be removed.
        for place in (1..=self.servers).map(|server| server.to_string()).chain(["r".into()]) {
            let _ = ip(&format!("netns del {}-{place}", self.name));
        }
    }
}

/// Why there are no namespaces on this machine; `None`: there are.
pub fn missing() -> Option<String> {
    let probe = || {
        let namespaces = Namespaces::new(2)?;
        ip(&format!("-n {}-r rule add from 10.0.0.1 to 10.0.0.2 blackhole", namespaces.name))
    };
    probe().err()
}
