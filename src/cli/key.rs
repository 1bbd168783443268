//! `exportgate key new`.

use std::io::{self, Write};

use crate::access::key::{Digest, generate, parse_time};
use crate::clock::Clock;

#[derive(Debug, clap::Subcommand)]
pub(super) enum KeyCommand {
    /// Generate a key for a client. It is printed once, with the lines for the clients file.
    New(New),
}

#[derive(Debug, clap::Args)]
pub(super) struct New {
    /// Name of the client
    #[arg(long, value_name = "NAME", value_parser = client_name)]
    client: String,
    /// End of its validity (UTC), such as 2027-01-31
    #[arg(long, value_name = "DATE", value_parser = until)]
    until: Option<String>,
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
pub(super) fn run(New { client, until }: &New, out: &mut dyn Write, notes: &mut dyn Write) -> io::Result<()> {
    let key = generate().map_err(|_| io::Error::other("the system gives no random numbers"))?;
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
