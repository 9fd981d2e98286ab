//! Known models and services: a dated data file that users can override.
//!
//! An entry also applies to its dated versions and to the names used by gateways. A model that is not listed
//! gets the fields of the best matching pattern of `unlisted`, without a price.

mod model;
mod name;
mod picture;
mod price;
mod service;

pub use chrono::NaiveDate as Date;
pub use model::{Model, Temperature, Tokenizer};
pub use picture::{Count, Fit, PictureRule};
pub use price::{Price, Tier};
pub use service::{Auth, Service};

use crate::error::{Error, Result};
use glob::Pattern;
use std::collections::BTreeMap;
use std::path::Path;
use toml::{Table, Value};

const BUILT_IN: &str = "models.toml";
/// Sections of the file.
const SECTIONS: [&str; 4] = ["as_of", "models", "unlisted", "services"];
/// Longest chain of `like`.
const DEEPEST: usize = 10;

/// The models and services that are known.
#[derive(Debug, Clone)]
pub struct Catalogue {
    /// Date of the facts, from the file; if prices come from a separate file, its date.
    pub as_of: String,
    models: BTreeMap<String, Model>,
    unlisted: Vec<(Pattern, Model)>,
    services: Vec<(Pattern, Service)>,
}

/// Today's date in UTC.
pub fn today() -> Date {
    chrono::DateTime::<chrono::Utc>::from(std::time::SystemTime::now()).date_naive()
}

impl Catalogue {
    /// The built-in catalogue overridden by the file `models`, whose entries and fields replace the built-in ones, and by the
    /// file `prices`, which holds prices only. An empty path means no file.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key (with the nearest known one), a negative price, or a `like`
    /// that names no entry.
    pub fn load(models: &str, prices: &str) -> Result<Self> {
        let mut all = parse(BUILT_IN, include_str!("../../../models.toml"))?;
        check_sections(BUILT_IN, &all)?;
        let mut location = BUILT_IN;
        if !models.is_empty() {
            let own = parse(models, &read(models)?)?;
            check_sections(models, &own)?;
            lay_over(&mut all, own);
            location = models;
        }
        if !prices.is_empty() {
            let own = only_prices(prices, parse(prices, &read(prices)?)?)?;
            lay_over(&mut all, own);
            location = prices;
        }
        Self::from_table(location, &all)
    }

    fn from_table(location: &str, all: &Table) -> Result<Self> {
        let as_of = match all.get("as_of") {
            Some(Value::String(date)) => date.clone(),
            Some(Value::Datetime(date)) => date.to_string(),
            found => {
                return Err(Error::bad_input(location, format!("as_of: expected a date, found {found:?}")));
            }
        };
        let section = |name: &str| match all.get(name) {
            Some(Value::Table(table)) => Ok(table.clone()),
            None => Ok(Table::new()),
            Some(other) => {
                let message = format!("{name}: expected a table, found {}", other.type_str());
                Err(Error::bad_input(location, message))
            }
        };
        let (listed, patterns) = (section("models")?, section("unlisted")?);
        let entries = Entries { location, listed: &listed, patterns: &patterns };
        let mut catalogue =
            Self { as_of, models: BTreeMap::new(), unlisted: Vec::new(), services: Vec::new() };
        for name in listed.keys() {
            catalogue.models.insert(name.clone(), entries.model(name)?);
        }
        for name in patterns.keys() {
            catalogue.unlisted.push((pattern(location, name)?, entries.model(name)?));
        }
        // The longest matching pattern is the most specific.
        catalogue.unlisted.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.as_str().len()));
        for (name, entry) in section("services")? {
            let at = format!("services.{name}");
            let service: Service = entry.try_into().map_err(|e| bad_entry(location, &at, &e))?;
            let service = Service { name, ..service };
            for host in service.hosts.clone() {
                catalogue.services.push((pattern(location, &host)?, service.clone()));
            }
        }
        catalogue.services.sort_by_key(|(pattern, _)| std::cmp::Reverse(pattern.as_str().len()));
        Ok(catalogue)
    }

    /// A listed model, by its name, the name of a dated version, or a gateway's name for either.
    pub fn model(&self, name: &str) -> Option<Model> {
        let found = candidates(name).into_iter().find_map(|name| self.models.get(&name))?;
        Some(Model { name: name.to_owned(), is_listed: true, ..found.clone() })
    }

    /// The same; if it is not listed, a guess from its name.
    pub fn model_or_unlisted(&self, name: &str) -> Model {
        self.model(name).unwrap_or_else(|| {
            let plain = undated(name);
            let found = self.unlisted.iter().find(|(pattern, _)| pattern.matches(&plain));
            let model = found.map(|(_, model)| model.clone()).unwrap_or_default();
            Model { name: name.to_owned(), ..model }
        })
    }

    /// The service at a host, given with its port if there is one.
    pub fn service(&self, host: &str) -> Service {
        let host = host.to_lowercase();
        let without_port = host.rsplit_once(':').map_or(host.as_str(), |(host, _)| host);
        let fits = |pattern: &Pattern| pattern.matches(&host) || pattern.matches(without_port);
        let found = self.services.iter().find(|(pattern, _)| fits(pattern));
        found.map(|(_, service)| service.clone()).unwrap_or_default()
    }
}

/// Names under which a model may be listed, nearest first.
fn candidates(name: &str) -> Vec<String> {
    let plain = name::plain(name);
    let mut names = vec![name.to_owned()];
    names.extend(name::without_date(name).map(ToOwned::to_owned));
    names.extend(name::without_date(&plain).map(ToOwned::to_owned));
    names.push(plain);
    names
}

/// The name that patterns are matched against.
fn undated(name: &str) -> String {
    let plain = name::plain(name).to_lowercase();
    name::without_date(&plain).unwrap_or(&plain).to_owned()
}

/// Entries as written, each of which may refer to another one by `like`.
struct Entries<'a> {
    location: &'a str,
    listed: &'a Table,
    patterns: &'a Table,
}

impl Entries<'_> {
    fn model(&self, name: &str) -> Result<Model> {
        let whole = self.whole(name, 0)?;
        let at = format!("models.\"{name}\"");
        let model: Model = whole.try_into().map_err(|e| bad_entry(self.location, &at, &e))?;
        if let Some(mistake) = model.price.as_ref().and_then(Price::mistake) {
            return Err(Error::bad_input(self.location, format!("{name}: {mistake}")));
        }
        Ok(Model { name: name.to_owned(), ..model })
    }

    /// An entry merged with the one it is `like`.
    fn whole(&self, name: &str, depth: usize) -> Result<Table> {
        let bad = |message: String| Error::bad_input(self.location, format!("models.\"{name}\": {message}"));
        let entry = match self.listed.get(name).or_else(|| self.patterns.get(name)) {
            Some(Value::Table(entry)) => entry,
            Some(other) => return Err(bad(format!("expected a table, found {}", other.type_str()))),
            None => return Err(bad("there is no such entry".to_owned())),
        };
        let mut entry = entry.clone();
        let said = match entry.remove("like") {
            Some(Value::String(base)) => Some(base),
            Some(other) => return Err(bad(format!("like: expected a name, found {other}"))),
            None => None,
        };
        let is_said = said.is_some();
        let base = said.or_else(|| self.base(name));
        let Some(base) = base else { return Ok(entry) };
        if depth == DEEPEST {
            return Err(bad("`like` leads back to itself".to_owned()));
        }
        if !self.listed.contains_key(&base) && !self.patterns.contains_key(&base) {
            return Err(bad(format!("like: there is no model `{base}`")));
        }
        let mut whole = self.whole(&base, depth + 1)?;
        if is_said {
            for key in ["ends", "promised_until", "successor"] {
                whole.remove(key);
            }
        }
        if self.patterns.contains_key(name) || self.patterns.contains_key(&base) {
            whole.remove("price"); // an unlisted model has no known price
        }
        lay_over(&mut whole, entry);
        Ok(whole)
    }

    /// The implicit `like` of an entry.
    fn base(&self, name: &str) -> Option<String> {
        if self.patterns.contains_key(name) {
            return None;
        }
        let listed =
            candidates(name).into_iter().find(|other| other != name && self.listed.contains_key(other));
        listed.or_else(|| {
            let plain = undated(name);
            let fits = |known: &&String| Pattern::new(known).is_ok_and(|known| known.matches(&plain));
            self.patterns.keys().filter(fits).max_by_key(|known| known.len()).cloned()
        })
    }
}

fn read(path: &str) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io("read", Path::new(path)))
}

fn parse(location: &str, text: &str) -> Result<Table> {
    toml::from_str(text).map_err(|e| Error::bad_input(location, e.to_string()))
}

fn pattern(location: &str, text: &str) -> Result<Pattern> {
    Pattern::new(text).map_err(|e| Error::bad_input(location, format!("`{text}`: {e}")))
}

/// Merges `over` into `under`: tables are merged, everything else is replaced, including a different way of counting.
fn lay_over(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(under)), Value::Table(over)) if !over.contains_key("by") => {
                lay_over(under, over)
            }
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// Converts a file of prices into the form of a catalogue.
fn only_prices(location: &str, file: Table) -> Result<Table> {
    let mut all = Table::new();
    for (key, value) in file {
        match (key.as_str(), value) {
            ("as_of", date) => {
                all.insert(key, date);
            }
            ("models", Value::Table(models)) => {
                let mut priced = Table::new();
                for (name, price) in models {
                    let at = format!("models.\"{name}\"");
                    let checked: std::result::Result<Price, _> = price.clone().try_into();
                    checked.map_err(|e| bad_entry(location, &at, &e))?;
                    let Value::Table(mut price) = price else { continue };
                    // The file's price is complete: the built-in factors do not apply.
                    price.entry("batch_factor").or_insert(Value::Float(1.0));
                    price.entry("tiers").or_insert(Value::Array(Vec::new()));
                    priced.insert(
                        name,
                        Value::Table(Table::from_iter([("price".to_owned(), Value::Table(price))])),
                    );
                }
                all.insert(key, Value::Table(priced));
            }
            _ => return Err(unknown_key(location, &key, &["as_of", "models"])),
        }
    }
    Ok(all)
}

fn check_sections(location: &str, file: &Table) -> Result<()> {
    let unknown = file.keys().find(|key| !SECTIONS.contains(&key.as_str()));
    unknown.map_or(Ok(()), |key| Err(unknown_key(location, key, &SECTIONS)))
}

fn unknown_key(location: &str, key: &str, known: &[&str]) -> Error {
    let nearest =
        known.iter().max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)));
    let nearest = nearest.map_or(String::new(), |nearest| format!("; the nearest known one is `{nearest}`"));
    Error::bad_input(location, format!("unknown key `{key}`{nearest}"))
}

/// The error of an entry; serde's words about an unknown field name all known ones, of which the nearest is shown.
fn bad_entry(location: &str, at: &str, error: &toml::de::Error) -> Error {
    let message = error.message();
    let mut quoted = message.split('`').skip(1).step_by(2);
    match quoted.next() {
        Some(key) if message.starts_with("unknown field") => {
            let known: Vec<&str> = quoted.collect();
            unknown_key(&format!("{location}: {at}"), key, &known)
        }
        _ => Error::bad_input(location, format!("{at}: {message}")),
    }
}

#[cfg(test)]
mod tests;
