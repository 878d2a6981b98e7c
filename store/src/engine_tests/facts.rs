//! Decisions, events and current facts across restarts.

use tidegate_model::{CgroupVersion, Container, GroupBounds, GroupKey, GroupKind, Host, Runtime};

use super::*;
use crate::{GroupRow, RuleRow, RuleStatus};

fn container(name: &str) -> Container {
    Container {
        key: ContainerKey { host: "h".to_owned(), name: name.to_owned() },
        path: PathBuf::from("/docker/1"),
        cgroup: CgroupVersion::V2,
        runtime: Runtime::Docker,
        id: "1".to_owned(),
        incarnation: 7,
        app: None,
        user: None,
        labels: BTreeMap::new(),
        first_seen: NOW,
        last_seen: NOW,
        baseline: BTreeMap::from([(Resource::Cpu, tidegate_model::Limit::Unlimited)]),
        bounds: BTreeMap::new(),
    }
}

#[tokio::test]
async fn decisions_and_events_survive_restarts_and_flushes() {
    let dir = tempfile::tempdir().unwrap();
    let rows = [decision("1", 5, 0.1 + 0.2), decision("2", 3, 2.0)];
    let store = open(dir.path());
    store.append_decisions(&rows).await.unwrap();
    store.append_events(&[event("x", 1), event("y", 0)]).await.unwrap();
    let check = |store: &Store| {
        let ids: Vec<_> = store.scan_decisions(0, i64::MAX).unwrap().into_iter().map(|row| row.id).collect();
        assert_eq!(ids, ["2", "1"]);
        assert_eq!(store.scan_decisions(NOW.0 + 4, NOW.0 + 5).unwrap()[0].inputs, rows[0].inputs);
        assert_eq!(store.scan_events(0, i64::MAX).unwrap(), [event("y", 0), event("x", 1)]);
        assert_eq!(store.scan_events(NOW.0, NOW.0).unwrap().len(), 1);
    };
    check(&store);
    drop(store);
    let store = open(dir.path());
    check(&store);
    let report = store.flush(NOW).await.unwrap();
    assert_eq!((report.decisions, report.events), (2, 2));
    check(&store);
    drop(store);
    let store = open(dir.path());
    check(&store);
    // The same id again: its outcome is known now.
    store.append_decisions(&[decision("1", 5, 7.0)]).await.unwrap();
    check(&store);
    assert_eq!(store.scan_decisions(NOW.0 + 5, NOW.0 + 5).unwrap()[0].proposed, 7.0);
}

#[tokio::test]
async fn facts_survive_a_restart_and_last_seen_alone_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let store = open(dir.path());
    let host =
        Host { name: "h".into(), cpu: tidegate_model::Cores(4.0), memory: tidegate_model::Bytes(1), last_seen: NOW };
    store.put_containers(&[container("a"), container("b")]).unwrap();
    store.put_host(host.clone()).unwrap();
    let rule = RuleRow {
        name: "r".into(),
        sql: "CREATE RULE r AS SELECT 1".into(),
        query: "SELECT 1".into(),
        version: 1,
        mode: Mode::On,
        class: "protect".into(),
        every_ms: 1_000,
        options: BTreeMap::new(),
        created_by: "me".into(),
        updated_at: NOW,
        note: None,
        last_run: None,
        last_latency_ms: None,
        last_rows: None,
        last_error: None,
    };
    let group = GroupRow {
        key: GroupKey { kind: GroupKind::App, name: "shop".into() },
        bounds: [(Resource::Cpu, GroupBounds { min: None, max: Some(4.0) })].into(),
        changed_by: "me".into(),
        changed_at: NOW,
    };
    let unbounded = GroupKey { kind: GroupKind::User, name: "alice".into() };
    store.put_group(group.clone()).unwrap();
    store.put_group(GroupRow { key: unbounded.clone(), ..group.clone() }).unwrap();
    store.put_group(GroupRow { key: unbounded, bounds: BTreeMap::new(), ..group.clone() }).unwrap();
    store.put_rules(vec![rule.clone()]).unwrap();
    let status = RuleStatus { run: NOW, latency_ms: 1.5, rows: None, error: Some("no".into()) };
    store.put_rule_status("r", status);
    store.put_rules(vec![rule.clone()]).unwrap();
    assert_eq!(store.rules()[0].last_error.as_deref(), Some("no"));

    let before = fs::read(dir.path().join("facts.json")).unwrap();
    let seen = Container { last_seen: TimeMs(NOW.0 + 1), ..container("a") };
    store.put_containers(std::slice::from_ref(&seen)).unwrap();
    assert_eq!(fs::read(dir.path().join("facts.json")).unwrap(), before);
    assert_eq!(store.containers()[0], seen);
    store.close().await.unwrap();
    store.remove_container(&container("b").key).unwrap();
    drop(store);

    let store = open(dir.path());
    assert_eq!(store.containers(), [seen]);
    assert_eq!(store.groups(), [group]);
    assert_eq!(store.hosts(), [host]);
    assert_eq!(store.rules(), [rule]);
}
