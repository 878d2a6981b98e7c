//! Hosts: their capacity, their agents, and the knobs that stand wrong.

use std::time::Duration;

use serde_json::{Value, json};
use tidegate_model::{Bytes, Cores, Event, Host, Resource, TimeMs};

use super::{NOW, Server, container, key};

fn knob(name: &str, ago_s: i64) -> Event {
    Event {
        time: TimeMs(NOW - ago_s * 1_000),
        rule: "(knobs)".to_owned(),
        container: key("web"),
        resource: Resource::Cpu,
        name: name.to_owned(),
        value: 0.0,
    }
}

#[tokio::test]
async fn a_host_is_shown_with_its_capacity_and_the_knobs_that_failed_last() {
    let server = Server::start();
    let host =
        Host { name: "node0".to_owned(), cpu: Cores(8.0), memory: Bytes(16 << 30), last_seen: TimeMs(NOW - 1_000) };
    server.state.store.put_host(host).unwrap();
    let reports =
        [knob("io.max 8:0 failed", 30), knob("cpu.weight failed", 20), knob("cpu.weight applied", 10), knob("x", 5)];
    server.state.store.append_events(&reports).await.unwrap();

    let answer = server.get("/api/v1/hosts").await.json();
    assert_eq!(
        answer,
        json!({ "now": NOW, "hosts": [{
            "name": "node0", "cpu": 8.0, "memory": 16_u64 << 30, "last_seen": NOW - 1_000, "own": true, "agent": null,
            "knobs": [{ "container": "web", "knob": "io.max 8:0", "status": "failed", "time": NOW - 30_000 }],
        }] })
    );
}

#[tokio::test]
async fn a_host_is_known_by_its_agent_or_its_containers_alone() {
    let server = Server::start();
    let mut elsewhere = container("web");
    elsewhere.key.host = "quiet".to_owned();
    server.state.store.put_containers(&[elsewhere]).unwrap();
    let question = server.get("/api/v1/agents/far/orders?protocol=1&machine=m1&run=r1&version=0.9.0");
    let there = async {
        while server.state.remote.agents().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.get("/api/v1/hosts").await.json()
    };
    let (_, answer) = tokio::join!(question, there);
    let hosts = answer["hosts"].as_array().unwrap();
    let names: Vec<&Value> = hosts.iter().map(|host| &host["name"]).collect();
    assert_eq!(names, ["far", "quiet"]);
    let agent = &hosts[0]["agent"];
    assert_eq!((&agent["version"], &agent["connected"]), (&json!("0.9.0"), &json!(true)), "{answer}");
    assert_eq!((&hosts[0]["own"], &hosts[1]["agent"], &hosts[1]["cpu"]), (&json!(false), &Value::Null, &Value::Null));
}
