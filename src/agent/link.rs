//! The agent's HTTP: three questions to its controller.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::de::DeserializeOwned;
use tidegate_actuator::agent::AgentConfig;
use tidegate_actuator::agent::wire::{AgentInfo, FramesFrom, FramesTaken, Orders, Report};
use ureq::tls::{Certificate, RootCerts, TlsConfig, parse_pem};
use ureq::typestate::WithBody;
use ureq::{Agent, RequestBuilder};

use crate::client::{authorized, describe, segment};

/// A question for orders is answered after five seconds at the latest; without an answer the connection is gone.
const ORDERS_WITHIN: Duration = Duration::from_secs(12);
/// The most that anything else may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// No answer is longer: ten thousand orders.
const LONGEST_ANSWER: u64 = 16 << 20;

/// The controller cannot make anything of a body, however often it is sent.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unacceptable(String);

/// A controller, as one host's agent speaks to it.
pub struct Link {
    http: Agent,
    base: String,
    host: String,
    token: Option<String>,
}

impl Link {
    /// # Errors
    /// There is no server in the configuration, or a file that it names cannot be read.
    pub fn new(config: &AgentConfig, host: &str) -> Result<Self> {
        let Some(server) = &config.server else {
            bail!("which server? --server URL names the controller, such as https://tidegate.example:8642");
        };
        let token = config.token_file.as_deref().map(read_token).transpose()?;
        let mut http =
            Agent::config_builder().http_status_as_error(false).timeout_connect(Some(Duration::from_secs(5)));
        if let Some(file) = &config.ca_file {
            http = http.tls_config(TlsConfig::builder().root_certs(trusted(file)?).build());
        }
        let (base, host) = (server.trim_end_matches('/').to_owned(), host.to_owned());
        Ok(Self { http: http.build().into(), base, host, token })
    }

    /// Waits for orders.
    ///
    /// # Errors
    /// The controller cannot be reached, or says why it does not answer.
    pub fn orders(&self, agent: &AgentInfo) -> Result<Orders> {
        let request = self.http.get(self.url("orders")).query_pairs([
            ("protocol", agent.protocol.to_string()),
            ("version", agent.version.clone()),
            ("machine", agent.machine.clone()),
            ("run", agent.run.clone()),
            ("epoch", agent.epoch.to_string()),
            ("frozen", agent.frozen.to_string()),
        ]);
        let request = authorized(request, self.token.as_deref());
        let text = self.text(request.config().timeout_global(Some(ORDERS_WITHIN)).build().call())?;
        Orders::read(text.as_bytes()).with_context(|| self.strange())
    }

    /// Tells what came of orders.
    ///
    /// # Errors
    /// As [`Link::orders`].
    pub fn report(&self, reports: &[Report]) -> Result<()> {
        let answer = self.post("reports").send_json(reports);
        self.text(answer).map(drop)
    }

    /// Sends packed frames.
    ///
    /// # Errors
    /// As [`Link::orders`]; [`Unacceptable`] when it is the frames' fault.
    pub fn frames(&self, frames: &[u8], from: &FramesFrom) -> Result<FramesTaken> {
        let of = [
            ("spool", from.spool.clone()),
            ("machine", from.machine.clone()),
            ("run", from.run.clone()),
            ("behind", from.behind.to_string()),
            ("dropped", from.dropped.to_string()),
        ];
        let request = self.post("frames").query_pairs(of).header("Content-Type", "application/octet-stream");
        self.answer(request.send(frames))
    }

    fn url(&self, what: &str) -> String {
        format!("{}/api/v1/agents/{}/{what}", self.base, segment(&self.host))
    }

    fn post(&self, what: &str) -> RequestBuilder<WithBody> {
        let request = authorized(self.http.post(self.url(what)), self.token.as_deref());
        request.config().timeout_global(Some(ANSWER_WITHIN)).build()
    }

    fn answer<T: DeserializeOwned>(&self, sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<T> {
        serde_json::from_str(&self.text(sent)?).with_context(|| self.strange())
    }

    fn strange(&self) -> String {
        format!("{} does not answer as a controller does", self.base)
    }

    fn text(&self, sent: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> Result<String> {
        let mut response = sent.with_context(|| format!("no answer from {}", self.base))?;
        let mut text = String::new();
        let body = response.body_mut().as_reader().take(LONGEST_ANSWER);
        { body }.read_to_string(&mut text).with_context(|| format!("the answer of {} broke off", self.base))?;
        let status = response.status();
        if status.is_success() {
            return Ok(text);
        }
        let error = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default()["error"].take();
        match status.as_u16() {
            401 => {
                bail!("{} wants a token with the right 'agent': --token-file names the file that holds it", self.base)
            }
            400 | 413 | 422 => Err(Unacceptable(format!("{} refuses: {}", self.base, describe(&error))).into()),
            _ if error["message"].is_string() => bail!("{} refuses: {}", self.base, describe(&error)),
            code => bail!("{} answers {code}: {}", self.base, text.trim()),
        }
    }
}

fn read_token(file: &Path) -> Result<String> {
    let token = std::fs::read_to_string(file).with_context(|| format!("the token file {}", file.display()))?;
    match token.trim() {
        "" => bail!("the token file {} is empty", file.display()),
        token => Ok(token.to_owned()),
    }
}

fn trusted(file: &Path) -> Result<RootCerts> {
    let pem = std::fs::read(file).with_context(|| format!("the certificates {}", file.display()))?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(ureq::tls::PemItem::Certificate(certificate)) => Some(certificate.to_owned()),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        bail!("{} holds no certificate in PEM form", file.display());
    }
    Ok(RootCerts::from(certificates))
}
