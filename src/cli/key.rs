//! `exportgate key new`.

use std::io::{self, Write};

use crate::access::key::{Digest, generate, parse_time};
use crate::clock::Clock;
use crate::shared::SealKeys;

const SEAL_NOTES: &str = "
This is the key. It is shown only once: write it into the file that shared.key_file names (mode 0600), the same on all
gateways. To replace a key: add the new one as the second line and restart all gateways; swap the lines and restart
them; take the old one out and restart them.
";

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Generate a key for a client, or one that seals what gateways share. It is printed once, with what to do with it.
    New(New),
}

#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// Name of the client
    #[arg(long, value_name = "NAME", value_parser = client_name, required_unless_present = "seal")]
    client: Option<String>,
    /// End of its validity (UTC), such as 2027-01-31
    #[arg(long, value_name = "DATE", value_parser = until, conflicts_with = "seal")]
    until: Option<String>,
    /// A key for shared.key_file, the same on all gateways
    #[arg(long, conflicts_with = "client")]
    seal: bool,
}

fn client_name(text: &str) -> Result<String, String> {
    if crate::config::clients::is_client_name(text) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 64 letters, digits, \"-\" or \"_\", and not \"local\" or \"unknown\"".to_owned())
    }
}

fn until(text: &str) -> Result<String, String> {
    if parse_time(text)? > Clock::system().now().wall {
        Ok(text.to_owned())
    } else {
        Err("is in the past".to_owned())
    }
}

/// Prints a key to standard output, and nothing else: it may be piped into a secret store.
pub(super) fn run(
    New { client, until, .. }: &New,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> io::Result<()> {
    let no_random = || io::Error::other("the system gives no random numbers");
    let Some(client) = client else {
        let key = SealKeys::generate().ok_or_else(no_random)?;
        writeln!(out, "{}", *key)?;
        out.flush()?;
        return notes.write_all(SEAL_NOTES.as_bytes());
    };
    let key = generate().map_err(|_| no_random())?;
    let until = until.as_ref().map_or_else(String::new, |until| format!(" until {until}"));
    writeln!(out, "{}", *key)?;
    out.flush()?;
    write!(
        notes,
        "\nThis is the key. It is shown only once: give it to the tool in place of its Snyk token.\n\
         Add its SHA-256 to the file that access.clients_file names (several keys may be listed while one\n\
         replaces another):\n\n\
         [clients.{client}]\n\
         keys = [\"sha256:{}{until}\"]\n\
         orgs = []                # ids of orgs, or \"*\"\n\
         groups = []              # ids of groups, or \"*\"\n\
         operations = [\"read\"]    # \"read\", \"files\", \"start\", \"other\"\n",
        Digest::of(&key).to_hex()
    )
}
