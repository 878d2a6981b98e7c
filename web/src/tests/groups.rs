//! Apps and users: what they use together, and what bounds them.

use axum::http::{Method, StatusCode};
use serde_json::{Value, json};

use super::{Server, container};

const SHOP: &str = "/api/v1/groups/app/shop";

fn of<'a>(answer: &'a Value, resource: &str) -> &'a Value {
    answer["groups"].as_array().unwrap().iter().find(|row| row["resource"] == resource).unwrap()
}

#[tokio::test]
async fn a_group_is_shown_with_the_sums_of_its_members_and_the_names_of_those_that_are_silent() {
    let server = Server::start();
    server.measured("web").await;
    server.measured("api").await;
    server.state.store.put_containers(&[container("gone")]).unwrap();
    let shop = server.get(SHOP).await.json();
    let cpu = of(&shop, "cpu");
    for (field, value) in [
        ("members", json!(3)),
        ("members_reporting", json!(2)),
        ("missing", json!("node0/gone")),
        ("usage", json!(2.0)),
        ("allocated", json!(4.0)),
        ("members_limited", json!(2)),
        ("max", Value::Null),
        ("upper", Value::Null),
    ] {
        assert_eq!(cpu[field], value, "{field}: {shop}");
    }
    assert_eq!(server.get("/api/v1/groups").await.json()["groups"], shop["groups"]);
    assert_eq!(server.get("/api/v1/groups/app/none").await.status, StatusCode::NOT_FOUND);
    assert_eq!(server.get("/api/v1/groups/host/none").await.status, StatusCode::BAD_REQUEST);
}

#[tokio::test]
async fn bounds_are_set_by_resource_listed_and_taken_away() {
    let server = Server::start();
    let set = server.post(SHOP, &json!({ "resource": "cpu", "min": 1, "max": 4 })).await;
    assert_eq!(set.status, StatusCode::OK, "{}", set.text());
    server.post(SHOP, &json!({ "resource": "memory", "max": 1e9 })).await;
    let shop = server.get(SHOP).await.json();
    assert_eq!((&of(&shop, "cpu")["min"], &of(&shop, "cpu")["max"]), (&json!(1.0), &json!(4.0)));
    assert_eq!((&of(&shop, "memory")["min"], &of(&shop, "memory")["max"]), (&Value::Null, &json!(1e9)));
    assert_eq!(of(&shop, "cpu")["members"], 0, "a group may be bounded before anybody is in it");
    let table = json!({ "sql": "SELECT changed_by FROM groups WHERE resource = 'cpu' AND max = 4" });
    assert_eq!(server.post("/api/v1/sql", &table).await.json()["rows"], json!([["local"]]));

    server.post(SHOP, &json!({ "resource": "memory" })).await;
    let shop = server.get(SHOP).await.json();
    assert_eq!((&of(&shop, "memory")["max"], &of(&shop, "cpu")["max"]), (&Value::Null, &json!(4.0)));
    for expected in [true, false] {
        let cleared = server.send(Method::DELETE, SHOP, &[], "").await;
        assert_eq!(cleared.json(), json!({ "was_bounded": expected }));
    }
    assert_eq!(server.get(SHOP).await.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn bounds_that_cannot_be_meant_are_refused() {
    let server = Server::start();
    for wrong in [
        json!({ "resource": "cpu", "min": 5, "max": 4 }),
        json!({ "resource": "cpu", "max": 0 }),
        json!({ "resource": "disk", "max": 1 }),
        json!({ "resource": "cpu", "most": 1 }),
        json!({}),
    ] {
        let answer = server.post(SHOP, &wrong).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{wrong}");
        assert!(answer.json()["error"]["message"].is_string());
    }
    let long = format!("/api/v1/groups/app/{}", "x".repeat(256));
    assert_eq!(server.post(&long, &json!({ "resource": "cpu", "max": 1 })).await.status, StatusCode::BAD_REQUEST);
}
