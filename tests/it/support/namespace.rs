//! A network of its own for an engine, whose link to this machine can be taken down. Only root may make one.

use std::process::{Command, Stdio};

/// A network namespace, joined to this one by a pair of interfaces.
pub(crate) struct Namespace {
    name: String,
    /// This machine's end of the link.
    link: String,
    /// The address at the other end.
    pub(crate) address: String,
}

impl Namespace {
    /// `None` where this user may not make one.
    pub(crate) fn new() -> Option<Self> {
        let number = std::process::id() % 16_384;
        let (name, link) = (format!("exportgate-{number}"), format!("eg{number}"));
        // Addresses for tests between networks (RFC 2544).
        let at = |host: u32| format!("198.18.{}.{}", number / 64, number % 64 * 4 + host);
        let namespace = Self { name, link, address: at(2) };
        let Self { name, link, address } = &namespace;
        let other = format!("{link}n");
        let made = ip(&["netns", "add", name])
            && ip(&["link", "add", link, "type", "veth", "peer", "name", &other, "netns", name])
            && ip(&["addr", "add", &format!("{}/30", at(1)), "dev", link])
            && ip(&["link", "set", link, "up"])
            && ip(&["-n", name, "addr", "add", &format!("{address}/30"), "dev", &other])
            && ip(&["-n", name, "link", "set", &other, "up"]);
        made.then_some(namespace)
    }

    /// A command that runs in it.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Takes the link down: nothing is answered any more, and nothing refused.
    pub(crate) fn cut(&self) {
        assert!(ip(&["link", "set", &self.link, "down"]));
    }

    pub(crate) fn heal(&self) {
        assert!(ip(&["link", "set", &self.link, "up"]));
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Its end of the link goes with it.
        let _ = ip(&["link", "del", &self.link]);
        let _ = ip(&["netns", "del", &self.name]);
    }
}

fn ip(words: &[&str]) -> bool {
    let mut command = Command::new("ip");
    command.args(words).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}
