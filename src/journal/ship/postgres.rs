//! One connection to the database. Each call is one transaction of plain statements, so that a pooler between us (`PgBouncer` in its
//! mode `transaction`) does no harm.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Config, Error, NoTls};
use tokio_rustls::client::TlsStream as RustlsStream;

use super::super::query::Query;
use super::super::row::Row;
use super::super::search::{SearchValue, beginnings};
use super::super::transfer::{TransferQuery, TransferRow};
use super::error::ShipError;
use super::outbox::{ShipRow, ShipTable};
use super::settings::{DatabaseAddress, ShipSettings};
use super::{ShipDriver, sql};
use crate::error_text::{BoxError, error_text};
use crate::transport;

/// Longest that sent data may stay unacknowledged: a dead machine is found.
const UNACKNOWLEDGED: Duration = Duration::from_secs(10);
/// Largest password.
const MAX_PASSWORD: usize = 4096;

/// A connection.
#[derive(Debug)]
pub(super) struct ShipDatabase {
    client: Client,
    timeout: Duration,
}

impl ShipDatabase {
    /// Connects and checks the format of the tables.
    pub(super) async fn open(settings: &ShipSettings) -> Result<(Self, ShipDriver), ShipError> {
        let opened = async {
            let (client, mut driver) = connect(settings).await?;
            let database = Self { client, timeout: settings.timeout };
            tokio::select! {
                checked = database.check_format() => checked?,
                broken = &mut driver => return Err(broken),
            }
            Ok((database, driver))
        };
        tokio::time::timeout(settings.timeout, opened).await.unwrap_or(Err(ShipError::Timeout))
    }

    async fn check_format(&self) -> Result<(), ShipError> {
        let found = self.client.query_typed("SELECT number FROM exportgate.format", &[]).await;
        let found = found.map_err(|error| failure(&error))?;
        let number = found.first().map_or(0, |row| row.get::<_, i32>(0));
        if number == sql::FORMAT { Ok(()) } else { Err(ShipError::Format(number)) }
    }

    /// Writes records, all or none. Those that are there already stay as they are, or become complete.
    pub(super) async fn ship(&self, rows: &[ShipRow], gateway: &str) -> Result<(), ShipError> {
        let mut months: Vec<&str> = rows.iter().map(|row| row.month.as_str()).collect();
        months.sort_unstable();
        months.dedup();
        self.transaction(async {
            for month in months {
                self.execute("SELECT exportgate.prepare($1::text::date)", month).await?;
            }
            for table in ShipTable::ALL {
                let of_it = rows.iter().filter(|row| row.table == table);
                let objects: Vec<Value> = of_it.map(|row| object(row, gateway)).collect();
                if !objects.is_empty() {
                    self.execute(sql::insert(table), &Value::Array(objects).to_string()).await?;
                }
            }
            Ok(())
        })
        .await
    }

    /// Drops the partitions that are too old.
    pub(super) async fn forget(&self) -> Result<(), ShipError> {
        self.transaction(async {
            let forgotten = self.client.query_typed("SELECT exportgate.forget()", &[]).await;
            forgotten.map(drop).map_err(|error| failure(&error))
        })
        .await
    }

    /// Finds requests, the newest first.
    pub(super) async fn find(&self, query: &Query) -> Result<Vec<Row>, ShipError> {
        self.transaction(async {
            let mut ids = Vec::new();
            for asked in beginnings(query) {
                let bounds = [asked.text.clone(), asked.end()].map(SearchValue::Text);
                let found = self.select(&sql::resolve(asked.column), &bounds).await?;
                ids.push(super::super::search::ResolvedId { asked, ids: found });
            }
            let (text, values) = sql::requests(query, &ids);
            self.records(&text, &values).await
        })
        .await
    }

    /// Finds transfers of files, the newest first.
    pub(super) async fn find_transfers(&self, query: &TransferQuery) -> Result<Vec<TransferRow>, ShipError> {
        let (text, values) = sql::transfers(query);
        self.transaction(self.records(&text, &values)).await
    }

    /// Lines that tell of the server: its version, and a setting by which it could lose what it confirmed.
    pub(super) async fn look(&self) -> Result<Vec<String>, ShipError> {
        self.transaction(self.select(sql::LOOK, &[])).await
    }

    /// Runs `work` in a transaction, bounded here and there.
    async fn transaction<T>(&self, work: impl Future<Output = Result<T, ShipError>>) -> Result<T, ShipError> {
        let bounded = async {
            // A client that is gone must not keep its locks; and compiling a plan, or starting workers for it, takes longer than
            // a search.
            let most = self.timeout.as_millis();
            let begin = format!(
                "BEGIN; SET LOCAL statement_timeout = {most}; SET LOCAL idle_in_transaction_session_timeout = {most};
                 SET LOCAL jit = off; SET LOCAL max_parallel_workers_per_gather = 0"
            );
            let run = async {
                self.batch(&begin).await?;
                let done = work.await?;
                self.batch("COMMIT").await?;
                Ok(done)
            };
            let done = run.await;
            if done.is_err() {
                // Where this fails too, the connection is closed after it, which undoes it as well.
                let _ = self.client.batch_execute("ROLLBACK").await;
            }
            done
        };
        tokio::time::timeout(self.timeout, bounded).await.unwrap_or(Err(ShipError::Timeout))
    }

    async fn batch(&self, text: &str) -> Result<(), ShipError> {
        self.client.batch_execute(text).await.map_err(|error| failure(&error))
    }

    async fn execute(&self, text: &str, value: &str) -> Result<(), ShipError> {
        let done = self.client.query_typed(text, &[(&value, Type::TEXT)]).await;
        done.map(drop).map_err(|error| failure(&error))
    }

    /// The texts that a statement with one column gives.
    async fn select(&self, text: &str, values: &[SearchValue]) -> Result<Vec<String>, ShipError> {
        let values: Vec<(&(dyn ToSql + Sync), Type)> = values
            .iter()
            .map(|value| match value {
                SearchValue::Text(text) => (text as &(dyn ToSql + Sync), Type::TEXT),
                SearchValue::Number(number) => (number as &(dyn ToSql + Sync), Type::INT8),
            })
            .collect();
        let rows = self.client.query_typed(text, &values).await.map_err(|error| failure(&error))?;
        rows.iter().map(|row| row.try_get(0).map_err(|error| failure(&error))).collect()
    }

    /// The records that a statement gives as JSON.
    async fn records<R: DeserializeOwned>(
        &self,
        text: &str,
        values: &[SearchValue],
    ) -> Result<Vec<R>, ShipError> {
        let found = self.select(text, values).await?;
        let read = |text: &String| {
            serde_json::from_str(text)
                .map_err(|error| ShipError::Broken(format!("an unknown record: {error}")))
        };
        found.iter().map(read).collect()
    }
}

/// The columns of a record there.
fn object(row: &ShipRow, gateway: &str) -> Value {
    let mut columns = row.columns.clone();
    columns.insert("month".to_owned(), row.month.as_str().into());
    columns.insert("gateway".to_owned(), gateway.into());
    Value::Object(columns)
}

async fn connect(settings: &ShipSettings) -> Result<(Client, ShipDriver), ShipError> {
    let mut login = Config::new();
    login.user(&settings.user).dbname(&settings.database).application_name("exportgate");
    if let Some(path) = &settings.password_file {
        login.password(&*password(path).await?);
    }
    let failed = |error: &Error| {
        let failure = failure(error);
        if let ShipError::Broken(text) = failure {
            return ShipError::Connect(format!("{}: {text}", settings.address));
        }
        failure
    };
    match &settings.address {
        DatabaseAddress::Unix(path) => {
            let stream = UnixStream::connect(path).await.map_err(|error| refused(settings, &error))?;
            let opened = login.ssl_mode(SslMode::Disable).connect_raw(stream, NoTls).await;
            opened.map(|(client, driver)| (client, boxed(driver))).map_err(|error| failed(&error))
        }
        DatabaseAddress::Tcp { host, port, is_tls } => {
            let stream = transport::tcp_stream(host, *port, UNACKNOWLEDGED).await;
            let stream = stream.map_err(|error| refused(settings, &error))?;
            if !is_tls {
                let opened = login.ssl_mode(SslMode::Disable).connect_raw(stream, NoTls).await;
                return opened
                    .map(|(client, driver)| (client, boxed(driver)))
                    .map_err(|error| failed(&error));
            }
            let tls = Handshake { host: host.clone(), settings: settings.clone() };
            let opened = login.ssl_mode(SslMode::Require).connect_raw(stream, tls).await;
            opened.map(|(client, driver)| (client, boxed(driver))).map_err(|error| failed(&error))
        }
    }
}

fn boxed(driver: impl Future<Output = Result<(), Error>> + Send + 'static) -> ShipDriver {
    Box::pin(async {
        match driver.await {
            Ok(()) => ShipError::Broken("closed by the database".to_owned()),
            Err(error) => failure(&error),
        }
    })
}

/// The password, read at each connection.
async fn password(path: &Path) -> Result<zeroize::Zeroizing<String>, ShipError> {
    let failed =
        |why: String| ShipError::File(format!("journal.ship_password_file ({}): {why}", path.display()));
    let reading = path.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(reading)).await;
    let content = read.map_err(|_| failed("not read".to_owned()))?;
    let content = zeroize::Zeroizing::new(content.map_err(|error| failed(error.to_string()))?);
    let text = std::str::from_utf8(&content).ok().map(str::trim_end);
    let password = text.filter(|text| !text.is_empty() && text.len() <= MAX_PASSWORD);
    password
        .map(|text| zeroize::Zeroizing::new(text.to_owned()))
        .ok_or_else(|| failed("holds no password".to_owned()))
}

fn refused(settings: &ShipSettings, error: &io::Error) -> ShipError {
    ShipError::Connect(format!("{}: {error}", settings.address))
}

/// Its own words, in one line. They repeat no password.
fn failure(error: &Error) -> ShipError {
    let line = |text: String| text.replace(['\r', '\n'], " ");
    match error.as_db_error() {
        Some(refusal) => ShipError::Refused {
            code: refusal.code().code().to_owned(),
            text: line(refusal.message().to_owned()),
        },
        None => ShipError::Broken(line(error_text(error))),
    }
}

/// TLS as this program speaks it everywhere.
struct Handshake {
    host: String,
    settings: ShipSettings,
}

impl TlsConnect<TcpStream> for Handshake {
    type Stream = Encrypted;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Encrypted, BoxError>> + Send>>;

    fn connect(self, stream: TcpStream) -> Self::Future {
        Box::pin(async move {
            let ca_file = self.settings.ca_file.as_deref();
            transport::tls_stream(stream, &self.host, ca_file, None).await.map(Encrypted)
        })
    }
}

struct Encrypted(RustlsStream<TcpStream>);

impl TlsStream for Encrypted {
    /// Not needed: the certificate is checked, and its host.
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl AsyncRead for Encrypted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Encrypted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
