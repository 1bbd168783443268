//! One connection to the engine, for commands and messages (RESP3).

use std::time::Duration;

use redis::aio::{MultiplexedConnection, SendError};
use redis::{
    AsyncConnectionConfig, ErrorKind, ProtocolVersion, PushInfo, PushKind, RedisConnectionInfo, RedisError,
    ServerErrorKind, Value, cmd,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::error::EngineError;
use super::script::{ConnectionDriver, HoldMessage, ReplyValue, Script, ScriptReply};
use super::settings::{EngineAddress, Settings};
use crate::transport;

/// Longest that sent data may stay unacknowledged: a dead machine is found.
const UNACKNOWLEDGED: Duration = Duration::from_secs(5);
/// Largest password.
const MAX_PASSWORD: usize = 4096;

/// A connection.
#[derive(Debug)]
pub(super) struct EngineConnection {
    redis: MultiplexedConnection,
    /// The digests of the scripts, in the order of [`Script::ALL`].
    digests: Vec<String>,
}

impl EngineConnection {
    /// Connects, loads the scripts and hears the messages of `channel`.
    pub(super) async fn open(
        settings: &Settings,
        channel: &str,
        messages: mpsc::UnboundedSender<HoldMessage>,
    ) -> Result<(Self, ConnectionDriver), EngineError> {
        let info = login(settings).await?;
        match &settings.address {
            EngineAddress::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| refused(settings, &error))?;
                Self::over(stream, info, channel, messages).await
            }
            EngineAddress::Tcp { host, port, is_tls } => {
                let stream = transport::tcp_stream(host, *port, UNACKNOWLEDGED).await;
                let stream = stream.map_err(|error| refused(settings, &error))?;
                if !is_tls {
                    return Self::over(stream, info, channel, messages).await;
                }
                let (ca_file, identity) = (settings.ca_file.as_deref(), settings.identity.as_ref());
                let stream = transport::tls_stream(stream, host, ca_file, identity).await;
                let stream = stream.map_err(|error| {
                    EngineError::Connect(format!(
                        "{}: {}",
                        settings.address,
                        crate::error_text::error_text(&*error)
                    ))
                })?;
                Self::over(stream, info, channel, messages).await
            }
        }
    }

    async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        info: RedisConnectionInfo,
        channel: &str,
        messages: mpsc::UnboundedSender<HoldMessage>,
    ) -> Result<(Self, ConnectionDriver), EngineError> {
        let config =
            AsyncConnectionConfig::new().set_response_timeout(None).set_push_sender(move |push: PushInfo| {
                match text_of(&push) {
                    Some(text) => messages.send(HoldMessage(text)).map_err(|_| SendError),
                    None => Ok(()),
                }
            });
        let opened = MultiplexedConnection::new_with_config(&info, stream, config).await;
        let (mut redis, driver) = opened.map_err(|error| EngineError::Connect(told(&error)))?;
        let mut driver: ConnectionDriver = Box::pin(driver);
        let mut digests = Vec::new();
        let prepare = async {
            for script in Script::ALL {
                let mut load = cmd("SCRIPT");
                digests.push(load.arg("LOAD").arg(script.text()).query_async(&mut redis).await?);
            }
            redis.subscribe(channel).await
        };
        tokio::select! {
            () = &mut driver => return Err(EngineError::Broken("closed by the engine".to_owned())),
            prepared = prepare => prepared.map_err(|error| failure(&error))?,
        }
        Ok((Self { redis, digests }, driver))
    }

    /// Runs a script, and loads it again where the engine has lost it.
    pub(super) async fn run(
        &self,
        script: Script,
        keys: &[String],
        arguments: &[impl AsRef<[u8]>],
    ) -> Result<ScriptReply, EngineError> {
        let call = |name: &str, what: &str| {
            let mut call = cmd(name);
            call.arg(what).arg(keys.len()).arg(keys);
            for argument in arguments {
                call.arg(argument.as_ref());
            }
            let mut redis = self.redis.clone();
            async move { call.query_async::<Value>(&mut redis).await }
        };
        let digest = &self.digests[script as usize];
        let answered = match call("EVALSHA", digest).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                call("EVAL", script.text()).await
            }
            answered => answered,
        };
        reply(answered.map_err(|error| failure(&error))?)
    }

    /// The answer to a command that looks at the engine, as lines of text.
    pub(super) async fn look(&self, words: &[&str]) -> Result<Vec<String>, EngineError> {
        let (name, rest) = words.split_first().ok_or(EngineError::Unreadable)?;
        let mut redis = self.redis.clone();
        let answered: Value =
            cmd(name).arg(rest).query_async(&mut redis).await.map_err(|error| failure(&error))?;
        Ok(lines(answered))
    }
}

/// User, password and database. The password's file is read at each connection.
async fn login(settings: &Settings) -> Result<RedisConnectionInfo, EngineError> {
    let mut info = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_skip_set_lib_name()
        .set_db(settings.database);
    if !settings.user.is_empty() {
        info = info.set_username(&settings.user);
    }
    if let Some(path) = settings.password_file.clone() {
        let failed =
            |why: String| EngineError::File(format!("shared.password_file ({}): {why}", path.display()));
        let reading = path.clone();
        let read = tokio::task::spawn_blocking(move || std::fs::read(reading)).await;
        let content = read.map_err(|_| failed("not read".to_owned()))?;
        let content = zeroize::Zeroizing::new(content.map_err(|error| failed(error.to_string()))?);
        let text = std::str::from_utf8(&content).ok().map(str::trim_end);
        let password = text.filter(|text| !text.is_empty() && text.len() <= MAX_PASSWORD);
        info = info.set_password(password.ok_or_else(|| failed("holds no password".to_owned()))?);
    }
    Ok(info)
}

fn refused(settings: &Settings, error: &std::io::Error) -> EngineError {
    EngineError::Connect(format!("{}: {error}", settings.address))
}

fn text_of(push: &PushInfo) -> Option<String> {
    let Some(Value::BulkString(text)) = push.data.get(1).filter(|_| push.kind == PushKind::Message) else {
        return None;
    };
    String::from_utf8(text.clone()).ok()
}

fn reply(value: Value) -> Result<ScriptReply, EngineError> {
    let Value::Array(values) = value else { return Err(EngineError::Unreadable) };
    let one = |value| {
        if let Value::Int(number) = value {
            return Ok(ReplyValue::Number(number));
        }
        let Value::BulkString(bytes) = value else { return Err(EngineError::Unreadable) };
        Ok(String::from_utf8(bytes)
            .map_or_else(|error| ReplyValue::Bytes(error.into_bytes()), ReplyValue::Text))
    };
    values.into_iter().map(one).collect::<Result<_, _>>().map(ScriptReply)
}

/// The lines of a text; nothing of another value.
fn lines(value: Value) -> Vec<String> {
    let text = if let Value::VerbatimString { text, .. } = value {
        text
    } else if let Value::BulkString(bytes) = value {
        String::from_utf8_lossy(&bytes).into_owned()
    } else {
        String::new()
    };
    text.lines().map(|line| line.trim_end().to_owned()).collect()
}

/// The engine's own words, in one line, without the arguments that it repeats of a command that it does not know: one of them is
/// the password.
fn told(error: &RedisError) -> String {
    without_arguments(&error.to_string().replace(['\r', '\n'], " ")).to_owned()
}

fn without_arguments(words: &str) -> &str {
    words.split_once(", with args").map_or(words, |(before, _)| before)
}

fn failure(error: &RedisError) -> EngineError {
    if error.is_timeout() {
        EngineError::Timeout
    } else if error.is_io_error() || error.is_connection_dropped() {
        EngineError::Broken(told(error))
    } else {
        EngineError::Refused(told(error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_an_engine_repeats_are_left_out() {
        // Redis 7.0 with `rename-command HELLO ""`.
        let words =
            "ResponseError: unknown command 'HELLO', with args beginning with: '3' 'AUTH' 'gate' 's3cr3t' ";
        assert_eq!(without_arguments(words), "ResponseError: unknown command 'HELLO'");
        assert_eq!(without_arguments("LOADING"), "LOADING");
    }
}
