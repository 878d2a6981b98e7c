//! What `docs/rules.md` says is what there is.

use std::fs;
use std::path::Path;

use tidegate_model::{SampleBatch, SeriesKey};
use tidegate_policy::PolicyConfig;

use crate::world::{START, World};

fn text() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/rules.md")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_is_accepted() {
    let world = World::new().await;
    let mut pushed = SampleBatch::new();
    pushed.push(SeriesKey::new("queue.depth", []), START, 17.0);
    world.store.append(&pushed, START).await.unwrap();
    let text = text();
    let blocks: Vec<&str> = text.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() > 5);
    for block in blocks.into_iter().filter(|block| block.contains("RULE")) {
        if let Err(error) = world.engine.execute(block, "test", START).await {
            panic!("{error:?} in\n{block}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_option_stands_there_with_an_example() {
    let text = text();
    let world = World::new().await;
    let unknown = world.engine.execute("CREATE RULE a WITH (zzz = '1s') AS SELECT 1", "test", START).await.unwrap_err();
    let help = unknown.help.unwrap();
    let options: Vec<&str> = help.strip_prefix("the options are ").unwrap().split(", ").collect();
    assert!(options.contains(&"every") && options.len() > 10, "{options:?}");
    for option in options {
        assert!(text.contains(&format!("| `{option} = ")), "option {option}");
    }
}

#[test]
fn every_setting_stands_there_with_its_default() {
    let text = text();
    let defaults = serde_json::to_value(PolicyConfig::default()).unwrap();
    for (name, default) in defaults.as_object().unwrap() {
        let default = default.as_str().map_or_else(|| default.to_string(), str::to_owned);
        let row = format!("| `{name}` | {default} |");
        assert!(text.contains(&row), "no row {row}");
    }
}
