//! Speaking to a running server, for the subcommands that do.

use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use serde_json::{Value, json};

/// Which server, with which token.
#[derive(Args, Clone, Debug)]
pub struct ServerArgs {
    /// The server's address
    #[arg(long, env = "TIDEGATE_SERVER", default_value = "http://127.0.0.1:8642")]
    server: String,
    /// A bearer token, where the server asks for one
    #[arg(long, env = "TIDEGATE_TOKEN", hide_env_values = true)]
    token: Option<String>,
}

/// How rows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
    Csv,
}

/// How rows are printed, as an argument.
#[derive(Args, Clone, Debug)]
pub struct OutputArgs {
    /// How to print rows
    #[arg(long, short, value_enum, env = "TIDEGATE_OUTPUT", default_value_t = Output::Table)]
    pub output: Output,
}

/// A server's API.
pub struct Client {
    base: String,
    token: Option<String>,
    agent: ureq::Agent,
}

impl Client {
    /// A client that gives up after a minute.
    pub fn new(args: &ServerArgs) -> Self {
        Self::waiting(args, Some(Duration::from_secs(60)))
    }

    /// A client that waits for as long as it takes.
    pub fn patient(args: &ServerArgs) -> Self {
        Self::waiting(args, None)
    }

    fn waiting(args: &ServerArgs, limit: Option<Duration>) -> Self {
        let agent = ureq::Agent::config_builder()
            .timeout_global(limit)
            // An error's body says what is wrong and where; it is read before it becomes an error here.
            .http_status_as_error(false)
            .build()
            .into();
        Self { base: args.server.trim_end_matches('/').to_owned(), token: args.token.clone(), agent }
    }

    /// `POST path` with a JSON body.
    pub fn post(&self, path: &str, body: &Value) -> Result<Value> {
        let request = authorized(self.agent.post(format!("{}{path}", self.base)), self.token.as_deref());
        self.answer(request.send_json(body), path)
    }

    /// `GET path`.
    pub fn get(&self, path: &str) -> Result<Value> {
        let request = authorized(self.agent.get(format!("{}{path}", self.base)), self.token.as_deref());
        self.answer(request.call(), path)
    }

    /// `DELETE path`.
    pub fn delete(&self, path: &str) -> Result<Value> {
        let request = authorized(self.agent.delete(format!("{}{path}", self.base)), self.token.as_deref());
        self.answer(request.call(), path)
    }

    /// `POST path` without a body; the answer's bytes as they come, for as long as it takes.
    pub fn stream(&self, path: &str) -> Result<impl std::io::Read + use<>> {
        let request = authorized(
            self.agent.post(format!("{}{path}", self.base)).config().timeout_global(None).build(),
            self.token.as_deref(),
        );
        let sent = request.send_empty();
        match sent {
            Ok(response) if response.status().is_success() => Ok(response.into_body().into_reader()),
            failed => Err(self.answer(failed, path).err().unwrap_or_else(|| anyhow::anyhow!("{path} did not answer"))),
        }
    }

    /// Runs a query or rule statements.
    pub fn sql(&self, sql: &str) -> Result<Value> {
        self.post("/api/v1/sql", &json!({ "sql": sql }))
    }

    fn answer(&self, sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>, path: &str) -> Result<Value> {
        let mut response = sent.with_context(|| {
            format!("no answer from {}; is `tidegate serve` running there? --server names another", self.base)
        })?;
        let status = response.status();
        let text = response.body_mut().read_to_string().context("the answer broke off")?;
        if status.is_success() {
            return serde_json::from_str(&text).with_context(|| format!("{path} did not answer in JSON"));
        }
        let error = serde_json::from_str::<Value>(&text).unwrap_or_default()["error"].take();
        match status.as_u16() {
            401 => bail!("the server wants a token: --token or TIDEGATE_TOKEN"),
            _ if error["message"].is_string() => bail!("{}", describe(&error)),
            code => bail!("{path} answered {code}: {}", text.trim()),
        }
    }
}

/// A request with the token, where there is one.
pub fn authorized<B>(request: ureq::RequestBuilder<B>, token: Option<&str>) -> ureq::RequestBuilder<B> {
    match token {
        Some(token) => request.header("Authorization", format!("Bearer {token}")),
        None => request,
    }
}

/// An API error on one line: place, message, help.
pub fn describe(error: &Value) -> String {
    let place = match (error["line"].as_u64(), error["column"].as_u64()) {
        (Some(line), Some(column)) => format!("line {line}, column {column}: "),
        _ => String::new(),
    };
    let help = error["help"].as_str().map(|help| format!("; {help}")).unwrap_or_default();
    format!("{place}{}{help}", error["message"].as_str().unwrap_or("unknown error"))
}

/// Prints columns and rows to standard output.
///
/// # Errors
/// Standard output is closed.
pub fn print_rows(columns: &[String], rows: &[Vec<Value>], output: Output) -> Result<()> {
    let mut out = std::io::stdout().lock();
    match output {
        Output::Table => {
            let mut table = Table::new();
            table.load_preset(presets::NOTHING).set_header(columns);
            for row in rows {
                table.add_row(row.iter().map(cell));
            }
            writeln!(out, "{table}")?;
        }
        Output::Json => {
            let rows: Vec<Value> = rows
                .iter()
                .map(|row| Value::Object(columns.iter().cloned().zip(row.iter().cloned()).collect()))
                .collect();
            writeln!(out, "{}", serde_json::to_string_pretty(&rows)?)?;
        }
        Output::Csv => {
            let mut csv = csv::Writer::from_writer(&mut out);
            csv.write_record(columns)?;
            for row in rows {
                csv.write_record(row.iter().map(cell))?;
            }
            csv.flush()?;
        }
    }
    Ok(())
}

fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// A name as a segment of a path.
pub fn segment(name: &str) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    name.bytes().map(|byte| if plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_name_is_one_segment() {
        assert_eq!(segment("node-1.example"), "node-1.example");
        assert_eq!(segment("a/b c%"), "a%2Fb%20c%25");
    }
}
