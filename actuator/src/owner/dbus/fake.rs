//! A message bus of one's own, and a made-up systemd on it.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tempfile::TempDir;

use super::{
    Bus, Bytes, Call, DESTINATION, ERROR, ERROR_NAME, MEMBER, METHOD_CALL, METHOD_RETURN, Message, PATH, SIGNATURE,
    Values, message,
};

const SENDER: u8 = 7;
const WAIT: Duration = Duration::from_secs(10);

/// One call of `SetUnitProperties`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SetProperties {
    pub(crate) unit: String,
    pub(crate) runtime: bool,
    pub(crate) properties: Vec<(String, u64)>,
}

pub(crate) struct FakeSystemd {
    dir: TempDir,
    daemon: Child,
    calls: Arc<Mutex<Vec<SetProperties>>>,
}

impl FakeSystemd {
    /// Answers each call as `answer` does: done, or an error's text. `None`, with the reason printed, where there is no
    /// message bus to be had.
    pub(crate) fn start(mut answer: impl FnMut(&SetProperties) -> Result<(), String> + Send + 'static) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("bus");
        let config = dir.path().join("bus.conf");
        let text = format!(
            "<busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth><policy context=\"default\">\
             <allow send_destination=\"*\"/><allow receive_sender=\"*\"/><allow own=\"*\"/></policy></busconfig>",
            socket.display()
        );
        fs::write(&config, text).unwrap();
        let mut command = Command::new("dbus-daemon");
        command.arg("--nofork").arg("--config-file").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let daemon = match command.spawn() {
            Ok(daemon) => daemon,
            Err(error) => {
                println!("SKIPPED: dbus-daemon: {error}");
                return None;
            }
        };
        let calls = Arc::new(Mutex::new(Vec::new()));
        let fake = Self { dir, daemon, calls: Arc::clone(&calls) };
        let started = Instant::now();
        let mut bus = loop {
            match Bus::connect(&socket, Duration::from_secs(60)) {
                Ok(bus) => break bus,
                Err(error) => assert!(started.elapsed() < WAIT, "{error}"),
            }
            thread::sleep(Duration::from_millis(10));
        };
        let mut body = Bytes::default();
        body.text("org.freedesktop.systemd1");
        body.u32(0);
        let request = Call {
            destination: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            member: "RequestName",
            signature: "su",
            body: body.0,
        };
        assert_eq!(bus.call(&request).unwrap().kind, METHOD_RETURN);
        thread::spawn(move || {
            // Ends with the bus, or with the connection's time.
            while let Ok(call) = bus.receive() {
                if call.kind == METHOD_CALL {
                    let found = read(&call);
                    let done = answer(&found);
                    calls.lock().push(found);
                    reply(&mut bus, &call, done);
                }
            }
        });
        Some(fake)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("bus")
    }

    /// The calls since this was called last.
    pub(crate) fn calls(&self) -> Vec<SetProperties> {
        std::mem::take(&mut self.calls.lock())
    }
}

impl Drop for FakeSystemd {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn read(call: &Message) -> SetProperties {
    assert_eq!((call.text(MEMBER), call.text(PATH)), ("SetUnitProperties", "/org/freedesktop/systemd1"));
    assert_eq!(call.text(SIGNATURE), "sba(sv)");
    let mut values = Values { bytes: &call.body, at: 0, big_endian: call.big_endian };
    let unit = values.text().unwrap();
    let runtime = values.u32().unwrap() == 1;
    let length = values.u32().unwrap() as usize;
    values.align(8);
    let end = values.at + length;
    let mut properties = Vec::new();
    while values.at < end {
        values.align(8);
        let name = values.text().unwrap();
        assert_eq!(values.signature().unwrap(), "t");
        values.align(8);
        let bytes = call.body[values.at..values.at + 8].try_into().unwrap();
        values.at += 8;
        properties.push((name, u64::from_le_bytes(bytes)));
    }
    SetProperties { unit, runtime, properties }
}

fn reply(bus: &mut Bus, call: &Message, done: Result<(), String>) {
    use std::io::Write as _;

    bus.serial += 1;
    let sender = call.text(SENDER);
    let bytes = match done {
        Ok(()) => message(METHOD_RETURN, bus.serial, &[(DESTINATION, "s", sender)], Some(call.serial), &[]),
        Err(text) => {
            let mut body = Bytes::default();
            body.text(&text);
            let name = "org.freedesktop.systemd1.NoSuchUnit";
            let texts = [(DESTINATION, "s", sender), (ERROR_NAME, "s", name), (SIGNATURE, "g", "s")];
            message(ERROR, bus.serial, &texts, Some(call.serial), &body.0)
        }
    };
    bus.stream.write_all(&bytes).unwrap();
}
