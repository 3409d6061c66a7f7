//! The reference of every setting, made from the types: names and defaults
//! from the default configuration, explanations from the comments in the code.

use std::fmt::Write as _;

use serde_json::Value;
use utoipa::PartialSchema;

use super::{Config, variable};

const HEAD: &str = "\
# Configuration

<!-- Made by `chancery config reference`; do not edit. -->

Settings are put together from the defaults below, the TOML file that `--config` (or
`CHANCERY_CONFIG`) names, and variables, of which the later wins. A key that means nothing is
refused. A list in a variable is written `[\"a\", \"b\"]`. Secrets are never settings: settings named
`*_file` point to files that hold them. `chancery config show` prints what is in force.

`chancery up` decides addresses inside the machine, paths and secrets itself and writes all
settings of its processes to `chancery.toml` in its data folder; everything else it takes from
`--config` and the variables.
";

/// One setting.
struct Setting {
    key: String,
    default: String,
    help: String,
}

/// `docs/CONFIGURATION.md`.
pub fn markdown() -> String {
    let schema = to_value(&<Config as PartialSchema>::schema());
    let defaults = to_value(&Config::default());
    let mut text = HEAD.to_owned();
    for (section, help) in properties(&schema) {
        let _ = write!(text, "\n## [{section}]\n\n{help}\n\n");
        text.push_str("| key | default | meaning | variable |\n|---|---|---|---|\n");
        for setting in settings(&section, &defaults[&section]) {
            let Setting { key, default, help } = setting;
            let name = variable(&format!("{section}.{key}"));
            let _ = writeln!(text, "| `{key}` | {default} | {help} | `{name}` |");
        }
    }
    text
}

fn settings(section: &str, defaults: &Value) -> Vec<Setting> {
    let schema = match section {
        "database" => to_value(&super::DatabaseSettings::schema()),
        "objects" => to_value(&super::ObjectsSettings::schema()),
        "secrets" => to_value(&super::SecretsSettings::schema()),
        "api" => to_value(&api::Settings::schema()),
        "scheduler" => to_value(&scheduler::Settings::schema()),
        "worker" => to_value(&worker::Settings::schema()),
        "client" => to_value(&super::ClientSettings::schema()),
        "log" => to_value(&super::LogSettings::schema()),
        "metrics" => to_value(&super::MetricsSettings::schema()),
        _ => Value::Null,
    };
    properties(&schema)
        .into_iter()
        .map(|(key, help)| Setting { default: shown(&defaults[&key]), key, help: help.replace('|', "\\|") })
        .collect()
}

/// Names and explanations of a schema's properties.
fn properties(schema: &Value) -> Vec<(String, String)> {
    let Some(properties) = schema["properties"].as_object() else { return Vec::new() };
    properties
        .iter()
        .map(|(name, property)| {
            // An optional one of a type with a name is "null or that".
            let choices = property["oneOf"].as_array().into_iter().flatten();
            let help = std::iter::once(property).chain(choices).find_map(|p| p["description"].as_str());
            let help = help.unwrap_or_default();
            (name.clone(), help.split_whitespace().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

fn shown(default: &Value) -> String {
    match default {
        Value::Null => "–".to_owned(),
        Value::String(text) => format!("`\"{text}\"`"),
        other => format!("`{other}`"),
    }
}

fn to_value(what: &impl serde::Serialize) -> Value {
    serde_json::to_value(what).expect("settings and schemas are plain JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_is_explained() {
        let text = markdown();
        let defaults = to_value(&Config::default());
        for (section, keys) in defaults.as_object().unwrap() {
            assert!(text.contains(&format!("## [{section}]")), "section {section}");
            let explained = settings(section, keys);
            assert_eq!(explained.len(), keys.as_object().unwrap().len(), "keys of {section}");
            for setting in explained {
                assert!(keys.get(&setting.key).is_some(), "{section}.{} is a setting", setting.key);
                assert!(setting.help.len() > 8, "{section}.{} is explained", setting.key);
            }
        }
    }

    #[test]
    fn nothing_of_this_machine_is_a_default() {
        let text = markdown();
        if let Some(home) = std::env::var_os("HOME").filter(|home| home.len() > 1) {
            assert!(!text.contains(&*home.to_string_lossy()));
        }
    }
}
