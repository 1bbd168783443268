//! The options of `exportgate fetch`.

use std::path::PathBuf;
use std::time::Duration;

use super::super::Configured;
use super::super::admin::AdminAddress;
use crate::export::ExportName;
use crate::start_call::When;

const AFTER_HELP: &str = "\
Examples:
  The issues of a group that were introduced in the last 30 days, for cron:
    exportgate fetch issues --group ID --since 30d -o issues.csv --clobber
  Open criticals of one org, through the team's gateway, as JSON lines:
    exportgate fetch --org ID --since all --filter issue_status=Open \\
      --filter nvd_severity=Critical --via https://gateway.example:7443 --key-file key \\
      --format jsonl -o - | jq .CVE
  The table that a gateway makes every two hours by itself:
    exportgate fetch --named open-criticals --via https://gateway.example:7443 --key-file key \\
      --clobber
  The table of an export that somebody else has started:
    exportgate fetch --export ID --group ID -o issues.csv

Exit codes:
  0    complete, and proven by what the last lines name
  1    failed
  2    the command line is not right, or the output is there already (--clobber replaces it), or has
       unfinished work for another question
  3    unfinished, also where the disk is full or another run works on this output:
       run the same command again; it goes on, without a second start
  4    not authorised
  5    the export failed at Snyk
  6    the files that came are not whole, do not fit together, or have other columns
       (--columns-changed fail)
  7    a quota is used up, or Snyk asked for a pause; the error says until when
  130  stopped by Ctrl-C; 143 by SIGTERM. The same command goes on. Only a run that was stopped
       while its start call was on its way starts another export.";

#[derive(Debug, Clone, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub(in crate::cli) struct FetchArgs {
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    #[command(flatten)]
    pub(super) rows: RowArgs,
    #[command(flatten)]
    pub(super) output: OutputArgs,
    #[command(flatten)]
    pub(super) conduct: ConductArgs,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Export")]
pub(super) struct ScopeArgs {
    /// Dataset, such as issues or usage [default: issues]
    #[arg(value_name = "DATASET", conflicts_with_all = ["export", "body"])]
    pub(super) dataset: Option<String>,
    /// Group to export
    #[arg(long, value_name = "ID", value_parser = id)]
    pub(super) group: Option<uuid::Uuid>,
    /// Org to export; with --group, repeat for those orgs of the group
    #[arg(long, value_name = "ID", value_parser = id)]
    pub(super) org: Vec<uuid::Uuid>,
    /// Named export of a gateway ([exports.NAME]): nothing is started, and the first one is waited for
    #[arg(long, value_name = "NAME", value_parser = name,
        conflicts_with_all = ["dataset", "group", "org", "export", "rows_group", "max_age"])]
    pub(super) named: Option<ExportName>,
    /// Download this existing export; start none
    #[arg(long, value_name = "ID", value_parser = id, conflicts_with = "max_age")]
    pub(super) export: Option<uuid::Uuid>,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Rows (WHEN: 2026-01-31, RFC 3339, 30d, 12h or all)")]
#[group(id = "rows_group", multiple = true)]
pub(super) struct RowArgs {
    /// Rows introduced at this time or later
    #[arg(long, value_name = "WHEN", value_parser = When::parse, conflicts_with_all = ["export", "body"])]
    pub(super) since: Option<When>,
    /// Rows introduced before this time; a date means 00:00 UTC of that day
    #[arg(long, value_name = "WHEN", value_parser = When::parse, conflicts_with_all = ["export", "body"])]
    pub(super) until: Option<When>,
    /// Rows updated at this time or later
    #[arg(long, value_name = "WHEN", value_parser = When::parse, conflicts_with_all = ["export", "body"])]
    pub(super) updated_since: Option<When>,
    /// Rows updated before this time
    #[arg(long, value_name = "WHEN", value_parser = When::parse, conflicts_with_all = ["export", "body"])]
    pub(super) updated_until: Option<When>,
    /// Filter of Snyk's, such as issue_status=Open; repeat for more
    #[arg(long, value_name = "KEY=VALUE[,VALUE]", conflicts_with_all = ["export", "body"])]
    pub(super) filter: Vec<String>,
    /// Columns, or @FILE with one in each line [default: Snyk's]
    #[arg(long, value_name = "A,B,…", conflicts_with_all = ["export", "body"])]
    pub(super) columns: Option<String>,
    /// Include deleted projects
    #[arg(long, conflicts_with = "export")]
    pub(super) include_deleted: bool,
    /// Include deactivated projects
    #[arg(long, conflicts_with = "export")]
    pub(super) include_deactivated: bool,
    /// Whole body of the start call, as Snyk's documentation has it; - is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "export")]
    pub(super) body: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum TableFormat {
    /// CSV, byte for byte as Snyk has it
    Csv,
    /// One JSON object for each row; all values are strings
    Jsonl,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ProgressStyleArg {
    /// A bar on a terminal, else lines
    Auto,
    Bar,
    Plain,
    /// One JSON object for each event
    Json,
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum RowsRule {
    /// Another number of rows than Snyk announced, in a part or in all, is a warning where more proves it: the store's
    /// checksum, or Snyk's file size
    Warn,
    /// It is always an error (exit code 6)
    Fail,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ColumnsRule {
    /// Other columns than in the manifest of the earlier run are a warning
    Warn,
    /// They are an error (exit code 6), and the output stays as it was
    Fail,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Output")]
pub(super) struct OutputArgs {
    /// File, folder, or - for standard output [default: DATASET.csv]
    #[arg(short, long, value_name = "FILE|DIR/|-")]
    pub(super) output: Option<PathBuf>,
    /// Format of the table
    #[arg(long, value_enum, default_value_t = TableFormat::Csv)]
    pub(super) format: TableFormat,
    /// Keep the parts as part-NNNN.csv in the output folder, and merge nothing
    #[arg(long, conflicts_with = "format")]
    pub(super) parts: bool,
    /// Replace the output; with --named, each run but the first needs it
    #[arg(long, conflicts_with = "skip_existing")]
    pub(super) clobber: bool,
    /// Do nothing where the output exists
    #[arg(long)]
    pub(super) skip_existing: bool,
    /// File for the record of the run, or none [default: OUTPUT.manifest.json]
    #[arg(long, value_name = "FILE|none")]
    pub(super) manifest: Option<PathBuf>,
}

#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Behaviour")]
pub(super) struct ConductArgs {
    /// Gateway to ask: http://HOST:PORT, https://… or unix:/path [default: SNYK_API, where it is no host of Snyk's;
    /// else Snyk is asked directly, with the configuration, credential, journal and budget of `serve`]
    #[arg(long, value_name = "URL")]
    pub(super) via: Option<String>,
    /// File with your key for the gateway
    #[arg(long, value_name = "FILE")]
    pub(super) key_file: Option<PathBuf>,
    /// PEM certificates to trust for the gateway, instead of the platform's
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// Stop after this long; the same command continues
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration, default_value = "1h")]
    pub(super) timeout: Duration,
    /// Reuse an export that answers the same question and was started within this time: the one that the manifest names,
    /// or one that the gateway knows
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) max_age: Option<Duration>,
    /// Forget unfinished work of this output, and start a new export
    #[arg(long)]
    pub(super) restart: bool,
    /// Parts to download at once
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub(super) jobs: u8,
    /// Action if the number of rows differs from Snyk's
    #[arg(long, value_enum, default_value_t = RowsRule::Warn)]
    pub(super) rows: RowsRule,
    /// Action if the columns differ from those of the earlier run, whose manifest is beside the output
    #[arg(long, value_enum, default_value_t = ColumnsRule::Warn)]
    pub(super) columns_changed: ColumnsRule,
    /// Form of the progress, on standard error
    #[arg(long, value_enum, default_value_t = ProgressStyleArg::Auto)]
    pub(super) progress: ProgressStyleArg,
    /// Print the request that would start the export, and send nothing
    #[arg(long)]
    pub(super) dry_run: bool,
    #[command(flatten)]
    pub(super) configured: DirectArgs,
}

/// The configuration of a run without a gateway.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct DirectArgs {
    /// Configuration file (TOML), without a gateway [env: EXPORTGATE_CONFIG]
    #[arg(long, value_name = "FILE", conflicts_with = "via")]
    config: Option<PathBuf>,
    /// Root URL of Snyk's API, which is asked directly [env: EXPORTGATE_UPSTREAM_URL]
    #[arg(long, value_name = "URL", conflicts_with = "via")]
    pub(super) upstream: Option<String>,
    /// SQLite file of the journal [env: EXPORTGATE_JOURNAL_PATH]
    #[arg(long, value_name = "PATH", conflicts_with = "via")]
    journal: Option<PathBuf>,
}

fn name(text: &str) -> Result<ExportName, String> {
    ExportName::parse(text).ok_or_else(|| format!("must be {}", ExportName::GRAMMAR))
}

fn id(text: &str) -> Result<uuid::Uuid, &'static str> {
    let is_hyphenated = text.len() == 36;
    let id = uuid::Uuid::parse_str(text).ok().filter(|_| is_hyphenated);
    id.ok_or("must be an ID such as 825e79b7-0073-44c3-a5ea-e0aa8a3dbf38 (36 characters), not a name")
}

impl DirectArgs {
    pub(super) fn configured(&self) -> Configured {
        let Self { config, upstream, journal } = self.clone();
        Configured { config, listen: Vec::new(), upstream, journal }
    }
}

impl ConductArgs {
    /// An address of a gateway, with or without the `/rest` that tools write in `SNYK_API`.
    pub(super) fn gateway(text: &str) -> Result<AdminAddress, &'static str> {
        let text = text.trim_end_matches('/');
        AdminAddress::parse(text.strip_suffix("/rest").or_else(|| text.strip_suffix("/v1")).unwrap_or(text))
    }
}
