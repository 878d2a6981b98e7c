//! Experiments and their tests over HTTP, and what a restart leaves of them.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};
use tidegate_model::TimeMs;
use tidegate_store::{Store, StoreConfig};

use super::{Answer, NOW, Server};

const ALL: &str = "/api/v1/experiments";

async fn patch(server: &Server, path: &str, body: &Value) -> Answer {
    server.send(Method::PATCH, path, &[], &body.to_string()).await
}

async fn delete(server: &Server, path: &str) -> Answer {
    server.send(Method::DELETE, path, &[], "").await
}

#[tokio::test]
async fn an_experiment_is_begun_given_tests_ended_and_forgotten() {
    let server = Server::start();
    let begun = server.post(ALL, &json!({ "name": "tera sort/1", "tags": { "size": "1 TB" } })).await;
    assert_eq!(begun.status, StatusCode::CREATED, "{}", begun.text());
    let begun = begun.json();
    for (field, value) in [
        ("start", json!(NOW)),
        ("end", Value::Null),
        ("user", json!("local")),
        ("tags", json!({ "size": "1 TB" })),
        ("tests", json!([])),
        ("changed_by", json!("local")),
    ] {
        assert_eq!(begun[field], value, "{field}");
    }
    let one = format!("{ALL}/tera%20sort%2F1");
    let earlier = json!({ "start": "2027-01-15T07:50:00Z", "info": "warm" });
    assert_eq!(patch(&server, &one, &earlier).await.json()["start"], NOW - 600_000);
    for (name, start) in [("sort", NOW - 60_000), ("generate", NOW - 500_000)] {
        let made = server.post(&format!("{one}/tests"), &json!({ "name": name, "start": start })).await;
        assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    }
    let ended = patch(&server, &format!("{one}/tests/generate"), &json!({ "end": NOW - 100_000 })).await.json();
    let tests = ended["tests"].as_array().unwrap();
    assert_eq!(tests.iter().map(|test| test["name"].as_str().unwrap()).collect::<Vec<_>>(), ["generate", "sort"]);
    // The test that still runs ends with its experiment.
    let ended = patch(&server, &one, &json!({ "end": "now" })).await.json();
    assert_eq!((&ended["end"], &ended["tests"][1]["end"]), (&json!(NOW), &json!(NOW)));
    assert_eq!(ended["tests"][0]["end"], NOW - 100_000);
    assert_eq!(patch(&server, &one, &json!({ "end": null })).await.json()["end"], Value::Null);
    assert_eq!(delete(&server, &format!("{one}/tests/sort")).await.json()["tests"].as_array().unwrap().len(), 1);
    assert_eq!(delete(&server, &one).await.json()["info"], "warm");
    assert_eq!(server.get(&one).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn experiments_are_there_after_the_store_is_opened_again() {
    let server = Server::start();
    for (name, user, start, end) in
        [("old", "alice", NOW - 9_000, json!(NOW - 5_000)), ("new", "bob", NOW - 3_000, Value::Null)]
    {
        let body = json!({ "name": name, "user": user, "start": start, "end": end });
        assert_eq!(server.post(ALL, &body).await.status, StatusCode::CREATED);
    }
    server.post(&format!("{ALL}/new/tests"), &json!({ "name": "warm up", "tags": { "run": "1" } })).await;
    let names = |answer: Value| -> Vec<String> {
        answer["experiments"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(server.get(ALL).await.json()), ["new", "old"]);
    assert_eq!(names(server.get(&format!("{ALL}?user=alice")).await.json()), ["old"]);
    assert_eq!(names(server.get(&format!("{ALL}?from={}", NOW - 4_000)).await.json()), ["new"]);
    assert_eq!(names(server.get(&format!("{ALL}?to={}", NOW - 4_000)).await.json()), ["old"]);

    let (before, dir) = (server.state.store.experiments(), server._dir.path().join("data"));
    let Server { router, state, _dir } = server;
    drop((router, state));
    let config = StoreConfig { dir, ..StoreConfig::default() };
    // The engine's last task may still hold the former store for a moment.
    let mut reopened = Store::open(config.clone(), TimeMs(NOW));
    for _ in 0..100 {
        if reopened.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        reopened = Store::open(config.clone(), TimeMs(NOW));
    }
    let after = reopened.unwrap().experiments();
    assert_eq!(after, before);
    assert_eq!(after["new"].tests[0].tags["run"], "1");
}

#[tokio::test]
async fn what_cannot_be_meant_is_refused_by_field_and_value() {
    let server = Server::start();
    let made = server.post(ALL, &json!({ "name": "e", "start": NOW - 60_000, "end": NOW })).await;
    assert_eq!(made.status, StatusCode::CREATED, "{}", made.text());
    let test = json!({ "name": "t", "start": NOW - 30_000, "end": NOW - 20_000 });
    assert_eq!(server.post(&format!("{ALL}/e/tests"), &test).await.status, StatusCode::CREATED);
    let before = server.get(ALL).await.json()["experiments"].clone();
    let tests = format!("{ALL}/e/tests");
    let one = format!("{ALL}/e");
    let of_test = format!("{ALL}/e/tests/t");
    for (method, path, body, told) in [
        ("POST", ALL, json!({}), "name is missing"),
        ("POST", ALL, json!({ "name": " " }), "name is"),
        ("POST", ALL, json!({ "name": "a\nb" }), "name is"),
        ("POST", ALL, json!({ "name": "x", "start": "yesterday" }), "start is \\\"yesterday\\\""),
        ("POST", ALL, json!({ "name": "x", "end": -1 }), "end is -1"),
        ("POST", ALL, json!({ "name": "x", "start": NOW, "end": NOW - 1 }), "end of experiment 'x'"),
        ("POST", ALL, json!({ "name": "x", "user": "" }), "user is"),
        ("POST", ALL, json!({ "name": "x", "tags": { "a": "" } }), "tags has"),
        ("POST", ALL, json!({ "name": "x", "strat": 1 }), "strat"),
        ("PATCH", &one, json!({ "name": "y" }), "name is 'y'"),
        ("PATCH", &one, json!({ "start": NOW - 10_000 }), "start of test 't'"),
        ("PATCH", &one, json!({ "end": NOW - 25_000 }), "end of test 't'"),
        ("POST", &tests, json!({ "name": "u", "start": NOW - 90_000 }), "start of test 'u'"),
        ("POST", &tests, json!({ "name": "u" }), "still to come"),
        ("POST", &tests, json!({ "name": "u", "user": "me" }), "user is 'me'"),
        ("PATCH", &of_test, json!({ "end": null }), "still to come"),
    ] {
        let answer = server.send(method.parse().unwrap(), path, &[], &body.to_string()).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{method} {path} {body}: {}", answer.text());
        assert!(answer.text().contains(told), "{body}: {}", answer.text());
    }
    assert_eq!(server.post(ALL, &json!({ "name": "e" })).await.status, StatusCode::CONFLICT);
    assert_eq!(server.post(&tests, &json!({ "name": "t", "start": NOW - 9_000 })).await.status, StatusCode::CONFLICT);
    for path in [format!("{ALL}/none"), format!("{ALL}/e/tests/none")] {
        assert_eq!(patch(&server, &path, &json!({ "info": "x" })).await.status, StatusCode::NOT_FOUND, "{path}");
        assert_eq!(delete(&server, &path).await.status, StatusCode::NOT_FOUND, "{path}");
    }
    assert_eq!(server.get(ALL).await.json()["experiments"], before, "nothing changed by what was refused");
}
