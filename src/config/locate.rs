//! Where each value stands in the text of its file.
//!
//! Must not fail: a place that is not found is only not pointed at.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser};

use super::tree::{Path, Step};

/// The bytes of a key and of its value.
#[derive(Debug, Clone)]
pub(super) struct Place {
    pub(super) key: Option<Range<usize>>,
    pub(super) value: Range<usize>,
    pub(super) is_scalar: bool,
}

/// Every place of a file, by path.
#[derive(Debug, Default)]
pub(super) struct Places {
    by_path: HashMap<Path, Place>,
    /// Keys written twice in one mapping, at the second.
    pub(super) repeated: Vec<(Path, Range<usize>)>,
}

impl Places {
    /// Every path with its place.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&Path, &Place)> {
        self.by_path.iter()
    }

    pub(super) fn find(&self, path: &Path) -> Option<&Place> {
        self.by_path.get(path)
    }

    /// The places of a YAML or JSON text.
    pub(super) fn of_yaml(text: &str) -> Self {
        let mut places = Self::default();
        let events = Parser::new_from_str(text).map_while(Result::ok);
        let nodes = events
            .filter(|(event, _)| event.is_node() || matches!(event, Event::MappingEnd | Event::SequenceEnd));
        let mut nodes = nodes.map(|(event, span)| (event, span.byte_range().unwrap_or(0..0)));
        places.walk(&mut nodes, None, &Path::default(), None);
        places
    }

    /// The places of a TOML text.
    pub(super) fn of_toml(text: &str) -> Self {
        let mut places = Self::default();
        if let Ok(table) = toml::de::DeTable::parse(text) {
            places.walk_table(table.get_ref(), &Path::default());
        }
        places
    }

    /// Takes one node with everything below it. Recursion is bounded: reading the same text into a tree came first.
    fn walk<'a>(
        &mut self,
        nodes: &mut impl Iterator<Item = (Event<'a>, Range<usize>)>,
        given: Option<(Event<'a>, Range<usize>)>,
        path: &Path,
        key: Option<Range<usize>>,
    ) {
        let Some((event, span)) = given.or_else(|| nodes.next()) else {
            return;
        };
        let is_scalar = matches!(event, Event::Scalar(..));
        self.by_path.insert(path.clone(), Place { key, value: span, is_scalar });
        match event {
            Event::MappingStart(..) => {
                while let Some((event, span)) = nodes.next() {
                    let Event::Scalar(name, ..) = event else {
                        return;
                    };
                    let path = path.key(&name);
                    if self.by_path.contains_key(&path) {
                        self.repeated.push((path.clone(), span.clone()));
                    }
                    self.walk(nodes, None, &path, Some(span));
                }
            }
            Event::SequenceStart(..) => {
                let mut index = 0;
                while let Some((event, span)) = nodes.next() {
                    if matches!(event, Event::SequenceEnd) {
                        return;
                    }
                    self.walk(nodes, Some((event, span)), &path.index(index), None);
                    index += 1;
                }
            }
            _ => {}
        }
    }

    fn walk_table(&mut self, table: &toml::de::DeTable<'_>, path: &Path) {
        for (key, value) in table {
            let path = path.key(key.get_ref());
            let is_scalar =
                !matches!(value.get_ref(), toml::de::DeValue::Table(_) | toml::de::DeValue::Array(_));
            let place = Place { key: Some(key.span()), value: value.span(), is_scalar };
            self.by_path.insert(path.clone(), place);
            self.walk_toml(value.get_ref(), &path);
        }
    }

    fn walk_toml(&mut self, value: &toml::de::DeValue<'_>, path: &Path) {
        match value {
            toml::de::DeValue::Table(table) => self.walk_table(table, path),
            toml::de::DeValue::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let path = path.index(index);
                    self.by_path
                        .insert(path.clone(), Place { key: None, value: item.span(), is_scalar: false });
                    self.walk_toml(item.get_ref(), &path);
                }
            }
            _ => {}
        }
    }
}

impl Path {
    /// This path or the nearest one above it that has a place.
    pub(super) fn nearest<'a>(&self, places: &'a Places) -> Option<(&'a Place, bool)> {
        let mut path = self.clone();
        let mut exact = true;
        loop {
            if let Some(place) = places.find(&path) {
                return Some((place, exact));
            }
            exact = false;
            path = path.parent()?;
        }
    }

    /// The last key, for naming a value in a sentence.
    pub(super) fn last_key(&self) -> Option<&str> {
        self.0.iter().rev().find_map(|step| match step {
            Step::Key(key) => Some(key.as_str()),
            Step::Index(_) => None,
        })
    }
}
